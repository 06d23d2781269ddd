// What NodeService does only as a member of several: linearizable reads wait, who leads decides what is answered.
#include <algorithm>
#include <utility>

#include "front/requests.h"
#include "front/service.h"
#include "proto/messages.h"

namespace fastkv::front {
namespace {

constexpr int64_t kOverdueEveryNs = 500'000'000;
constexpr int kElectionsWithoutLeader = 3;  // then streams that need one end, as in etcd
constexpr std::string_view kStatusPath = "/etcdserverpb.Maintenance/Status",
                           kSnapshotPath = "/etcdserverpb.Maintenance/Snapshot";

bool NeedsLeader(const Metadata& metadata) {
  return std::any_of(metadata.begin(), metadata.end(),
                     [](const auto& entry) { return entry.first == "hasleader" && entry.second == "true"; });
}

}  // namespace

void NodeService::UseRaft(uint64_t first_sequence) {
  raft_proposer_.Begin(first_sequence, [this] { events_.Push({.kind = Event::kProposals}); });
  backend_->SetFollower(&follower_);
  Set(kGated, true);
  lease_timer_ = LeaseTimer::kLeader;  // until SetLeader says something else: it was alone
}

void NodeService::Set(uint8_t bit, bool on) {
  if (on) {
    mode_.fetch_or(bit, std::memory_order_acq_rel);
  } else {
    mode_.fetch_and(static_cast<uint8_t>(~bit), std::memory_order_acq_rel);
  }
}

// -- who leads

void NodeService::SetLeader(bool is_leader, bool known, bool connected) {
  connected_ = connected;
  if (known) elected_ns_ = NowNs();
  Set(kLeaderless, !known);
  const uint64_t change = ++leader_changes_;
  if (!known)
    ticker_.After(kElectionsWithoutLeader * options_.election_timeout_ns, [this, change] { EndLeaderless(change); });
  if (is_leader && lease_timer_ == LeaseTimer::kLeader) return;
  // The clock last: while it knows nothing, it has no answer for who still asks it.
  lease_timer_ = known && !is_leader ? LeaseTimer::kElsewhere : LeaseTimer::kNobody;
  follower_.FollowLeases(is_leader);
  EachThread([](PerThread* of, IoThread*) { of->keep_alives.LeaderChanged(); });
}

void NodeService::RestoreLeases(const std::vector<LeaseClock::Granted>& leases, double now, double grace_s) {
  leases_.Restore(leases, now, grace_s);
  const LeaseTimer timer = (mode_ & kGated) != 0 ? LeaseTimer::kLeader : LeaseTimer::kAlone;
  if (lease_timer_.exchange(timer) == timer) return;
  EachThread([](PerThread* of, IoThread*) { of->keep_alives.LeaderChanged(); });
}

void NodeService::Renewed(std::unordered_map<int64_t, int64_t> ttls) {
  auto shared = std::make_shared<const std::unordered_map<int64_t, int64_t>>(std::move(ttls));
  EachThread([shared](PerThread* of, IoThread*) { of->keep_alives.Renewed(*shared); });
}

void NodeService::SetLearner(bool learner) { Set(kLearner, learner); }

void NodeService::RememberNeed(PerThread* of, Call* call) {
  if (!NeedsLeader(call->metadata())) return;
  std::vector<uint64_t>& calls = of->need_leader;
  if (calls.size() >= of->need_leader_max) {
    std::erase_if(calls, [call](uint64_t id) { return call->thread()->Find(id) == nullptr; });
    of->need_leader_max = std::max<size_t>(64, 2 * calls.size());
  }
  calls.push_back(call->id());
}

void NodeService::EndLeaderless(uint64_t change) {
  if (leader_changes_ != change) return;
  EachThread([this](PerThread* of, IoThread* thread) {
    for (const uint64_t id : std::exchange(of->need_leader, {})) {
      if (Call* const call = thread->Find(id)) errors_.Refuse(call, Code::kNoLeader);
    }
  });
}

void NodeService::EachThread(const std::function<void(PerThread*, IoThread*)>& function) {
  for (IoThread* const thread : io_threads_) {
    thread->Post([this, thread, function] { function(Of(thread), thread); });
  }
}

// -- calls

Code NodeService::WhyRefused(const Method& method, const Call& call, std::string_view message) const {
  const uint8_t mode = mode_.load(std::memory_order_relaxed);
  if ((mode & kStopping) != 0) return Code::kStopped;
  if ((mode & kLearner) != 0) {
    const std::string& path = rows_[method.number]->path;
    const bool serves =
        (method.number == kRange && IsSerializableRange(message)) || path == kStatusPath || path == kSnapshotPath;
    if (!serves) return Code::kNotForLearner;
  }
  return (mode & kLeaderless) != 0 && NeedsLeader(call.metadata()) ? Code::kNoLeader : Code::kOk;
}

bool NodeService::Intercepts(const Method& method, Call* call, std::string_view message) {
  if (const Code code = WhyRefused(method, *call, message); code != Code::kOk) {
    Answer_(call, code, {});
    return true;
  }
  if ((mode_.load(std::memory_order_relaxed) & kGated) == 0 || !IsLinearizable(method, message)) return false;
  Park(call, method.number, message, nullptr);
  return true;
}

// What is refused without a look at the store needs no confirmation.
bool NodeService::IsLinearizable(const Method& method, std::string_view message) const {
  if (method.number == kRange) {
    RangeRequest request;
    return request.Parse(message) && !request.key.empty() && !request.serializable;
  }
  TxnShape shape;
  return method.number == kTxn && shape.Parse(message) && shape.only_reads && !IsSerializableTxn(message);
}

// -- parked reads

void NodeService::Park(Call* call, uint32_t method, std::string_view request,
                       std::shared_ptr<RangeStream::Link> stream) {
  ParkedTurn* const parked = &Of(call->thread())->parked;
  if (parked->reads.empty()) parked->began_ns = NowNs();
  parked->bytes += request.size();
  parked->reads.push_back({call->id(), method, std::string(request), std::move(stream)});
}

void NodeService::ParkKeepAlives(PerThread* of, uint64_t round) {
  if (of->parked.reads.empty()) of->parked.began_ns = NowNs();
  of->parked.reads.push_back({.method = kLeaseKeepAlive, .round = round});
}

void NodeService::ParkTurn(PerThread* of, IoThread* thread) {
  of->parked.thread = thread;
  const ReadGate::Parked parked = reads_.Park(&of->parked);
  if (parked == ReadGate::Parked::kYes) return;
  const Code code = parked == ReadGate::Parked::kFull ? Code::kTooManyRequests : Code::kStopped;
  RunReads(thread, std::exchange(of->parked, {}).reads, code);
}

void NodeService::RunReads(IoThread* thread, std::vector<ParkedRead> reads, Code code) {
  thread->Post([this, thread, reads = std::move(reads), code] {
    for (const ParkedRead& read : reads) {
      if (read.round != 0) {
        // A client gives up its leases where this were its own fault.
        Of(thread)->keep_alives.Confirmed(read.round, code == Code::kTooManyRequests ? Code::kTimedOut : code);
        continue;
      }
      if (read.stream != nullptr) {
        if (read.stream->stream != nullptr) read.stream->stream->Confirmed(code);
        continue;
      }
      Call* const call = thread->Find(read.call_id);
      if (call == nullptr) continue;
      if (code != Code::kOk) {
        Answer_(call, code, {});
      } else if (read.method == kRange) {
        Range(call, read.request);
      } else {
        Txn(call, read.request);
      }
    }
  });
}

// -- who has waited too long

void NodeService::RefuseOverdue() {
  const int64_t before_ns = NowNs() - options_.request_timeout_ns;
  std::unordered_map<IoThread*, std::vector<Answer>> answers;
  for (const Committer::OverdueCall& call : raft_proposer_.Overdue(before_ns)) {
    const Code code = OverdueCode(call.began_ns);
    answers[call.thread].push_back({call.call_id, errors_.grpc_code(code), errors_.text(code)});
  }
  for (auto& [thread, some] : answers) thread->Post(std::move(some));
  if (const uint8_t mode = mode_; (mode & kGated) != 0) {
    reads_.RefuseOverdue(before_ns, Code::kTimedOut);
    const Code code = (mode & kLeaderless) != 0 ? Code::kNoLeader : Code::kTimedOut;
    EachThread([before_ns, code](PerThread* of, IoThread*) { of->keep_alives.RefuseOverdue(before_ns, code); });
  }
  ticker_.After(kOverdueEveryNs, [this] { RefuseOverdue(); });
}

// etcd's words for a write whose answer has not come in time.
Code NodeService::OverdueCode(int64_t began_ns) const {
  if ((mode_ & kLeaderless) != 0) return Code::kDeadlineExceeded;
  const int64_t elected_ns = elected_ns_;
  if (began_ns < elected_ns && began_ns > elected_ns - 2 * options_.election_timeout_ns)
    return Code::kTimedOutLeaderFailed;
  return connected_ ? Code::kTimedOut : Code::kTimedOutDisconnected;
}

}  // namespace fastkv::front
