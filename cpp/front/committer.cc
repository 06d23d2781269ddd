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
  bool wake = false, tell = false;
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return Taken::kStopped;
    const bool many = waiting_writes_ + group->writes.size() > options_.waiting_writes_max;
    const bool full = many || waiting_bytes_ + group->bytes.size() > options_.waiting_bytes_max;
    // Python's own are few, and some of them make room.
    if (full && waiting_writes_ > 0 && group->thread != nullptr) return Taken::kFull;
    const bool idle = !busy_ && queue_.empty() && took_ns_ <= options_.at_once_ns_max && !gathered_;
    waiting_writes_ += group->writes.size();
    waiting_bytes_ += group->bytes.size();
    queue_.push_back(std::move(*group));
    *group = {};
    if (idle && at_once) batch = NextToCommit();
    wake = !busy_;  // who commits looks at the queue again before it sleeps
    if (gathered_) {
      wake = false;
      tell = !std::exchange(told_, true);
    }
  }
  if (batch == nullptr) {
    if (wake) wake_.notify_one();
    if (tell) gathered_();
    return Taken::kYes;
  }
  at_once_count_.fetch_add(1, std::memory_order_relaxed);
  proposer_->Propose(std::move(batch), this);
  return Taken::kYes;
}

std::unique_ptr<Batch> Committer::MakeBatch(size_t bytes_max) {
  auto batch = std::make_unique<Batch>();
  size_t writes = 0;
  while (!queue_.empty() && (batch->groups.empty() || batch->bytes + queue_.front().bytes.size() <= bytes_max)) {
    batch->bytes += queue_.front().bytes.size();
    writes += queue_.front().writes.size();
    batch->groups.push_back(std::move(queue_.front()));
    queue_.pop_front();
  }
  batch->commands.reserve(writes);
  for (const WriteGroup& group : batch->groups) {
    for (const Write& write : group.writes) batch->commands.push_back({write.tag, group.payload(write)});
  }
  return batch;
}

std::unique_ptr<Batch> Committer::NextToCommit() {
  std::unique_ptr<Batch> batch = MakeBatch(options_.batch_bytes_max);
  waiting_bytes_ -= batch->bytes;
  waiting_writes_ -= batch->commands.size();
  busy_ = true;
  inflight_ = batch.get();
  return batch;
}

// -- pulled

void Committer::SetPulled(std::function<void()> gathered) {
  bool tell = false;
  {
    std::unique_lock lock(mutex_);
    FASTKV_CHECK(!gathered_);
    gathered_ = std::move(gathered);
    idle_.wait(lock, [this] { return !busy_ || (stopping_ && !running_); });
    told_ = tell = !queue_.empty();
  }
  if (tell) gathered_();
}

std::unique_ptr<Batch> Committer::Take(size_t bytes_max) {
  std::unique_ptr<Batch> batch;
  bool more = false;
  {
    const std::lock_guard lock(mutex_);
    if (!queue_.empty()) batch = MakeBatch(bytes_max);
    told_ = more = !queue_.empty();
  }
  if (more) gathered_();
  return batch;
}

void Committer::Closed(size_t writes, size_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    waiting_writes_ -= writes;
    waiting_bytes_ -= bytes;
    if (!stopping_ || waiting_writes_ > 0) return;
  }
  ended_.notify_all();
}

// -- the thread

void Committer::Done(std::unique_ptr<Batch> batch) {
  {
    const std::lock_guard lock(mutex_);
    inflight_ = nullptr;
    took_ns_ = batch->took_ns;
  }
  sink_->Done(std::move(batch));
  bool more = false, pulled = false;
  {
    const std::lock_guard lock(mutex_);
    busy_ = false;
    more = !queue_.empty() || stopping_;
    pulled = static_cast<bool>(gathered_);
  }
  if (more) wake_.notify_one();
  if (pulled) idle_.notify_all();
}

void Committer::Run() {
  std::string failure;
  try {
    for (;;) {
      std::unique_ptr<Batch> batch;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [this] { return !busy_ && ((!queue_.empty() && !gathered_) || stopping_); });
        if (queue_.empty() || gathered_) break;
        batch = NextToCommit();
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
  idle_.notify_all();
  if (!failure.empty()) on_death_(failure);
}

bool Committer::Stop(int64_t timeout_ms) {
  std::unique_lock lock(mutex_);
  stopping_ = true;
  wake_.notify_all();
  return ended_.wait_for(lock, std::chrono::milliseconds(timeout_ms),
                         [this] { return !running_ && (!gathered_ || waiting_writes_ == 0); });
}

// -- who has waited too long

void Committer::AddOverdue(const WriteGroup& group, int64_t from_ns, int64_t before_ns,
                           std::vector<OverdueCall>* calls) {
  if (group.thread == nullptr || group.began_ns >= before_ns || group.began_ns < from_ns) return;
  for (const Write& write : group.writes) {
    if (write.from == Write::kCall) calls->push_back({group.thread, write.asker, group.began_ns});
  }
}

std::vector<Committer::OverdueCall> Committer::Overdue(int64_t before_ns, int64_t* from_ns) {
  std::vector<OverdueCall> calls;
  const std::lock_guard lock(mutex_);
  if (from_ns != nullptr) *from_ns = overdue_until_ns_;
  if (inflight_ != nullptr) {
    for (const WriteGroup& group : inflight_->groups) AddOverdue(group, overdue_until_ns_, before_ns, &calls);
  }
  for (const WriteGroup& group : queue_) AddOverdue(group, overdue_until_ns_, before_ns, &calls);
  overdue_until_ns_ = before_ns;
  return calls;
}

}  // namespace fastkv::front
