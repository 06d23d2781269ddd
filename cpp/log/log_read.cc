// Reading entries back, and letting go of old segments.

#include <algorithm>

#include "base/check.h"
#include "log/log_impl.h"

namespace fastkv {

Status Log::Read(uint64_t index, uint64_t bytes_max, std::vector<OwnedEntry>* out) {
  Impl& log = *impl_;
  uint64_t taken = 0;
  std::string chunk;
  std::vector<uint64_t> offsets;
  for (;;) {
    std::shared_ptr<ReadableFile> reader;
    std::string path;
    uint64_t next = index;
    uint64_t end = 0;
    uint32_t seed = 0;
    offsets.clear();
    {
      const std::lock_guard guard(log.mu);
      if (!log.table.Holds(index)) {
        if (taken > 0) return {};
        return {Code::kNotFound, log.dir + ": the log holds entries " + std::to_string(log.table.first_index()) +
                                     " to " + std::to_string(log.table.last_index()) + ", not " +
                                     std::to_string(index)};
      }
      const uint64_t sequence = log.table.Find(index).sequence;
      path = JoinPath(log.dir, SegmentFileName(sequence));
      uint64_t segment_end = UINT64_MAX;
      if (!log.segments.empty()) {  // it is for a readonly log
        Impl::Segment& segment = *log.FindSegment(sequence);
        if (segment.reader == nullptr) {
          std::unique_ptr<ReadableFile> opened;
          FASTKV_RETURN_IF_ERROR(log.env->OpenForRead(path, &opened));
          segment.reader = std::move(opened);
        }
        reader = segment.reader;
        segment_end = segment.end;
        seed = segment.seed;
      }
      while (log.table.Holds(next)) {
        const EntryTable::Place place = log.table.Find(next);
        const uint64_t place_end = place.next_offset != 0 ? place.next_offset : segment_end;
        if (place.sequence != sequence) break;
        if (!offsets.empty() && taken + (place_end - offsets.front()) > bytes_max) break;
        offsets.push_back(place.offset);
        end = place_end;
        ++next;
      }
    }
    if (reader == nullptr) {
      std::unique_ptr<ReadableFile> opened;
      FASTKV_RETURN_IF_ERROR(log.env->OpenForRead(path, &opened));
      reader = std::move(opened);
      FileInfo info;
      FASTKV_RETURN_IF_ERROR(log.env->Stat(path, &info));
      end = std::min(end, info.size);
      char bytes[kSegmentHeaderBytes];
      size_t got;
      FASTKV_RETURN_IF_ERROR(reader->Read(0, sizeof bytes, bytes, &got));
      const auto header = DecodeSegmentHeader({bytes, got});
      if (!header) {
        return {Code::kCorrupt,
                path + ": the segment header at offset 0 is damaged; `fastkv check` shows what is left"};
      }
      seed = RecordSeed(header->salt);
    }
    const uint64_t begin = offsets.front();
    if (taken > 0 && taken + (end - begin) > bytes_max) return {};
    chunk.resize(end - begin);
    size_t got;
    FASTKV_RETURN_IF_ERROR(reader->Read(begin, chunk.size(), chunk.data(), &got));
    for (const uint64_t offset : offsets) {
      const auto record = DecodeRecord(std::string_view(chunk).substr(0, got), offset - begin, seed);
      const auto entry = record ? DecodeEntry(record->payload) : std::nullopt;
      if (!entry || entry->index != index) {
        return {Code::kCorrupt, path + ": the record at offset " + std::to_string(offset) + " (entry " +
                                    std::to_string(index) + ") is damaged; `fastkv check` shows what is left"};
      }
      out->push_back({entry->term, entry->index, std::string(entry->batch), entry->kind});
      ++index;
    }
    taken += end - begin;
    if (taken >= bytes_max) return {};
  }
}

Status Log::Term(uint64_t index, uint64_t* term) const {
  const Impl& log = *impl_;
  const std::lock_guard guard(log.mu);
  if (log.table.Holds(index)) {
    *term = log.table.Term(index);
  } else if (index == log.floor.index) {
    *term = log.floor.term;
  } else {
    return {Code::kNotFound, log.dir + ": the log does not hold entry " + std::to_string(index)};
  }
  return {};
}

uint64_t Log::BytesSince(uint64_t index) const {
  const Impl& log = *impl_;
  const std::lock_guard guard(log.mu);
  const uint64_t next = std::max(index + 1, log.table.first_index());
  if (log.segments.empty() || next > log.table.last_index()) return 0;
  const EntryTable::Place place = log.table.Find(next);
  return log.position() - (log.FindSegment(place.sequence)->base + place.offset);
}

Status Log::DropBefore(uint64_t index) {
  Impl& log = *impl_;
  const std::lock_guard one_at_a_time(log.drop_mu);
  std::unique_lock lock(log.mu);
  FASTKV_RETURN_IF_ERROR(log.Writable());
  const auto droppable = [&] {
    return log.segments.size() > 1 && log.table.LastIndexIn(log.segments.front()->sequence) <= index;
  };
  if (!droppable()) return {};
  size_t count = 0;
  while (count + 1 < log.segments.size() && log.table.LastIndexIn(log.segments[count]->sequence) <= index) ++count;
  const uint64_t last_dropped = log.segments[count - 1]->sequence;
  if (log.has_hard_state && log.hard_state_sequence <= last_dropped) {
    FASTKV_RETURN_IF_ERROR(log.AppendRecord(RecordType::kHardState, EncodeHardState(log.hard_state), {}));
    log.hard_state_sequence = log.segments.back()->sequence;
  }
  if (log.has_meta && log.meta_sequence <= last_dropped) {
    FASTKV_RETURN_IF_ERROR(log.AppendRecord(RecordType::kMeta, log.meta, {}));
    log.meta_sequence = log.segments.back()->sequence;
  }
  // The oldest segment that stays must be on the disk before the one before it goes.
  FASTKV_RETURN_IF_ERROR(log.SyncUntil(log.last_number, &lock));
  // Oldest first and each removal synced before the next: a gap would look like a lost segment.
  while (droppable() && log.segments.front()->sequence <= last_dropped) {
    const std::string path = log.segments.front()->path;
    lock.unlock();
    Status status = log.env->Remove(path);
    if (status.code() == Code::kNotFound) status = {};  // removed by a call that failed behind it
    if (status.ok()) status = log.env->SyncDir(log.dir);
    lock.lock();
    FASTKV_RETURN_IF_ERROR(status);
    log.table.DropSegment(log.segments.front()->sequence);
    log.segments.pop_front();
    ++log.counters.segments_removed;
  }
  return {};
}

}  // namespace fastkv
