// Lists and streams of many keys, and what they do to the puts of others.
#include <algorithm>
#include <memory>
#include <vector>

#include "calls.h"
#include "keys.h"
#include "meter.h"
#include "range_scanner.h"
#include "workloads.h"

namespace fastkv::load {
namespace {

// One Range or RangeStream of the prefix at a time; each must give the keys that were loaded, no more and no fewer.
class Lister : public Stream {
 public:
  Lister(const Options& options, Loop* loop, size_t connection, bool streamed)
      : options_(options),
        loop_(loop),
        connection_(connection),
        path_(streamed ? kRangeStream : kRange),
        scanner_(streamed),
        expected_(static_cast<uint64_t>(options.limit > 0 ? std::min(options.limit, options.keys) : options.keys)) {
    const char begin = static_cast<char>(options.prefix), end = static_cast<char>(options.prefix + 1);
    RangeRequest(
        &request_, std::string_view(&begin, 1),
        {.range_end = std::string_view(&end, 1), .limit = options.limit, .serializable = options.serializable != 0});
  }

  void Start() {
    scanner_.Reset();
    active_ = true;
    sent_ = loop_->now();
    loop_->Send(connection_, loop_->Open(connection_, path_, this), request_, true);
  }
  bool active() const { return active_; }
  uint64_t lists() const { return lists_; }
  uint64_t keys() const { return keys_; }
  std::function<void(uint64_t sent, uint64_t bytes)> on_done;

  void OnData(std::string_view bytes) override { scanner_.Feed(bytes); }
  void OnEnd(int grpc_status, const std::string& text) override {
    if (grpc_status != 0) throw Failure("grpc-status " + std::to_string(grpc_status) + ": " + text);
    const auto least = static_cast<uint64_t>(options_.key_bytes + options_.value_bytes) * expected_;
    if (!scanner_.between_messages() || scanner_.kvs() != expected_ || scanner_.kv_bytes() < least ||
        scanner_.count() != static_cast<uint64_t>(options_.keys)) {
      throw Failure("a list of " + std::to_string(expected_) + " keys gave " + std::to_string(scanner_.kvs()) + " in " +
                    std::to_string(scanner_.kv_bytes()) + " bytes, count " + std::to_string(scanner_.count()));
    }
    active_ = false;
    lists_++;
    keys_ += scanner_.kvs();
    on_done(sent_, scanner_.bytes());
  }

 private:
  const Options& options_;
  Loop* loop_;
  size_t connection_;
  const char* path_;
  RangeScanner scanner_;
  uint64_t expected_;
  std::string request_;
  uint64_t sent_ = 0, lists_ = 0, keys_ = 0;
  bool active_ = false;
};

void List(const Options& options, bool streamed) {
  Loop loop(options.target, static_cast<uint32_t>(options.window));
  loop.Connect(static_cast<size_t>(options.connections));
  Meter meter(options);
  std::vector<std::unique_ptr<Lister>> listers;
  size_t active = 0;
  // Bytes count when they come, not when the list is whole: a list may take longer than what is measured.
  uint64_t begin_bytes = 0, end_bytes = 0;
  for (int64_t i = 0; i < options.connections * options.streams; i++) {
    listers.push_back(std::make_unique<Lister>(options, &loop, static_cast<size_t>(i % options.connections), streamed));
    Lister* lister = listers.back().get();
    lister->on_done = [&, lister](uint64_t sent, uint64_t bytes) {
      meter.Record(sent, loop.now(), bytes);
      if (meter.over()) {
        active--;
      } else {
        lister->Start();
      }
    };
  }
  meter.Start(NowNs());
  uint64_t begin_ns = 0, end_ns = 0;
  bool started = false, begun = false, ended = false;
  loop.Run([&] { return started && active == 0; },
           [&](uint64_t now) {
             if (!started) {
               started = true;
               active = listers.size();
               for (const auto& lister : listers) lister->Start();
             }
             const uint64_t due = meter.Tick(now);
             if (!begun && meter.begun()) {
               begun = true;
               begin_bytes = loop.bytes_received();
               begin_ns = now;
             }
             if (!ended && meter.over()) {
               ended = true;
               end_bytes = loop.bytes_received();
               end_ns = now;
             }
             return due;
           });
  uint64_t lists = 0, keys = 0;
  for (const auto& lister : listers) {
    lists += lister->lists();
    keys += lister->keys();
  }
  meter.Add("received_rate",
            static_cast<double>(end_bytes - begin_bytes) * 1e9 / static_cast<double>(end_ns - begin_ns));
  meter.Add("lists", static_cast<double>(lists));
  meter.Add("keys", static_cast<double>(keys));
  meter.Print(streamed ? "range-stream" : "list");
}

// Puts at a fixed rate, whether or not the ones before were answered: a latency counts from when the put was due, so
// that a server that stalls is charged for every put that it kept waiting.
class PacedPuts {
 public:
  PacedPuts(const Options& options, Loop* loop, size_t connections)
      : options_(options), loop_(loop), connections_(connections) {
    PutRequest(&request_, KeyOf(kPrefix, options.key_bytes, 0), ValueOf(options.value_bytes));
    ledger_.Begin(CurrentRevision(loop));
  }

  uint64_t Tick(uint64_t now) {
    if (next_due_ == 0) next_due_ = now;
    while (!stopping && next_due_ <= now) {
      Send();
      next_due_ += kSecond / static_cast<uint64_t>(options_.rate);
    }
    return stopping ? kNever : next_due_;
  }
  size_t active() const { return active_; }
  bool stopping = false;
  Histogram* histogram = nullptr;  // of the puts that become due from now on
  RevisionLedger& ledger() { return ledger_; }

 private:
  static constexpr int64_t kPrefix = 'p';
  static constexpr size_t kActiveMax = 50'000;

  class Put : public Unary {
   public:
    explicit Put(PacedPuts* owner) : owner_(owner) {}
    uint64_t due = 0;
    int64_t seen = 0;
    Histogram* histogram = nullptr;

   protected:
    void OnAnswer(std::string_view message) override { owner_->ledger_.Write(AnswerRevision(message), seen); }
    void OnDone() override {
      if (histogram != nullptr) histogram->Record(owner_->loop_->now() - due);
      owner_->active_--;
      owner_->free_.push_back(this);
    }

   private:
    PacedPuts* owner_;
  };

  void Send() {
    if (free_.empty()) {
      if (all_.size() == kActiveMax) throw Failure("the server cannot take so many puts per second");
      all_.push_back(std::make_unique<Put>(this));
      free_.push_back(all_.back().get());
    }
    Put* put = free_.back();
    free_.pop_back();
    active_++;
    put->due = next_due_;
    put->seen = ledger_.seen();
    put->histogram = histogram;
    WriteKey(request_.data() + 2, kPrefix, options_.key_bytes, random_.Below(100'000));
    put->Start(loop_, next_connection_++ % connections_, kPut, request_);
  }

  const Options& options_;
  Loop* loop_;
  size_t connections_;
  std::string request_;
  RevisionLedger ledger_;
  Random random_;
  uint64_t next_due_ = 0;
  size_t active_ = 0, next_connection_ = 0;
  std::vector<std::unique_ptr<Put>> all_;
  std::vector<Put*> free_;
};

// Paced puts: `warmup` seconds alone, then with something else going on until `busy_over()`, then `warmup` again alone.
class PutsMeanwhile {
 public:
  explicit PutsMeanwhile(const Options& options)
      : options_(options), loop(options.target, static_cast<uint32_t>(options.window)), meter_(Endless(options)) {
    loop.Connect(static_cast<size_t>(options.connections) + 1);
  }
  // The connection that the puts do not use.
  size_t other() const { return static_cast<size_t>(options_.connections); }

  void Run(const std::string& name, const std::function<void()>& start_busy, const std::function<bool()>& busy_over) {
    PacedPuts puts(options_, &loop, static_cast<size_t>(options_.connections));
    Histogram quiet, busy;
    puts.histogram = &quiet;
    const uint64_t busy_at = NowNs() + std::max<uint64_t>(1, static_cast<uint64_t>(options_.warmup)) * kSecond;
    bool busy_begun = false;
    loop.Run([&] { return puts.stopping && puts.active() == 0; },
             [&](uint64_t now) {
               if (!busy_begun && now >= busy_at) {
                 busy_begun = true;
                 puts.histogram = &busy;
                 meter_.Start(now);
                 start_busy();
               } else if (busy_begun && !puts.stopping && busy_over()) {
                 puts.stopping = true;
                 meter_.Stop(now);
               }
               return std::min(puts.Tick(now), busy_begun ? kNever : busy_at);
             });
    puts.ledger().End(CurrentRevision(&loop));
    meter_.AddLatency("quiet_", quiet);
    meter_.AddLatency("busy_", busy);
    meter_.Add("writes", static_cast<double>(puts.ledger().writes()));
    meter_.Print(name);
  }

 private:
  static const Options& Endless(const Options& options) {
    static Options endless;
    endless = options;
    endless.warmup = 0;
    endless.seconds = 3600;
    return endless;
  }
  const Options& options_;

 public:
  Loop loop;

 private:
  Meter meter_;
};

}  // namespace

void ListKeys(const Options& options) { List(options, false); }
void StreamKeys(const Options& options) { List(options, true); }

void PutDuringList(const Options& options) {
  PutsMeanwhile run(options);
  Lister lister(options, &run.loop, run.other(), false);
  lister.on_done = [&](uint64_t, uint64_t) {
    if (lister.lists() < static_cast<uint64_t>(options.repeat)) lister.Start();
  };
  run.Run(
      "put-during-list", [&] { lister.Start(); }, [&] { return !lister.active(); });
}

void PutDuringCompaction(const Options& options) {
  class Compaction : public Unary {
   public:
    bool done = false;

   protected:
    void OnAnswer(std::string_view message) override {
      if (AnswerRevision(message) <= 0) throw Failure("a compaction without a revision");
    }
    void OnDone() override { done = true; }
  };
  PutsMeanwhile run(options);
  Compaction compaction;
  std::string request;
  AddVarint(&request, 1, static_cast<uint64_t>(CurrentRevision(&run.loop)));
  AddVarint(&request, 2, 1);  // physical: answered when everything is gone
  run.Run(
      "put-during-compaction", [&] { compaction.Start(&run.loop, run.other(), kCompact, request); },
      [&] { return compaction.done; });
}

}  // namespace fastkv::load
