// The keys and values of the workloads: a prefix byte and decimal digits; values of bytes that do not repeat.
//
//   k0000042        --prefix k --key-bytes 8, key 42
//
// Thread safety: none needed.
#pragma once

#include <cstdint>
#include <string>

namespace fastkv::load {

// A cheap generator with period 2^64 - 1 (xorshift64*); the same numbers in every run.
class Random {
 public:
  uint64_t Below(uint64_t bound) {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return static_cast<uint64_t>(static_cast<unsigned __int128>(state_ * 0x2545f4914f6cdd1dULL) * bound >> 64);
  }

 private:
  uint64_t state_ = 0x9e3779b97f4a7c15ULL;
};

inline void WriteKey(char* at, int64_t prefix, int64_t bytes, uint64_t number) {
  at[0] = static_cast<char>(prefix);
  for (int64_t i = bytes - 1; i > 0; i--) {
    at[i] = static_cast<char>('0' + number % 10);
    number /= 10;
  }
}

inline std::string KeyOf(int64_t prefix, int64_t bytes, uint64_t number) {
  std::string key(static_cast<size_t>(bytes), '\0');
  WriteKey(key.data(), prefix, bytes, number);
  return key;
}

// A permutation of 0 .. keys-1, so that keys do not come in their order; the factor is a prime above every key space.
inline uint64_t Scatter(uint64_t number, uint64_t keys) { return number % keys * 2654435761ULL % keys; }

inline std::string ValueOf(int64_t bytes) {
  std::string value(static_cast<size_t>(bytes), '\0');
  Random random;
  for (char& byte : value) byte = static_cast<char>(random.Below(256));
  return value;
}

}  // namespace fastkv::load
