// What goes to a socket next: small bytes copied together, large ones where they are.
//
//   bytes:  [frame header|prefix|small body|frame header| ... ]      segments:  8,231 of bytes, 16,384 of body 7, 9 of
//   bytes ...
//
// Invariants: a body lives as long as a segment or a call's queue holds it; the segments are in the order of the wire.
// Thread safety: none; everything here belongs to one IoThread.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "front/grpc_frame.h"
#include "front/limits.h"

namespace fastkv::front {

// One queued message (or several that are framed already), counted by who still needs it.
struct Body {
  std::string bytes;
  char prefix[kPrefixBytes];
  uint8_t prefix_bytes = 0;  // 0: the bytes are framed already
  uint32_t holders = 0;
  Body* next = nullptr;  // in a call's queue, or among the free

  size_t size() const { return prefix_bytes + bytes.size(); }
};

// Bodies, and the memory of larger ones: given back to malloc after each use, it would go on to the system and come
// back as page faults.
class BodyPool {
 public:
  BodyPool() { spare_.reserve(kSpareBytesMax / kSpareBytesMin); }  // so that Release cannot fail
  ~BodyPool() {
    while (free_ != nullptr) delete std::exchange(free_, free_->next);
  }
  BodyPool(const BodyPool&) = delete;
  BodyPool& operator=(const BodyPool&) = delete;

  Body* Make(std::string bytes, bool framed) {
    Body* body = free_;
    if (body != nullptr) {
      free_ = body->next;
    } else {
      body = new Body;
    }
    body->bytes = std::move(bytes);
    body->prefix_bytes = framed ? 0 : kPrefixBytes;
    if (!framed) StorePrefix(body->prefix, body->bytes.size());
    body->holders = 1;
    body->next = nullptr;
    return body;
  }
  void Release(Body* body) {
    if (--body->holders > 0) return;
    const size_t bytes = body->bytes.capacity();
    if (bytes >= kSpareBytesMin && spare_bytes_ + bytes <= kSpareBytesMax) {
      spare_bytes_ += bytes;
      spare_.push_back(std::exchange(body->bytes, {}));
    } else {
      std::string().swap(body->bytes);
    }
    body->next = free_;
    free_ = body;
  }

  // An empty string, with memory if there is any to spare.
  std::string TakeSpare() {
    if (spare_.empty()) return {};
    std::string spare = std::move(spare_.back());
    spare_.pop_back();
    spare_bytes_ -= spare.capacity();
    spare.clear();
    return spare;
  }

 private:
  Body* free_ = nullptr;
  std::vector<std::string> spare_;
  size_t spare_bytes_ = 0;  // the sum of their capacities
};

class Output {
 public:
  Output(BodyPool* pool, bool copy_all) : pool_(pool), copy_all_(copy_all) {}
  ~Output() { Clear(); }
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  void Append(std::string_view bytes) {
    if (segments_.empty() || segments_.back().body != nullptr) segments_.push_back({nullptr, nullptr, 0});
    segments_.back().size += bytes.size();
    bytes_.append(bytes);
    size_ += bytes.size();
  }
  // A part of body->bytes.
  void Append(Body* body, size_t offset, size_t size);

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  // The first `max` pieces; returns how many there are.
  int Pieces(iovec* pieces, int max) const;
  // The first `size` bytes are written.
  void Advance(size_t size);
  // Everything that is not written yet, in an object and memory of its own.
  std::unique_ptr<Output> Detach();
  void Clear();
  void set_copy_all(bool copy_all) { copy_all_ = copy_all; }

 private:
  struct Segment {
    Body* body;        // null: the next bytes of bytes_
    const char* data;  // within body
    size_t size;
  };

  BodyPool* pool_;
  bool copy_all_;  // for TLS, which copies anyway
  std::string bytes_;
  size_t written_ = 0;        // of bytes_
  size_t segments_done_ = 0;  // of segments_
  std::vector<Segment> segments_;
  size_t size_ = 0;
};

}  // namespace fastkv::front
