#include "log/format.h"

#include <cstring>

#include "base/check.h"
#include "base/coding.h"
#include "base/crc32c.h"

namespace fastkv {
namespace {

constexpr int kKindShift = 56;
constexpr uint64_t kAloneFlag = uint64_t{1} << 63;

constexpr std::string_view kMagic("fkvlog\0\1", 8);
constexpr size_t kHeaderCrcAt = kSegmentHeaderBytes - 4;
}  // namespace

void EncodeSegmentHeader(const SegmentHeader& header, char out[kSegmentHeaderBytes]) {
  memcpy(out, kMagic.data(), kMagic.size());
  StoreU64(out + 8, header.sequence);
  StoreU64(out + 16, header.first_index);
  StoreU64(out + 24, header.last_number);
  StoreU64(out + 32, header.salt);
  StoreU32(out + 40, header.last_crc);
  StoreU32(out + kHeaderCrcAt, Crc32c({out, kHeaderCrcAt}));
}

std::optional<SegmentHeader> DecodeSegmentHeader(std::string_view segment) {
  if (segment.size() < kSegmentHeaderBytes || !segment.starts_with(kMagic)) return std::nullopt;
  if (LoadU32(segment.data() + kHeaderCrcAt) != Crc32c(segment.substr(0, kHeaderCrcAt))) return std::nullopt;
  SegmentHeader header;
  header.sequence = LoadU64(segment.data() + 8);
  header.first_index = LoadU64(segment.data() + 16);
  header.last_number = LoadU64(segment.data() + 24);
  header.salt = LoadU64(segment.data() + 32);
  header.last_crc = LoadU32(segment.data() + 40);
  if (header.first_index == 0 || header.first_index > kIndexMax) return std::nullopt;
  return header;
}

uint32_t RecordSeed(uint64_t salt) {
  char bytes[8];
  StoreU64(bytes, salt);
  return Crc32c({bytes, sizeof bytes});
}

void EncodeRecordHeader(const RecordView& record, uint64_t payload_length, char out[kRecordHeaderBytes]) {
  StoreU32(out, record.crc);
  StoreU32(out + 4, record.prev);
  StoreU32(out + 8, static_cast<uint32_t>(payload_length));
  StoreU32(out + 12, static_cast<uint32_t>(record.type));
  StoreU64(out + 16, record.number);
  StoreU64(out + 24, record.durable);
}

std::optional<RecordView> DecodeRecordHeader(std::string_view segment, uint64_t offset) {
  if (offset > segment.size() || segment.size() - offset < kRecordHeaderBytes) return std::nullopt;
  const char* at = segment.data() + offset;
  const uint32_t length = LoadU32(at + 8);
  const uint32_t type = LoadU32(at + 12);
  if (length > segment.size() - offset - kRecordHeaderBytes) return std::nullopt;
  if (type < static_cast<uint32_t>(RecordType::kEntry) || type > static_cast<uint32_t>(RecordType::kMeta)) {
    return std::nullopt;
  }
  RecordView record;
  record.crc = LoadU32(at);
  record.prev = LoadU32(at + 4);
  record.type = static_cast<RecordType>(type);
  record.number = LoadU64(at + 16);
  record.durable = LoadU64(at + 24);
  record.payload = segment.substr(offset + kRecordHeaderBytes, length);
  if (record.durable >= record.number) return std::nullopt;
  return record;
}

std::optional<RecordView> DecodeRecord(std::string_view segment, uint64_t offset, uint32_t seed) {
  auto record = DecodeRecordHeader(segment, offset);
  if (!record) return std::nullopt;
  const std::string_view covered = segment.substr(offset + 4, kRecordHeaderBytes - 4 + record->payload.size());
  if (Crc32cExtend(seed, covered) != record->crc) return std::nullopt;
  return record;
}

void EncodeEntryPrefix(uint64_t term, uint64_t index, EntryKind kind, char out[kEntryPrefixBytes]) {
  FASTKV_CHECK(term <= kTermMax);
  StoreU64(out, term | static_cast<uint64_t>(kind) << kKindShift);
  StoreU64(out + 8, index);
}

std::optional<LogEntry> DecodeEntry(std::string_view payload) {
  ByteReader in(payload);
  LogEntry entry;
  if (!in.U64(&entry.term) || !in.U64(&entry.index) || entry.index == 0 || entry.index > kIndexMax) return std::nullopt;
  const uint64_t kind = entry.term >> kKindShift;
  if (kind > static_cast<uint64_t>(EntryKind::kEmpty)) return std::nullopt;
  entry.kind = static_cast<EntryKind>(kind);
  entry.term &= kTermMax;
  entry.batch = in.rest();
  return entry;
}

std::string EncodeHardState(const HardState& state) {
  std::string out;
  PutU64(&out, state.term);
  PutU64(&out, state.vote);
  FASTKV_CHECK(state.commit <= kIndexMax);
  PutU64(&out, state.commit | (state.alone ? kAloneFlag : 0));
  return out;
}

std::optional<HardState> DecodeHardState(std::string_view payload) {
  ByteReader in(payload);
  HardState state;
  if (!in.U64(&state.term) || !in.U64(&state.vote) || !in.U64(&state.commit) || !in.done()) return std::nullopt;
  state.alone = (state.commit & kAloneFlag) != 0;
  state.commit &= ~kAloneFlag;
  return state;
}

std::string EncodeSnapshotMark(const SnapshotMark& mark) {
  std::string out;
  PutU64(&out, mark.index);
  PutU64(&out, mark.term);
  return out;
}

std::optional<SnapshotMark> DecodeSnapshotMark(std::string_view payload) {
  ByteReader in(payload);
  SnapshotMark mark;
  if (!in.U64(&mark.index) || !in.U64(&mark.term) || !in.done() || mark.index > kIndexMax) return std::nullopt;
  return mark;
}

std::string EncodeClean(uint64_t applied_index) {
  std::string out;
  PutU64(&out, applied_index);
  return out;
}

std::optional<uint64_t> DecodeClean(std::string_view payload) {
  ByteReader in(payload);
  uint64_t applied_index;
  if (!in.U64(&applied_index) || !in.done()) return std::nullopt;
  return applied_index;
}

std::string HexName(uint64_t number) {
  std::string name(16, '0');
  for (size_t i = 16; i-- > 0; number >>= 4) name[i] = "0123456789abcdef"[number & 15];
  return name;
}

std::optional<uint64_t> ParseHexName(std::string_view digits) {
  if (digits.size() != 16) return std::nullopt;
  uint64_t number = 0;
  for (const char c : digits) {
    const size_t digit = std::string_view("0123456789abcdef").find(c);
    if (digit == std::string_view::npos) return std::nullopt;
    number = number << 4 | digit;
  }
  return number;
}

std::string SegmentFileName(uint64_t sequence) { return HexName(sequence) + ".log"; }

std::optional<uint64_t> ParseSegmentFileName(std::string_view name) {
  if (!name.ends_with(".log")) return std::nullopt;
  return ParseHexName(name.substr(0, name.size() - 4));
}

}  // namespace fastkv
