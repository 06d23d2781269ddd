// The services of a node on a transport of vectors: who is answered when, what reaches the log, what Python hears.

#include <poll.h>

#include <latch>

#include "front/service.h"
#include "mvcc/store.h"
#include "tests/commands.h"
#include "tests/front_fakes.h"

namespace fastkv::front {
namespace {

using namespace fastkv::testing;

constexpr std::string_view kRange = "/etcdserverpb.KV/Range", kPut = "/etcdserverpb.KV/Put",
                           kTxn = "/etcdserverpb.KV/Txn";
constexpr std::string_view kDelete = "/etcdserverpb.KV/DeleteRange", kCompact = "/etcdserverpb.KV/Compact";
constexpr std::string_view kStream = "/etcdserverpb.KV/RangeStream", kAlive = "/etcdserverpb.Lease/LeaseKeepAlive";
constexpr std::string_view kGrant = "/etcdserverpb.Lease/LeaseGrant", kRevoke = "/etcdserverpb.Lease/LeaseRevoke";

TEST_F(ServiceTest, PathsAreFoundExactly) {
  Begin();
  EXPECT_EQ(service->Find(kPut)->kind, Method::kUnary);
  EXPECT_EQ(service->Find(kAlive)->kind, Method::kStreaming);
  EXPECT_EQ(service->Find("/x.Y/Stream")->kind, Method::kStreaming);
  for (const std::string_view path :
       {"", "/", "/etcdserverpb.KV/Pet", "/etcdserverpb.KV/Put/", "etcdserverpb.KV/Put"}) {
    EXPECT_EQ(service->Find(path), nullptr) << path;
  }
  EXPECT_TRUE(service->HasService("x.Y") && service->HasService("etcdserverpb.KV"));
  EXPECT_FALSE(service->HasService("x.Z"));
}

TEST_F(ServiceTest, AWriteIsVisibleWhenItIsAnswered) {
  Begin();
  EXPECT_EQ(Ok(Ask(kPut, PutBytes("a", "1"))).revision(), 2);
  const Fields read = Ok(Ask(kRange, RangeBytes("a")));
  EXPECT_EQ(read.revision(), 2);
  EXPECT_EQ(Fields(read.bytes(2)).bytes(5), "1");
  EXPECT_EQ(Ok(Ask(kDelete, DeleteBytes("a"))).number(2), 1);
}

TEST_F(ServiceTest, AFewWritesAloneAreCommittedByTheirOwnThread) {
  Begin();
  FakeCall* const call = Begin(kPut, PutBytes("a", "1"));
  service->TurnEnd(&thread);
  EXPECT_TRUE(call->ended) << "the answer does not leave with the turn";
  EXPECT_EQ(backend.committing_thread, std::this_thread::get_id());
}

TEST_F(ServiceTest, ManyWritesOfOneTurnAreOneBatchOfTheCommitters) {
  Begin();
  std::vector<FakeCall*> calls;
  for (int i = 0; i < 50; ++i) calls.push_back(Begin(kPut, PutBytes("k" + std::to_string(i), "v")));
  Turn();
  int64_t revision = 1;
  for (FakeCall* const call : calls) EXPECT_EQ(Ok(call).revision(), ++revision);
  EXPECT_EQ(backend.batches, std::vector<size_t>{50});
  EXPECT_NE(backend.committing_thread, std::this_thread::get_id());
}

TEST_F(ServiceTest, WhoAlsoReadsDoesNotWaitForADisk) {
  Begin();
  Begin(kRange, RangeBytes("a"));
  Ok(Ask(kPut, PutBytes("a", "1")));
  EXPECT_NE(backend.committing_thread, std::this_thread::get_id());
}

TEST_F(ServiceTest, WhatNeedsNoStateIsRefusedBeforeTheLog) {
  Begin();
  FakeCall* const empty = Ask(kPut, PutBytes("", "v"));
  EXPECT_EQ(empty->code, GrpcCode::kInvalidArgument);
  EXPECT_EQ(empty->text, "etcdserver: key is not provided");
  for (const std::string_view path : {kPut, kRange, kTxn, kDelete, kCompact, kGrant, kRevoke}) {
    FakeCall* const malformed = Ask(path, "\x0a\xff");
    EXPECT_EQ(malformed->code, GrpcCode::kInternal) << path;
    EXPECT_EQ(malformed->text, "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data");
  }
  EXPECT_TRUE(backend.batches.empty());
}

TEST_F(ServiceTest, ATxnThatOnlyReadsNeedsNoLog) {
  Begin();
  Ok(Ask(kPut, PutBytes("a", "1")));
  for (const std::string& end : {std::string(), std::string("b")}) {
    std::string txn;
    AppendOp(&txn, 2, RequestOp::kRange, RangeBytes("a", end));
    EXPECT_EQ(Ok(Ask(kTxn, txn)).number(2), 1);
  }
  EXPECT_EQ(Ok(Ask(kTxn, "")).number(2), 1);
  EXPECT_EQ(backend.batches.size(), 1u);
  std::string txn;
  AppendOp(&txn, 2, RequestOp::kPut, PutBytes("a", "2"));
  EXPECT_EQ(Ok(Ask(kTxn, txn)).revision(), 3);
  EXPECT_EQ(backend.batches.size(), 2u);
}

TEST_F(ServiceTest, ALongReadIsAnsweredFromAnotherThreadAndForgottenWithItsCaller) {
  backend.never_short = true;
  Begin();
  Ok(Ask(kPut, PutBytes("a", "1")));
  EXPECT_EQ(Ok(Ask(kRange, RangeBytes("a", "b"))).number(4), 1);
  FakeCall* const gone = Begin(kRange, RangeBytes("a", "b"));
  gone->ended = true;
  service->Gone(*service->Find(kRange), gone->id(), &thread);
  EXPECT_EQ(Ok(Ask(kRange, RangeBytes("a", "b"))).number(4), 1);
  EXPECT_TRUE(gone->messages.empty());
}

// -- RangeStream

TEST_F(ServiceTest, AStreamedRangeIsReadNoFasterThanItIsSent) {
  ServiceOptions options = TestOptions();
  options.chunk_bytes = 200 << 10;
  Begin(options);
  constexpr size_t kKeys = 40;
  for (size_t i = 0; i < kKeys; ++i)
    Ok(Ask(kPut, PutBytes("k" + std::to_string(100 + i), std::string(100 << 10, 'v'))));
  FakeCall* const call = Open(kStream);
  Send(call, RangeBytes("k", "l"));
  TurnUntil([call] { return call->unsent >= kUnsentHighBytes; });
  Turn();
  const size_t read = backend.chunks;
  EXPECT_LE(read, kUnsentHighBytes / (100 << 10) + 1);
  EXPECT_FALSE(call->ended);
  while (!call->ended) {
    call->unsent = 0;
    call->handler->OnWritable();
    TurnUntil([call] { return call->ended || call->unsent >= kUnsentHighBytes; });
  }
  EXPECT_EQ(call->code, GrpcCode::kOk) << call->text;
  std::string merged;
  for (const std::string& message : call->messages) merged += Fields(message).bytes(1);
  const RangeAnswer answer = ParseRangeAnswer(merged);
  EXPECT_EQ(answer.kvs.size(), kKeys);
  EXPECT_EQ(answer.count, static_cast<int64_t>(kKeys));
}

TEST_F(ServiceTest, AStreamedRangeRefusesAndEndsWithItsClient) {
  Begin();
  FakeCall* const sorted = Open(kStream);
  Send(sorted, RangeBytes("k", "l", {.sort_order = 2}));
  TurnUntil([sorted] { return sorted->ended; });
  EXPECT_EQ(sorted->code, GrpcCode::kUnimplemented);
  FakeCall* const silent = Open(kStream);
  silent->handler->OnHalfClose();
  EXPECT_EQ(silent->text, "EOF");
  FakeCall* const gone = Open(kStream);
  Send(gone, RangeBytes("k", "l"));
  End(gone);  // while its chunk may be being read
  EXPECT_EQ(Ok(Ask(kRange, RangeBytes("a"))).number(4), 0);
}

// -- leases

TEST_F(ServiceTest, AGrantRaisesShortTtlsAndChoosesAnId) {
  Begin();
  const Fields chosen = Ok(Ask(kGrant, GrantBytes(0, -5)));
  EXPECT_EQ(chosen.number(3), 2);
  EXPECT_GT(chosen.number(2), 0);
  EXPECT_TRUE(service->leases()->Contains(chosen.number(2)));
  EXPECT_EQ(Ok(Ask(kGrant, GrantBytes(77, 10))).number(2), 77);
  FakeCall* const again = Ended(Ask(kGrant, GrantBytes(77, 10)));
  EXPECT_EQ(again->code, GrpcCode::kFailedPrecondition);
  EXPECT_EQ(again->text, "etcdserver: lease already exists");
  Ok(Ask(kRevoke, RevokeBytes(77)));
  EXPECT_FALSE(service->leases()->Contains(77));
}

TEST_F(ServiceTest, AnIdThatSomebodyElseGotMeanwhileIsDrawnAgain) {
  Begin();
  int refused = 0;
  int64_t first = 0;
  backend.before_commit = [&](std::span<const Command> commands, std::span<CommandResult> results) -> Status {
    if (refused++ > 0) return {};
    LeaseGrantRequest request;
    EXPECT_TRUE(request.Parse(commands.front().payload));
    first = request.id;
    results.front().code = Code::kLeaseExists;
    return {};
  };
  const Fields granted = Ok(Ask(kGrant, GrantBytes(0, 10)));
  EXPECT_NE(granted.number(2), first);
  EXPECT_EQ(refused, 2);
}

TEST_F(ServiceTest, KeepAlivesAreAnsweredInOrder) {
  Begin();
  Ok(Ask(kGrant, GrantBytes(5, 60)));
  FakeCall* const alive = Open(kAlive);
  for (const int64_t id : {5, 6, 5}) Send(alive, RevokeBytes(id));
  for (const auto& [id, ttl] : {std::pair<int64_t, int64_t>{5, 60}, {6, 0}, {5, 60}}) {
    const Fields answer = alive->Next();
    EXPECT_EQ(answer.number(2), id);
    EXPECT_EQ(answer.number(3), ttl);
    EXPECT_EQ(answer.revision(), 1);
  }
  alive->handler->OnHalfClose();
  EXPECT_TRUE(alive->ended && alive->code == GrpcCode::kOk);
}

TEST_F(ServiceTest, ALeaseThatIsDueIsAnsweredByItsRevocation) {
  Begin();
  Ok(Ask(kGrant, GrantBytes(5, 60)));
  service->leases()->Grant(5, 0, 0);  // over since long
  FakeCall* const alive = Open(kAlive);
  Send(alive, RevokeBytes(5));
  Send(alive, RevokeBytes(9));
  EXPECT_TRUE(alive->done());
  WriteGroup expiry;
  expiry.AddOutside(1, kTagLeaseRevoke, RevokeBytes(5));
  ASSERT_TRUE(service->Propose(&expiry));
  TurnUntil([alive] { return alive->messages.size() == 2; });
  EXPECT_EQ(alive->Next().number(3), 0);
  EXPECT_EQ(alive->Next().number(2), 9);
}

// -- what Python hears, and says

TEST_F(ServiceTest, EventsOfATurnAreOneWakeUp) {
  Begin();
  pollfd readable{service->events()->fd(), POLLIN, 0};
  EXPECT_EQ(poll(&readable, 1, 0), 0);
  FakeCall* const call = Begin("/x.Y/Cold", "ask");
  Begin("/x.Y/Cold", "more");
  service->TurnEnd(&thread);
  EXPECT_EQ(poll(&readable, 1, 0), 1);
  const std::vector<Event> events = service->events()->Take();
  EXPECT_EQ(poll(&readable, 1, 0), 0);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].kind, Event::kCall);
  EXPECT_EQ(events[0].text, "/x.Y/Cold");
  EXPECT_EQ(events[0].body, "ask");
  EXPECT_EQ(events[0].metadata.at(0).second, "value");
  service->EndCold(events[0].thread, events[0].call, static_cast<uint32_t>(events[0].number), GrpcCode::kOk, "told");
  Turn();
  EXPECT_EQ(call->messages.at(0), "told");
}

TEST_F(ServiceTest, AColdStreamIsWrittenAsFastAsItIsSent) {
  Begin();
  FakeCall* const call = Open("/x.Y/Stream");
  Send(call, "ask");
  const Event begun = Events(Event::kCall).at(0);
  service->SendCold(begun.thread, begun.call, "small");
  Turn();
  EXPECT_EQ(Events(Event::kWritable).size(), 1u);
  service->SendCold(begun.thread, begun.call, std::string(kUnsentHighBytes, 'x'));
  Turn();
  EXPECT_TRUE(Events(Event::kWritable).empty());
  call->unsent = 0;
  call->handler->OnWritable();
  EXPECT_EQ(Events(Event::kWritable).size(), 1u);
  service->EndCold(begun.thread, begun.call, static_cast<uint32_t>(begun.number), GrpcCode::kNotFound, "gone");
  Turn();
  EXPECT_EQ(call->code, GrpcCode::kNotFound);
  EXPECT_EQ(call->messages.size(), 2u);
  End(call);
  EXPECT_EQ(Events(Event::kEnd).size(), 1u);
}

TEST_F(ServiceTest, ACompactionIsReportedAndAPhysicalOneIsPythons) {
  Begin();
  for (int i = 0; i < 3; ++i) Ok(Ask(kPut, PutBytes("a", "v")));
  Ok(Ask(kCompact, CompactionBytes(3)));
  const Event committed = NextEvent(Event::kCommitted);
  EXPECT_EQ(committed.commands.at(0).tag, kTagCompaction);
  EXPECT_EQ(committed.commands.at(0).payload, CompactionBytes(3));
  std::string physical = CompactionBytes(4);
  AppendBool(&physical, 2, true);
  FakeCall* const call = Ask(kCompact, physical);
  EXPECT_EQ(Events(Event::kCall).at(0).text, kCompact);
  service->Gone(*service->Find(kCompact), call->id(), &thread);
  Turn();
  EXPECT_EQ(Events(Event::kEnd).size(), 1u);
}

TEST_F(ServiceTest, PythonsOwnWritesStandInTheSameOrder) {
  Begin();
  WriteGroup group;
  group.AddOutside(1, kTagPut, PutBytes("a", "1"));
  group.AddOutside(2, kTagPut, PutBytes("", "1"));
  group.AddOutside(3, kTagLeaseGrant, GrantBytes(5, 9));
  std::vector<Committed> answers;
  backend.before_commit = [](auto commands, auto results) -> Status {
    EXPECT_EQ(commands.size(), 3u);
    results[1].code = Code::kOk;
    return {};
  };
  ASSERT_TRUE(service->Propose(&group));
  answers = NextEvent(Event::kCommitted).commands;
  ASSERT_EQ(answers.size(), 3u);
  EXPECT_EQ(answers[0].token, 1u);
  EXPECT_EQ(answers[0].code, Code::kOk);
  EXPECT_EQ(Fields(answers[0].response).revision(), 2);
  EXPECT_EQ(answers[1].code, Code::kEmptyKey);
  EXPECT_TRUE(service->leases()->Contains(5));
}

TEST_F(ServiceTest, AFullQuotaRaisesTheAlarmOnceInFrontOfTheWriteThatIsTooMuch) {
  ServiceOptions options = TestOptions();
  options.quota_bytes = backend.memory_bytes() + 2'000;
  Begin(options);
  FakeCall* refused = Ended(Ask(kPut, PutBytes("a", std::string(3'000, 'v'))));
  EXPECT_EQ(refused->code, GrpcCode::kResourceExhausted);
  EXPECT_EQ(refused->text, "etcdserver: mvcc: database space exceeded");
  EXPECT_EQ(backend.batches, std::vector<size_t>{2});
  NextEvent(Event::kQuota);
  EXPECT_EQ(NextEvent(Event::kCommitted).commands.at(0).tag, kTagAlarm);
  refused = Ended(Ask(kPut, PutBytes("a", "small")));
  EXPECT_EQ(refused->code, GrpcCode::kResourceExhausted);
  EXPECT_EQ(backend.batches.back(), 1u) << "the alarm was raised again";
  Ok(Ask(kDelete, DeleteBytes("a")));
  WriteGroup disarm;
  disarm.AddOutside(1, kTagAlarm, AlarmBytes(2, 7, 1));
  ASSERT_TRUE(service->Propose(&disarm));
  ASSERT_TRUE(service->StopWrites(20'000));
  EXPECT_TRUE(service->quota()->ClaimAlarm()) << "disarmed, and yet nobody may raise it again";
}

TEST(QuotaTest, CostsAreEtcds) {
  EXPECT_EQ(QuotaCost(kTagPut, PutBytes("abc", "12345")), 256u + 8);
  EXPECT_EQ(QuotaCost(kTagLeaseGrant, GrantBytes(1, 2)), 64u);
  EXPECT_EQ(QuotaCost(kTagDeleteRange, DeleteBytes("a")), 0u);
  std::string nested, txn;
  AppendOp(&nested, 3, RequestOp::kPut, PutBytes("ab", ""));
  AppendOp(&txn, 2, RequestOp::kPut, PutBytes("a", "1"));
  AppendOp(&txn, 3, RequestOp::kTxn, nested);
  AppendOp(&txn, 3, RequestOp::kPut, PutBytes("a", ""));
  EXPECT_EQ(QuotaCost(kTagTxn, txn), 256u + 2 + 256u + 1);
}

// -- when things go wrong

TEST_F(ServiceTest, AFailedDiskIsToldToEveryCallerAndToPython) {
  Begin();
  backend.before_commit = [](auto, auto) -> Status { return {Code::kIoError, "cannot sync"}; };
  FakeCall* const call = Ended(Ask(kPut, PutBytes("a", "1")));
  EXPECT_EQ(call->code, GrpcCode::kUnavailable);
  EXPECT_EQ(call->text, "cannot sync");
  const Event failed = NextEvent(Event::kCommitted);
  EXPECT_EQ(failed.code, Code::kIoError);
  EXPECT_EQ(failed.text, "cannot sync");
}

TEST_F(ServiceTest, AFullDiskIsToldAsEtcdWouldAndItsEndToPython) {
  Begin();
  backend.before_commit = [](auto, auto) -> Status { return {Code::kNoSpace, "/secret/path: no space"}; };
  EXPECT_EQ(Ended(Ask(kPut, PutBytes("a", "1")))->text, "etcdserver: mvcc: database space exceeded");
  EXPECT_EQ(NextEvent(Event::kCommitted).code, Code::kNoSpace);
  backend.before_commit = nullptr;
  Ok(Ask(kPut, PutBytes("a", "1")));
  EXPECT_EQ(NextEvent(Event::kCommitted).code, Code::kOk);
}

TEST_F(ServiceTest, AWriteThatIsStuckIsAnsweredInTimeAndCommittedAllTheSame) {
  ServiceOptions options = TestOptions();
  options.request_timeout_ns = 1'000'000;
  options.at_once_writes_max = 0;
  Begin(options);
  std::latch go_on(1);
  backend.before_commit = [&go_on](auto, auto) -> Status {
    go_on.wait();
    return {};
  };
  FakeCall* const stuck = Ask(kPut, PutBytes("a", "1"));
  FakeCall* const behind = Ask(kPut, PutBytes("b", "1"));
  TurnUntil([&] { return stuck->ended && behind->ended; });
  EXPECT_EQ(stuck->code, GrpcCode::kUnavailable);
  EXPECT_EQ(behind->text, "etcdserver: request timed out");
  go_on.count_down();
  ASSERT_TRUE(service->StopWrites(20'000));
  Turn();
  EXPECT_EQ(backend.revision(), 3);
}

TEST_F(ServiceTest, StoppedCallsAreRefusedAndStreamsEnded) {
  Begin();
  FakeCall* const alive = Open(kAlive);
  FakeCall* const watch = Open("/etcdserverpb.Watch/Watch");
  service->StopCalls({&thread});
  Turn();
  FakeCall* const put = Ask(kPut, PutBytes("a", "1"));
  for (FakeCall* const call : {alive, watch, put}) {
    EXPECT_EQ(call->code, GrpcCode::kUnavailable);
    EXPECT_EQ(call->text, "etcdserver: server stopped");
  }
  ASSERT_TRUE(service->StopWrites(20'000));
  WriteGroup late;
  late.AddOutside(1, kTagPut, PutBytes("a", "1"));
  EXPECT_FALSE(service->Propose(&late));
  EXPECT_EQ(backend.revision(), 1);
}

TEST_F(ServiceTest, CountersTellWhatWasDone) {
  Begin();
  Ok(Ask(kPut, PutBytes("a", "1")));
  Ask(kPut, PutBytes("", "1"));
  std::map<std::string, uint64_t> counters;
  for (const auto& [name, value] : service->Counters()) counters[name] = value;
  EXPECT_EQ(counters["batches"], 1u);
  EXPECT_EQ(counters["commands"], 1u);
}

}  // namespace
}  // namespace fastkv::front
