// Hostile bytes as log segments: opening gives a Status, and what opens once opens again with the same entries.
//
//   input := first segment's bytes, or  split:u16 first second   if the first byte is odd: two segments, cut at `split`

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#include "base/coding.h"
#include "base/crc32c.h"
#include "base/fault_env.h"
#include "log/log.h"

namespace fastkv {
namespace {

// Without this the fuzzer would never get past a checksum: half of the inputs get right ones.
std::string WithRightChecksums(std::string bytes, uint64_t sequence, uint32_t* last_crc, uint64_t* number) {
  if (bytes.size() < kSegmentHeaderBytes) return bytes;
  bytes.replace(0, 8, std::string("fkvlog\0\1", 8));
  StoreU64(bytes.data() + 8, sequence);
  StoreU64(bytes.data() + 16, sequence == 1 ? 1 : LoadU64(bytes.data() + 16) % 8);
  StoreU64(bytes.data() + 24, *number);
  StoreU32(bytes.data() + 40, *last_crc);
  StoreU32(bytes.data() + 44, Crc32c(std::string_view(bytes).substr(0, 44)));
  const uint32_t seed = RecordSeed(LoadU64(bytes.data() + 32));
  uint64_t at = kSegmentHeaderBytes;
  while (bytes.size() - at >= kRecordHeaderBytes) {
    char* record = bytes.data() + at;
    const uint32_t length = LoadU32(record + 8) % 64;
    if (length > bytes.size() - at - kRecordHeaderBytes) break;
    if (record[13] == 'X') {  // left wrong on purpose
      at += RecordBytes(length);
      if (at > bytes.size()) break;
      continue;
    }
    StoreU32(record + 4, *last_crc);
    StoreU32(record + 8, length);
    StoreU32(record + 12, static_cast<uint8_t>(record[12]) % 7);
    StoreU64(record + 16, *number += 1);
    StoreU64(record + 24, LoadU64(record + 24) % *number);
    *last_crc = Crc32cExtend(seed, {record + 4, kRecordHeaderBytes - 4 + length});
    StoreU32(record, *last_crc);
    at += RecordBytes(length);
    if (at > bytes.size()) break;
  }
  return bytes;
}

std::string Entries(Env* env, const LogStart& start, Status* status) {
  std::string entries;
  uint64_t last = start.index;
  LogRecovered recovered;
  std::unique_ptr<Log> log;
  *status = Log::Open(
      env, "/log", {}, start,
      [&](const LogEntry& entry) {
        if (entry.index != ++last) abort();
        PutU64(&entries, entry.term);
        PutU64(&entries, entry.index);
        entries += entry.batch;
        return Status();
      },
      &recovered, &log);
  if (status->ok() && log->last_index() != last) abort();
  return entries;
}

}  // namespace
}  // namespace fastkv

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fastkv;
  if (size < 4) return 0;
  std::string_view input(reinterpret_cast<const char*>(data), size);
  const uint8_t flags = data[0];
  const size_t split = (data[1] | data[2] << 8) % (size - 3 + 1);
  const LogStart start{data[3] % 4u, 1, 0, ""};
  input.remove_prefix(3);
  std::string first(input.substr(0, flags & 1 ? split : input.size()));
  std::string second(flags & 1 ? input.substr(split) : std::string_view());
  if (flags & 2) {
    uint32_t crc = 0;
    uint64_t number = 0;
    first = WithRightChecksums(std::move(first), 1, &crc, &number);
    second = WithRightChecksums(std::move(second), 2, &crc, &number);
  }
  FaultEnv env(1);
  if (!env.CreateDir("/log").ok()) abort();
  env.SetContents("/log/0000000000000001.log", first);
  if (flags & 1) env.SetContents("/log/0000000000000002.log", second);
  Status status;
  const std::string once = Entries(&env, start, &status);
  if (!status.ok()) {
    if (status.code() != Code::kCorrupt) abort();
    return 0;
  }
  env.KillProcess();
  if (Entries(&env, start, &status) != once || !status.ok()) abort();
  return 0;
}
