// CRC-32C (Castagnoli, reflected, init and final xor 0xFFFFFFFF), in hardware where the processor has it.
//
//   Crc32c("123456789") == 0xE3069283
//   Crc32cExtend(Crc32c(a), b) == Crc32c(a + b)
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <string_view>

namespace fastkv {

uint32_t Crc32cExtend(uint32_t crc, const void* data, size_t length);

inline uint32_t Crc32cExtend(uint32_t crc, std::string_view data) {
  return Crc32cExtend(crc, data.data(), data.size());
}
inline uint32_t Crc32c(std::string_view data) { return Crc32cExtend(0, data.data(), data.size()); }

// crc(a + b) from crc(a), crc(b) and the length of b, in O(log length).
uint32_t Crc32cCombine(uint32_t crc_a, uint32_t crc_b, uint64_t length_b);

// Which implementation this process uses: "sse4.2", "armv8" or "table".
const char* Crc32cImplementation();

namespace crc32c_internal {
uint32_t ExtendTable(uint32_t crc, const void* data, size_t length);  // the portable one, for tests
}

}  // namespace fastkv
