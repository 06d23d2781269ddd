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
#include <cstddef>
#include <cstdint>
#include <deque>

namespace fastkv {

namespace epoch_internal {

// One per thread that ever read, in a list that only grows; a finished thread's slot is taken over by the next new one.
struct alignas(64) Slot {
  std::atomic<uint64_t> epoch{0};  // 0: outside
  std::atomic<bool> taken{true};
  Slot* next = nullptr;
};

struct ThreadSlot {
  Slot* slot = nullptr;
  int depth = 0;
};

extern std::atomic<uint64_t> g_epoch;
// Without the attribute each access is a call, in a shared object; a lookup makes two.
extern thread_local constinit ThreadSlot t_slot __attribute__((tls_model("initial-exec")));
Slot* TakeSlot();  // for this thread, until it ends

}  // namespace epoch_internal

class EpochGuard {
 public:
  EpochGuard() {
    using namespace epoch_internal;
    if (t_slot.depth++ > 0) return;
    Slot* slot = t_slot.slot;
    if (slot == nullptr) [[unlikely]]
      slot = TakeSlot();
    const uint64_t epoch = g_epoch.load(std::memory_order_acquire);
    // The slot must be visible before any pointer is followed. An exchange: one instruction on x86, where a store and a
    // fence are two and slower, and a thread sanitizer does not model fences.
    slot->epoch.exchange(epoch, std::memory_order_seq_cst);
#if !defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
    std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
  }
  ~EpochGuard() {
    using namespace epoch_internal;
    if (--t_slot.depth == 0) t_slot.slot->epoch.store(0, std::memory_order_release);
  }
  EpochGuard(const EpochGuard&) = delete;
  void Hold() const {}  // Cython drops a variable that nobody uses, and its constructor with it
  EpochGuard& operator=(const EpochGuard&) = delete;
};

class Retired {
 public:
  using Deleter = void (*)(void* memory, void* context);
  ~Retired() { Drain(); }
  void Add(void* memory, Deleter deleter, void* context = nullptr);
  // Frees what no reader can see, the oldest first and at most `items_max`; cheap when there is nothing.
  void Reclaim(size_t items_max = SIZE_MAX);
  void Drain();  // frees everything. REQUIRES: no reader is inside any more
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
