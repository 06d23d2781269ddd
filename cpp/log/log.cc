#include "log/log.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/check.h"
#include "base/crc32c.h"
#include "log/log_impl.h"

namespace fastkv {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr size_t kZeroChunkBytes = 64 << 10;

}  // namespace

Log::Log(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Log::~Log() = default;

Status Log::Impl::Writable() const {
  if (closed) return {Code::kClosed, "the log " + dir + " is closed"};
  if (options.readonly) return {Code::kReadOnly, "the log " + dir + " was opened readonly"};
  return poison;
}

void Log::Impl::Poison(const Status& reason) {
  if (poison.ok()) poison = {Code::kPoisoned, "no more writes since this failed: " + reason.message()};
}

const Log::Impl::SegmentPtr& Log::Impl::FindSegment(uint64_t sequence) const {
  // Sequences are consecutive.
  const size_t at = sequence - segments.front()->sequence;
  FASTKV_CHECK(at < segments.size() && segments[at]->sequence == sequence);
  return segments[at];
}

Status Log::Append(uint64_t term, uint64_t index, std::string_view batch) {
  return Append(term, index, std::span(&batch, 1));
}

Status Log::Append(uint64_t term, uint64_t index, std::span<const std::string_view> batch_parts) {
  Impl& log = *impl_;
  const std::lock_guard guard(log.mu);
  FASTKV_RETURN_IF_ERROR(log.Writable());
  FASTKV_CHECK(index > log.floor.index && index <= log.table.last_index() + 1);
  char prefix[kEntryPrefixBytes];
  EncodeEntryPrefix(term, index, EntryKind::kNormal, prefix);
  FASTKV_RETURN_IF_ERROR(log.AppendRecord(RecordType::kEntry, {prefix, sizeof prefix}, batch_parts));
  return {};
}

Status Log::AppendHardState(const HardState& state) {
  Impl& log = *impl_;
  const std::lock_guard guard(log.mu);
  FASTKV_RETURN_IF_ERROR(log.Writable());
  FASTKV_RETURN_IF_ERROR(log.AppendRecord(RecordType::kHardState, EncodeHardState(state), {}));
  log.has_hard_state = true;
  log.hard_state = state;
  log.hard_state_sequence = log.segments.back()->sequence;
  return {};
}

Status Log::AppendMeta(std::string_view bytes) {
  Impl& log = *impl_;
  const std::lock_guard guard(log.mu);
  FASTKV_RETURN_IF_ERROR(log.Writable());
  std::string copy(bytes);
  FASTKV_RETURN_IF_ERROR(log.AppendRecord(RecordType::kMeta, bytes, {}));
  log.has_meta = true;
  log.meta = std::move(copy);
  log.meta_sequence = log.segments.back()->sequence;
  return {};
}

Status Log::AppendSnapshot(uint64_t index, uint64_t term) {
  Impl& log = *impl_;
  const std::lock_guard guard(log.mu);
  FASTKV_RETURN_IF_ERROR(log.Writable());
  return log.AppendMark(index, term);
}

Status Log::Impl::AppendMark(uint64_t index, uint64_t term) {
  const bool was_pending = std::exchange(mark_pending, false);  // this one is newer
  const Status status = AppendRecord(RecordType::kSnapshot, EncodeSnapshotMark({index, term}), {});
  if (!status.ok()) {
    mark_pending = was_pending;
    return status;
  }
  floor = {index, term};
  disk_next_index = index + 1;
  table.GoOnAfter(index, term);
  return {};
}

// The record and, for an entry, its place in the table. Nothing has changed if it fails.
Status Log::Impl::AppendRecord(RecordType type, std::string_view prefix, std::span<const std::string_view> parts) {
  uint64_t payload_length = prefix.size();
  for (const auto part : parts) payload_length += part.size();
  if (payload_length > kRecordPayloadBytesMax) {
    return {Code::kRequestTooLarge, "a log record of " + std::to_string(payload_length) + " bytes; the most is " +
                                        std::to_string(kRecordPayloadBytesMax)};
  }
  FASTKV_RETURN_IF_ERROR(MakeRoom(RecordBytes(payload_length)));
  Segment* segment = segments.back().get();
  if (type == RecordType::kEntry) table.Reserve(segment->sequence);
  const uint64_t offset = segment->end;
  FASTKV_RETURN_IF_ERROR(WriteRecord(segment, type, prefix, parts, payload_length));
  if (type == RecordType::kEntry) {
    const LogEntry entry = *DecodeEntry(prefix);
    table.CutFrom(entry.index);
    table.Add(segment->sequence, offset, entry.index, entry.term);
    disk_next_index = entry.index + 1;
  }
  last_is_clean = type == RecordType::kClean;
  return {};
}

// The current segment can take a record of that many bytes, and nothing that is owed stands before it.
Status Log::Impl::MakeRoom(uint64_t record_bytes) {
  if (mark_pending) {
    FASTKV_RETURN_IF_ERROR(AppendMark(floor.index, floor.term));
  }
  if (!segments.empty()) FASTKV_RETURN_IF_ERROR(ZeroDirty(segments.back().get()));
  if (segments.empty() || segments.back()->file == nullptr ||
      record_bytes > segments.back()->capacity - segments.back()->end) {
    FASTKV_RETURN_IF_ERROR(Rotate(record_bytes));
  }
  return {};
}

Status Log::Impl::WriteRecord(Segment* segment, RecordType type, std::string_view prefix,
                              std::span<const std::string_view> parts, uint64_t payload_length) {
  RecordView record;
  record.prev = last_crc;
  record.type = type;
  record.number = last_number + 1;
  record.durable = durable_number;
  char header[kRecordHeaderBytes];
  EncodeRecordHeader(record, payload_length, header);
  uint32_t crc = Crc32cExtend(Crc32cExtend(segment->seed, {header + 4, sizeof header - 4}), prefix);
  for (const auto part : parts) crc = Crc32cExtend(crc, part);
  record.crc = crc;
  EncodeRecordHeader(record, payload_length, header);

  write_parts.clear();
  write_parts.emplace_back(header, sizeof header);
  write_parts.push_back(prefix);
  write_parts.insert(write_parts.end(), parts.begin(), parts.end());  // the padding is zero already
  const uint64_t bytes = RecordBytes(payload_length);
  const Status status = segment->file->Write(segment->end, write_parts);
  if (!status.ok()) {
    segment->dirty_until = segment->end + bytes;
    (void)ZeroDirty(segment).ok();  // if it fails too, the next append tries again first
    return status;
  }
  segment->end += bytes;
  segment->last_number = last_number = record.number;
  last_crc = record.crc;
  ++counters.records;
  counters.bytes += bytes;
  return {};
}

// Synced, because the caller is told that the append failed: a power loss must not bring it back.
Status Log::Impl::ZeroDirty(Segment* segment) {
  if (segment->dirty_until <= segment->end) return {};
  const std::string zeros(std::min<uint64_t>(kZeroChunkBytes, segment->dirty_until - segment->end), '\0');
  for (uint64_t at = segment->end; at < segment->dirty_until; at += zeros.size()) {
    const uint64_t length = std::min<uint64_t>(zeros.size(), segment->dirty_until - at);
    FASTKV_RETURN_IF_ERROR(segment->file->Write(at, std::string_view(zeros).substr(0, length)));
  }
  if (const Status status = segment->file->Sync(); !status.ok()) {
    Poison(status);
    return poison;
  }
  segment->dirty_until = 0;
  return {};
}

// Seals the current segment and begins the next one, with room for a record of that many bytes.
Status Log::Impl::Rotate(uint64_t record_bytes) {
  // Bounds what a power loss can take in a store that does not sync: the segment before the one that is sealed now had
  // the time of a whole segment to be written back.
  if (!options.sync) FASTKV_RETURN_IF_ERROR(SyncSealed());
  // Names become durable in order, or a power loss could leave a log without its beginning that looks whole.
  FASTKV_RETURN_IF_ERROR(SyncNames());

  uint64_t capacity = std::min(options.segment_bytes_first, options.segment_bytes_max);
  if (!segments.empty()) capacity = std::min(segments.back()->capacity, options.segment_bytes_max / 2) * 2;
  const auto whole_pages = [](uint64_t bytes) { return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes; };
  const uint64_t least = whole_pages(kSegmentHeaderBytes + record_bytes);
  capacity = std::max(whole_pages(capacity), least);

  auto segment = std::make_shared<Segment>();
  segment->sequence = segments.empty() ? 1 : segments.back()->sequence + 1;
  segment->path = JoinPath(dir, SegmentFileName(segment->sequence));
  segment->base = position();
  segment->last_number = last_number;
  std::unique_ptr<WritableFile> file;
  Status created = env->Create(segment->path, capacity, write_mode(), &file);
  while (created.code() == Code::kNoSpace && capacity > least) {  // a nearly full disk is used to its end
    capacity = std::max(whole_pages(capacity / 2), least);
    created = env->Create(segment->path, capacity, write_mode(), &file);
  }
  FASTKV_RETURN_IF_ERROR(created);
  segment->capacity = capacity;
  const uint64_t salt = env->Random64();
  segment->seed = RecordSeed(salt);
  char header[kSegmentHeaderBytes];
  EncodeSegmentHeader({segment->sequence, disk_next_index, last_number, last_crc, salt}, header);
  if (const Status status = file->Write(0, {header, sizeof header}); !status.ok()) {
    file.reset();
    (void)env->Remove(segment->path).ok();  // what stays is replaced by the next try and removed by the next open
    return status;
  }
  // Before any record: without its salt a record proves nothing, so a header that is lost must have nothing behind it.
  if (const Status status = file->Sync(); !status.ok()) {
    Poison(status);
    return poison;
  }
  segment->end = sizeof header;
  segment->file = std::move(file);
  if (!options.sync && !segments.empty() && segments.back()->file != nullptr) segments.back()->file->StartWriteback();
  segments.push_back(std::move(segment));
  ++names_changed;
  ++counters.segments_created;
  return {};
}

Status Log::Impl::SyncNames() {
  if (names_synced == names_changed) return {};
  if (const Status status = env->SyncDir(dir); !status.ok()) {
    Poison(status);
    return poison;
  }
  names_synced = names_changed;
  return {};
}

// Syncs what was sealed before the current segment.
Status Log::Impl::SyncSealed() {
  for (size_t i = 0; i + 1 < segments.size(); ++i) {
    Segment& segment = *segments[i];
    if (segment.file == nullptr) continue;
    FASTKV_RETURN_IF_ERROR(SyncNames());
    if (const Status status = segment.file->Sync(); !status.ok()) {
      Poison(status);
      return poison;
    }
    segment.file.reset();
    durable_number = std::max(durable_number, segment.last_number);
    ++counters.syncs;
  }
  return {};
}

Status Log::Sync() {
  Impl& log = *impl_;
  std::unique_lock lock(log.mu);
  FASTKV_RETURN_IF_ERROR(log.Writable());
  ++log.counters.sync_calls;
  return log.SyncUntil(log.last_number, &lock);
}

Status Log::Impl::SyncUntil(uint64_t number, std::unique_lock<std::mutex>* lock) {
  for (;;) {
    if (!poison.ok()) return poison;
    if (durable_number >= number && names_synced == names_changed) return {};
    if (!syncing) break;
    synced.wait(*lock);
  }
  syncing = true;
  const uint64_t covered = last_number;
  const uint64_t names = names_changed;
  const bool sync_names = names_synced < names;
  std::vector<std::shared_ptr<WritableFile>> files;
  for (const auto& segment : segments) {
    if (segment->file != nullptr) files.push_back(segment->file);
  }
  lock->unlock();

  const auto began = std::chrono::steady_clock::now();
  Status status;
  if (sync_names) status = env->SyncDir(dir);
  for (const auto& file : files) {
    if (status.ok()) status = file->Sync();
  }

  const auto took = std::chrono::steady_clock::now() - began;
  lock->lock();
  syncing = false;
  ++counters.syncs;
  counters.sync_times.Add(std::chrono::duration_cast<std::chrono::nanoseconds>(took).count());
  if (status.ok()) {
    durable_number = std::max(durable_number, covered);
    names_synced = std::max(names_synced, names);
    for (size_t i = 0; i + 1 < segments.size(); ++i) {
      if (segments[i]->last_number <= covered) segments[i]->file.reset();
    }
  } else {
    Poison(status);
  }
  synced.notify_all();
  return poison;
}

Status Log::Close(uint64_t applied_index) {
  Impl& log = *impl_;
  std::unique_lock lock(log.mu);
  if (log.closed) return {Code::kClosed, "the log " + log.dir + " is closed"};
  log.closed = true;
  if (!log.options.readonly && log.poison.ok() && !log.segments.empty()) {
    Status status = log.SyncUntil(log.last_number, &lock);
    if (status.ok() && !log.last_is_clean) {
      // Its durable number says that all before it is on the disk. On a full disk the log does without: it is only a
      // help.
      status = log.AppendRecord(RecordType::kClean, EncodeClean(applied_index), {});
      if (status.code() == Code::kNoSpace) status = {};
      if (status.ok()) status = log.SyncUntil(log.last_number, &lock);
    }
    return status;
  }
  return log.poison;
}

uint64_t Log::first_index() const {
  const std::lock_guard guard(impl_->mu);
  return impl_->table.first_index();
}

uint64_t Log::last_index() const {
  const std::lock_guard guard(impl_->mu);
  return impl_->table.last_index();
}

uint64_t Log::last_term() const {
  const std::lock_guard guard(impl_->mu);
  const EntryTable& table = impl_->table;
  if (table.Holds(table.last_index())) return table.Term(table.last_index());
  return impl_->floor.index == table.last_index() ? impl_->floor.term : 0;
}

uint64_t Log::last_number() const {
  const std::lock_guard guard(impl_->mu);
  return impl_->last_number;
}

uint64_t Log::durable_number() const {
  const std::lock_guard guard(impl_->mu);
  return impl_->durable_number;
}

LogCounters Log::counters() const {
  const std::lock_guard guard(impl_->mu);
  return impl_->counters;
}

Status Log::poisoned() const {
  const std::lock_guard guard(impl_->mu);
  return impl_->poison;
}

}  // namespace fastkv
