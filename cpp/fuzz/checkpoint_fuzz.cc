// Hostile bytes as a checkpoint: opening gives a Status, and what opens can be walked to its end.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#include "base/coding.h"
#include "base/crc32c.h"
#include "log/checkpoint.h"

namespace {

// Puts right checksums everywhere, so that the fuzzer gets past them.
void Repair(std::string* bytes) {
  bytes->replace(0, std::min<size_t>(8, bytes->size()), "fkvckpt\2");
  uint32_t crcs = 0;
  uint64_t blocks = 0;
  for (size_t at = 8; bytes->size() >= at + 12;) {
    char* block = bytes->data() + at;
    uint32_t length = fastkv::LoadU32(block + 4) % 128;
    if (block[8] == 1) length = 48;
    if (block[8] == 6) length = 24;
    if (block[8] == '\xff') length = 16;
    if (length > bytes->size() - at - 12) return;
    fastkv::StoreU32(block + 4, length);
    fastkv::StoreU32(block + 8, static_cast<uint8_t>(block[8]));
    if (block[8] == '\xff') {
      fastkv::StoreU64(block + 12, blocks);
      fastkv::StoreU32(block + 20, crcs);
      fastkv::StoreU32(block + 24, 0);
    }
    const uint32_t crc = fastkv::Crc32c({block + 4, 8 + size_t{length}});
    fastkv::StoreU32(block, crc);
    char crc_bytes[4];
    fastkv::StoreU32(crc_bytes, crc);
    crcs = fastkv::Crc32cExtend(crcs, crc_bytes, sizeof crc_bytes);
    ++blocks;
    at += 12 + length;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fastkv;
  if (size == 0) return 0;
  std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] & 1) Repair(&bytes);
  std::unique_ptr<CheckpointReader> reader;
  const Status status = CheckpointReader::OpenBytes(bytes, "input", &reader);
  if (!status.ok()) {
    if (status.code() != Code::kCorrupt) abort();
    return 0;
  }
  uint64_t payload_bytes = 0;
  const Status walked = reader->ForEachBlock([&](BlockType type, std::string_view payload) {
    if (type == BlockType::kHead || type == BlockType::kFooter) abort();
    for (const char c : payload) payload_bytes += static_cast<uint8_t>(c) != 0;
    return reader->CorruptBlock(payload, "x").code() == Code::kCorrupt ? Status() : Status(Code::kIoError);
  });
  if (!walked.ok() || payload_bytes > bytes.size()) abort();
  return 0;
}
