#include "front/service.h"

#include <utility>

#include "front/requests.h"

namespace fastkv::front {
namespace {

struct HotRow {
  std::string_view path;
  Method::Kind kind;
};

// In the order of NodeService::HotMethod.
constexpr HotRow kHot[] = {
    {"/etcdserverpb.KV/Range", Method::kUnary},
    {"/etcdserverpb.KV/RangeStream", Method::kStreaming},
    {"/etcdserverpb.KV/Put", Method::kUnary},
    {"/etcdserverpb.KV/DeleteRange", Method::kUnary},
    {"/etcdserverpb.KV/Txn", Method::kUnary},
    {"/etcdserverpb.KV/Compact", Method::kUnary},
    {"/etcdserverpb.Lease/LeaseGrant", Method::kUnary},
    {"/etcdserverpb.Lease/LeaseRevoke", Method::kUnary},
    {"/etcdserverpb.Lease/LeaseKeepAlive", Method::kStreaming},
    {"/etcdserverpb.Watch/Watch", Method::kStreaming},
};

}  // namespace

// A method of which Python sends the messages. What the client sends behind its first message is not looked at, as in a
// Go server.
class NodeService::ColdStream final : public CallHandler {
 public:
  ColdStream(NodeService* service, const Method& method, Call* call)
      : service_(service), method_(method), call_(call), thread_(call->thread()) {}

  void OnMessage(std::string_view message) override {
    if (!std::exchange(asked_, true)) service_->Cold(method_, call_, message);
  }
  void OnHalfClose() override {
    if (!asked_) call_->Finish(GrpcCode::kUnknown, "EOF");
  }
  void OnWritable() override { Report(Event::kWritable); }
  void OnEnd() override { Report(Event::kEnd); }

 private:
  void Report(Event::Kind kind) {
    if (!asked_) return;
    Event event;
    event.kind = kind;
    event.thread = static_cast<uint32_t>(thread_->index());
    event.call = call_->id();
    service_->events_.Push(std::move(event));
  }

  NodeService* const service_;
  const Method& method_;
  Call* const call_;
  IoThread* const thread_;
  bool asked_ = false;
};

NodeService::NodeService(Backend* backend, ServiceOptions options)
    : backend_(backend),
      options_(std::move(options)),
      errors_(options_.errors),
      leases_([this] {
        Event earlier;
        earlier.kind = Event::kLeases;
        events_.Push(std::move(earlier));
      }),
      quota_(backend, options_.quota_bytes),
      readers_(options_.reader_threads),
      watches_(
          backend,
          [this](IoThread* thread, const std::vector<uint64_t>& watchers) { Of(thread)->watches.Wake(watchers); },
          [this](const std::vector<uint64_t>& watchers) {
            std::vector<Event> ready(watchers.size());
            for (size_t i = 0; i < watchers.size(); ++i) {
              ready[i].kind = Event::kWatch;
              ready[i].number = static_cast<int64_t>(watchers[i]);
            }
            events_.Push(&ready);
          }),
      threads_(options_.io_threads),
      reads_(
          options_.reads,
          [this](IoThread* thread, std::vector<ParkedRead> reads, Code code) {
            RunReads(thread, std::move(reads), code);
          },
          [this] { events_.Push({.kind = Event::kReads}); }),
      proposer_(backend),
      follower_({&leases_, &quota_, options_.member_id, &events_,
                 [this](IoThread* thread, std::vector<uint64_t> calls) {
                   auto tell = [this, thread, calls = std::move(calls)] { Of(thread)->keep_alives.LeaseEnded(calls); };
                   if (thread->IsCurrent()) {
                     tell();
                   } else {
                     thread->Post(std::move(tell));
                   }
                 },
                 [this](uint64_t sequence, std::span<const FollowedCommand> commands) {
                   return raft_proposer_.Tokens(sequence, commands);
                 }}),
      aftermath_(
          Aftermath::Parts{&errors_, &follower_, &events_, &watches_, &metrics_,
                           [this](uint8_t method) { return rows_[method]->path; }, [this] { return NewLeaseId(); }},
          options_.aftermath),
      committer_(&proposer_, options_.committer, &aftermath_,
                 [this](const std::string& reason) {
                   Event died;
                   died.kind = Event::kDied;
                   died.text = reason;
                   events_.Push(std::move(died));
                 }),
      raft_proposer_(backend, &committer_, &aftermath_, options_.member_id) {
  for (const HotRow& row : kHot) AddMethod(std::string(row.path), row.kind);
  for (const ColdMethod& cold : options_.cold) {
    AddMethod(cold.path, cold.streams ? Method::kStreaming : Method::kUnary);
  }
  watch_parts_ = {backend_, &watches_, &errors_, &metrics_, &ticker_, options_.watch};
  keep_alive_parts_ = {backend_, &leases_, &errors_, &lease_timer_, options_.renewals_outside};
  range_stream_parts_ = {backend_, &readers_, &errors_, options_.chunk_bytes,
                         [this](Call* call, std::string_view request, const std::shared_ptr<RangeStream::Link>& link) {
                           const uint8_t mode = mode_.load(std::memory_order_relaxed);
                           if ((mode & kGated) == 0 || IsSerializableRange(request)) return false;
                           Park(call, kRangeStream, {}, link);
                           return true;
                         }};
  aftermath_.set_committer(&committer_);
  if (options_.first_sequence == 0) return;
  UseRaft(options_.first_sequence);
  SetLeader(/*is_leader=*/false, /*known=*/false, /*connected=*/true);
}

NodeService::~NodeService() {
  if ((mode_ & kGated) != 0) backend_->SetFollower(nullptr);
  StopThreads();
}

void NodeService::AddMethod(std::string path, Method::Kind kind) {
  auto row = std::make_unique<Row>();
  row->method = {kind, static_cast<uint32_t>(rows_.size())};
  row->path = std::move(path);
  services_.insert(row->path.substr(1, row->path.rfind('/') - 1));
  by_length_[row->path.size() % kLengths].push_back(row.get());
  rows_.push_back(std::move(row));
}

const Method* NodeService::Find(std::string_view path) {
  for (Row* const row : by_length_[path.size() % kLengths]) {
    if (row->path == path) return &row->method;
  }
  return nullptr;
}

// -- life

void NodeService::Start() {
  committer_.Start();
  RefuseOverdue();
}

void NodeService::StopCalls(const std::vector<IoThread*>& threads) {
  Set(kStopping, true);
  reads_.Stop();
  for (IoThread* const thread : threads) {
    thread->Post([this, thread] {
      PerThread* const of = Of(thread);
      of->watches.Stop();
      of->keep_alives.Stop();
    });
  }
}

IoThread* NodeService::thread(size_t index) const { return threads_[index]->watches.thread(); }

bool NodeService::StopWrites(int64_t timeout_ms) {
  const bool ended = committer_.Stop(timeout_ms);
  if (!ended) raft_proposer_.GiveUp(Code::kStopped);
  return ended;
}

void NodeService::StopThreads() {
  ticker_.Stop();
  readers_.Stop();
}

NodeService::PerThread* NodeService::Of(IoThread* thread) {
  std::unique_ptr<PerThread>& of = threads_[thread->index()];
  if (of == nullptr) [[unlikely]]
    of = std::make_unique<PerThread>(&watch_parts_, &keep_alive_parts_, thread);
  return of.get();
}

// -- calls

void NodeService::Unary(const Method& method, Call* call, std::string_view message) {
  ++Of(call->thread())->calls;
  if (mode_.load(std::memory_order_relaxed) != 0 && Intercepts(method, call, message)) return;
  switch (method.number) {
    case kRange:
      return Range(call, message);
    case kPut:
      return WriteCall(call, kPut, kPutTag, message);
    case kDeleteRange:
      return WriteCall(call, kDeleteRange, kDeleteRangeTag, message);
    case kTxn:
      return Txn(call, message);
    case kCompact:
      return Compact(method, call, message);
    case kLeaseGrant:
      return LeaseGrant(call, message);
    case kLeaseRevoke:
      return WriteCall(call, kLeaseRevoke, kLeaseRevokeTag, message);
    default:
      return Cold(method, call, message);
  }
}

std::unique_ptr<CallHandler> NodeService::Open(const Method& method, Call* call) {
  PerThread* const of = Of(call->thread());
  ++of->calls;
  if (const Code code = WhyRefused(method, *call, {}); code != Code::kOk) {
    errors_.Refuse(call, code);
    return nullptr;
  }
  RememberNeed(of, call);
  switch (method.number) {
    case kRangeStream:
      return std::make_unique<RangeStream>(&range_stream_parts_, call);
    case kLeaseKeepAlive:
      return std::make_unique<KeepAliveStream>(&of->keep_alives, call);
    case kWatch:
      return std::make_unique<WatchStream>(&of->watches, call);
    default:
      return std::make_unique<ColdStream>(this, method, call);
  }
}

void NodeService::Gone(const Method& method, uint64_t call_id, IoThread* thread) {
  PerThread* const of = Of(thread);
  if (method.number >= kColdFirst || method.number == kCompact) {
    Event end;
    end.kind = Event::kEnd;
    end.thread = static_cast<uint32_t>(thread->index());
    end.call = call_id;
    of->events.push_back(std::move(end));
  } else if (const auto found = of->reading.find(call_id); found != of->reading.end()) {
    found->second->store(true, std::memory_order_relaxed);
    of->reading.erase(found);
  }
}

void NodeService::TurnEnd(IoThread* thread) {
  PerThread* const of = Of(thread);
  if (of->keep_alives.has_renewals())
    of->events.push_back({.kind = Event::kRenew, .leases = of->keep_alives.TakeRenewals()});
  events_.Push(&of->events);
  if (!of->writes.empty()) {
    const size_t writes = of->writes.writes.size();
    const bool at_once = of->calls == writes && writes <= options_.at_once_writes_max;
    of->writes.thread = thread;
    const Committer::Taken taken = committer_.Submit(&of->writes, at_once);
    if (taken != Committer::Taken::kYes) {
      const bool full = taken == Committer::Taken::kFull;
      const GrpcCode code = full ? GrpcCode::kUnknown : GrpcCode::kUnavailable;
      const std::string text(full ? kTooManyRequestsText : kStoppedText);
      std::vector<Answer> answers;
      for (const Write& write : of->writes.writes) {
        if (write.from != Write::kCall) continue;
        answers.push_back({write.asker, code, text});
      }
      of->writes = {};
      Deliver(thread, std::move(answers));
    }
  }
  if (const uint64_t round = of->keep_alives.TakeRound(); round != 0) ParkKeepAlives(of, round);
  if (!of->parked.reads.empty()) ParkTurn(of, thread);
  of->watches.Run();
  of->calls = 0;
}

void NodeService::Http1(int socket, const Peer& peer) {
  Event http;
  http.kind = Event::kHttp1;
  http.number = socket;
  http.text = peer.address;
  events_.Push(std::move(http));
}

// -- cold calls

void NodeService::Cold(const Method& method, Call* call, std::string_view message) {
  Event event;
  event.kind = Event::kCall;
  event.thread = static_cast<uint32_t>(call->thread()->index());
  event.call = call->id();
  event.text = rows_[method.number]->path;
  event.body = message;
  event.metadata = call->metadata();
  event.number = method.number;
  Of(call->thread())->events.push_back(std::move(event));
}

// As a function, not as an Answer: it must stand behind the messages that were posted before.
void NodeService::EndCold(size_t index, uint64_t call_id, uint32_t method, GrpcCode code, std::string body) {
  const bool reply = code == GrpcCode::kOk && rows_[method]->method.kind == Method::kUnary;
  thread(index)->Post([thread = thread(index), call_id, code, reply, body = std::move(body)]() mutable {
    Call* const call = thread->Find(call_id);
    if (call == nullptr) return;
    if (reply) {
      call->Reply(std::move(body));
    } else {
      call->Finish(code, body);
    }
  });
}

void NodeService::SendCold(size_t index, uint64_t call_id, std::string message) {
  IoThread* const thread = this->thread(index);
  thread->Post([this, thread, call_id, message = std::move(message)]() mutable {
    Call* const call = thread->Find(call_id);
    if (call == nullptr) return;
    call->Send(std::move(message));
    if (call->unsent_bytes() >= kUnsentHighBytes) return;  // OnWritable will say it
    Event writable;
    writable.kind = Event::kWritable;
    writable.thread = static_cast<uint32_t>(thread->index());
    writable.call = call_id;
    events_.Push(std::move(writable));
  });
}

std::vector<std::pair<std::string, uint64_t>> NodeService::Counters() const {
  return {
      {"batches", metrics_.batches},
      {"commands", metrics_.commands},
      {"batch_bytes", metrics_.batch_bytes},
      {"commit_ns", metrics_.commit_ns},
      {"batches_at_once", committer_.at_once_count()},
      {"batches_open", raft_proposer_.open()},
      {"reads_parked", reads_.size()},
      {"reads_inline", metrics_.reads_inline},
      {"reads_off_thread", metrics_.reads_off_thread},
      {"watch_responses", metrics_.watch_responses},
      {"watch_event_bytes", metrics_.watch_events_bytes},
  };
}

}  // namespace fastkv::front
