#include "front/watch_router.h"

#include <algorithm>
#include <utility>

namespace fastkv::front {

void WatchRouter::Add(uint64_t watcher, IoThread* thread) {
  const std::lock_guard lock(mutex_);
  threads_[watcher] = thread;
}

void WatchRouter::Remove(uint64_t watcher) {
  const std::lock_guard lock(mutex_);
  threads_.erase(watcher);
}

void WatchRouter::Wake() {
  const std::vector<uint64_t> ready = backend_->WatchReady();
  if (ready.empty()) return;
  std::vector<std::pair<IoThread*, std::vector<uint64_t>>> shares;
  std::vector<uint64_t> outside;
  {
    const std::lock_guard lock(mutex_);
    for (const uint64_t watcher : ready) {
      const auto found = threads_.find(watcher);
      if (found == threads_.end()) continue;
      IoThread* const thread = found->second;
      if (thread == nullptr) {
        outside.push_back(watcher);
        continue;
      }
      auto share = std::find_if(shares.begin(), shares.end(), [thread](const auto& s) { return s.first == thread; });
      if (share == shares.end()) share = shares.insert(shares.end(), {thread, {}});
      share->second.push_back(watcher);
    }
  }
  if (!outside.empty()) outside_(outside);
  for (auto& [thread, watchers] : shares) {
    if (thread->IsCurrent()) {
      deliver_(thread, watchers);
    } else {
      thread->Post([this, thread = thread, watchers = std::move(watchers)] { deliver_(thread, watchers); });
    }
  }
}

}  // namespace fastkv::front
