// etcdserverpb.Watch: many watchers on one stream; rpc/watch.py in C++.
//
//   OnMessage --> outbox: created, canceled, progress ----+
//   WatchRouter --> WatchThread: ready watchers ----------+--Step--> Call::SendFramed
//
// Invariants:
// - the outbox goes first, so `created` precedes every event of a watcher and creations are answered in order.
// - events are taken from the store only while the transport wants more: a slow client holds back its own stream and,
// but
//   for at most one take, no memory of ours.
// - a progress response with revision r follows, on the stream, every event up to r of the watchers that it speaks for.
// - whole revisions in one response, unless the watcher asked for fragments.
// - a Step is short: a stream that has more to do stands behind the others that have.
// Thread safety: none; a WatchThread and its streams belong to one IoThread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "db/backend.h"
#include "front/call.h"
#include "front/error_table.h"
#include "front/metrics.h"
#include "front/requests.h"
#include "front/ticker.h"
#include "front/watch_router.h"

namespace fastkv::front {

class WatchStream;

struct WatchOptions {
  size_t fragment_bytes = 0;  // a response that is as large is cut for who asked for fragments
  int64_t progress_interval_ns = 0;
  // Why the caller may not watch that range (a cancel_reason), "" if he may. Null: everybody may.
  std::function<std::string(const Call&, std::string_view key, std::string_view range_end)> refusal;
};

struct WatchParts {
  Backend* backend = nullptr;
  WatchRouter* router = nullptr;
  const ErrorTable* errors = nullptr;
  Metrics* metrics = nullptr;
  Ticker* ticker = nullptr;
  WatchOptions options;
};

// The streams of one IoThread, and whose turn it is.
class WatchThread {
 public:
  WatchThread(const WatchParts* parts, IoThread* thread) : parts_(parts), thread_(thread) {}

  const WatchParts& parts() const { return *parts_; }
  IoThread* thread() const { return thread_; }

  // These watchers have got something.
  void Wake(const std::vector<uint64_t>& watchers);
  // Lets the streams that have something to say do so, for a fraction of a millisecond; then posts itself.
  void Run();
  // Ends every stream.
  void Stop();
  void Tick(uint64_t call_id);

 private:
  friend class WatchStream;
  void Enqueue(WatchStream* stream);
  void Drop(WatchStream* stream);

  const WatchParts* const parts_;
  IoThread* const thread_;
  std::unordered_map<uint64_t, WatchStream*> streams_;   // by call id
  std::unordered_map<uint64_t, WatchStream*> watching_;  // by the store's watcher
  std::deque<WatchStream*> queue_;
  bool posted_ = false;
};

class WatchStream final : public CallHandler {
 public:
  WatchStream(WatchThread* owner, Call* call);

  void OnMessage(std::string_view message) override;
  void OnWritable() override;
  void OnEnd() override;

 private:
  friend class WatchThread;

  struct Watcher {
    int64_t id = 0;
    uint64_t number = 0;         // the store's
    int64_t start_revision = 0;  // as asked for
    bool progress_notify = false, fragment = false;
    bool quiet = true;   // no event since the last progress tick
    bool ready = false;  // in ready_
  };
  // Something to say: a framed message, or how far `watchers` are, provided that they are synced.
  struct Item {
    std::string frame;
    bool is_progress = false;
    int64_t id = 0;                  // the watch id that the progress is said under
    std::vector<uint64_t> watchers;  // still to be looked at, from the back
    int takes = 0;                   // of the last one
    int64_t lowest = INT64_MAX;
  };

  // Works until about until_ns; whether there is more to do that needs no one else.
  bool Step(int64_t until_ns);
  bool StepProgress(Item* item);  // whether the item is done with
  void StepEvents(uint64_t number);
  bool CanWrite() const;
  void Flush();

  void Create(const WatchCreateRequest& request);
  void Refuse(int64_t revision, std::string_view reason);
  void CancelWatch(int64_t id);
  void AskProgress();
  void Forget(Watcher* watcher);
  void MarkReady(Watcher* watcher);
  void Tick();
  void ScheduleTick();

  size_t BeginResponse(std::string* to, int64_t revision, int64_t id) const;
  void Post(std::string frame);
  void WriteNews(Watcher* watcher, const WatchNews& news);
  void WriteEvents(const Watcher& watcher, int64_t revision, std::string_view events);

  WatchThread* const owner_;
  Call* const call_;
  std::map<int64_t, std::unique_ptr<Watcher>> watchers_;  // by id
  std::unordered_map<uint64_t, Watcher*> by_number_;
  int64_t next_id_ = 0;
  std::deque<Item> outbox_;
  std::deque<uint64_t> ready_;  // watchers with events, by number; some may be gone
  std::string out_;             // frames of this Step
  bool queued_ = false, ticking_ = false, ended_ = false;
};

}  // namespace fastkv::front
