#include "front/committer.h"

#include <chrono>
#include <new>

#include "base/check.h"

namespace fastkv::front {

Committer::Committer(Proposer* proposer, CommitterOptions options, BatchSink* sink,
                     std::function<void(const std::string&)> on_death)
    : proposer_(proposer), options_(options), sink_(sink), on_death_(std::move(on_death)) {}

Committer::~Committer() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Committer::Start() {
  {
    const std::lock_guard lock(mutex_);
    running_ = true;
  }
  thread_ = std::thread(&Committer::Run, this);
}

Committer::Taken Committer::Submit(WriteGroup* group, bool at_once) {
  std::unique_ptr<Batch> batch;
  bool wake = false;
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return Taken::kStopped;
    if (waiting_writes_ + group->writes.size() > options_.waiting_writes_max ||
        waiting_bytes_ + group->bytes.size() > options_.waiting_bytes_max) {
      if (!queue_.empty()) return Taken::kFull;
    }
    const bool idle = !busy_ && queue_.empty() && took_ns_ <= options_.at_once_ns_max;
    waiting_writes_ += group->writes.size();
    waiting_bytes_ += group->bytes.size();
    queue_.push_back(std::move(*group));
    *group = {};
    if (idle && at_once) batch = MakeBatch();
    wake = !busy_;  // who commits looks at the queue again before it sleeps
  }
  if (batch == nullptr) {
    if (wake) wake_.notify_one();
    return Taken::kYes;
  }
  at_once_count_.fetch_add(1, std::memory_order_relaxed);
  proposer_->Propose(std::move(batch), this);
  return Taken::kYes;
}

std::unique_ptr<Batch> Committer::MakeBatch() {
  auto batch = std::make_unique<Batch>();
  size_t bytes = 0, writes = 0;
  while (!queue_.empty() &&
         (batch->groups.empty() || bytes + queue_.front().bytes.size() <= options_.batch_bytes_max)) {
    bytes += queue_.front().bytes.size();
    writes += queue_.front().writes.size();
    batch->groups.push_back(std::move(queue_.front()));
    queue_.pop_front();
  }
  waiting_bytes_ -= bytes;
  waiting_writes_ -= writes;
  batch->commands.reserve(writes);
  for (const WriteGroup& group : batch->groups) {
    for (const Write& write : group.writes) batch->commands.push_back({write.tag, group.payload(write)});
  }
  busy_ = true;
  inflight_ = batch.get();
  return batch;
}

void Committer::Done(std::unique_ptr<Batch> batch) {
  {
    const std::lock_guard lock(mutex_);
    inflight_ = nullptr;
    took_ns_ = batch->took_ns;
  }
  sink_->Done(std::move(batch));
  bool more = false;
  {
    const std::lock_guard lock(mutex_);
    busy_ = false;
    more = !queue_.empty() || stopping_;
  }
  if (more) wake_.notify_one();
}

void Committer::Run() {
  std::string failure;
  try {
    for (;;) {
      std::unique_ptr<Batch> batch;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [this] { return !busy_ && (!queue_.empty() || stopping_); });
        if (queue_.empty()) break;
        batch = MakeBatch();
      }
      proposer_->Propose(std::move(batch), this);
    }
  } catch (const InvariantBroken& broken) {
    failure = broken.what();
  } catch (const std::bad_alloc&) {
    failure = "out of memory";
  }
  {
    const std::lock_guard lock(mutex_);
    running_ = false;
    stopping_ = true;
  }
  ended_.notify_all();
  if (!failure.empty()) on_death_(failure);
}

bool Committer::Stop(int64_t timeout_ms) {
  std::unique_lock lock(mutex_);
  stopping_ = true;
  wake_.notify_all();
  return ended_.wait_for(lock, std::chrono::milliseconds(timeout_ms), [this] { return !running_; });
}

std::vector<std::pair<IoThread*, uint64_t>> Committer::Overdue(int64_t before_ns) {
  std::vector<std::pair<IoThread*, uint64_t>> calls;
  const std::lock_guard lock(mutex_);
  auto look = [this, before_ns, &calls](const WriteGroup& group) {
    if (group.thread == nullptr || group.began_ns >= before_ns || group.began_ns < overdue_until_ns_) return;
    for (const Write& write : group.writes) {
      if (write.from == Write::kCall) calls.emplace_back(group.thread, write.asker);
    }
  };
  if (inflight_ != nullptr) {
    for (const WriteGroup& group : inflight_->groups) look(group);
  }
  for (const WriteGroup& group : queue_) look(group);
  overdue_until_ns_ = before_ns;
  return calls;
}

}  // namespace fastkv::front
