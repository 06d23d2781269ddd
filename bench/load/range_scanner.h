// Reads RangeResponse or RangeStreamResponse messages as they come, without keeping them: counts keys and bytes.
//
//   RangeResponse         header=1 kvs=2* more=3 count=4
//   RangeStreamResponse   range_response=1 { the same }; a stream is several of them, each within its 5-byte gRPC
//   prefix
//
// Invariants: bytes may be cut anywhere; a field that does not end within its message throws Failure.
// Thread safety: none.
#pragma once

#include <cstdint>
#include <string_view>

#include "messages.h"

namespace fastkv::load {

class RangeScanner {
 public:
  explicit RangeScanner(bool streamed) : streamed_(streamed) {}

  void Reset() { *this = RangeScanner(streamed_); }

  void Feed(std::string_view bytes) {
    bytes_ += bytes.size();
    while (!bytes.empty()) {
      if (skip_ > 0) {
        const uint64_t skipped = std::min<uint64_t>(skip_, bytes.size());
        skip_ -= skipped;
        left_ -= skipped;
        bytes.remove_prefix(static_cast<size_t>(skipped));
      } else {
        Byte(static_cast<uint8_t>(bytes[0]));
        bytes.remove_prefix(1);
      }
      if (state_ != State::kPrefix && left_ == 0) {
        if (state_ != State::kTag || read_ > 0 || skip_ > 0) throw Failure("a message that is cut");
        state_ = State::kPrefix;
        nested_ = false;
      }
    }
  }

  bool between_messages() const { return state_ == State::kPrefix && read_ == 0; }
  uint64_t kvs() const { return kvs_; }
  uint64_t kv_bytes() const { return kv_bytes_; }
  uint64_t count() const { return count_; }
  uint64_t bytes() const { return bytes_; }

 private:
  enum class State { kPrefix, kTag, kLength, kVarint };

  void Byte(uint8_t byte) {
    if (state_ == State::kPrefix) {
      if (read_ == 0 && byte != 0) throw Failure("a compressed message, which nobody asked for");
      number_ = number_ << 8 | byte;
      if (++read_ < 5) return;
      left_ = Take();
      if (left_ > 0) state_ = State::kTag;
      return;
    }
    left_--;
    if (read_ == kVarintBytesMax) throw Failure("a varint that does not end");
    number_ |= static_cast<uint64_t>(byte & 0x7f) << (7 * read_++);
    if (byte & 0x80) return;
    const uint64_t value = Take();
    switch (state_) {
      case State::kTag:
        field_ = static_cast<uint32_t>(value >> 3);
        if ((value & 7) != 0 && (value & 7) != 2) throw Failure("a message that is no RangeResponse");
        state_ = (value & 7) == 2 ? State::kLength : State::kVarint;
        return;
      case State::kLength:
        state_ = State::kTag;
        if (value > left_) throw Failure("a field longer than its message");
        if (streamed_ && !nested_ && field_ == 1) {
          nested_ = true;
          return;
        }
        skip_ = value;
        if (field_ == 2) {
          kvs_++;
          kv_bytes_ += value;
        }
        return;
      default:
        state_ = State::kTag;
        if (field_ == 4) count_ = value;
    }
  }
  uint64_t Take() {
    const uint64_t value = number_;
    number_ = 0;
    read_ = 0;
    return value;
  }

  bool streamed_;
  State state_ = State::kPrefix;
  bool nested_ = false;
  uint64_t number_ = 0;
  size_t read_ = 0;
  uint32_t field_ = 0;
  uint64_t skip_ = 0, left_ = 0;
  uint64_t kvs_ = 0, kv_bytes_ = 0, count_ = 0, bytes_ = 0;
};

}  // namespace fastkv::load
