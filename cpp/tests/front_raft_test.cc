// The service of a member of several: batches are pulled and applied by the test, as the node does it; reads wait for
// their confirmation, keep-alives for the leader, and who leads decides what is answered.

#include <atomic>
#include <latch>
#include <thread>

#include "front/service.h"
#include "mvcc/store.h"
#include "tests/commands.h"
#include "tests/front_fakes.h"

namespace fastkv::front {
namespace {

using namespace fastkv::testing;

constexpr std::string_view kRange = "/etcdserverpb.KV/Range", kPut = "/etcdserverpb.KV/Put",
                           kTxn = "/etcdserverpb.KV/Txn", kCompact = "/etcdserverpb.KV/Compact";
constexpr std::string_view kStream = "/etcdserverpb.KV/RangeStream", kAlive = "/etcdserverpb.Lease/LeaseKeepAlive";
constexpr std::string_view kGrant = "/etcdserverpb.Lease/LeaseGrant", kWatch = "/etcdserverpb.Watch/Watch";
constexpr uint64_t kMember = 7, kOther = 9;
constexpr int64_t kMs = 1'000'000;
const Metadata kNeedsLeader = {{"hasleader", "true"}};

class RaftTest : public ServiceTest {
 protected:
  static ServiceOptions ClusterOptions() {
    ServiceOptions options = TestOptions();
    options.first_sequence = 100;
    return options;
  }
  // A member of several that has a leader: itself, or another.
  void BeginCluster(bool is_leader = true, ServiceOptions options = ClusterOptions()) {
    Begin(std::move(options));
    service->SetLeader(is_leader, /*known=*/true, /*connected=*/true);
    if (is_leader) service->RestoreLeases({}, 0, 0);
    Turn();
  }
  void TearDown() override {
    if (service != nullptr) service->proposer()->GiveUp(Code::kStopped);
    ServiceTest::TearDown();
  }
  RaftProposer::Proposal Take(size_t bytes_max = SIZE_MAX) { return service->proposer()->Take(bytes_max); }
  void Apply(const RaftProposer::Proposal& proposal) {
    backend.Apply(kMember, proposal.data);
    Turn();
  }
  void ApplyAll() {
    for (RaftProposer::Proposal taken = Take(); taken.sequence != 0; taken = Take()) Apply(taken);
  }
  // Every read that waits may go on.
  void Confirm(Code code = Code::kOk) {
    service->reads()->Release(service->reads()->Take(), code);
    Turn();
  }
  // One entry of another member.
  void ApplyForeign(uint64_t tag, std::string_view payload) {
    std::string data;
    AppendBatchHeader(&data, kOther, 1);
    AppendCommand(&data, {tag, payload});
    backend.Apply(kMember, data);
    Turn();
  }
  static size_t CommandsIn(const RaftProposer::Proposal& proposal) {
    size_t count = 0;
    EXPECT_TRUE(ForEachCommand(proposal.data, [&count](const Command&) { return ++count > 0; }));
    return count;
  }
  FakeCall* Refused(FakeCall* call, GrpcCode code, std::string_view text) {
    Ended(call);
    EXPECT_EQ(call->code, code);
    EXPECT_EQ(call->text, text);
    return call;
  }
};

// -- proposals

TEST_F(RaftTest, ABatchIsPulledAndAnsweredWhenItIsApplied) {
  BeginCluster();
  FakeCall* const a = Begin(kPut, PutBytes("a", "1"));
  FakeCall* const b = Begin(kPut, PutBytes("b", "1"));
  Turn();
  EXPECT_EQ(Events(Event::kProposals).size(), 1u);
  const RaftProposer::Proposal taken = Take();
  EXPECT_EQ(taken.sequence, 100u);
  std::string expected;
  AppendBatchHeader(&expected, kMember, 100);
  AppendCommand(&expected, {kTagPut, PutBytes("a", "1")});
  AppendCommand(&expected, {kTagPut, PutBytes("b", "1")});
  EXPECT_EQ(taken.data, expected);
  Turn();
  EXPECT_FALSE(a->ended || b->ended) << "answered before it was applied";
  EXPECT_EQ(Take().sequence, 0u);
  Apply(taken);
  EXPECT_EQ(Ok(a).revision(), 2);
  EXPECT_EQ(Ok(b).revision(), 3);
  EXPECT_TRUE(backend.batches.empty()) << "it was committed beside Raft";
}

TEST_F(RaftTest, ManyBatchesAreOpenAndEachAnswersItsOwnAskers) {
  BeginCluster();
  std::vector<FakeCall*> calls;
  std::vector<RaftProposer::Proposal> taken;
  for (int i = 0; i < 5; ++i) {
    calls.push_back(Ask(kPut, PutBytes("k" + std::to_string(i), "v")));
    taken.push_back(Take());
    EXPECT_EQ(Events(Event::kProposals).size(), 1u) << "who takes is not told of what comes next";
    EXPECT_EQ(taken.back().sequence, 100u + i);
  }
  EXPECT_EQ(service->proposer()->open(), 5u);
  for (int i = 0; i < 5; ++i) {
    EXPECT_FALSE(calls[i]->ended);
    Apply(taken[i]);
    EXPECT_EQ(Ok(calls[i]).revision(), i + 2);
  }
  EXPECT_EQ(service->proposer()->open(), 0u);
}

TEST_F(RaftTest, ABatchIsNoLargerThanAskedAndTheRestIsToldAgain) {
  BeginCluster();
  for (int i = 0; i < 4; ++i) Ask(kPut, PutBytes("k", std::string(100, 'v')));
  Events(Event::kProposals);
  EXPECT_EQ(CommandsIn(Take(300)), 2u);
  EXPECT_EQ(Events(Event::kProposals).size(), 1u);
  EXPECT_EQ(CommandsIn(Take(1)), 1u) << "one write at least";
  EXPECT_EQ(Events(Event::kProposals).size(), 1u);
  EXPECT_EQ(CommandsIn(Take(300)), 1u);
  EXPECT_EQ(Events(Event::kProposals).size(), 0u);
}

TEST_F(RaftTest, ASettledBatchIsAnErrorForAllItsAskersAndNothingElse) {
  BeginCluster();
  FakeCall* const lost = Ask(kPut, PutBytes("a", "1"));
  WriteGroup own;
  own.AddOutside(5, kTagPut, PutBytes("b", "1"));
  ASSERT_TRUE(service->Propose(&own));
  const RaftProposer::Proposal first = Take();
  FakeCall* const kept = Ask(kPut, PutBytes("c", "1"));
  const RaftProposer::Proposal second = Take();
  EXPECT_TRUE(service->proposer()->Settle(first.sequence, Code::kLeaderChanged));
  EXPECT_FALSE(service->proposer()->Settle(first.sequence, Code::kLeaderChanged)) << "answered twice";
  Refused(lost, GrpcCode::kUnavailable, "etcdserver: leader changed");
  const Event told = NextEvent(Event::kCommitted);
  EXPECT_EQ(told.code, Code::kOk) << "the world has done nothing";
  ASSERT_EQ(told.commands.size(), 1u);
  EXPECT_EQ(told.commands[0].token, 5u);
  EXPECT_EQ(told.commands[0].code, Code::kLeaderChanged);
  // Its fate was not known: it may be applied all the same.
  Apply(first);
  Apply(second);
  EXPECT_EQ(Ok(kept).revision(), 4);
  EXPECT_FALSE(service->proposer()->Settle(second.sequence, Code::kTimedOut));
}

TEST_F(RaftTest, ABatchThatIsAppliedWhileItIsSettledIsAnsweredOnce) {
  BeginCluster();
  for (int round = 0; round < 300; ++round) {
    FakeCall* const call = Begin(kGrant, GrantBytes(1'000 + round, 60));
    WriteGroup own;
    own.AddOutside(round + 1, kTagAlarm, AlarmBytes(0, 0, 0));
    ASSERT_TRUE(service->Propose(&own));
    Turn();
    const RaftProposer::Proposal taken = Take();
    ASSERT_EQ(CommandsIn(taken), 2u);
    std::latch go(2);
    bool settled = false;
    std::thread settler([&] {
      go.arrive_and_wait();
      settled = service->proposer()->Settle(taken.sequence, Code::kTimedOut);
    });
    go.arrive_and_wait();
    backend.Apply(kMember, taken.data);
    settler.join();
    Turn();
    ASSERT_TRUE(call->ended);
    EXPECT_EQ(call->code, settled ? GrpcCode::kUnavailable : GrpcCode::kOk);
    size_t answers = 0;
    for (const Event& event : Events(Event::kCommitted)) {
      for (const Committed& command : event.commands) answers += command.token == static_cast<uint64_t>(round + 1);
    }
    EXPECT_EQ(answers, 1u);
  }
}

TEST_F(RaftTest, AnOverdueWriteIsRefusedByItsTimeAndItsLateResultIsDropped) {
  ServiceOptions options = ClusterOptions();
  options.request_timeout_ns = kMs;
  BeginCluster(/*is_leader=*/false, options);
  FakeCall* const taken_call = Ask(kPut, PutBytes("a", "1"));
  const RaftProposer::Proposal taken = Take();
  FakeCall* const waiting_call = Ask(kPut, PutBytes("b", "1"));
  Refused(taken_call, GrpcCode::kUnavailable, "etcdserver: request timed out");
  Refused(waiting_call, GrpcCode::kUnavailable, "etcdserver: request timed out");
  Apply(taken);
  ApplyAll();
  EXPECT_TRUE(taken_call->messages.empty());
  EXPECT_EQ(backend.revision(), 3) << "an overdue write is done all the same";
}

TEST_F(RaftTest, AnOverdueWriteIsToldWhatMayBeTheReason) {
  ServiceOptions options = ClusterOptions();
  options.request_timeout_ns = 50 * kMs;
  options.election_timeout_ns = 60'000 * kMs;
  BeginCluster(/*is_leader=*/false, options);
  FakeCall* const before_election = Ask(kPut, PutBytes("a", "1"));
  service->SetLeader(false, /*known=*/true, true);
  Refused(before_election, GrpcCode::kUnavailable, "timed out, leader failed");
  service->SetLeader(false, true, /*connected=*/false);
  Refused(Ask(kPut, PutBytes("a", "1")), GrpcCode::kUnavailable, "timed out, disconnected");
  service->SetLeader(false, /*known=*/false, true);
  Refused(Ask(kPut, PutBytes("a", "1")), GrpcCode::kDeadlineExceeded, "context deadline exceeded");
}

TEST_F(RaftTest, WhatIsOpenCountsAmongWhatWaits) {
  ServiceOptions options = ClusterOptions();
  options.committer.waiting_writes_max = 3;
  BeginCluster(true, options);
  FakeCall* const a = Ask(kPut, PutBytes("a", "1"));
  const RaftProposer::Proposal taken = Take();
  FakeCall* const b = Begin(kPut, PutBytes("b", "1"));
  FakeCall* const c = Begin(kPut, PutBytes("c", "1"));
  Turn();
  Refused(Ask(kPut, PutBytes("d", "1")), GrpcCode::kUnknown, "etcdserver: too many requests");
  WriteGroup own;
  own.AddOutside(1, kTagPut, PutBytes("e", "1"));
  EXPECT_TRUE(service->Propose(&own)) << "the node's own writes make room";
  Apply(taken);
  ApplyAll();
  for (FakeCall* const call : {a, b, c}) Ok(call);
  FakeCall* const again = Ask(kPut, PutBytes("d", "1"));
  ApplyAll();
  Ok(again);
}

TEST_F(RaftTest, ADirectMemberIsSwitchedOverUnderLoadAndLosesNothing) {
  Begin();
  std::vector<FakeCall*> calls;
  auto put = [&] {
    calls.push_back(Begin(kPut, PutBytes("k" + std::to_string(calls.size()), "v")));
    Turn();
  };
  std::latch committing(1), go_on(1);
  backend.before_commit = [&](auto, auto) -> Status {
    committing.count_down();
    go_on.wait();
    return {};
  };
  for (int i = 0; i < 10; ++i) Begin(kRange, RangeBytes("x"));  // so that the committer's thread commits
  put();
  committing.wait();
  for (int i = 0; i < 3; ++i) put();
  std::thread release([&] { go_on.count_down(); });
  service->UseRaft(50);
  release.join();
  backend.before_commit = [](auto, auto) -> Status { return {Code::kReadOnly, "not alone any more"}; };
  for (int i = 0; i < 3; ++i) put();
  const RaftProposer::Proposal taken = Take();
  EXPECT_EQ(taken.sequence, 50u);
  size_t commands = CommandsIn(taken);
  EXPECT_GE(commands, 3u) << "what came behind the switch";
  for (const size_t committed : backend.batches) commands += committed;
  EXPECT_EQ(commands, calls.size()) << "what had gathered went one of the two ways";
  Apply(taken);
  int64_t revision = 1;
  for (FakeCall* const call : calls) EXPECT_EQ(Ok(call).revision(), ++revision);
  FakeCall* const read = Ask(kRange, RangeBytes("k0"));
  EXPECT_FALSE(read->ended);
  service->reads()->Release(service->reads()->Take(), Code::kOk);
  EXPECT_EQ(Ok(read).revision(), revision);
}

TEST_F(RaftTest, StoppingWaitsForWhatIsOpenAndThenAnswersIt) {
  BeginCluster();
  FakeCall* const applied = Ask(kPut, PutBytes("a", "1"));
  const RaftProposer::Proposal first = Take();
  std::thread node([&] { backend.Apply(kMember, first.data); });
  EXPECT_TRUE(service->StopWrites(20'000));
  node.join();
  Turn();
  Ok(applied);
  EXPECT_EQ(service->proposer()->open(), 0u);
}

TEST_F(RaftTest, WhatNobodyAppliesIsAnsweredWhenTheServerHasStopped) {
  BeginCluster();
  FakeCall* const open = Ask(kPut, PutBytes("a", "1"));
  const RaftProposer::Proposal taken = Take();
  FakeCall* const waiting = Ask(kPut, PutBytes("b", "1"));
  EXPECT_FALSE(service->StopWrites(1));
  Turn();
  for (FakeCall* const call : {open, waiting}) Refused(call, GrpcCode::kUnavailable, "etcdserver: server stopped");
  EXPECT_EQ(Take().sequence, 0u);
  Apply(taken);  // nobody expects it any more
}

// -- what is followed

TEST_F(RaftTest, CompactionsAndAlarmsOfEveryMemberAreToldInTheOrderOfTheLog) {
  BeginCluster(/*is_leader=*/false);
  for (int i = 0; i < 3; ++i) ApplyForeign(kTagPut, PutBytes("a", "v"));
  ApplyForeign(kTagCompaction, CompactionBytes(2));
  FakeCall* const own = Ask(kCompact, CompactionBytes(3));
  WriteGroup python;
  python.AddOutside(8, kTagAlarm, AlarmBytes(1, kMember, 1));
  python.AddOutside(9, kTagPut, PutBytes("b", "v"));
  ASSERT_TRUE(service->Propose(&python));
  ApplyAll();
  ApplyForeign(kTagAlarm, AlarmBytes(2, kMember, 1));
  Ok(own);
  std::vector<Committed> told;
  for (Event& event : Events(Event::kCommitted)) {
    for (Committed& command : event.commands) told.push_back(std::move(command));
  }
  ASSERT_EQ(told.size(), 5u);
  EXPECT_EQ(told[0].payload, CompactionBytes(2));
  EXPECT_EQ(told[1].payload, CompactionBytes(3));
  EXPECT_EQ(told[2].token, 8u);
  EXPECT_EQ(told[3].token, 9u);
  EXPECT_EQ(told[3].code, Code::kNoSpace) << "behind the alarm, in the log and here";
  EXPECT_EQ(told[4].token, 0u);
  EXPECT_EQ(told[4].payload, AlarmBytes(2, kMember, 1));
  EXPECT_TRUE(service->quota()->ClaimAlarm()) << "another member's command has disarmed ours";
}

TEST_F(RaftTest, OnlyTheLeadersClockFollowsLeases) {
  BeginCluster(/*is_leader=*/false);
  ApplyForeign(kTagLeaseGrant, GrantBytes(5, 60));
  EXPECT_EQ(service->leases()->size(), 0u);
  service->SetLeader(true, true, true);
  ApplyForeign(kTagLeaseGrant, GrantBytes(6, 60));
  service->RestoreLeases({{5, 60, 0}}, 0, 0);
  EXPECT_EQ(service->leases()->size(), 2u) << "what was applied between the change and the restoring";
  ApplyForeign(kTagLeaseRevoke, RevokeBytes(6));
  EXPECT_FALSE(service->leases()->Contains(6));
  EXPECT_TRUE(Events(Event::kCommitted).empty()) << "Python need not hear of leases";
  service->SetLeader(false, true, true);
  EXPECT_EQ(service->leases()->size(), 0u);
}

// -- reads

TEST_F(RaftTest, LinearizableReadsWaitForTheirConfirmationTogether) {
  BeginCluster();
  ApplyForeign(kTagPut, PutBytes("a", "1"));
  std::string only_reads, serializable_reads;
  AppendOp(&only_reads, 2, RequestOp::kRange, RangeBytes("a"));
  AppendOp(&serializable_reads, 2, RequestOp::kRange, RangeBytes("a", "", {.serializable = true}));
  FakeCall* const range = Begin(kRange, RangeBytes("a"));
  FakeCall* const txn = Begin(kTxn, only_reads);
  FakeCall* const stream = Open(kStream);
  stream->handler->OnMessage(RangeBytes("a", "b"));
  Turn();
  EXPECT_EQ(Events(Event::kReads).size(), 1u);
  EXPECT_FALSE(range->ended || txn->ended || stream->ended);
  const uint64_t group = service->reads()->Take();
  EXPECT_NE(group, 0u);
  FakeCall* const later = Ask(kRange, RangeBytes("a"));
  EXPECT_EQ(Events(Event::kReads).size(), 1u);
  ApplyForeign(kTagPut, PutBytes("a", "2"));
  EXPECT_TRUE(service->reads()->Release(group, Code::kOk));
  EXPECT_FALSE(service->reads()->Release(group, Code::kOk));
  EXPECT_EQ(Fields(Ok(range).bytes(2)).bytes(5), "2");
  EXPECT_EQ(Ok(txn).revision(), 3);
  Ended(stream);
  EXPECT_EQ(stream->code, GrpcCode::kOk) << stream->text;
  EXPECT_EQ(stream->messages.size(), 1u);
  EXPECT_FALSE(later->ended) << "it began after its confirmation";
  service->reads()->Release(service->reads()->Take(), Code::kOk);
  Ok(later);
  EXPECT_EQ(service->reads()->Take(), 0u);
  // Serializable ones, and those that are refused whatever the store holds, wait for nobody.
  service->SetLeader(false, /*known=*/false, true);
  Ok(Ask(kRange, RangeBytes("a", "", {.serializable = true})));
  Ok(Ask(kTxn, serializable_reads));
  Ok(Ask(kTxn, ""));
  EXPECT_EQ(Ask(kRange, RangeBytes(""))->text, "etcdserver: key is not provided");
  FakeCall* const streamed = Open(kStream);
  Send(streamed, RangeBytes("a", "b", {.serializable = true}));
  EXPECT_EQ(Ended(streamed)->code, GrpcCode::kOk);
}

TEST_F(RaftTest, ReadsThatCannotBeConfirmedAreRefused) {
  BeginCluster();
  FakeCall* const range = Ask(kRange, RangeBytes("a"));
  FakeCall* const stream = Open(kStream);
  Send(stream, RangeBytes("a", "b"));
  service->reads()->Release(service->reads()->Take(), Code::kLeaderChanged);
  Refused(range, GrpcCode::kUnavailable, "etcdserver: leader changed");
  Refused(stream, GrpcCode::kUnavailable, "etcdserver: leader changed");
}

TEST_F(RaftTest, AParkedReadEndsByItsTime) {
  ServiceOptions options = ClusterOptions();
  options.request_timeout_ns = kMs;
  BeginCluster(false, options);
  FakeCall* const taken = Ask(kRange, RangeBytes("a"));
  const uint64_t group = service->reads()->Take();
  FakeCall* const waiting = Ask(kRange, RangeBytes("a"));
  for (FakeCall* const call : {taken, waiting}) {
    Refused(call, GrpcCode::kUnavailable, "etcdserver: request timed out");
  }
  EXPECT_EQ(service->reads()->size(), 0u);
  EXPECT_TRUE(service->reads()->Release(group, Code::kOk)) << "who took it need not know";
}

TEST_F(RaftTest, AParkedReadWhoseClientIsGoneIsForgotten) {
  BeginCluster();
  FakeCall* const range = Ask(kRange, RangeBytes("a"));
  range->ended = true;
  service->Gone(*service->Find(kRange), range->id(), &thread);
  FakeCall* const stream = Open(kStream);
  Send(stream, RangeBytes("a", "b"));
  End(stream);
  service->reads()->Release(service->reads()->Take(), Code::kOk);
  Turn();
  EXPECT_TRUE(range->messages.empty() && stream->messages.empty());
}

TEST_F(RaftTest, ParkedReadsAreBoundedAndEndWithTheServer) {
  ServiceOptions options = ClusterOptions();
  options.reads.parked_reads_max = 2;
  BeginCluster(true, options);
  FakeCall* const first = Begin(kRange, RangeBytes("a"));
  FakeCall* const second = Begin(kRange, RangeBytes("a"));
  Turn();
  Refused(Ask(kRange, RangeBytes("a")), GrpcCode::kUnknown, "etcdserver: too many requests");
  service->reads()->Take();
  service->StopCalls({&thread});
  for (FakeCall* const call : {first, second, Ask(kRange, RangeBytes("a"))}) {
    Refused(call, GrpcCode::kUnavailable, "etcdserver: server stopped");
  }
  EXPECT_EQ(service->reads()->size(), 0u);
}

// -- keep-alives

TEST_F(RaftTest, AFollowerAsksTheLeaderToRenewWhatATurnHasGathered) {
  BeginCluster(/*is_leader=*/false);
  FakeCall* const one = Open(kAlive);
  FakeCall* const other = Open(kAlive);
  one->handler->OnMessage(RevokeBytes(5));
  one->handler->OnMessage(RevokeBytes(6));
  other->handler->OnMessage(RevokeBytes(5));
  Turn();
  const std::vector<Event> asked = Events(Event::kRenew);
  ASSERT_EQ(asked.size(), 1u);
  EXPECT_EQ(asked[0].leases, (std::vector<int64_t>{5, 6, 5}));
  service->Renewed({{6, 0}});
  Turn();
  EXPECT_TRUE(one->messages.empty()) << "out of order";
  service->Renewed({{5, 60}});
  Turn();
  for (const auto& [id, ttl] : {std::pair<int64_t, int64_t>{5, 60}, {6, 0}}) {
    const Fields answer = one->Next();
    EXPECT_EQ(answer.number(2), id);
    EXPECT_EQ(answer.number(3), ttl);
  }
  EXPECT_EQ(other->Next().number(3), 60);
  Send(one, RevokeBytes(5));
  EXPECT_EQ(Events(Event::kRenew).at(0).leases, std::vector<int64_t>{5}) << "an old answer was given again";
  End(one);
  service->Renewed({{5, 60}});
  Turn();
  EXPECT_TRUE(other->done());
}

TEST_F(RaftTest, KeepAlivesOutliveChangesOfTheLeader) {
  BeginCluster(/*is_leader=*/false);
  FakeCall* const alive = Open(kAlive);
  Send(alive, RevokeBytes(5));
  EXPECT_EQ(Events(Event::kRenew).size(), 1u);
  service->SetLeader(false, /*known=*/false, true);
  Send(alive, RevokeBytes(6));
  EXPECT_TRUE(Events(Event::kRenew).empty()) << "there is nobody to ask";
  service->SetLeader(false, true, true);
  Turn();
  EXPECT_EQ(Events(Event::kRenew).at(0).leases, (std::vector<int64_t>{5, 6}));
  service->SetLeader(true, true, true);
  Turn();
  EXPECT_TRUE(alive->done()) << "answered before the clock was restored";
  const double now = static_cast<double>(NowNs()) * 1e-9;
  service->RestoreLeases({{5, 60, 0}}, now, 0);
  Turn();
  EXPECT_TRUE(alive->done()) << "answered before a majority had confirmed who leads";
  Confirm();
  EXPECT_EQ(alive->Next().number(3), 60);
  EXPECT_EQ(alive->Next().number(3), 0);
  // One that waits for a revocation here is the next leader's to answer.
  service->leases()->Grant(5, 0, 0);
  Send(alive, RevokeBytes(5));
  Confirm();
  EXPECT_TRUE(alive->done());
  service->SetLeader(false, true, true);
  Turn();
  EXPECT_EQ(Events(Event::kRenew).at(0).leases, std::vector<int64_t>{5});
  service->Renewed({{5, 60}});
  Turn();
  EXPECT_EQ(alive->Next().number(3), 60);
}

TEST_F(RaftTest, ALeaderRenewsALeaseOnceItIsConfirmed) {
  BeginCluster(/*is_leader=*/true);
  ApplyForeign(kTagLeaseGrant, GrantBytes(5, 60));
  FakeCall* const first = Open(kAlive);
  FakeCall* const second = Open(kAlive);
  first->handler->OnMessage(RevokeBytes(5));
  first->handler->OnMessage(RevokeBytes(6));
  second->handler->OnMessage(RevokeBytes(5));
  Turn();
  EXPECT_EQ(service->reads()->size(), 1u) << "one confirmation for all of a turn";
  const uint64_t group = service->reads()->Take();
  Send(second, RevokeBytes(5));
  EXPECT_TRUE(first->done() && second->done());
  service->reads()->Release(group, Code::kOk);
  Turn();
  EXPECT_EQ(first->Next().number(3), 60);
  EXPECT_EQ(first->Next().number(3), 0);
  EXPECT_EQ(second->Next().number(3), 60);
  EXPECT_TRUE(second->done()) << "answered by a confirmation that began before the request";
  Confirm();
  EXPECT_EQ(second->Next().number(3), 60);
  FakeCall* const gone = Open(kAlive);
  Send(gone, RevokeBytes(5));
  End(gone);
  Send(first, RevokeBytes(5));
  Confirm(Code::kTimedOut);
  Refused(first, GrpcCode::kUnavailable, "etcdserver: request timed out");
  EXPECT_FALSE(second->ended) << "it had asked for nothing";
}

TEST_F(RaftTest, AKeepAliveThatNobodyAnswersEndsByItsTime) {
  ServiceOptions options = ClusterOptions();
  options.request_timeout_ns = kMs;
  BeginCluster(/*is_leader=*/false, options);
  FakeCall* const asked = Open(kAlive);
  Send(asked, RevokeBytes(5));
  Refused(asked, GrpcCode::kUnavailable, "etcdserver: request timed out");
  service->SetLeader(false, /*known=*/false, true);
  FakeCall* const silent = Open(kAlive);
  FakeCall* const leaderless = Open(kAlive);
  Send(leaderless, RevokeBytes(5));
  Refused(leaderless, GrpcCode::kUnavailable, "etcdserver: no leader");
  EXPECT_FALSE(silent->ended);
}

// -- who leads

TEST_F(RaftTest, WhoNeedsALeaderIsToldThatThereIsNone) {
  ServiceOptions options = ClusterOptions();
  options.election_timeout_ns = kMs;
  Begin(options);
  FakeCall* const put = Begin(kPut, PutBytes("a", "1"), kNeedsLeader);
  Turn();
  Refused(put, GrpcCode::kUnavailable, "etcdserver: no leader");
  Refused(Begin("/x.Y/Cold", "ask", kNeedsLeader), GrpcCode::kUnavailable, "etcdserver: no leader");
  Refused(Open(kWatch, kNeedsLeader), GrpcCode::kUnavailable, "etcdserver: no leader");
  FakeCall* const patient = Ask(kPut, PutBytes("a", "1"));
  service->SetLeader(false, /*known=*/true, true);
  FakeCall* const watch = Open(kWatch, kNeedsLeader);
  FakeCall* const careless = Open(kWatch, {{"hasleader", "false"}});
  FakeCall* const alive = Open(kAlive, kNeedsLeader);
  ApplyAll();
  Ok(patient);
  service->SetLeader(false, false, true);
  Refused(watch, GrpcCode::kUnavailable, "etcdserver: no leader");
  Refused(alive, GrpcCode::kUnavailable, "etcdserver: no leader");
  EXPECT_FALSE(careless->ended);
}

TEST_F(RaftTest, AStreamThatNeedsALeaderSurvivesAShortElection) {
  ServiceOptions options = ClusterOptions();
  options.election_timeout_ns = 10 * kMs;
  BeginCluster(false, options);
  FakeCall* const watch = Open(kWatch, kNeedsLeader);
  service->SetLeader(false, false, true);
  service->SetLeader(false, true, true);
  service->SetLeader(false, false, true);
  FakeCall* const put = Begin(kPut, PutBytes("a", "1"), kNeedsLeader);
  EXPECT_TRUE(put->ended);
  service->SetLeader(false, true, true);
  // Behind the end of the last wait for a leader, as the ticker goes by time.
  std::latch later(1);
  Ticker ticker;
  ticker.After(4 * options.election_timeout_ns, [&later] { later.count_down(); });
  later.wait();
  Turn();
  EXPECT_FALSE(watch->ended) << watch->text;
}

TEST_F(RaftTest, ALearnerServesSerializableRangesOnly) {
  BeginCluster(false);
  service->SetLearner(true);
  constexpr std::string_view kText = "etcdserver: rpc not supported for learner";
  Ok(Ask(kRange, RangeBytes("a", "", {.serializable = true})));
  Refused(Ask(kRange, RangeBytes("a")), GrpcCode::kFailedPrecondition, kText);
  Refused(Ask(kPut, PutBytes("a", "1")), GrpcCode::kFailedPrecondition, kText);
  Refused(Open(kWatch), GrpcCode::kFailedPrecondition, kText);
  service->SetLearner(false);
  FakeCall* const put = Ask(kPut, PutBytes("a", "1"));
  ApplyAll();
  Ok(put);
}

// -- threads

TEST_F(RaftTest, ThreadsThatAskPullApplyAndConfirmAnswerEverythingOnce) {
  BeginCluster();
  std::atomic<bool> stop{false};
  std::thread node([&] {
    pollfd readable{service->events()->fd(), POLLIN, 0};
    while (!stop) {
      poll(&readable, 1, 10);
      for (const Event& event : service->events()->Take()) {
        if (event.kind == Event::kReads) {
          const uint64_t group = service->reads()->Take();
          if (group != 0) service->reads()->Release(group, Code::kOk);
        }
      }
      for (RaftProposer::Proposal taken = Take(); taken.sequence != 0; taken = Take()) {
        if (taken.sequence % 7 == 0 && service->proposer()->Settle(taken.sequence, Code::kTimedOut)) continue;
        backend.Apply(kMember, taken.data);
      }
    }
  });
  std::vector<FakeCall*> calls;
  for (int i = 0; i < 2'000; ++i) {
    calls.push_back(Begin(kPut, PutBytes("k" + std::to_string(i), "v")));
    calls.push_back(Begin(kRange, RangeBytes("k" + std::to_string(i))));
    if (i % 5 == 0) Turn();
  }
  TurnUntil([&] { return std::all_of(calls.begin(), calls.end(), [](FakeCall* call) { return call->ended; }); });
  stop = true;
  node.join();
  for (FakeCall* const call : calls) {
    EXPECT_TRUE(call->code == GrpcCode::kOk || call->text == "etcdserver: request timed out") << call->text;
  }
}

}  // namespace
}  // namespace fastkv::front
