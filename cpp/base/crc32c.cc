#include "base/crc32c.h"

#include <array>
#include <cstring>

#include "base/coding.h"

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__aarch64__)
#include <arm_acle.h>
#if defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#endif

namespace fastkv {
namespace {

constexpr uint32_t kPolynomial = 0x82F63B78;  // reflected

// tables[k][b]: the crc of byte b followed by k zero bytes, so that eight bytes take eight independent lookups.
constexpr std::array<std::array<uint32_t, 256>, 8> MakeTables() {
  std::array<std::array<uint32_t, 256>, 8> tables{};
  for (uint32_t b = 0; b < 256; ++b) {
    uint32_t crc = b;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? kPolynomial : 0);
    tables[0][b] = crc;
  }
  for (uint32_t b = 0; b < 256; ++b) {
    for (size_t k = 1; k < 8; ++k) tables[k][b] = (tables[k - 1][b] >> 8) ^ tables[0][tables[k - 1][b] & 0xff];
  }
  return tables;
}
constexpr auto kTables = MakeTables();

// a * b modulo the polynomial, both reflected (bit 31 is x^0).
constexpr uint32_t Multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (int i = 31; i >= 0; --i) {
    if ((a >> i) & 1) product ^= b;
    b = (b >> 1) ^ ((b & 1) ? kPolynomial : 0);
  }
  return product;
}

// kShift[i] = x^(8 * 2^i): what appending 2^i zero bytes multiplies a crc by.
constexpr std::array<uint32_t, 64> MakeShifts() {
  std::array<uint32_t, 64> shifts{};
  uint32_t power = 0x80000000u >> 8;  // x^8
  for (auto& shift : shifts) {
    shift = power;
    power = Multiply(power, power);
  }
  return shifts;
}
constexpr auto kShifts = MakeShifts();

#if defined(__x86_64__)

__attribute__((target("sse4.2"))) uint32_t ExtendSse42(uint32_t crc, const void* data, size_t length) {
  const char* p = static_cast<const char*>(data);
  uint64_t state = crc ^ 0xFFFFFFFFu;
  for (; length >= 32; p += 32, length -= 32) {
    state = _mm_crc32_u64(state, LoadU64(p));
    state = _mm_crc32_u64(state, LoadU64(p + 8));
    state = _mm_crc32_u64(state, LoadU64(p + 16));
    state = _mm_crc32_u64(state, LoadU64(p + 24));
  }
  for (; length >= 8; p += 8, length -= 8) state = _mm_crc32_u64(state, LoadU64(p));
  auto state32 = static_cast<uint32_t>(state);
  for (; length > 0; ++p, --length) state32 = _mm_crc32_u8(state32, static_cast<uint8_t>(*p));
  return state32 ^ 0xFFFFFFFFu;
}
bool HaveHardware() { return __builtin_cpu_supports("sse4.2"); }
constexpr auto kHardware = ExtendSse42;
constexpr const char* kHardwareName = "sse4.2";

#elif defined(__aarch64__)

#if defined(__clang__)
__attribute__((target("crc")))
#else
__attribute__((target("+crc")))
#endif
uint32_t
ExtendArmv8(uint32_t crc, const void* data, size_t length) {
  const char* p = static_cast<const char*>(data);
  uint32_t state = crc ^ 0xFFFFFFFFu;
  for (; length >= 8; p += 8, length -= 8) state = __crc32cd(state, LoadU64(p));
  for (; length > 0; ++p, --length) state = __crc32cb(state, static_cast<uint8_t>(*p));
  return state ^ 0xFFFFFFFFu;
}
bool HaveHardware() {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
#else
  return true;  // every 64-bit Apple processor has it
#endif
}
constexpr auto kHardware = ExtendArmv8;
constexpr const char* kHardwareName = "armv8";

#else

bool HaveHardware() { return false; }
constexpr auto kHardware = crc32c_internal::ExtendTable;
constexpr const char* kHardwareName = "table";

#endif

using ExtendFunction = uint32_t (*)(uint32_t, const void*, size_t);
const bool kUseHardware = HaveHardware();
const ExtendFunction kExtend = kUseHardware ? kHardware : crc32c_internal::ExtendTable;

}  // namespace

namespace crc32c_internal {

uint32_t ExtendTable(uint32_t crc, const void* data, size_t length) {
  const char* p = static_cast<const char*>(data);
  uint32_t state = crc ^ 0xFFFFFFFFu;
  for (; length >= 8; p += 8, length -= 8) {
    const uint64_t word = LoadU64(p) ^ state;
    state = 0;
    for (int k = 0; k < 8; ++k) state ^= kTables[7 - k][(word >> (8 * k)) & 0xff];
  }
  for (; length > 0; ++p, --length) state = (state >> 8) ^ kTables[0][(state ^ static_cast<uint8_t>(*p)) & 0xff];
  return state ^ 0xFFFFFFFFu;
}

}  // namespace crc32c_internal

uint32_t Crc32cExtend(uint32_t crc, const void* data, size_t length) { return kExtend(crc, data, length); }

uint32_t Crc32cCombine(uint32_t crc_a, uint32_t crc_b, uint64_t length_b) {
  for (size_t i = 0; length_b != 0; ++i, length_b >>= 1) {
    if (length_b & 1) crc_a = Multiply(kShifts[i], crc_a);
  }
  return crc_a ^ crc_b;
}

const char* Crc32cImplementation() { return kUseHardware ? kHardwareName : "table"; }

}  // namespace fastkv
