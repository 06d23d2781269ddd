// What Raft appends at a time: entries and the hard state behind them, in one write a segment.
//
//   parts   [header prefix][batch][pad header prefix][batch][pad header hard state][pad]

#include <array>
#include <utility>

#include "base/check.h"
#include "base/crc32c.h"
#include "log/log_impl.h"

namespace fastkv {

struct Log::Impl::GroupRecord {
  RecordType type = RecordType::kEntry;
  std::array<char, kHardStateBytes> fixed{};  // the payload's beginning
  size_t fixed_bytes = 0;
  std::string_view rest;
  const LogEntry* entry = nullptr;

  uint64_t payload_length() const { return fixed_bytes + rest.size(); }
};

Status Log::AppendGroup(std::span<const LogEntry> entries, const HardState* hard_state) {
  Impl& log = *impl_;
  std::vector<Impl::GroupRecord> records(entries.size() + (hard_state != nullptr ? 1 : 0));
  for (size_t i = 0; i < entries.size(); ++i) {
    Impl::GroupRecord& record = records[i];
    record.entry = &entries[i];
    EncodeEntryPrefix(entries[i].term, entries[i].index, entries[i].kind, record.fixed.data());
    record.fixed_bytes = kEntryPrefixBytes;
    record.rest = entries[i].batch;
    if (record.payload_length() > kRecordPayloadBytesMax) {
      return {Code::kRequestTooLarge, "a log record of " + std::to_string(record.payload_length()) +
                                          " bytes; the most is " + std::to_string(kRecordPayloadBytesMax)};
    }
  }
  if (hard_state != nullptr) {
    const std::string encoded = EncodeHardState(*hard_state);
    records.back().type = RecordType::kHardState;
    records.back().fixed_bytes = encoded.copy(records.back().fixed.data(), kHardStateBytes);
  }

  const std::lock_guard guard(log.mu);
  FASTKV_RETURN_IF_ERROR(log.Writable());
  if (!entries.empty()) {
    FASTKV_CHECK(entries.front().index > log.floor.index && entries.front().index <= log.table.last_index() + 1);
  }
  for (size_t i = 1; i < entries.size(); ++i) FASTKV_CHECK(entries[i].index == entries[i - 1].index + 1);
  for (std::span<const Impl::GroupRecord> left = records; !left.empty();) {
    size_t written = 0;
    FASTKV_RETURN_IF_ERROR(log.AppendRun(left, &written));
    left = left.subspan(written);
  }
  if (hard_state != nullptr) {
    log.has_hard_state = true;
    log.hard_state = *hard_state;
    log.hard_state_sequence = log.segments.back()->sequence;
  }
  return {};
}

// As many of the records as fit into the current segment, at least one.
Status Log::Impl::AppendRun(std::span<const GroupRecord> records, size_t* written) {
  FASTKV_RETURN_IF_ERROR(MakeRoom(RecordBytes(records.front().payload_length())));
  Segment* segment = segments.back().get();
  size_t count = 0;
  uint64_t bytes = 0;
  while (count < records.size()) {
    const uint64_t more = RecordBytes(records[count].payload_length());
    if (more > segment->capacity - segment->end - bytes) break;
    bytes += more;
    ++count;
  }
  records = records.first(count);

  constexpr size_t kFixedMax = 8 + kRecordHeaderBytes + kHardStateBytes;
  group_bytes.clear();
  group_bytes.reserve(count * kFixedMax + 8);  // views into it stay valid
  write_parts.clear();
  uint32_t prev = last_crc;
  size_t pad = 0;
  for (const GroupRecord& record : records) {
    RecordView view;
    view.prev = prev;
    view.type = record.type;
    view.number = last_number + 1 + static_cast<uint64_t>(&record - records.data());
    view.durable = durable_number;
    char header[kRecordHeaderBytes];
    EncodeRecordHeader(view, record.payload_length(), header);
    const std::string_view fixed(record.fixed.data(), record.fixed_bytes);
    const uint32_t crc = Crc32cExtend(Crc32cExtend(segment->seed, {header + 4, sizeof header - 4}), fixed);
    view.crc = prev = Crc32cExtend(crc, record.rest);
    EncodeRecordHeader(view, record.payload_length(), header);
    const size_t begin = group_bytes.size();
    group_bytes.append(pad, '\0').append(header, sizeof header).append(fixed);
    write_parts.push_back(std::string_view(group_bytes).substr(begin));
    if (!record.rest.empty()) write_parts.push_back(record.rest);
    pad = static_cast<size_t>(RecordBytes(record.payload_length()) - kRecordHeaderBytes - record.payload_length());
    if (record.entry != nullptr) table.Reserve(segment->sequence);
  }
  const Status status = segment->file->Write(segment->end, write_parts);  // the last padding is zero already
  if (!status.ok()) {
    segment->dirty_until = segment->end + bytes;
    (void)ZeroDirty(segment).ok();  // if it fails too, the next append tries again first
    return status;
  }
  for (const GroupRecord& record : records) {
    if (record.entry != nullptr) {
      table.CutFrom(record.entry->index);
      table.Add(segment->sequence, segment->end, record.entry->index, record.entry->term);
      disk_next_index = record.entry->index + 1;
    }
    segment->end += RecordBytes(record.payload_length());
  }
  segment->last_number = last_number += count;
  last_crc = prev;
  last_is_clean = false;
  counters.records += count;
  counters.bytes += bytes;
  *written = count;
  return {};
}

}  // namespace fastkv
