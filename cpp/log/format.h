// The bytes of a log segment (docs/format.md, "Log segment"): encode, decode, verify. No files here.
//
//   segment := header record* zeros
//   header  := magic sequence:u64 first_index:u64 last_number:u64 salt:u64 last_crc:u32 crc:u32             (48 bytes)
//   record  := crc:u32 prev:u32 length:u32 type:u8 zero:u8[3] number:u64 durable:u64 payload[length] pad    (32 +
//   length)
//
// A record's crc is seeded with its segment's salt, which no client knows: what looks like a record inside a value
// never verifies. A `seed` is RecordSeed(salt).
//
// Invariants of a good record: crc verifies; durable < number. In its place: number and prev continue the chain.
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace fastkv {

inline constexpr size_t kSegmentHeaderBytes = 48;
inline constexpr size_t kRecordHeaderBytes = 32;
inline constexpr size_t kEntryPrefixBytes = 16;  // term, index
inline constexpr uint64_t kRecordPayloadBytesMax = UINT32_MAX;
inline constexpr uint64_t kIndexMax = INT64_MAX;  // an index above is corruption: index + 1 never overflows
inline constexpr uint64_t kTermMax = (uint64_t{1} << 56) - 1;  // the byte above it is the entry's kind
inline constexpr size_t kHardStateBytes = 24;

// What an entry is; raft/messages.py has the same numbers.
enum class EntryKind : uint8_t {
  kNormal = 0,      // a batch of commands
  kConfChange = 1,  // a change of membership, which only the node understands
  kEmpty = 2,       // nothing to apply, whatever it carries
};

enum class RecordType : uint8_t { kEntry = 1, kHardState = 2, kSnapshot = 3, kClean = 4, kMeta = 5 };

struct SegmentHeader {
  uint64_t sequence = 0;
  uint64_t first_index = 0;
  uint64_t last_number = 0;
  uint32_t last_crc = 0;
  uint64_t salt = 0;
};

struct RecordView {
  uint32_t crc = 0;
  uint32_t prev = 0;
  RecordType type = RecordType::kEntry;
  uint64_t number = 0;
  uint64_t durable = 0;
  std::string_view payload;
};

struct HardState {
  uint64_t term = 0;
  uint64_t vote = 0;
  uint64_t commit = 0;
  // The writer was the only voter: entries behind `commit` are committed too, up to the first change of membership.
  bool alone = false;
  bool operator==(const HardState&) const = default;
};

struct LogEntry {
  uint64_t term = 0;
  uint64_t index = 0;
  std::string_view batch;
  EntryKind kind = EntryKind::kNormal;
};

// Bytes a record of this payload takes in a segment, padding included.
constexpr uint64_t RecordBytes(uint64_t payload_length) {
  return kRecordHeaderBytes + ((payload_length + 7) & ~uint64_t{7});
}

void EncodeSegmentHeader(const SegmentHeader& header, char out[kSegmentHeaderBytes]);
std::optional<SegmentHeader> DecodeSegmentHeader(std::string_view segment);

// The crc of a record that has covered nothing but the salt yet.
uint32_t RecordSeed(uint64_t salt);

// The record that begins at segment[offset], if one verifies by its own crc there. DecodeRecordHeader leaves the crc
// unchecked: for records that were verified before, and to tell cheaply where none can be.
std::optional<RecordView> DecodeRecordHeader(std::string_view segment, uint64_t offset);
std::optional<RecordView> DecodeRecord(std::string_view segment, uint64_t offset, uint32_t seed);

// crc as it stands in `record`; the payload is not looked at.
void EncodeRecordHeader(const RecordView& record, uint64_t payload_length, char out[kRecordHeaderBytes]);

// Payloads. Encoded: fixed fields only (an entry's batch follows its prefix).
void EncodeEntryPrefix(uint64_t term, uint64_t index, EntryKind kind, char out[kEntryPrefixBytes]);
std::optional<LogEntry> DecodeEntry(std::string_view payload);
std::string EncodeHardState(const HardState& state);
std::optional<HardState> DecodeHardState(std::string_view payload);
struct SnapshotMark {
  uint64_t index = 0;
  uint64_t term = 0;
};
std::string EncodeSnapshotMark(const SnapshotMark& mark);
std::optional<SnapshotMark> DecodeSnapshotMark(std::string_view payload);
std::string EncodeClean(uint64_t applied_index);
std::optional<uint64_t> DecodeClean(std::string_view payload);

// "0000000000000001.log" and back.
std::string SegmentFileName(uint64_t sequence);
std::optional<uint64_t> ParseSegmentFileName(std::string_view name);
// 16 lower-case hex digits, and back (exactly 16).
std::string HexName(uint64_t number);
std::optional<uint64_t> ParseHexName(std::string_view digits);

}  // namespace fastkv
