// When may memory that readers could still see be freed? After every reader that was inside when it was unlinked has left.
//
//   reader:  EpochGuard guard;  ... follow pointers ...           (wait-free: one store and a fence)
//   writer:  unlink(p); retired.Add(p, deleter); ... retired.Reclaim();
//
// Invariants:
// - a guard publishes the epoch it entered at; retired memory is freed once every published epoch is newer than its own.
// - guards nest; a thread must not block on I/O or on a client while it holds one (long reads work in slices).
// Thread safety: EpochGuard from any thread; a Retired list belongs to one writer (the store's).
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>

namespace fastkv {

class EpochGuard {
 public:
  EpochGuard();
  ~EpochGuard();
  EpochGuard(const EpochGuard&) = delete;
  EpochGuard& operator=(const EpochGuard&) = delete;
};

class Retired {
 public:
  using Deleter = void (*)(void*);
  ~Retired();  // frees everything: REQUIRES that no reader is inside any more
  void Add(void* memory, Deleter deleter);
  void Reclaim();  // frees what no reader can see; cheap when there is nothing
  size_t size() const { return items_.size(); }

 private:
  struct Item {
    void* memory;
    Deleter deleter;
    uint64_t epoch;
  };
  std::deque<Item> items_;
};

}  // namespace fastkv
