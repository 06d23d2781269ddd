#include "front/timer_wheel.h"

#include <algorithm>
#include <bit>

namespace fastkv::front {

void TimerWheel::Unlink(Timer* timer) {
  timer->prev_->next_ = timer->next_;
  timer->next_->prev_ = timer->prev_;
  timer->prev_ = timer->next_ = nullptr;
}

void Timer::Cancel() {
  if (callback_ == nullptr || !armed()) return;
  TimerWheel::Unlink(this);
  Timer& head = wheel_->slots_[level_][slot_];
  if (head.next_ == &head) wheel_->used_[level_] &= ~(uint64_t{1} << slot_);
}

TimerWheel::~TimerWheel() {
  for (auto& level : slots_) {
    for (Timer& head : level) {
      while (head.next_ != &head) Unlink(head.next_);
    }
  }
}

void TimerWheel::Arm(Timer* timer, int64_t due_ms) {
  timer->Cancel();
  timer->wheel_ = this;
  timer->due_ms_ = std::max(due_ms, now_ms_ + 1);
  Insert(timer);
}

void TimerWheel::Insert(Timer* timer) {
  // Beyond the last level's reach a timer lies in its last slot and is placed anew from there.
  constexpr int64_t kReachMs = (int64_t{1} << (6 * kLevels)) - 1;
  const int64_t place_ms = std::min(timer->due_ms_, now_ms_ + kReachMs);
  const auto distance = static_cast<uint64_t>(place_ms - now_ms_);
  const int level = distance == 0 ? 0 : (63 - std::countl_zero(distance)) / 6;
  const auto slot = static_cast<uint8_t>((place_ms >> (6 * level)) & 63);
  timer->level_ = static_cast<uint8_t>(level);
  timer->slot_ = slot;
  Timer& head = slots_[level][slot];
  timer->prev_ = head.prev_;
  timer->next_ = &head;
  head.prev_->next_ = timer;
  head.prev_ = timer;
  used_[level] |= uint64_t{1} << slot;
}

int64_t TimerWheel::NextMs() const {
  int64_t next = INT64_MAX;
  for (int level = 0; level < kLevels; ++level) {
    if (used_[level] == 0) continue;
    const int64_t current = now_ms_ >> (6 * level);
    const int ahead = std::countr_zero(std::rotr(used_[level], static_cast<int>((current + 1) & 63))) + 1;
    next = std::min(next, (current + ahead) << (6 * level));
  }
  return next;
}

void TimerWheel::Advance(int64_t now_ms) {
  while (now_ms_ < now_ms) {
    const int64_t next = NextMs();
    if (next > now_ms) {
      now_ms_ = now_ms;
      return;
    }
    now_ms_ = next;
    for (int level = kLevels - 1; level >= 0; --level) {
      if ((next & ((int64_t{1} << (6 * level)) - 1)) != 0) continue;
      const auto slot = static_cast<size_t>((next >> (6 * level)) & 63);
      Timer& head = slots_[level][slot];
      // A timer of this slot that is not due yet goes to a lower level, or one of the last level 64 slots ahead: here
      // again. The end is fixed before the walk, so that it is not met twice.
      for (Timer* last = head.prev_; head.next_ != &head;) {
        Timer* timer = head.next_;
        const bool end = timer == last;
        timer->Cancel();
        if (timer->due_ms_ > now_ms_) {
          Insert(timer);
        } else if (level == 0) {
          timer->callback_(timer->owner_);
        } else {
          timer->due_ms_ = now_ms_;
          Insert(timer);  // level 0, this very slot: its turn comes last
        }
        if (end) break;
      }
    }
  }
}

}  // namespace fastkv::front
