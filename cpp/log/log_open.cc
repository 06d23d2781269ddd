// Opening a log: verify everything and find where the entries are, repair, open for writing, then deliver.

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "log/log_impl.h"

namespace fastkv {
namespace {

constexpr int kReadonlyAttempts = 3;
constexpr uint64_t kSegmentBytesMax = uint64_t{UINT32_MAX} * 8;  // what the table can address

Status CorruptRecord(const std::string& path, uint64_t offset, const std::string& what) {
  return {Code::kCorrupt, path + ": the record at offset " + std::to_string(offset) + " " + what +
                              "; `fastkv check` shows what is left"};
}

}  // namespace

Status Log::Open(Env* env, const std::string& dir, const LogOptions& options, const LogStart& start,
                 const LogEntryVisitor& on_entry, LogRecovered* recovered, std::unique_ptr<Log>* log) {
  std::unique_ptr<Impl> impl;
  Status status;
  // Beside a living writer a readonly open may see a segment grow or go in the middle of its walk.
  for (int attempt = 0; attempt < (options.readonly ? kReadonlyAttempts : 1); ++attempt) {
    impl = std::make_unique<Impl>(env, dir, options);
    *recovered = {};
    status = impl->Recover(start, recovered);
    if (status.code() != Code::kCorrupt && status.code() != Code::kNotFound) break;
  }
  FASTKV_RETURN_IF_ERROR(status);
  FASTKV_RETURN_IF_ERROR(impl->Deliver(start.index, on_entry, recovered));
  log->reset(new Log(std::move(impl)));
  return {};
}

Status Log::Impl::Recover(const LogStart& start, LogRecovered* recovered) {
  LogScan scan;
  FASTKV_RETURN_IF_ERROR(ScanLog(
      env, dir,
      [&](const RecordView& record, const RecordPlace& place) { return Visit(record, place, scan, recovered); },
      &scan));
  FASTKV_RETURN_IF_ERROR(EnterSegments(scan, scan.segments.size()));
  if (scan.segments.empty()) table.Reset(start.index + 1);
  disk_next_index = table.last_index() + 1;
  last_number = scan.last_number;
  last_crc = scan.last_crc;
  durable_number = scan.durable_number;
  last_is_clean = recovered->clean;
  recovered->bytes_cut = scan.torn_bytes;
  if (recovered->has_snapshot) floor = recovered->snapshot;
  FASTKV_RETURN_IF_ERROR(CheckCovers(start));

  if (scan.torn_bytes > 0 && options.warn) {
    options.warn(dir + ": " + (options.readonly ? "ignored" : "cut") + " a torn tail of " +
                 std::to_string(scan.torn_bytes) + " bytes behind record " + std::to_string(scan.last_number) +
                 (scan.segments.empty() ? std::string()
                                        : " (" + scan.segments.back().path + " offset " +
                                              std::to_string(scan.segments.back().used_bytes) + ")") +
                 ": it was written but never synced");
  }
  // An entry of another term where the checkpoint ends: a snapshot was received, and the crash came before its mark.
  // What the log holds is of a history that was given up.
  const bool superseded =
      start.index > floor.index && table.Holds(start.index) && table.Term(start.index) != start.term;
  if (start.index > table.last_index() || superseded) {
    table.Reset(start.index + 1);
    floor = {start.index, start.term};
    mark_pending = true;
  } else if (start.index >= floor.index) {
    floor = {start.index, start.term};
  }
  if (options.readonly) return {};
  FASTKV_RETURN_IF_ERROR(RepairLog(env, dir, scan));
  FASTKV_RETURN_IF_ERROR(OpenFiles(scan));
  // What is delivered may be shown to somebody, so it must not be lost again. A clean record alone need not be waited
  // for.
  if (!options.sync || (recovered->clean && durable_number + 1 >= last_number)) return {};
  ++names_changed;  // names may never have been synced
  std::unique_lock lock(mu);
  return SyncUntil(last_number, &lock);
}

// The header of every segment up to `until` must fit what came before it.
Status Log::Impl::EnterSegments(const LogScan& scan, size_t until) {
  for (; segments_entered < until; ++segments_entered) {
    const SegmentFile& file = scan.segments[segments_entered];
    if (segments_entered == 0) table.Reset(file.header.first_index);
    if (file.header.first_index != table.last_index() + 1) {
      return {Code::kCorrupt, file.path + ": the segment header at offset 0 says that entry " +
                                  std::to_string(file.header.first_index) + " comes next, but the last one was " +
                                  std::to_string(table.last_index()) + "; `fastkv check` shows what is left"};
    }
  }
  return {};
}

Status Log::Impl::Visit(const RecordView& record, const RecordPlace& place, const LogScan& scan,
                        LogRecovered* recovered) {
  FASTKV_RETURN_IF_ERROR(EnterSegments(scan, place.segment + 1));
  const SegmentFile& file = scan.segments[place.segment];
  ++recovered->records;
  recovered->clean = record.type == RecordType::kClean;
  switch (record.type) {
    case RecordType::kEntry: {
      const auto entry = DecodeEntry(record.payload);
      if (!entry) break;
      if (entry->index <= recovered->snapshot.index || entry->index > table.last_index() + 1 ||
          place.offset > kSegmentBytesMax) {
        return CorruptRecord(file.path, place.offset,
                             "is entry " + std::to_string(entry->index) + " where the log holds " +
                                 std::to_string(table.first_index()) + " to " + std::to_string(table.last_index()));
      }
      table.CutFrom(entry->index);
      table.Add(file.sequence, place.offset, entry->index, entry->term);
      return {};
    }
    case RecordType::kHardState: {
      const auto state = DecodeHardState(record.payload);
      if (!state) break;
      recovered->has_hard_state = has_hard_state = true;
      recovered->hard_state = hard_state = *state;
      hard_state_sequence = file.sequence;
      return {};
    }
    case RecordType::kSnapshot: {
      const auto mark = DecodeSnapshotMark(record.payload);
      if (!mark) break;
      recovered->has_snapshot = true;
      recovered->snapshot = *mark;
      table.GoOnAfter(mark->index, mark->term);
      return {};
    }
    case RecordType::kClean: {
      const auto applied_index = DecodeClean(record.payload);
      if (!applied_index) break;
      recovered->applied_index = *applied_index;
      return {};
    }
    case RecordType::kMeta:
      recovered->has_meta = has_meta = true;
      recovered->meta = meta = record.payload;
      meta_sequence = file.sequence;
      return {};
  }
  return CorruptRecord(file.path, place.offset, "verifies, but what it holds is not what its type says");
}

// Checkpoint and log together must leave nothing out.
Status Log::Impl::CheckCovers(const LogStart& start) const {
  if (table.first_index() > start.index + 1) {
    return {Code::kCorrupt, dir + ": the log begins at entry " + std::to_string(table.first_index()) + ", but " +
                                (start.index == 0 ? std::string("there is no checkpoint to begin from")
                                                  : "the checkpoint ends at " + std::to_string(start.index)) +
                                (start.reach_reason.empty() ? "" : " (" + start.reach_reason + ")")};
  }
  if (table.last_index() < start.reach_index) {
    return {Code::kCorrupt, start.reach_reason +
                                "; an older checkpoint does not make up for it, because the log ends at entry " +
                                std::to_string(table.last_index())};
  }
  return {};
}

Status Log::Impl::OpenFiles(const LogScan& scan) {
  for (size_t i = 0; i < scan.segments.size(); ++i) {
    const SegmentFile& found = scan.segments[i];
    const bool current = i + 1 == scan.segments.size();
    auto segment = std::make_shared<Segment>();
    segment->sequence = found.sequence;
    segment->path = found.path;
    // A file that lost its end may stop in the middle of a record's padding: it is full.
    segment->capacity = found.used_bytes % 8 == 0 ? found.file_bytes : found.used_bytes;
    segment->end = found.used_bytes;
    segment->base = position();
    segment->seed = RecordSeed(found.header.salt);
    segment->last_number = current ? last_number : scan.segments[i + 1].header.last_number;
    if (current || segment->last_number > durable_number) {
      std::unique_ptr<WritableFile> file;
      Status status = env->OpenForWrite(found.path, current ? write_mode() : WriteMode::kPwrite, &file);
      // A full disk must not keep what is there from being read.
      if (current && status.code() == Code::kNoSpace) {
        segment->capacity = segment->end;
        status = env->OpenForWrite(found.path, WriteMode::kPwrite, &file);
      }
      FASTKV_RETURN_IF_ERROR(status);
      segment->file = std::move(file);
    }
    segments.push_back(std::move(segment));
  }
  return {};
}

Status Log::Impl::Deliver(uint64_t from_index, const LogEntryVisitor& on_entry, LogRecovered* recovered) {
  std::unique_ptr<FileView> view;
  std::string path;
  uint64_t sequence = 0;
  for (uint64_t index = std::max(from_index + 1, table.first_index()); index <= table.last_index(); ++index) {
    const EntryTable::Place place = table.Find(index);
    if (view == nullptr || sequence != place.sequence) {
      sequence = place.sequence;
      path = JoinPath(dir, SegmentFileName(sequence));
      view.reset();
      FASTKV_RETURN_IF_ERROR(env->View(path, &view));
    }
    const auto record = DecodeRecordHeader(view->bytes(), place.offset);
    const auto entry = record ? DecodeEntry(record->payload) : std::nullopt;
    if (!entry || entry->index != index) {
      return CorruptRecord(path, place.offset, "was changed by somebody else while the log was opened");
    }
    FASTKV_RETURN_IF_ERROR(on_entry(*entry));
    ++recovered->entries_delivered;
  }
  return {};
}

}  // namespace fastkv
