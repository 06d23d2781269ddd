#include "front/ticker.h"

#include <chrono>
#include <utility>

#include "front/proposer.h"

namespace fastkv::front {

void Ticker::After(int64_t delay_ns, std::function<void()> function) {
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
    const auto place = waiting_.emplace(NowNs() + delay_ns, std::move(function));
    first = place == waiting_.begin();
  }
  if (first) wake_.notify_one();
}

void Ticker::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    waiting_.clear();
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void Ticker::Work() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (waiting_.empty()) {
      wake_.wait(lock);
      continue;
    }
    const int64_t wait_ns = waiting_.begin()->first - NowNs();
    if (wait_ns > 0) {
      wake_.wait_for(lock, std::chrono::nanoseconds(wait_ns));
      continue;
    }
    const std::function<void()> function = std::move(waiting_.begin()->second);
    waiting_.erase(waiting_.begin());
    lock.unlock();
    function();
    lock.lock();
  }
}

}  // namespace fastkv::front
