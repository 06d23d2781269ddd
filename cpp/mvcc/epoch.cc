#include "mvcc/epoch.h"

#include <pthread.h>

#include "base/check.h"

namespace fastkv {
namespace epoch_internal {

std::atomic<uint64_t> g_epoch{1};
thread_local constinit ThreadSlot t_slot;

namespace {

std::atomic<Slot*> g_slots{nullptr};

// Gives the slot back when the thread ends. Apart from t_slot, so that a look at that one needs no check whether it has
// been constructed.
struct Returner {
  ~Returner() {
    if (t_slot.slot != nullptr) t_slot.slot->taken.store(false, std::memory_order_release);
    t_slot.slot = nullptr;
  }
};

// A forked child has one thread: what the parent's others were reading will never be left there.
void LeaveOthersSlots() {
  for (Slot* slot = g_slots.load(std::memory_order_acquire); slot != nullptr; slot = slot->next) {
    if (slot == t_slot.slot) continue;
    slot->epoch.store(0, std::memory_order_relaxed);
    slot->taken.store(false, std::memory_order_relaxed);
  }
}

Slot* FindSlot() {
  [[maybe_unused]] static const int registered = pthread_atfork(nullptr, nullptr, LeaveOthersSlots);
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

uint64_t OldestInside(uint64_t now) {
  uint64_t oldest = now;
  for (Slot* slot = g_slots.load(std::memory_order_seq_cst); slot != nullptr; slot = slot->next) {
    uint64_t epoch = slot->epoch.load(std::memory_order_seq_cst);
    if (epoch != 0 && epoch < oldest) oldest = epoch;
  }
  return oldest;
}

}  // namespace

Slot* TakeSlot() {
  thread_local Returner returner;
  t_slot.slot = FindSlot();
  return t_slot.slot;
}

}  // namespace epoch_internal

using epoch_internal::g_epoch;
using epoch_internal::OldestInside;

void Retired::Add(void* memory, Deleter deleter, void* context) { items_.push_back({memory, deleter, context, 0}); }

void Retired::Reclaim(size_t items_max) {
  if (items_.empty()) return;
  // Stamped here and not in Add: an epoch read there could be older than what a reader has entered at since (another
  // store's writer raises it too), while the unlinking store is not yet seen. Who enters at `now` or later sees all of
  // it unlinked.
  const uint64_t now = g_epoch.fetch_add(1, std::memory_order_seq_cst) + 1;
  for (auto item = items_.rbegin(); item != items_.rend() && item->epoch == 0; ++item) item->epoch = now - 1;
  const uint64_t oldest = OldestInside(now);
  for (; items_max > 0 && !items_.empty() && items_.front().epoch < oldest; --items_max) {
    items_.front().deleter(items_.front().memory, items_.front().context);
    items_.pop_front();
  }
}

void Retired::Drain() {
  for (const Item& item : items_) item.deleter(item.memory, item.context);
  items_.clear();
}

}  // namespace fastkv
