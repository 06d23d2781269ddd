#include "base/slab.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>
#include <utility>

namespace fastkv {

struct SlabPool::Region {
  Region *next, *previous;            // of all
  Region *next_open, *previous_open;  // of those with free slabs
  char* memory;
  uint32_t free_slabs;  // bit i: slab i holds nothing
};

struct SlabPool::Slab {
  struct FreeObject {
    FreeObject* next;
  };
  Region* region;
  Slab *next, *previous;  // of those of the class that have room
  FreeObject* freed;
  uint32_t size_class, used;
  uint32_t bumped;  // bytes from the slab's start that have ever been given out

  uint32_t object_bytes() const { return size_class * kGranule; }
  bool full() const { return freed == nullptr && bumped + object_bytes() > kSlabBytes; }
};

namespace {

constexpr size_t kHeaderBytes = 64;

// Aligned to its size, so that it can be one huge page.
char* MapRegion() {
  constexpr size_t kBytes = SlabPool::kRegionBytes;
  void* raw = mmap(nullptr, 2 * kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) throw std::bad_alloc();
  auto address = reinterpret_cast<uintptr_t>(raw);
  const uintptr_t aligned = (address + kBytes - 1) / kBytes * kBytes;
  if (aligned != address) munmap(raw, aligned - address);
  if (const size_t behind = address + kBytes - aligned; behind > 0)
    munmap(reinterpret_cast<void*>(aligned + kBytes), behind);
  return reinterpret_cast<char*>(aligned);
}

}  // namespace

SlabPool::~SlabPool() {
  while (regions_ != nullptr) {
    Region* next = regions_->next;
    munmap(regions_->memory, kRegionBytes);
    std::free(regions_);
    regions_ = next;
  }
  while (large_ != nullptr) {
    Large* next = large_->next;
    std::free(large_);
    large_ = next;
  }
}

void* SlabPool::Allocate(size_t bytes) {
  if (bytes > kObjectMax) {
    auto* large = static_cast<Large*>(std::malloc(sizeof(Large) + bytes));
    if (large == nullptr) throw std::bad_alloc();
    *large = {large_, nullptr};
    if (large_ != nullptr) large_->previous = large;
    large_ = large;
    return large + 1;
  }
  const size_t size_class = (bytes + kGranule - 1) / kGranule;
  Slab* slab = partial_[size_class];
  if (slab == nullptr) slab = NewSlab(size_class);
  void* object;
  if (slab->freed != nullptr) {
    object = slab->freed;
    slab->freed = slab->freed->next;
  } else {
    object = reinterpret_cast<char*>(slab) + slab->bumped;
    slab->bumped += slab->object_bytes();
  }
  ++slab->used;
  if (slab->full()) Unlink(slab);
  return object;
}

void SlabPool::Free(void* object, size_t bytes) {
  if (bytes > kObjectMax) {
    Large* large = static_cast<Large*>(object) - 1;
    (large->previous != nullptr ? large->previous->next : large_) = large->next;
    if (large->next != nullptr) large->next->previous = large->previous;
    return std::free(large);
  }
  auto* slab = reinterpret_cast<Slab*>(reinterpret_cast<uintptr_t>(object) & ~(kSlabBytes - 1));
  const bool was_full = slab->full();
  auto* freed = static_cast<Slab::FreeObject*>(object);
  freed->next = slab->freed;
  slab->freed = freed;
  --slab->used;
  if (was_full) Link(slab);
  // The last slab of a class stays: a class at the edge of a slab would otherwise map and unmap.
  if (slab->used == 0 && (slab->next != nullptr || slab->previous != nullptr)) ReleaseSlab(slab);
}

void SlabPool::Absorb(SlabPool* other) {
  for (size_t size_class = 0; size_class < kClasses; ++size_class) {
    while (Slab* slab = other->partial_[size_class]) {
      other->Unlink(slab);
      Link(slab);
    }
  }
  // Of each list the other's elements come first.
  const auto splice = [](auto** ours, auto** theirs, auto next, auto previous) {
    if (*theirs == nullptr) return;
    auto* last = *theirs;
    while (last->*next != nullptr) last = last->*next;
    last->*next = *ours;
    if (*ours != nullptr) (*ours)->*previous = last;
    *ours = std::exchange(*theirs, nullptr);
  };
  splice(&regions_, &other->regions_, &Region::next, &Region::previous);
  splice(&open_, &other->open_, &Region::next_open, &Region::previous_open);
  splice(&large_, &other->large_, &Large::next, &Large::previous);
}

SlabPool::Slab* SlabPool::NewSlab(size_t size_class) {
  if (open_ == nullptr) {
    auto* region = static_cast<Region*>(std::calloc(1, sizeof(Region)));
    if (region == nullptr) throw std::bad_alloc();
    try {
      region->memory = MapRegion();
    } catch (...) {
      std::free(region);
      throw;
    }
#ifdef MADV_HUGEPAGE
    // A small store keeps small pages: one huge page would be most of its memory.
    if (regions_ != nullptr) madvise(region->memory, kRegionBytes, MADV_HUGEPAGE);
#endif
    region->free_slabs = UINT32_MAX;
    region->next = regions_;
    if (regions_ != nullptr) regions_->previous = region;
    regions_ = open_ = region;
  }
  Region* region = open_;
  const int index = __builtin_ctz(region->free_slabs);
  region->free_slabs &= region->free_slabs - 1;
  if (region->free_slabs == 0) {
    open_ = region->next_open;
    if (open_ != nullptr) open_->previous_open = nullptr;
    region->next_open = nullptr;
  }
  auto* slab = new (region->memory + static_cast<size_t>(index) * kSlabBytes) Slab{};
  slab->region = region;
  slab->size_class = static_cast<uint32_t>(size_class);
  slab->bumped = kHeaderBytes;
  Link(slab);
  return slab;
}

void SlabPool::Link(Slab* slab) {
  Slab*& first = partial_[slab->size_class];
  slab->previous = nullptr;
  slab->next = first;
  if (first != nullptr) first->previous = slab;
  first = slab;
}

void SlabPool::Unlink(Slab* slab) {
  if (slab->previous != nullptr) {
    slab->previous->next = slab->next;
  } else {
    partial_[slab->size_class] = slab->next;
  }
  if (slab->next != nullptr) slab->next->previous = slab->previous;
  slab->next = slab->previous = nullptr;
}

void SlabPool::ReleaseSlab(Slab* slab) {
  Unlink(slab);
  Region* region = slab->region;
  const auto index = static_cast<uint32_t>((reinterpret_cast<char*>(slab) - region->memory) / kSlabBytes);
  if (region->free_slabs == 0) {
    region->previous_open = nullptr;
    region->next_open = open_;
    if (open_ != nullptr) open_->previous_open = region;
    open_ = region;
  }
  region->free_slabs |= 1u << index;
  const bool only_open = region->next_open == nullptr && region->previous_open == nullptr;
  if (region->free_slabs != UINT32_MAX || only_open) return;
  if (region->previous_open != nullptr) {
    region->previous_open->next_open = region->next_open;
  } else {
    open_ = region->next_open;
  }
  if (region->next_open != nullptr) region->next_open->previous_open = region->previous_open;
  if (region->previous != nullptr) {
    region->previous->next = region->next;
  } else {
    regions_ = region->next;
  }
  if (region->next != nullptr) region->next->previous = region->previous;
  munmap(region->memory, kRegionBytes);
  std::free(region);
}

}  // namespace fastkv
