#include "front/memory_pool.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace fastkv::front {

struct alignas(16) MemoryPool::Block {
  uint32_t size_class;
  Block* next;  // while it is free

  void* bytes() { return reinterpret_cast<char*>(this) + sizeof(Block); }
  static Block* Of(void* bytes) { return reinterpret_cast<Block*>(static_cast<char*>(bytes) - sizeof(Block)); }
};

MemoryPool::MemoryPool() : functions_{} {
  functions_.mem_user_data = this;
  functions_.malloc = [](size_t size, void* self) { return static_cast<MemoryPool*>(self)->Allocate(size); };
  functions_.free = [](void* bytes, void* self) { static_cast<MemoryPool*>(self)->Free(bytes); };
  functions_.calloc = [](size_t count, size_t size, void* self) -> void* {
    if (size != 0 && count > SIZE_MAX / size) return nullptr;
    void* bytes = static_cast<MemoryPool*>(self)->Allocate(count * size);
    if (bytes != nullptr) memset(bytes, 0, count * size);
    return bytes;
  };
  functions_.realloc = [](void* bytes, size_t size, void* self) {
    return static_cast<MemoryPool*>(self)->Reallocate(bytes, size);
  };
}

MemoryPool::~MemoryPool() {
  for (Block* block : free_) {
    while (block != nullptr) {
      Block* next = block->next;
      std::free(block);
      block = next;
    }
  }
}

void* MemoryPool::Allocate(size_t size) {
  const size_t size_class = size > kPooledBytesMax ? 0 : std::max<size_t>(1, (size + kStep - 1) / kStep);
  Block* block = free_[size_class];
  if (block != nullptr) {
    free_[size_class] = block->next;
    spare_bytes_[size_class] -= size_class * kStep;
    return block->bytes();
  }
  const size_t bytes = size_class == 0 ? size : size_class * kStep;
  if (bytes > SIZE_MAX - sizeof(Block)) return nullptr;
  block = static_cast<Block*>(std::malloc(sizeof(Block) + bytes));
  if (block == nullptr) return nullptr;
  block->size_class = static_cast<uint32_t>(size_class);
  return block->bytes();
}

void MemoryPool::Free(void* bytes) {
  if (bytes == nullptr) return;
  Block* block = Block::Of(bytes);
  const size_t size_class = block->size_class;
  if (size_class == 0 || spare_bytes_[size_class] >= kSpareBytesMax) return std::free(block);
  spare_bytes_[size_class] += size_class * kStep;
  block->next = free_[size_class];
  free_[size_class] = block;
}

void* MemoryPool::Reallocate(void* bytes, size_t size) {
  if (bytes == nullptr) return Allocate(size);
  Block* block = Block::Of(bytes);
  if (block->size_class == 0 && size > kPooledBytesMax) {
    if (size > SIZE_MAX - sizeof(Block)) return nullptr;
    block = static_cast<Block*>(std::realloc(block, sizeof(Block) + size));
    return block == nullptr ? nullptr : block->bytes();
  }
  if (block->size_class != 0 && size <= block->size_class * kStep) return bytes;
  // From malloc down into the pool, or up from a class to a larger one.
  void* moved = Allocate(size);
  if (moved == nullptr) return nullptr;
  memcpy(moved, bytes, block->size_class == 0 ? size : std::min(size, block->size_class * kStep));
  Free(bytes);
  return moved;
}

}  // namespace fastkv::front
