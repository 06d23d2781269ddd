// Memory for many small objects of one owner: slabs of equal sizes in huge pages.
//
//   region (2 MiB, one huge page)  =  32 slabs of 64 KiB
//   slab   | header | object | object | ... |     all of one size class (a multiple of 16 bytes)
//
// Why not malloc: no header an object, few TLB misses (a lookup in a large store is bound by those), and freeing does
// not coalesce.
//
// Invariants:
// - an object lies in one slab, whose header is found by masking the object's address.
// - a slab without objects goes back to its region, a region without slabs back to the system (but for one).
// - objects larger than kObjectMax come from malloc, and are kept in a list.
// Thread safety: none. Pieces may be read by any thread; Allocate and Free are the owner's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FASTKV_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define FASTKV_SANITIZED 1
#endif
#endif

namespace fastkv {

class SlabPool {
 public:
#ifdef FASTKV_SANITIZED
  static constexpr size_t kObjectMax = 0;  // all from malloc: a sanitizer knows what has been freed there
#else
  static constexpr size_t kObjectMax = 4096;
#endif
  static constexpr size_t kGranule = 16, kSlabBytes = 64 << 10, kRegionBytes = 2 << 20;

  SlabPool() = default;
  ~SlabPool();  // frees everything, freed or not: an owner need not walk its objects
  SlabPool(const SlabPool&) = delete;
  SlabPool& operator=(const SlabPool&) = delete;

  void* Allocate(size_t bytes);           // throws std::bad_alloc
  void Free(void* object, size_t bytes);  // `bytes` as it was allocated
  void Absorb(SlabPool* other);           // takes over all that it holds; it is empty then

  // What Allocate(bytes) takes.
  static size_t TakenBytes(size_t bytes) {
    return bytes > kObjectMax ? bytes + 2 * kGranule : (bytes + kGranule - 1) / kGranule * kGranule;
  }

 private:
  struct Slab;
  struct Region;
  struct Large {
    Large *next, *previous;
  };
  static_assert(sizeof(Large) == kGranule);
  static constexpr size_t kClasses = kObjectMax / kGranule + 1;
  static constexpr size_t kSlabsPerRegion = kRegionBytes / kSlabBytes;

  Slab* NewSlab(size_t size_class);
  void Unlink(Slab* slab);
  void Link(Slab* slab);
  void ReleaseSlab(Slab* slab);

  std::array<Slab*, kClasses> partial_{};  // of each class, the slabs that have room
  Region* regions_ = nullptr;              // all
  Region* open_ = nullptr;                 // those with free slabs
  Large* large_ = nullptr;
};

}  // namespace fastkv
