// A transport that is a few vectors, and a store whose disk obeys the test: what the services are tested against.
//
// A FakeThread is an IoThread whose loop is the test: Turn() runs what was posted, then TurnEnd, as call.h says.
// Thread safety: FakeThread::Post from any thread; the rest in the test's.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "base/coding.h"
#include "db/backend.h"
#include "db/db.h"
#include "front/call.h"
#include "front/service.h"
#include "proto/fields.h"

namespace fastkv::front {

constexpr std::chrono::seconds kDeadline{20};

// The fields of an answer: numbers and bytes, the last one of each; `all` of the repeated ones.
struct Fields {
  std::map<uint32_t, int64_t> numbers;
  std::map<uint32_t, std::vector<std::string>> all;

  explicit Fields(std::string_view message) {
    EXPECT_TRUE(proto::ForEachField(message, [this](uint32_t tag, const proto::Value& value) {
      if ((tag & 7) == proto::kVarint) {
        numbers[tag >> 3] = value.Signed();
      } else {
        all[tag >> 3].emplace_back(value.bytes);
      }
    }));
  }
  int64_t number(uint32_t field) const { return numbers.contains(field) ? numbers.at(field) : 0; }
  std::string bytes(uint32_t field) const { return all.contains(field) ? all.at(field).back() : std::string(); }
  size_t count(uint32_t field) const { return all.contains(field) ? all.at(field).size() : 0; }
  int64_t revision() const { return Fields(bytes(1)).number(3); }
};

class FakeThread;

class FakeCall final : public Call {
 public:
  FakeCall(FakeThread* thread, uint64_t id) : thread_(thread), id_(id) {}

  uint64_t id() const override { return id_; }
  IoThread* thread() const override;
  const Peer& peer() const override { return peer_; }
  const Metadata& metadata() const override { return sent_metadata; }
  int64_t deadline_ns() const override { return INT64_MAX; }
  void Reply(std::string message) override {
    messages.push_back(std::move(message));
    Finish(GrpcCode::kOk, {});
  }
  void Send(std::string message) override {
    unsent += message.size();
    messages.push_back(std::move(message));
  }
  void SendFramed(std::string frames) override {
    unsent += frames.size();
    while (!frames.empty()) {
      const auto* prefix = reinterpret_cast<const uint8_t*>(frames.data());
      const size_t size = size_t{prefix[1]} << 24 | size_t{prefix[2]} << 16 | size_t{prefix[3]} << 8 | prefix[4];
      ASSERT_GE(frames.size(), kPrefixBytes + size);
      messages.push_back(frames.substr(kPrefixBytes, size));
      frames.erase(0, kPrefixBytes + size);
    }
  }
  void SendHeaders() override {}
  void Finish(GrpcCode finished, std::string_view why) override {
    if (ended) return;
    ended = true;
    code = finished;
    text = why;
  }
  size_t unsent_bytes() const override { return unsent; }

  // The next message that has not been looked at.
  Fields Next() {
    EXPECT_LT(seen, messages.size()) << "no message; " << text;
    return Fields(seen < messages.size() ? messages[seen++] : std::string());
  }
  bool done() const { return seen == messages.size(); }

  std::vector<std::string> messages;
  size_t seen = 0, unsent = 0;
  bool ended = false;
  GrpcCode code = GrpcCode::kUnknown;
  std::string text;
  Metadata sent_metadata{{"name", "value"}};
  std::unique_ptr<CallHandler> handler;

 private:
  FakeThread* const thread_;
  const uint64_t id_;
  const Peer peer_;
};

class FakeThread final : public IoThread {
 public:
  size_t index() const override { return 0; }
  bool IsCurrent() const override { return std::this_thread::get_id() == owner_; }
  void Post(std::vector<Answer> answers) override {
    Post([this, answers = std::move(answers)]() mutable { Deliver(this, std::move(answers)); });
  }
  void Post(std::function<void()> function) override {
    const std::lock_guard lock(mutex_);
    posted_.push_back(std::move(function));
    wake_.notify_all();
  }
  Call* Find(uint64_t call_id) override {
    const auto found = calls_.find(call_id);
    return found == calls_.end() || found->second->ended ? nullptr : found->second.get();
  }

  FakeCall* Begin() {
    const uint64_t id = ++last_id_;
    return (calls_[id] = std::make_unique<FakeCall>(this, id)).get();
  }
  // Runs what was posted; whether there was anything.
  bool RunPosted() {
    std::vector<std::function<void()>> functions;
    {
      const std::lock_guard lock(mutex_);
      functions.swap(posted_);
    }
    for (const auto& function : functions) function();
    return !functions.empty();
  }
  void WaitPosted() {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(wake_.wait_for(lock, kDeadline, [this] { return !posted_.empty(); })) << "nothing was posted";
  }

 private:
  const std::thread::id owner_ = std::this_thread::get_id();
  std::map<uint64_t, std::unique_ptr<FakeCall>> calls_;
  uint64_t last_id_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::function<void()>> posted_;
};

inline IoThread* FakeCall::thread() const { return thread_; }

// A store in memory whose commits can be counted, made to wait, and answered by the test.
class FakeBackend final : public Backend {
 public:
  FakeBackend() {
    DbOptions options;
    options.limits.max_txn_ops = 128;
    EXPECT_TRUE(Db::Open("", options, &db_).ok());
    backend_ = MakeBackend(db_.get());
  }

  Code Range(std::string_view request, std::string* response) override { return backend_->Range(request, response); }
  bool RangeIfShort(std::string_view request, Code* code, std::string* response) override {
    return !never_short && backend_->RangeIfShort(request, code, response);
  }
  Code RangeChunk(std::string_view request, size_t bytes_max, std::string* response, std::string* next) override {
    ++chunks;
    return backend_->RangeChunk(request, bytes_max, response, next);
  }
  Code ReadTxn(std::string_view request, bool* reads_only, std::string* response) override {
    return backend_->ReadTxn(request, reads_only, response);
  }
  Code Validate(uint64_t tag, std::string_view payload) override { return backend_->Validate(tag, payload); }
  Status Commit(std::span<const Command> commands, std::span<CommandResult> results) override {
    committing_thread = std::this_thread::get_id();
    batches.push_back(commands.size());
    if (before_commit) {
      if (Status status = before_commit(commands, results); !status.ok()) return status;
      if (results.front().code != Code::kOk) return {};  // the test has answered
    }
    return backend_->Commit(commands, results);
  }
  void ExpectApplied(uint64_t sequence, ApplyObserver* observer) override {
    const std::lock_guard lock(mutex_);
    expected_[sequence] = observer;
  }
  bool ForgetApplied(uint64_t sequence) override {
    const std::lock_guard lock(mutex_);
    return expected_.erase(sequence) > 0;
  }
  void SetFollower(ApplyFollower* follower) override {
    const std::lock_guard lock(mutex_);
    follower_ = follower;
  }
  // As Replica::Apply does with one committed entry.
  void Apply(uint64_t member, std::string_view data) {
    ByteReader in(data);
    uint64_t origin = 0, sequence = 0;
    ASSERT_TRUE(in.U64(&origin) && in.U64(&sequence));
    std::vector<Command> commands;
    ASSERT_TRUE(ForEachCommand(data, [&commands](const Command& command) {
      commands.push_back(command);
      return true;
    }));
    std::vector<CommandResult> results(commands.size());
    ASSERT_TRUE(backend_->Commit(commands, results).ok());
    std::vector<FollowedCommand> followed;
    for (size_t i = 0; i < commands.size(); ++i) {
      if (commands[i].tag < kCompactionTag) continue;
      followed.push_back({i, commands[i].tag, commands[i].payload, results[i].code, results[i].response});
    }
    ApplyFollower* follower = nullptr;
    {
      const std::lock_guard lock(mutex_);
      follower = follower_;
    }
    if (follower != nullptr && !followed.empty()) follower->Followed(origin == member ? sequence : 0, followed);
    ApplyObserver* observer = nullptr;
    {
      const std::lock_guard lock(mutex_);
      const auto found = expected_.find(sequence);
      if (origin != member || found == expected_.end()) return;
      observer = found->second;
      expected_.erase(found);
    }
    observer->Applied(sequence, std::move(results));
  }

  uint64_t WatchAdd(WatchSpec spec) override { return backend_->WatchAdd(std::move(spec)); }
  void WatchCancel(uint64_t id) override { backend_->WatchCancel(id); }
  WatchNews WatchTake(uint64_t id, size_t bytes_max, bool* more) override {
    ++takes;
    return backend_->WatchTake(id, bytes_max, more);
  }
  std::vector<uint64_t> WatchReady() override { return backend_->WatchReady(); }
  int64_t WatchProgress(uint64_t id) override { return backend_->WatchProgress(id); }
  int64_t revision() const override { return backend_->revision(); }
  uint64_t memory_bytes() const override { return backend_->memory_bytes(); }
  void AppendHeader(std::string* to, int64_t revision) const override { backend_->AppendHeader(to, revision); }

  Db& db() { return *db_; }

  std::function<Status(std::span<const Command>, std::span<CommandResult>)> before_commit;
  std::vector<size_t> batches;  // commands in each
  std::thread::id committing_thread;
  size_t takes = 0, chunks = 0;
  bool never_short = false;

 private:
  std::unique_ptr<Db> db_;
  std::unique_ptr<Backend> backend_;
  std::mutex mutex_;
  std::map<uint64_t, ApplyObserver*> expected_;
  ApplyFollower* follower_ = nullptr;
};

inline ServiceOptions TestOptions() {
  ServiceOptions options;
  options.errors = {
      {static_cast<uint8_t>(Code::kEmptyKey), 3, "etcdserver: key is not provided"},
      {static_cast<uint8_t>(Code::kCompacted), 11, "etcdserver: mvcc: required revision has been compacted"},
      {static_cast<uint8_t>(Code::kNoSpace), 8, "etcdserver: mvcc: database space exceeded"},
      {static_cast<uint8_t>(Code::kLeaseExists), 9, "etcdserver: lease already exists"},
      {static_cast<uint8_t>(Code::kMalformed), 3, "of no consequence"},
      {static_cast<uint8_t>(Code::kStreamSort), 12, "RangeStream does not support custom sort orders"},
      {static_cast<uint8_t>(Code::kIoError), 14, "fastkv: input/output error"},
      {static_cast<uint8_t>(Code::kStopped), 14, "etcdserver: server stopped"},
      {static_cast<uint8_t>(Code::kTooManyRequests), 2, "etcdserver: too many requests"},
      {static_cast<uint8_t>(Code::kTimedOut), 14, "etcdserver: request timed out"},
      {static_cast<uint8_t>(Code::kTimedOutLeaderFailed), 14, "timed out, leader failed"},
      {static_cast<uint8_t>(Code::kTimedOutDisconnected), 14, "timed out, disconnected"},
      {static_cast<uint8_t>(Code::kDeadlineExceeded), 4, "context deadline exceeded"},
      {static_cast<uint8_t>(Code::kNoLeader), 14, "etcdserver: no leader"},
      {static_cast<uint8_t>(Code::kLeaderChanged), 14, "etcdserver: leader changed"},
      {static_cast<uint8_t>(Code::kNotForLearner), 9, "etcdserver: rpc not supported for learner"},
  };
  options.cold = {{"/x.Y/Cold", false}, {"/x.Y/Stream", true}};
  options.member_id = 7;
  options.lease_ttl_min_s = 2;
  options.request_timeout_ns = 7'000'000'000;
  options.watch.fragment_bytes = 1 << 20;
  options.watch.progress_interval_ns = 3'600'000'000'000;
  return options;
}

// A service on one thread, and a client of it.
class ServiceTest : public ::testing::Test {
 protected:
  void Begin(ServiceOptions options = TestOptions()) {
    service = std::make_unique<NodeService>(&backend, std::move(options));
    service->SetThreads({&thread});
    service->Start();
  }
  void TearDown() override {
    backend.before_commit = nullptr;
    EXPECT_TRUE(service->StopWrites(20'000));
    thread.RunPosted();
    service.reset();
  }

  // A unary call and the turn that it came in.
  FakeCall* Ask(std::string_view path, std::string_view message) {
    FakeCall* const call = Begin(path, message);
    Turn();
    return call;
  }
  FakeCall* Begin(std::string_view path, std::string_view message, Metadata metadata = {{"name", "value"}}) {
    const Method* const method = service->Find(path);
    EXPECT_NE(method, nullptr) << path;
    FakeCall* const call = thread.Begin();
    call->sent_metadata = std::move(metadata);
    service->Unary(*method, call, message);
    return call;
  }
  FakeCall* Open(std::string_view path, Metadata metadata = {}) {
    FakeCall* const call = thread.Begin();
    call->sent_metadata = std::move(metadata);
    call->handler = service->Open(*service->Find(path), call);
    return call;
  }
  void Send(FakeCall* call, std::string_view message) {
    call->handler->OnMessage(message);
    Turn();
  }
  void End(FakeCall* call) {
    call->ended = true;
    call->handler->OnEnd();
    call->handler.reset();
    Turn();
  }
  void Turn() {
    do {
      service->TurnEnd(&thread);
    } while (thread.RunPosted());
  }
  // Turns until it is so; another thread has to do its part.
  void TurnUntil(const std::function<bool()>& done) {
    const auto end = std::chrono::steady_clock::now() + kDeadline;
    for (Turn(); !done(); Turn()) {
      ASSERT_LT(std::chrono::steady_clock::now(), end) << "it did not happen";
      thread.WaitPosted();
    }
  }
  FakeCall* Ended(FakeCall* call) {
    TurnUntil([call] { return call->ended; });
    return call;
  }
  Fields Ok(FakeCall* call) {
    Ended(call);
    EXPECT_EQ(call->code, GrpcCode::kOk) << call->text;
    return Fields(call->messages.empty() ? std::string() : call->messages.back());
  }
  std::vector<Event> Events(Event::Kind kind) {
    std::vector<Event> found;
    for (Event& event : service->events()->Take()) {
      if (event.kind == kind) found.push_back(std::move(event));
    }
    return found;
  }

  // The first of that kind; others before it are passed over.
  Event NextEvent(Event::Kind kind) {
    for (;;) {
      while (!events_.empty()) {
        Event event = std::move(events_.front());
        events_.pop_front();
        if (event.kind == kind) return event;
      }
      pollfd readable{service->events()->fd(), POLLIN, 0};
      EXPECT_EQ(poll(&readable, 1, std::chrono::milliseconds(kDeadline).count()), 1) << "no event " << kind;
      if (readable.revents == 0) return {};
      for (Event& event : service->events()->Take()) events_.push_back(std::move(event));
    }
  }

  FakeThread thread;
  FakeBackend backend;
  std::unique_ptr<NodeService> service;

 private:
  std::deque<Event> events_;
};

}  // namespace fastkv::front
