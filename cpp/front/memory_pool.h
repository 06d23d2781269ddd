// nghttp2's memory: the same few sizes by the hundred thousand a second, kept in lists instead of going through malloc.
//
//   block = class:u32 (16 bytes with padding) then what nghttp2 sees      class 0: larger than kPooledBytesMax, from
//   malloc
//
// Invariants: at most kSpareBytesMax wait in each list, the rest goes back to malloc.
// Thread safety: none; one IoThread owns it, and its sessions.
#pragma once

#include <nghttp2/nghttp2.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace fastkv::front {

class MemoryPool {
 public:
  MemoryPool();
  ~MemoryPool();
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  nghttp2_mem* functions() { return &functions_; }

 private:
  static constexpr size_t kStep = 32, kClasses = 33;  // class i serves i * kStep bytes
  static constexpr size_t kPooledBytesMax = kStep * (kClasses - 1);
  static constexpr size_t kSpareBytesMax = 1 << 20;
  struct Block;

  void* Allocate(size_t size);
  void Free(void* bytes);
  void* Reallocate(void* bytes, size_t size);

  nghttp2_mem functions_;
  std::array<Block*, kClasses> free_{};
  std::array<size_t, kClasses> spare_bytes_{};
};

}  // namespace fastkv::front
