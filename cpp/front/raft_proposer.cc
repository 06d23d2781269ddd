#include "front/raft_proposer.h"

#include <utility>

#include "base/check.h"

namespace fastkv::front {

void RaftProposer::Begin(uint64_t first_sequence, std::function<void()> gathered) {
  {
    const std::lock_guard lock(mutex_);
    FASTKV_CHECK(next_sequence_ == 0 && first_sequence > 0);
    next_sequence_ = first_sequence;
  }
  committer_->SetPulled(std::move(gathered));
}

RaftProposer::Proposal RaftProposer::Take(size_t bytes_max) {
  // All under the lock: Overdue must find a batch in the queue or among the open ones.
  const std::lock_guard lock(mutex_);
  FASTKV_CHECK(next_sequence_ > 0);
  if (given_up_) return {};
  std::unique_ptr<Batch> batch = committer_->Take(bytes_max);
  if (batch == nullptr) return {};
  Proposal proposal;
  proposal.sequence = batch->sequence = next_sequence_++;
  constexpr size_t kHeaderBytes = 16, kCommandBytes = 8;  // the latter about
  proposal.data.reserve(kHeaderBytes + batch->bytes + kCommandBytes * batch->commands.size());
  AppendBatchHeader(&proposal.data, origin_, proposal.sequence);
  for (const Command& command : batch->commands) AppendCommand(&proposal.data, command);
  batch->took_ns = -NowNs();
  backend_->ExpectApplied(proposal.sequence, this);
  open_.emplace(proposal.sequence, std::move(batch));
  return proposal;
}

std::unique_ptr<Batch> RaftProposer::Close(uint64_t sequence) {
  const auto found = open_.find(sequence);
  if (found == open_.end()) return nullptr;
  std::unique_ptr<Batch> batch = std::move(found->second);
  open_.erase(found);
  ++answering_;
  return batch;
}

void RaftProposer::Finish(std::unique_ptr<Batch> batch) {
  const size_t writes = batch->commands.size(), bytes = batch->bytes;
  sink_->Done(std::move(batch));
  committer_->Closed(writes, bytes);
  // Under the lock: who waits for this may destroy it.
  const std::lock_guard lock(mutex_);
  --answering_;
  answered_.notify_all();
}

void RaftProposer::Applied(uint64_t sequence, std::vector<CommandResult> results) {
  std::unique_ptr<Batch> batch;
  {
    const std::lock_guard lock(mutex_);
    batch = Close(sequence);
  }
  FASTKV_CHECK(batch != nullptr && batch->commands.size() == results.size());
  batch->results = std::move(results);
  batch->took_ns += NowNs();
  Finish(std::move(batch));
}

bool RaftProposer::SettleOne(uint64_t sequence, Code code, bool stopping) {
  std::unique_ptr<Batch> batch;
  {
    const std::lock_guard lock(mutex_);
    const auto found = open_.find(sequence);
    if (found == open_.end() || (found->second->followed && !stopping)) return false;
    if (!backend_->ForgetApplied(sequence)) return false;  // Applied is coming
    batch = Close(sequence);
  }
  batch->settled = code;
  Finish(std::move(batch));
  return true;
}

void RaftProposer::GiveUp(Code code) {
  std::vector<uint64_t> sequences;
  {
    const std::lock_guard lock(mutex_);
    if (next_sequence_ == 0) return;
    given_up_ = true;
    for (const auto& [sequence, batch] : open_) sequences.push_back(sequence);
  }
  for (const uint64_t sequence : sequences) SettleOne(sequence, code, /*stopping=*/true);
  while (std::unique_ptr<Batch> batch = committer_->Take(SIZE_MAX)) {
    {
      const std::lock_guard lock(mutex_);
      ++answering_;
    }
    batch->settled = code;
    Finish(std::move(batch));
  }
  std::unique_lock lock(mutex_);
  answered_.wait(lock, [this] { return open_.empty() && answering_ == 0; });
}

std::vector<Committer::OverdueCall> RaftProposer::Overdue(int64_t before_ns) {
  const std::lock_guard lock(mutex_);
  int64_t from_ns = 0;
  std::vector<Committer::OverdueCall> calls = committer_->Overdue(before_ns, &from_ns);
  for (const auto& [sequence, batch] : open_) {
    for (const WriteGroup& group : batch->groups) Committer::AddOverdue(group, from_ns, before_ns, &calls);
  }
  return calls;
}

std::vector<uint64_t> RaftProposer::Tokens(uint64_t sequence, std::span<const FollowedCommand> commands) {
  std::vector<uint64_t> tokens(commands.size());
  const std::lock_guard lock(mutex_);
  const auto found = open_.find(sequence);
  if (found == open_.end()) return tokens;
  found->second->followed = true;
  size_t first = 0, at = 0;  // of the group: its first place; of the commands
  for (const WriteGroup& group : found->second->groups) {
    for (; at < commands.size() && commands[at].place < first + group.writes.size(); ++at) {
      const Write& write = group.writes[commands[at].place - first];
      if (write.from == Write::kOutside) tokens[at] = write.asker;
    }
    first += group.writes.size();
  }
  return tokens;
}

size_t RaftProposer::open() const {
  const std::lock_guard lock(mutex_);
  return open_.size();
}

}  // namespace fastkv::front
