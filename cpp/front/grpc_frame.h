// gRPC's length-prefixed messages out of bytes that come in any pieces.
//
//   message = flag:u8 length:u32be body     flag: 0 plain, 1 compressed
//
// Invariants: a message that lies whole in one piece is handed on where it lies, every other one is copied once; a
// length beyond the limit is refused before anything of the body is kept; what is kept never exceeds what has come.
// Thread safety: none; one call owns it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace fastkv::front {

inline constexpr size_t kPrefixBytes = 5;

inline void StorePrefix(char* at, size_t length) {
  at[0] = 0;
  at[1] = static_cast<char>(length >> 24);
  at[2] = static_cast<char>(length >> 16);
  at[3] = static_cast<char>(length >> 8);
  at[4] = static_cast<char>(length);
}

class MessageReader {
 public:
  // Takes the next bytes; sink(flag, body) for every message that is whole, until it says false. False: the length
  // `refused` is beyond bytes_max; or the sink's false.
  template <typename Sink>
  bool Feed(std::string_view bytes, size_t bytes_max, uint32_t* refused, Sink&& sink) {
    *refused = 0;
    while (!bytes.empty()) {
      if (kept_.empty() && bytes.size() >= kPrefixBytes) {
        const uint32_t length = Length(bytes.data());
        if (length > bytes_max) return *refused = length, false;
        if (bytes.size() - kPrefixBytes >= length) {
          const std::string_view body = bytes.substr(kPrefixBytes, length);
          const auto flag = static_cast<uint8_t>(bytes[0]);
          bytes.remove_prefix(kPrefixBytes + length);
          if (!sink(flag, body)) return false;
          continue;
        }
      }
      if (kept_.size() < kPrefixBytes) {
        Keep(&bytes, kPrefixBytes - kept_.size());
        if (kept_.size() < kPrefixBytes) return true;
        const uint32_t length = Length(kept_.data());
        if (length > bytes_max) return *refused = length, false;
      }
      const size_t whole = kPrefixBytes + Length(kept_.data());
      Keep(&bytes, whole - kept_.size());
      if (kept_.size() < whole) return true;
      // The sink may feed or reset this reader's call: the message is its own by then.
      const std::string message = std::move(kept_);
      kept_ = std::string();
      if (!sink(static_cast<uint8_t>(message[0]), std::string_view(message).substr(kPrefixBytes))) return false;
    }
    return true;
  }

  size_t kept_bytes() const { return kept_.size(); }
  void Reset() {
    if (kept_.capacity() > 1024) kept_ = std::string();
    kept_.clear();
  }

 private:
  static uint32_t Length(const char* prefix) {
    const auto* p = reinterpret_cast<const uint8_t*>(prefix);
    return uint32_t{p[1]} << 24 | uint32_t{p[2]} << 16 | uint32_t{p[3]} << 8 | p[4];
  }
  void Keep(std::string_view* bytes, size_t count) {
    count = std::min(count, bytes->size());
    kept_.append(bytes->substr(0, count));
    bytes->remove_prefix(count);
  }

  std::string kept_;  // the beginning of a message, its prefix included
};

}  // namespace fastkv::front
