// The methods of a node: the hot ones answered here, without Python; every other one handed to it.
//
//   Range, read-only Txn --short: at once; else ReaderPool----> answer
//   Put DeleteRange Txn Compact LeaseGrant LeaseRevoke -------> this turn's WriteGroup --TurnEnd--> Committer -->
//   Aftermath RangeStream, LeaseKeepAlive, Watch -----------------------> range_stream.h, keep_alive.h, watch_stream.h
//   all others -----------------------------------------------> this turn's events --TurnEnd--> EventQueue --> asyncio
//
// A member alone commits for itself. One of several (UseRaft) is driven by Python, in batches: it takes proposals
// (raft_proposer.h), confirms reads (read_gate.h), asks the leader to renew leases (keep_alive.h) and says who leads.
//
// Invariants:
// - alone, a read needs no confirmation: the only member's revision covers every acknowledged write. In a cluster a
//   linearizable one is parked until it is confirmed.
// - a write that needs no state to be refused never reaches the log.
// - once Stop has begun, calls are refused and streams ended; writes that were taken are still answered.
// Thread safety: what Service declares, from the IoThreads; everything else from any thread.
//
// Files: service.cc (table, turns, cold calls, life), service_kv.cc (reads and writes), service_cluster.cc (what only a
// cluster needs).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "db/backend.h"
#include "front/aftermath.h"
#include "front/call.h"
#include "front/committer.h"
#include "front/error_table.h"
#include "front/event_queue.h"
#include "front/keep_alive.h"
#include "front/lease_clock.h"
#include "front/metrics.h"
#include "front/proposer.h"
#include "front/quota.h"
#include "front/raft_proposer.h"
#include "front/range_stream.h"
#include "front/read_gate.h"
#include "front/reader_pool.h"
#include "front/state_follower.h"
#include "front/ticker.h"
#include "front/watch_router.h"
#include "front/watch_stream.h"

namespace fastkv::front {

// A method that Python answers.
struct ColdMethod {
  std::string path;
  bool streams = false;  // the server streams; the client sends one message in any case
};

struct ServiceOptions {
  size_t io_threads = 1;
  size_t reader_threads = 2;
  size_t chunk_bytes = 512 << 10;  // of a RangeStream
  std::vector<ErrorRow> errors;
  std::vector<ColdMethod> cold;
  uint64_t member_id = 0;
  uint64_t quota_bytes = 0;  // 0: none
  int64_t lease_ttl_min_s = 0;
  bool renewals_outside = false;  // an event kRenew asks for all of them
  int64_t request_timeout_ns = 0;
  int64_t election_timeout_ns = 1'000'000'000;
  uint64_t first_sequence = 0;    // not 0: a member of several from the beginning, as UseRaft, and without a leader
  size_t at_once_writes_max = 4;  // a turn with no more to do than so many writes commits them itself
  CommitterOptions committer;
  ReadGateOptions reads;
  AftermathOptions aftermath;
  WatchOptions watch;
};

class NodeService final : public Service {
 public:
  NodeService(Backend* backend, ServiceOptions options);
  ~NodeService() override;

  // -- Service
  const Method* Find(std::string_view path) override;
  bool HasService(std::string_view name) override { return services_.contains(std::string(name)); }
  void Unary(const Method& method, Call* call, std::string_view message) override;
  std::unique_ptr<CallHandler> Open(const Method& method, Call* call) override;
  void Gone(const Method& method, uint64_t call_id, IoThread* thread) override;
  void TurnEnd(IoThread* thread) override;
  void Http1(int socket, const Peer& peer) override;

  // -- the node
  void Start();
  // Calls are refused from now on, streams end; `threads`: all of the server's.
  void StopCalls(const std::vector<IoThread*>& threads);
  // Commits what was submitted; false if that takes longer. Python may submit until here. In a cluster Python goes on
  // taking and applying meanwhile; what is left then is answered that the server stops.
  bool StopWrites(int64_t timeout_ms);
  // Ends the threads of the service. REQUIRES: the server's have ended.
  void StopThreads();

  // Python's own commands: their results come as events, in one order with the clients'. False: stopped.
  bool Propose(WriteGroup* group) { return committer_.Submit(group, /*at_once=*/false) == Committer::Taken::kYes; }
  void WakeWatchers() { watches_.Wake(); }
  // A watcher of the store that Python takes from: an event comes when it has got something. It looks once itself.
  void AddWatcher(uint64_t watcher) { watches_.Add(watcher, nullptr); }
  void RemoveWatcher(uint64_t watcher) { watches_.Remove(watcher); }
  EventQueue* events() { return &events_; }
  LeaseClock* leases() { return &leases_; }
  Quota* quota() { return &quota_; }
  // All of the server's, before it starts.
  void SetThreads(std::vector<IoThread*> threads) { io_threads_ = std::move(threads); }

  // -- in a cluster (service_cluster.cc); from one thread
  // From now on what gathers is for Take, numbered from first_sequence on; returns when no commit is under way. Nothing
  // is lost or answered twice. The store must still take commits when this is called.
  void UseRaft(uint64_t first_sequence);
  RaftProposer* proposer() { return &raft_proposer_; }
  ReadGate* reads() { return &reads_; }
  // At every change of leader. is_leader: the clock follows leases from now on; RestoreLeases completes it. known:
  // there is a leader. connected: its, or as leader a majority's, messages arrive.
  void SetLeader(bool is_leader, bool known, bool connected);
  // What the store holds, read after SetLeader; then this member answers keep-alives. Also of a member alone.
  void RestoreLeases(const std::vector<LeaseClock::Granted>& leases, double now, double grace_s);
  // Answers to kRenew: lease -> ttl, 0: there is no such lease. Those left out stay unanswered until they are overdue.
  void Renewed(std::unordered_map<int64_t, int64_t> ttls);
  // A learner answers nothing but Status and serializable ranges.
  void SetLearner(bool learner);
  size_t method_count() const { return rows_.size(); }
  const std::string& method_path(size_t number) const { return rows_[number]->path; }
  // name -> value, for /metrics.
  std::vector<std::pair<std::string, uint64_t>> Counters() const;

  // Answers of cold calls, from Python's thread; thread, call and method: as their events say. EndCold: body is the
  // response of a unary call if code is kOk, else the error's text.
  void EndCold(size_t thread, uint64_t call_id, uint32_t method, GrpcCode code, std::string body);
  void SendCold(size_t thread, uint64_t call_id, std::string message);

 private:
  // The service's numbers of methods; from kColdFirst on: cold.
  enum HotMethod : uint32_t {
    kRange,
    kRangeStream,
    kPut,
    kDeleteRange,
    kTxn,
    kCompact,
    kLeaseGrant,
    kLeaseRevoke,
    kLeaseKeepAlive,
    kWatch,
    kColdFirst,
  };
  struct Row {
    std::string path;
    Method method;
  };
  // What belongs to one IoThread, and what its turn has gathered.
  struct PerThread {
    PerThread(const WatchParts* watch, const KeepAliveParts* keep_alive, IoThread* thread)
        : watches(watch, thread), keep_alives(keep_alive, thread) {}
    WatchThread watches;
    KeepAliveThread keep_alives;
    WriteGroup writes;
    ParkedTurn parked;
    std::vector<uint64_t>
        need_leader;  // streams that end without one; those that are over are swept when there are many
    size_t need_leader_max = 64;
    std::vector<Event> events;
    size_t calls = 0;  // begun in this turn
    std::unordered_map<uint64_t, std::shared_ptr<std::atomic<bool>>>
        reading;  // off thread; true: nobody waits any more
  };
  class ColdStream;
  // What is not as in a member alone that serves; bits of mode_.
  enum : uint8_t { kStopping = 1, kGated = 2, kLeaderless = 4, kLearner = 8 };

  void AddMethod(std::string path, Method::Kind kind);
  PerThread* Of(IoThread* thread);
  IoThread* thread(size_t index) const;  // REQUIRES: an event has come from it
  void Cold(const Method& method, Call* call, std::string_view message);

  // service_cluster.cc
  bool Intercepts(const Method& method, Call* call, std::string_view message);  // true: it is answered or parked
  Code WhyRefused(const Method& method, const Call& call, std::string_view message) const;
  bool IsLinearizable(const Method& method, std::string_view message) const;
  void Park(Call* call, uint32_t method, std::string_view request, std::shared_ptr<RangeStream::Link> stream);
  void ParkKeepAlives(PerThread* of, uint64_t round);
  void ParkTurn(PerThread* of, IoThread* thread);
  void RunReads(IoThread* thread, std::vector<ParkedRead> reads, Code code);
  void RememberNeed(PerThread* of, Call* call);
  void EndLeaderless(uint64_t change);
  void RefuseOverdue();
  Code OverdueCode(int64_t began_ns) const;
  void EachThread(const std::function<void(PerThread*, IoThread*)>& function);
  void Set(uint8_t bit, bool on);

  // service_kv.cc
  void Range(Call* call, std::string_view message);
  void Txn(Call* call, std::string_view message);
  void Compact(const Method& method, Call* call, std::string_view message);
  void LeaseGrant(Call* call, std::string_view message);
  void Read(Call* call, std::string request, Code (*read)(Backend*, std::string_view, std::string*));
  void WriteCall(Call* call, HotMethod method, uint64_t tag, std::string_view payload, bool id_chosen = false);
  void Answer_(Call* call, Code code, std::string response);
  void RaiseAlarm(PerThread* of);
  int64_t NewLeaseId() const;

  Backend* const backend_;
  const ServiceOptions options_;
  const ErrorTable errors_;
  std::vector<std::unique_ptr<Row>> rows_;
  static constexpr size_t kLengths = 128;
  std::vector<Row*> by_length_[kLengths];  // of the path
  std::unordered_set<std::string> services_;
  Metrics metrics_;

  EventQueue events_;
  LeaseClock leases_;
  Quota quota_;
  Ticker ticker_;
  ReaderPool readers_;
  WatchRouter watches_;
  WatchParts watch_parts_;
  KeepAliveParts keep_alive_parts_;
  RangeStream::Parts range_stream_parts_;
  std::vector<std::unique_ptr<PerThread>> threads_;  // by IoThread::index(), each made by its own thread
  std::vector<IoThread*> io_threads_;
  std::atomic<uint8_t> mode_{0};
  std::atomic<LeaseTimer> lease_timer_{LeaseTimer::kAlone};
  // When the leader was last another one; how often; whether it is heard.
  std::atomic<int64_t> elected_ns_{0};
  std::atomic<uint64_t> leader_changes_{0};
  std::atomic<bool> connected_{true};
  ReadGate reads_;

  DirectProposer proposer_;
  StateFollower follower_;
  Aftermath aftermath_;
  Committer committer_;         // its thread uses all of the above
  RaftProposer raft_proposer_;  // last: it is fed by the committer
};

}  // namespace fastkv::front
