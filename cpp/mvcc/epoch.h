// When may memory that readers could still see be freed? After every reader that was inside when it was unlinked has
// left.
//
//   reader:  EpochGuard guard;  ... follow pointers ...           (wait-free: one store and a fence)
//   writer:  unlink(p); retired.Add(p, deleter); ... retired.Reclaim();
//
// Invariants:
// - a guard publishes the epoch it entered at; retired memory is freed once every published epoch is newer than its
// own.
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
  void Hold() const {}  // Cython drops a variable that nobody uses, and its constructor with it
  EpochGuard& operator=(const EpochGuard&) = delete;
};

class Retired {
 public:
  using Deleter = void (*)(void* memory, void* context);
  ~Retired() { Drain(); }
  void Add(void* memory, Deleter deleter, void* context = nullptr);
  void Reclaim();  // frees what no reader can see; cheap when there is nothing
  void Drain();    // frees everything. REQUIRES: no reader is inside any more
  size_t size() const { return items_.size(); }

 private:
  struct Item {
    void* memory;
    Deleter deleter;
    void* context;
    uint64_t epoch;  // 0: added since the last Reclaim
  };
  std::deque<Item> items_;
};

}  // namespace fastkv
