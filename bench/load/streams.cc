// Long streams: watchers of one key and the writer they listen to; keepalives; connections that do nothing.
#include <algorithm>
#include <deque>
#include <memory>
#include <vector>

#include "calls.h"
#include "keys.h"
#include "meter.h"
#include "workloads.h"

namespace fastkv::load {
namespace {

[[noreturn]] void StreamEnded(int grpc_status, const std::string& text) {
  throw Failure("a stream ended, grpc-status " + std::to_string(grpc_status) + ": " + text);
}

// One Watch stream; `on_event` for each event, after the check that it is the watcher's next.
class WatchStream : public Stream {
 public:
  WatchStream(Loop* loop, size_t connection, size_t watchers) : next_revision_(watchers, 0) {
    id_ = loop->Open(connection, kWatch, this);
    loop_ = loop;
    connection_ = connection;
  }
  void Create(std::string_view key) {
    std::string request;
    WatchCreateRequest(&request, key);
    loop_->Send(connection_, id_, request, false);
  }
  // All watchers have to see every revision above this one.
  void ExpectFrom(int64_t revision) { std::fill(next_revision_.begin(), next_revision_.end(), revision + 1); }
  size_t created() const { return created_; }
  std::function<void(int64_t mod_revision, std::string_view value)> on_event;

  void OnData(std::string_view bytes) override {
    reader_.Feed(bytes, [this](std::string_view message) { OnMessage(message); });
  }
  void OnEnd(int grpc_status, const std::string& text) override { StreamEnded(grpc_status, text); }

 private:
  void OnMessage(std::string_view message) {
    uint64_t watch_id = 0;
    bool created = false, canceled = false;
    size_t events = 0;
    // The id stands before the events, as fields are written in the order of their numbers.
    ForEachField(
        message,
        [&](uint32_t field, std::string_view bytes) {
          if (field != 11) return;
          events++;
          OnEvent(watch_id, bytes);
        },
        [&](uint32_t field, uint64_t value) {
          if (field == 2) watch_id = value;
          if (field == 3) created = value;
          if (field == 4) canceled = value;
        });
    if (canceled) throw Failure("a watcher was canceled");
    created_ += created;
    if (!created && events == 0) throw Failure("a watch response without events");
  }

  void OnEvent(uint64_t watch_id, std::string_view event) {
    int64_t revision = 0;
    std::string_view value;
    uint64_t type = 0;
    ForEachField(
        event,
        [&](uint32_t field, std::string_view bytes) {
          if (field != 2) return;
          const KeyValue kv(bytes);
          revision = kv.mod_revision;
          value = kv.value;
        },
        [&](uint32_t field, uint64_t number) {
          if (field == 1) type = number;
        });
    if (watch_id >= next_revision_.size() || type != 0 || revision != next_revision_[watch_id]) {
      throw Failure("watcher " + std::to_string(watch_id) + " got revision " + std::to_string(revision) +
                    " out of turn");
    }
    next_revision_[watch_id]++;
    on_event(revision, value);
  }

  Loop* loop_;
  size_t connection_;
  uint32_t id_;
  MessageReader reader_;
  size_t created_ = 0;
  std::vector<int64_t> next_revision_;
};

// The puts that watchers see. A value begins with the put's number, so that an event says which put it is of.
class Writer {
 public:
  Writer(const Options& options, Loop* loop, size_t connection, size_t listeners)
      : options_(options), loop_(loop), connection_(connection), listeners_(listeners) {
    if (options.value_bytes < 8) throw Failure("--value-bytes must be 8 or more: a value holds the put's number");
    PutRequest(&request_, KeyOf(options.prefix, options.key_bytes, 0), ValueOf(options.value_bytes));
    first_ = CurrentRevision(loop);
    ledger_.Begin(first_);
  }

  int64_t first() const { return first_; }
  RevisionLedger& ledger() { return ledger_; }
  bool stopping = false;
  // Every put was answered and seen by all.
  bool idle() const { return active_ == 0 && complete_ == puts_.size(); }

  // Puts as many as `inflight` allows, or at `rate`; with a rate a latency counts from when the put was due.
  uint64_t Tick(uint64_t now) {
    if (stopping) return kNever;
    if (options_.rate == 0) {
      while (puts_.size() - complete_ < static_cast<size_t>(options_.inflight)) Send(now);
      return kNever;
    }
    if (next_due_ == 0) next_due_ = now;
    for (; next_due_ <= now; next_due_ += kSecond / static_cast<uint64_t>(options_.rate)) Send(next_due_);
    return next_due_;
  }

  // When the put that this is an event of was sent, or was due.
  uint64_t OnEvent(int64_t revision, std::string_view value) {
    const uint64_t number = value.size() < 8 ? UINT64_MAX : LoadU64(value.data());
    if (number >= puts_.size()) throw Failure("an event that nobody wrote");
    Sent& put = puts_[number];
    Agree(&put, revision);
    put.seen++;
    while (complete_ < puts_.size() && puts_[complete_].seen == listeners_) complete_++;
    return put.at;
  }
  size_t puts() const { return puts_.size(); }

 private:
  struct Sent {
    uint64_t at;
    size_t seen = 0;
    int64_t revision = 0;
  };

  class Put : public Unary {
   public:
    explicit Put(Writer* owner) : owner_(owner) {}
    size_t number = 0;
    int64_t seen = 0;

   protected:
    void OnAnswer(std::string_view message) override {
      const int64_t revision = AnswerRevision(message);
      owner_->ledger_.Write(revision, seen);
      Agree(&owner_->puts_[number], revision);
    }
    void OnDone() override {
      owner_->active_--;
      owner_->free_.push_back(this);
    }

   private:
    Writer* owner_;
  };

  static void Agree(Sent* put, int64_t revision) {
    if (put->revision != 0 && put->revision != revision) throw Failure("an event and its put differ in revision");
    put->revision = revision;
  }

  void Send(uint64_t due) {
    if (free_.empty()) free_.push_back(&all_.emplace_back(this));
    Put* put = free_.back();
    free_.pop_back();
    active_++;
    put->number = puts_.size();
    put->seen = ledger_.seen();
    StoreU64(request_.data() + request_.size() - static_cast<size_t>(options_.value_bytes), put->number);
    puts_.push_back({due});
    put->Start(loop_, connection_, kPut, request_);
  }

  const Options& options_;
  Loop* loop_;
  size_t connection_;
  size_t listeners_;
  std::string request_;
  int64_t first_ = 0;
  RevisionLedger ledger_;
  size_t active_ = 0, complete_ = 0;
  uint64_t next_due_ = 0;
  std::vector<Sent> puts_;
  std::deque<Put> all_;
  std::vector<Put*> free_;
};

// A stream with one lease, which it keeps alive again and again.
class KeepAlive : public Stream {
 public:
  KeepAlive(Loop* loop, size_t connection, Meter* meter, uint64_t lease)
      : loop_(loop), connection_(connection), meter_(meter), lease_(lease) {
    AddVarint(&request_, 1, lease);
    id_ = loop->Open(connection, kLeaseKeepAlive, this);
  }
  void Next() {
    waiting_ = true;
    sent_ = loop_->now();
    loop_->Send(connection_, id_, request_, false);
  }
  bool waiting() const { return waiting_; }

  void OnData(std::string_view bytes) override {
    reader_.Feed(bytes, [this](std::string_view message) { OnMessage(message); });
  }
  void OnEnd(int grpc_status, const std::string& text) override { StreamEnded(grpc_status, text); }

 private:
  void OnMessage(std::string_view message) {
    uint64_t lease = 0, ttl_s = 0;
    ForEachField(
        message, [](uint32_t, std::string_view) {},
        [&](uint32_t field, uint64_t value) {
          if (field == 2) lease = value;
          if (field == 3) ttl_s = value;
        });
    if (!waiting_ || lease != lease_ || ttl_s == 0) throw Failure("a keepalive was not answered with its lease's TTL");
    waiting_ = false;
    meter_->Record(sent_, loop_->now(), message.size());
    if (!meter_->over()) Next();
  }

  Loop* loop_;
  size_t connection_;
  Meter* meter_;
  uint64_t lease_;
  uint32_t id_;
  std::string request_;
  MessageReader reader_;
  uint64_t sent_ = 0;
  bool waiting_ = false;
};

void Grant(Loop* loop, const std::vector<uint64_t>& leases) {
  class GrantCall : public Unary {
   public:
    bool done = false;

   protected:
    void OnAnswer(std::string_view) override {}
    void OnDone() override { done = true; }
  };
  std::deque<GrantCall> calls(leases.size());
  for (size_t i = 0; i < leases.size(); i++) {
    std::string request;
    AddVarint(&request, 1, 3600);
    AddVarint(&request, 2, leases[i]);
    calls[i].Start(loop, i, kLeaseGrant, request);
  }
  loop->Run([&] { return std::all_of(calls.begin(), calls.end(), [](const GrantCall& one) { return one.done; }); });
}

}  // namespace

void WatchOneKey(const Options& options) {
  const auto connections = static_cast<size_t>(options.connections), each = static_cast<size_t>(options.watchers);
  const std::string key = KeyOf(options.prefix, options.key_bytes, 0);
  Loop loop(options.target, static_cast<uint32_t>(options.window));
  loop.Connect(connections + 1);
  Writer writer(options, &loop, connections, connections * each);
  std::vector<std::unique_ptr<WatchStream>> streams;
  for (size_t i = 0; i < connections; i++) {
    streams.push_back(std::make_unique<WatchStream>(&loop, i, each));
    for (size_t j = 0; j < each; j++) streams.back()->Create(key);
  }
  loop.Run(
      [&] { return std::all_of(streams.begin(), streams.end(), [&](auto& one) { return one->created() == each; }); });

  Meter meter(options);
  for (const auto& stream : streams) {
    stream->ExpectFrom(writer.first());
    stream->on_event = [&](int64_t revision, std::string_view value) {
      meter.Record(writer.OnEvent(revision, value), loop.now());
    };
  }
  meter.Start(NowNs());
  loop.Run([&] { return writer.stopping && writer.idle(); },
           [&](uint64_t now) {
             const uint64_t border = meter.Tick(now);
             if (meter.over()) writer.stopping = true;
             return std::min(border, writer.Tick(now));
           });
  writer.ledger().End(CurrentRevision(&loop));
  meter.Add("writes", static_cast<double>(writer.puts()));
  meter.Print("watch");
}

void KeepLeasesAlive(const Options& options) {
  Loop loop(options.target, static_cast<uint32_t>(options.window));
  loop.Connect(static_cast<size_t>(options.connections));
  Meter meter(options);
  std::vector<uint64_t> leases;
  for (int64_t i = 0; i < options.connections * options.streams; i++) leases.push_back(static_cast<uint64_t>(1000 + i));
  Grant(&loop, leases);
  std::vector<std::unique_ptr<KeepAlive>> streams;
  for (size_t i = 0; i < leases.size(); i++) {
    streams.push_back(std::make_unique<KeepAlive>(&loop, i % loop.size(), &meter, leases[i]));
  }
  meter.Start(NowNs());
  bool started = false;
  loop.Run(
      [&] {
        return meter.over() && std::none_of(streams.begin(), streams.end(), [](auto& one) { return one->waiting(); });
      },
      [&](uint64_t now) {
        if (!started) {
          started = true;
          for (const auto& stream : streams) stream->Next();
        }
        return meter.Tick(now);
      });
  meter.Print("keepalive");
}

void StayIdle(const Options& options) {
  Loop loop(options.target, static_cast<uint32_t>(options.window));
  loop.Connect(static_cast<size_t>(options.connections));
  std::vector<std::unique_ptr<WatchStream>> streams;
  for (size_t i = 0; i < loop.size(); i++) {
    streams.push_back(std::make_unique<WatchStream>(&loop, i, 1));
    streams.back()->Create(KeyOf(options.prefix, options.key_bytes, i));
  }
  loop.Run([&] { return std::all_of(streams.begin(), streams.end(), [](auto& one) { return one->created() == 1; }); });
  Meter meter(options);
  meter.Start(NowNs());
  loop.Run([&] { return meter.over(); }, [&](uint64_t now) { return meter.Tick(now); });
  meter.Print("idle");
}

}  // namespace fastkv::load
