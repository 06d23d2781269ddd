// Closed loops of unary calls: put, range, creating transactions, the initial load.
#include <memory>
#include <vector>

#include "calls.h"
#include "keys.h"
#include "meter.h"
#include "workloads.h"

namespace fastkv::load {
namespace {

class ClosedLoop;

// One of the calls that are always on their way.
class Slot : public Unary {
 public:
  Slot(ClosedLoop* owner, size_t connection) : owner_(owner), connection_(connection) {}
  void Next();

  uint64_t key = 0;
  int64_t seen = 0;

 protected:
  void OnAnswer(std::string_view message) override;
  void OnDone() override;

 private:
  ClosedLoop* owner_;
  size_t connection_;
  uint64_t sent_ = 0;
};

// Keeps all slots busy until the meter's time is over (or Make has nothing left), then waits for the last answers.
class ClosedLoop {
 public:
  ClosedLoop(const Options& options, const char* path)
      : options_(options), loop_(options.target, static_cast<uint32_t>(options.window)), meter_(options), path_(path) {
    loop_.Connect(static_cast<size_t>(options.connections));
  }
  virtual ~ClosedLoop() = default;

  void Run(const std::string& name) {
    ledger_.Begin(CurrentRevision(&loop_));
    std::vector<std::unique_ptr<Slot>> slots;
    for (int64_t i = 0; i < options_.connections * options_.streams; i++) {
      slots.push_back(std::make_unique<Slot>(this, static_cast<size_t>(i % options_.connections)));
    }
    meter_.Start(NowNs());
    const Usage before = Usage::Of(options_.server_pid);
    bool started = false;
    loop_.Run([&] { return started && active_ == 0; },
              [&](uint64_t now) {
                if (!started) {
                  started = true;
                  for (const auto& slot : slots) slot->Next();
                }
                return meter_.Tick(now);
              });
    if (!meter_.over()) meter_.Stop(NowNs());
    ledger_.End(CurrentRevision(&loop_), options_.shared != 0);
    meter_.Add("writes", static_cast<double>(ledger_.writes()));
    meter_.Add("written_bytes_total",
               static_cast<double>(Usage::Of(options_.server_pid).written_bytes - before.written_bytes));
    meter_.Add("revision", static_cast<double>(ledger_.seen()));
    meter_.Print(name);
  }

 protected:
  friend class Slot;
  // The next request of a slot; false if there is none.
  virtual bool Make(Slot* slot, std::string* request) = 0;
  virtual void Check(const Slot& slot, std::string_view answer) = 0;

  const Options& options_;
  Loop loop_;
  Meter meter_;
  RevisionLedger ledger_;
  std::string request_;

 private:
  const char* path_;
  size_t active_ = 0;
};

void Slot::Next() {
  if (owner_->meter_.over() || !owner_->Make(this, &owner_->request_)) return;
  owner_->active_++;
  sent_ = owner_->loop_.now();
  seen = owner_->ledger_.seen();
  Start(&owner_->loop_, connection_, owner_->path_, owner_->request_);
}

void Slot::OnAnswer(std::string_view message) {
  owner_->Check(*this, message);
  owner_->meter_.Record(sent_, owner_->loop_.now(), message.size());
}

void Slot::OnDone() {
  owner_->active_--;
  Next();
}

class Puts : public ClosedLoop {
 public:
  explicit Puts(const Options& options) : ClosedLoop(options, kPut) {
    PutRequest(&request_, KeyOf(options.prefix, options.key_bytes, 0), ValueOf(options.value_bytes));
  }

 protected:
  bool Make(Slot*, std::string* request) override {
    const uint64_t number = random_.Below(static_cast<uint64_t>(options_.keys));
    WriteKey(request->data() + 2, options_.prefix, options_.key_bytes, number);
    return true;
  }
  void Check(const Slot& slot, std::string_view answer) override { ledger_.Write(AnswerRevision(answer), slot.seen); }

 private:
  Random random_;
};

class Ranges : public ClosedLoop {
 public:
  explicit Ranges(const Options& options)
      : ClosedLoop(options, kRange),
        key_(KeyOf(options.prefix, options.key_bytes, 0)),
        value_(ValueOf(options.value_bytes)) {
    RangeRequest(&request_, key_, {.serializable = options.serializable != 0});
  }

 protected:
  bool Make(Slot* slot, std::string* request) override {
    slot->key = random_.Below(static_cast<uint64_t>(options_.keys));
    WriteKey(request->data() + 2, options_.prefix, options_.key_bytes, slot->key);
    return true;
  }
  void Check(const Slot& slot, std::string_view answer) override {
    uint64_t found = 0, count = 0;
    int64_t revision = 0;
    WriteKey(key_.data(), options_.prefix, options_.key_bytes, slot.key);
    ForEachField(
        answer,
        [&](uint32_t field, std::string_view bytes) {
          if (field == 1) revision = HeaderRevision(bytes);
          if (field != 2) return;
          const KeyValue kv(bytes);
          found += kv.key == key_ && kv.value == value_;
        },
        [&](uint32_t field, uint64_t value) {
          if (field == 4) count = value;
        });
    if (found != 1 || count != 1) throw Failure("a range did not give its one key with its value");
    ledger_.Read(revision, slot.seen);
  }

 private:
  Random random_;
  std::string key_, value_;
};

class Creates : public ClosedLoop {
 public:
  explicit Creates(const Options& options) : ClosedLoop(options, kTxn) {
    const std::string key = KeyOf(options.prefix, options.key_bytes, 0);
    TxnIfAbsent(&request_, key);
    TxnPut(&request_, key, ValueOf(options.value_bytes));
    compared_at_ = request_.find(key);
    put_at_ = request_.find(key, compared_at_ + key.size());
    for (int64_t i = 1; i < options.key_bytes && i < 10; i++) key_space_ *= 10;
  }

 protected:
  bool Make(Slot*, std::string* request) override {
    const uint64_t number = Scatter(next_++, key_space_);
    WriteKey(request->data() + compared_at_, options_.prefix, options_.key_bytes, number);
    WriteKey(request->data() + put_at_, options_.prefix, options_.key_bytes, number);
    return true;
  }
  void Check(const Slot& slot, std::string_view answer) override {
    bool succeeded = false;
    ForEachField(
        answer, [](uint32_t, std::string_view) {},
        [&](uint32_t field, uint64_t value) { succeeded |= field == 2 && value == 1; });
    if (!succeeded) throw Failure("a transaction found a key that was not there");
    ledger_.Write(AnswerRevision(answer), slot.seen);
  }

 private:
  size_t compared_at_, put_at_;
  uint64_t key_space_ = 1, next_ = 0;
};

class Load : public ClosedLoop {
 public:
  explicit Load(const Options& options)
      : ClosedLoop(options, kTxn),
        puts_(static_cast<uint64_t>(options.puts > 0 ? options.puts : options.keys)),
        value_(ValueOf(options.value_bytes)) {}

 protected:
  bool Make(Slot*, std::string* request) override {
    const auto keys = static_cast<uint64_t>(options_.keys);
    request->clear();
    for (int64_t i = 0; i < options_.ops && next_ < puts_; i++) {
      TxnPut(request, KeyOf(options_.prefix, options_.key_bytes, Scatter(next_++, keys)), value_);
      if (next_ % keys == 0) break;  // a transaction puts no key twice
    }
    return !request->empty();
  }
  void Check(const Slot& slot, std::string_view answer) override { ledger_.Write(AnswerRevision(answer), slot.seen); }

 private:
  uint64_t puts_, next_ = 0;
  std::string value_;
};

}  // namespace

void PutKeys(const Options& options) { Puts(options).Run("put"); }
void RangeKeys(const Options& options) { Ranges(options).Run("range"); }
void CreateKeys(const Options& options) { Creates(options).Run("txn-create"); }

void LoadKeys(const Options& options) {
  Options endless = options;
  endless.warmup = 0;
  endless.seconds = 3600;
  Load(endless).Run("load");
}

void FirstGet(const Options& options) {
  const uint64_t deadline = NowNs() + 600 * kSecond;
  std::string request, why;
  RangeRequest(&request, KeyOf(options.prefix, options.key_bytes, 0));
  while (NowNs() < deadline) {
    try {
      Loop loop(options.target, static_cast<uint32_t>(options.window));
      loop.Connect(1);
      const std::string answer = Call(&loop, 0, kRange, request);
      const uint64_t at = NowNs();
      uint64_t found = 0;
      ForEachField(
          answer, [&](uint32_t field, std::string_view) { found += field == 2; }, [](uint32_t, uint64_t) {});
      if (AnswerRevision(answer) < options.revision) throw Failure("acknowledged writes are gone");
      if (options.revision > 0 && found != 1) throw Failure("an acknowledged key is gone");
      printf("{\"workload\": \"first-get\", \"at_s\": %.6f}\n", static_cast<double>(at) / 1e9);
      return;
    } catch (const Failure& failure) {
      why = failure.what();
      if (why.starts_with("an acknowledged") || why.starts_with("acknowledged")) throw;
    }
    const timespec pause{0, 1'000'000};
    nanosleep(&pause, nullptr);
  }
  throw Failure("no get was answered: " + why);
}

}  // namespace fastkv::load
