// A thread for what has to happen later: overdue writes, progress of idle watchers.
//
// Functions run in the ticker's thread and must be short: post what is more. Thread safety: After from any thread;
// after Stop none runs and none begins.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

namespace fastkv::front {

class Ticker {
 public:
  Ticker() : thread_(&Ticker::Work, this) {}
  ~Ticker() { Stop(); }
  Ticker(const Ticker&) = delete;
  Ticker& operator=(const Ticker&) = delete;

  void After(int64_t delay_ns, std::function<void()> function);
  void Stop();

 private:
  void Work();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::multimap<int64_t, std::function<void()>> waiting_;  // by NowNs()
  bool stopping_ = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace fastkv::front
