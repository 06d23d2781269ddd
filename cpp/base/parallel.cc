#include "base/parallel.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

namespace fastkv {

size_t Workers(size_t wanted) {
#if defined(__linux__)
  cpu_set_t allowed;
  const size_t have = sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? static_cast<size_t>(CPU_COUNT(&allowed))
                                                                          : std::thread::hardware_concurrency();
#else
  const size_t have = std::thread::hardware_concurrency();
#endif
  return std::clamp<size_t>(have, 1, std::max<size_t>(wanted, 1));
}

void RunParallel(size_t workers, size_t count, const std::function<void(size_t)>& work) {
  std::atomic<size_t> next{0};
  std::mutex mutex;
  std::exception_ptr failure;  // guarded by mutex
  const auto run = [&] {
    try {
      for (size_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) work(i);
    } catch (...) {  // handed on to the caller, below
      next.store(count);
      const std::lock_guard lock(mutex);
      if (failure == nullptr) failure = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  for (size_t i = 1; i < std::min(workers, count); ++i) {
    try {
      others.emplace_back(run);
    } catch (const std::system_error&) {
      break;  // no thread to be had: those that are there do the work
    }
  }
  run();
  for (std::thread& other : others) other.join();
  if (failure != nullptr) std::rethrow_exception(failure);
}

}  // namespace fastkv
