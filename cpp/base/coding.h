// Fixed-width little-endian integers and protobuf's varints: writing, and reading from hostile bytes.
//
//   std::string out;  PutU64(&out, index);  PutVarint(&out, length);
//   ByteReader in(bytes);  uint64_t index, length;
//   if (!in.U64(&index) || !in.Varint(&length) || !in.done()) return Status(Code::kCorrupt, ...);
//
// Invariants: a ByteReader never looks past its bytes; a read that fails consumes nothing and every read after it
// fails. Thread safety: none needed; no state but the reader's own.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace fastkv {

inline constexpr size_t kVarintBytesMax = 10;

namespace coding_internal {
template <typename T>
inline T LittleEndian(T v) {
  if constexpr (std::endian::native == std::endian::little) {
    return v;
  } else if constexpr (sizeof(T) == 4) {
    return __builtin_bswap32(v);
  } else {
    return __builtin_bswap64(v);
  }
}
}  // namespace coding_internal

inline void StoreU32(char* at, uint32_t v) {
  v = coding_internal::LittleEndian(v);
  memcpy(at, &v, sizeof v);
}
inline void StoreU64(char* at, uint64_t v) {
  v = coding_internal::LittleEndian(v);
  memcpy(at, &v, sizeof v);
}
inline uint32_t LoadU32(const char* at) {
  uint32_t v;
  memcpy(&v, at, sizeof v);
  return coding_internal::LittleEndian(v);
}
inline uint64_t LoadU64(const char* at) {
  uint64_t v;
  memcpy(&v, at, sizeof v);
  return coding_internal::LittleEndian(v);
}

inline void PutU32(std::string* out, uint32_t v) {
  char bytes[4];
  StoreU32(bytes, v);
  out->append(bytes, sizeof bytes);
}
inline void PutU64(std::string* out, uint64_t v) {
  char bytes[8];
  StoreU64(bytes, v);
  out->append(bytes, sizeof bytes);
}
inline void PutI64(std::string* out, int64_t v) { PutU64(out, static_cast<uint64_t>(v)); }

// Writes v at `at` (room for kVarintBytesMax) and returns the place behind it.
inline char* StoreVarint(char* at, uint64_t v) {
  while (v >= 0x80) {
    *at++ = static_cast<char>(v | 0x80);
    v >>= 7;
  }
  *at++ = static_cast<char>(v);
  return at;
}
inline void PutVarint(std::string* out, uint64_t v) {
  char bytes[kVarintBytesMax];
  out->append(bytes, static_cast<size_t>(StoreVarint(bytes, v) - bytes));
}
inline size_t VarintLength(uint64_t v) { return (static_cast<size_t>(std::bit_width(v | 1)) + 6) / 7; }

class ByteReader {
 public:
  explicit ByteReader(std::string_view bytes) : rest_(bytes) {}

  bool U32(uint32_t* v) {
    if (!Has(4)) return false;
    *v = LoadU32(rest_.data());
    rest_.remove_prefix(4);
    return true;
  }
  bool U64(uint64_t* v) {
    if (!Has(8)) return false;
    *v = LoadU64(rest_.data());
    rest_.remove_prefix(8);
    return true;
  }
  bool I64(int64_t* v) {
    uint64_t bits;
    if (!U64(&bits)) return false;
    *v = static_cast<int64_t>(bits);
    return true;
  }
  // At most ten bytes, and no bits beyond the 64th. Longer than needed is accepted, as protobuf does.
  bool Varint(uint64_t* v) {
    if (failed_) return false;
    uint64_t result = 0;
    for (size_t i = 0; i < rest_.size() && i < kVarintBytesMax; ++i) {
      const auto byte = static_cast<uint8_t>(rest_[i]);
      if (i == kVarintBytesMax - 1 && byte > 1) break;
      result |= static_cast<uint64_t>(byte & 0x7f) << (7 * i);
      if (byte < 0x80) {
        rest_.remove_prefix(i + 1);
        *v = result;
        return true;
      }
    }
    failed_ = true;
    return false;
  }
  bool Bytes(uint64_t length, std::string_view* v) {
    if (!Has(length)) return false;
    *v = rest_.substr(0, static_cast<size_t>(length));
    rest_.remove_prefix(static_cast<size_t>(length));
    return true;
  }
  // varint length, then that many bytes.
  bool LengthPrefixed(std::string_view* v) {
    const std::string_view before = rest_;
    uint64_t length;
    if (!Varint(&length)) return false;
    if (Bytes(length, v)) return true;
    rest_ = before;
    return false;
  }

  bool done() const { return rest_.empty() && !failed_; }
  bool failed() const { return failed_; }
  std::string_view rest() const { return rest_; }

 private:
  bool Has(uint64_t length) {
    if (failed_ || rest_.size() < length) failed_ = true;
    return !failed_;
  }

  std::string_view rest_;
  bool failed_ = false;
};

}  // namespace fastkv
