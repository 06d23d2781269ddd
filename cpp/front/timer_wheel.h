// Timers by the ten thousand: arming and cancelling are O(1), and waiting costs nothing until one is nearly due.
//
//   level 0: 64 slots of 1 ms    level 1: 64 slots of 64 ms    ...    level 5: 64 slots of 12 days
//   a timer lies in the level of its distance; when time reaches its slot it moves down, at level 0 it fires
//
// Invariants: a timer never fires before its time, and by Advance(t) every timer due at or before t has fired.
// Thread safety: none; one IoThread owns it.
#pragma once

#include <array>
#include <cstdint>

namespace fastkv::front {

class TimerWheel;

// Embedded in what it belongs to. Its destructor cancels it.
class Timer {
 public:
  using Callback = void (*)(void* owner);
  Timer(Callback callback, void* owner) : callback_(callback), owner_(owner) {}
  ~Timer() { Cancel(); }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  void Cancel();
  bool armed() const { return next_ != nullptr; }

 private:
  friend class TimerWheel;
  Timer() : callback_(nullptr), owner_(nullptr), prev_(this), next_(this) {}  // a list's head

  Callback callback_;
  void* owner_;
  Timer* prev_ = nullptr;
  Timer* next_ = nullptr;
  TimerWheel* wheel_ = nullptr;
  int64_t due_ms_ = 0;
  uint8_t level_ = 0, slot_ = 0;
};

class TimerWheel {
 public:
  explicit TimerWheel(int64_t now_ms) : now_ms_(now_ms) {}
  ~TimerWheel();

  // Armed again if it was armed. What is due already fires in the next Advance that moves time.
  void Arm(Timer* timer, int64_t due_ms);
  // Fires what is due; callbacks may arm and cancel any timer.
  void Advance(int64_t now_ms);
  // No timer fires before; INT64_MAX: there is none.
  int64_t NextMs() const;

 private:
  friend class Timer;
  static constexpr int kLevels = 6;
  void Insert(Timer* timer);
  static void Unlink(Timer* timer);

  int64_t now_ms_;
  std::array<uint64_t, kLevels> used_{};  // a bit for every slot that holds a timer
  Timer slots_[kLevels][64];
};

}  // namespace fastkv::front
