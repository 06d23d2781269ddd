// Threads for reads that may take long, so that they delay nobody: at a lower priority than who serves everybody.
//
// Invariants: jobs begin in the order of Run; after Stop none runs and none begins.
// Thread safety: Run from any thread.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace fastkv::front {

class ReaderPool {
 public:
  explicit ReaderPool(size_t threads);
  ~ReaderPool() { Stop(); }
  ReaderPool(const ReaderPool&) = delete;
  ReaderPool& operator=(const ReaderPool&) = delete;

  void Run(std::function<void()> job);  // dropped after Stop
  void Stop();

 private:
  void Work();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> jobs_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace fastkv::front
