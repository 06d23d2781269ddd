#include "front/read_gate.h"

#include <iterator>
#include <utility>

namespace fastkv::front {

ReadGate::Parked ReadGate::Park(ParkedTurn* turn) {
  bool tell = false;
  {
    const std::lock_guard lock(mutex_);
    if (stopped_) return Parked::kStopped;
    const bool many = reads_ + turn->reads.size() > options_.parked_reads_max;
    if (reads_ > 0 && (many || bytes_ + turn->bytes > options_.parked_bytes_max)) return Parked::kFull;
    reads_ += turn->reads.size();
    bytes_ += turn->bytes;
    waiting_.push_back(std::move(*turn));
    tell = !std::exchange(told_, true);
  }
  *turn = {};
  if (tell) gathered_();
  return Parked::kYes;
}

uint64_t ReadGate::Take() {
  const std::lock_guard lock(mutex_);
  told_ = false;
  if (waiting_.empty()) return 0;
  taken_[++last_group_] = std::exchange(waiting_, {});
  return last_group_;
}

bool ReadGate::Release(uint64_t group, Code code) {
  Group turns;
  {
    const std::lock_guard lock(mutex_);
    const auto found = taken_.find(group);
    if (found == taken_.end()) return false;
    turns = std::move(found->second);
    taken_.erase(found);
    for (const ParkedTurn& turn : turns) Forget(turn);
  }
  Answer(std::move(turns), code);
  return true;
}

void ReadGate::RefuseOverdue(int64_t before_ns, Code code) {
  Group overdue;
  {
    const std::lock_guard lock(mutex_);
    auto look = [this, before_ns, &overdue](Group* group) {
      while (!group->empty() && group->front().began_ns < before_ns) {
        Forget(group->front());
        overdue.push_back(std::move(group->front()));
        group->pop_front();
      }
    };
    // A group whose reads are all gone stays: who took it will release it.
    for (auto& [number, group] : taken_) look(&group);
    look(&waiting_);
  }
  Answer(std::move(overdue), code);
}

void ReadGate::Stop() {
  Group all;
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    for (auto& [number, group] : taken_) std::move(group.begin(), group.end(), std::back_inserter(all));
    std::move(waiting_.begin(), waiting_.end(), std::back_inserter(all));
    taken_.clear();
    waiting_.clear();
    reads_ = bytes_ = 0;
  }
  Answer(std::move(all), Code::kStopped);
}

size_t ReadGate::size() const {
  const std::lock_guard lock(mutex_);
  return reads_;
}

void ReadGate::Forget(const ParkedTurn& turn) {
  reads_ -= turn.reads.size();
  bytes_ -= turn.bytes;
}

void ReadGate::Answer(Group turns, Code code) {
  std::map<IoThread*, std::vector<ParkedRead>> shares;  // one Post a thread
  for (ParkedTurn& turn : turns) {
    std::vector<ParkedRead>& share = shares[turn.thread];
    if (share.empty()) {
      share = std::move(turn.reads);
    } else {
      share.insert(share.end(), std::make_move_iterator(turn.reads.begin()), std::make_move_iterator(turn.reads.end()));
    }
  }
  for (auto& [thread, reads] : shares) go_(thread, std::move(reads), code);
}

}  // namespace fastkv::front
