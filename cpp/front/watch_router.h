// Which IoThread each watcher of the store belongs to, or that it is Python's, and the way there.
//
//   a batch is applied --Wake--> Backend::WatchReady: 7 3 9 --> thread 0: [7 9], thread 1: [3]     one Post a thread
//
// Thread safety: every method from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "db/backend.h"
#include "front/call.h"

namespace fastkv::front {

class WatchRouter {
 public:
  // deliver: hands a thread, in that thread, its watchers that have got something.
  using Deliver = std::function<void(IoThread* thread, const std::vector<uint64_t>& watchers)>;
  // outside: hears, in any thread, of those that were added without a thread.
  using Outside = std::function<void(const std::vector<uint64_t>& watchers)>;

  WatchRouter(Backend* backend, Deliver deliver, Outside outside)
      : backend_(backend), deliver_(std::move(deliver)), outside_(std::move(outside)) {}

  // thread nullptr: outside. The watcher may have become ready before Add: who adds it looks for himself once.
  void Add(uint64_t watcher, IoThread* thread);
  void Remove(uint64_t watcher);
  void Wake();

 private:
  Backend* const backend_;
  const Deliver deliver_;
  const Outside outside_;
  std::mutex mutex_;
  std::unordered_map<uint64_t, IoThread*> threads_;
};

}  // namespace fastkv::front
