// The methods of a node: the hot ones answered here, without Python; every other one handed to it.
//
//   Range, read-only Txn --short: at once; else ReaderPool----> answer
//   Put DeleteRange Txn Compact LeaseGrant LeaseRevoke -------> this turn's WriteGroup --TurnEnd--> Committer -->
//   Aftermath RangeStream, LeaseKeepAlive, Watch -----------------------> range_stream.h, keep_alive.h, watch_stream.h
//   all others -----------------------------------------------> this turn's events --TurnEnd--> EventQueue --> asyncio
//
// Invariants:
// - a read needs no confirmation: the only member's revision covers every acknowledged write. (With peers a
// linearizable
//   read is gathered like a write and answered once leadership is confirmed: Reads go through Read() for that.)
// - a write that needs no state to be refused never reaches the log.
// - once Stop has begun, calls are refused and streams ended; writes that were taken are still answered.
// Thread safety: what Service declares, from the IoThreads; everything else from any thread.
//
// Files: service.cc (table, turns, cold calls, life), service_kv.cc (reads and writes).
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
#include "front/range_stream.h"
#include "front/reader_pool.h"
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
  int64_t request_timeout_ns = 0;
  size_t at_once_writes_max = 4;  // a turn with no more to do than so many writes commits them itself
  CommitterOptions committer;
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
  // Commits what was submitted; false if that takes longer. Python may submit until here.
  bool StopWrites(int64_t timeout_ms) { return committer_.Stop(timeout_ms); }
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
    std::vector<Event> events;
    size_t calls = 0;  // begun in this turn
    std::unordered_map<uint64_t, std::shared_ptr<std::atomic<bool>>>
        reading;  // off thread; true: nobody waits any more
  };
  class ColdStream;

  void AddMethod(std::string path, Method::Kind kind);
  PerThread* Of(IoThread* thread);
  IoThread* thread(size_t index) const;  // REQUIRES: an event has come from it
  void Cold(const Method& method, Call* call, std::string_view message);

  // service_kv.cc
  void Range(Call* call, std::string_view message);
  void Txn(Call* call, std::string_view message);
  void Compact(const Method& method, Call* call, std::string_view message);
  void LeaseGrant(Call* call, std::string_view message);
  void Read(Call* call, HotMethod method, std::string request, Code (*read)(Backend*, std::string_view, std::string*));
  void WriteCall(Call* call, HotMethod method, uint64_t tag, std::string_view payload, bool id_chosen = false);
  void Answer_(Call* call, uint32_t method, Code code, std::string response);
  void RaiseAlarm(PerThread* of);
  void RefuseOverdue();
  int64_t NewLeaseId() const;

  Backend* const backend_;
  const ServiceOptions options_;
  const ErrorTable errors_;
  std::vector<std::unique_ptr<Row>> rows_;
  static constexpr size_t kLengths = 128;
  std::vector<Row*> by_length_[kLengths];  // of the path
  std::unordered_set<std::string> services_;
  std::vector<Metrics::OfMethod> methods_;
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
  std::atomic<bool> stopping_{false};

  DirectProposer proposer_;
  Aftermath aftermath_;
  Committer committer_;  // last: its thread uses all of the above
};

}  // namespace fastkv::front
