#include "mvcc/epoch.h"

#include "base/check.h"

namespace fastkv {
namespace {

// One per thread that ever read, in a list that only grows; a finished thread's slot is taken over by the next new one.
struct alignas(64) Slot {
  std::atomic<uint64_t> epoch{0};  // 0: outside
  std::atomic<bool> taken{true};
  Slot* next = nullptr;
};

std::atomic<Slot*> g_slots{nullptr};
std::atomic<uint64_t> g_epoch{1};

Slot* TakeSlot() {
  for (Slot* slot = g_slots.load(std::memory_order_acquire); slot != nullptr; slot = slot->next) {
    bool expected = false;
    if (!slot->taken.load(std::memory_order_relaxed) &&
        slot->taken.compare_exchange_strong(expected, true, std::memory_order_acq_rel)) {
      return slot;
    }
  }
  Slot* slot = new Slot;
  slot->next = g_slots.load(std::memory_order_relaxed);
  while (!g_slots.compare_exchange_weak(slot->next, slot, std::memory_order_acq_rel)) {
  }
  return slot;
}

struct ThreadSlot {
  Slot* slot = nullptr;
  int depth = 0;
  ~ThreadSlot() {
    if (slot != nullptr) slot->taken.store(false, std::memory_order_release);
  }
};

thread_local ThreadSlot t_slot;

uint64_t OldestInside(uint64_t now) {
  uint64_t oldest = now;
  for (Slot* slot = g_slots.load(std::memory_order_seq_cst); slot != nullptr; slot = slot->next) {
    uint64_t epoch = slot->epoch.load(std::memory_order_seq_cst);
    if (epoch != 0 && epoch < oldest) oldest = epoch;
  }
  return oldest;
}

}  // namespace

EpochGuard::EpochGuard() {
  ThreadSlot& thread = t_slot;
  if (thread.depth++ > 0) return;
  if (thread.slot == nullptr) thread.slot = TakeSlot();
  const uint64_t epoch = g_epoch.load(std::memory_order_acquire);
  // The slot must be visible before any pointer is followed. A thread sanitizer does not model fences: give it an
  // exchange.
#if defined(__SANITIZE_THREAD__)
  thread.slot->epoch.exchange(epoch, std::memory_order_seq_cst);
#else
  thread.slot->epoch.store(epoch, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
}

EpochGuard::~EpochGuard() {
  ThreadSlot& thread = t_slot;
  if (--thread.depth == 0) thread.slot->epoch.store(0, std::memory_order_release);
}

void Retired::Add(void* memory, Deleter deleter, void* context) { items_.push_back({memory, deleter, context, 0}); }

void Retired::Reclaim() {
  if (items_.empty()) return;
  // Stamped here and not in Add: an epoch read there could be older than what a reader has entered at since (another
  // store's writer raises it too), while the unlinking store is not yet seen. Who enters at `now` or later sees all of
  // it unlinked.
  const uint64_t now = g_epoch.fetch_add(1, std::memory_order_seq_cst) + 1;
  for (auto item = items_.rbegin(); item != items_.rend() && item->epoch == 0; ++item) item->epoch = now - 1;
  const uint64_t oldest = OldestInside(now);
  while (!items_.empty() && items_.front().epoch < oldest) {
    items_.front().deleter(items_.front().memory, items_.front().context);
    items_.pop_front();
  }
}

void Retired::Drain() {
  for (const Item& item : items_) item.deleter(item.memory, item.context);
  items_.clear();
}

}  // namespace fastkv
