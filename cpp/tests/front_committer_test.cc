// The committer by itself: what becomes one batch, who commits it, what is refused, what is overdue. And the lease
// clock, whose time is an argument.

#include <gtest/gtest.h>

#include <cmath>
#include <latch>
#include <semaphore>

#include "front/committer.h"
#include "front/lease_clock.h"
#include "tests/front_fakes.h"

namespace fastkv::front {
namespace {

// Waits for the test's leave, then is done.
class SlowProposer final : public Proposer {
 public:
  void Propose(std::unique_ptr<Batch> batch, BatchSink* sink) override {
    batches.push_back(batch->commands.size());
    thread = std::this_thread::get_id();
    began.release();
    EXPECT_TRUE(!slow || go_on.try_acquire_for(kDeadline));
    batch->results.resize(batch->commands.size());
    batch->took_ns = took_ns;
    sink->Done(std::move(batch));
  }
  std::vector<size_t> batches;
  std::thread::id thread;
  std::counting_semaphore<> began{0}, go_on{0};
  bool slow = true;
  int64_t took_ns = 0;
};

class CountingSink final : public BatchSink {
 public:
  void Done(std::unique_ptr<Batch> batch) override { commands += batch->commands.size(); }
  std::atomic<size_t> commands{0};
};

class CommitterTest : public ::testing::Test {
 protected:
  void Begin(CommitterOptions options = {}) {
    committer = std::make_unique<Committer>(&proposer, options, &sink, [](const std::string&) { FAIL(); });
    committer->Start();
  }
  WriteGroup Group(size_t writes, size_t bytes = 10, int64_t began_ns = 0, IoThread* thread = nullptr) {
    WriteGroup group;
    group.thread = thread;
    group.began_ns = began_ns;
    for (size_t i = 0; i < writes; ++i) {
      Write write;
      write.from = Write::kCall;
      write.asker = ++calls;
      group.Add(write, std::string(bytes, 'x'));
    }
    return group;
  }
  Committer::Taken Submit(WriteGroup group, bool at_once = false) { return committer->Submit(&group, at_once); }

  SlowProposer proposer;
  CountingSink sink;
  uint64_t calls = 0;
  std::unique_ptr<Committer> committer;
};

TEST_F(CommitterTest, WhatComesDuringACommitIsOneBatch) {
  Begin();
  Submit(Group(1));
  proposer.began.acquire();
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Submit(Group(2), /*at_once=*/true), Committer::Taken::kYes);
  proposer.go_on.release(2);
  EXPECT_TRUE(committer->Stop(20'000));
  EXPECT_EQ(proposer.batches, (std::vector<size_t>{1, 10}));
  EXPECT_EQ(sink.commands, 11u);
  EXPECT_EQ(Submit(Group(1)), Committer::Taken::kStopped);
}

TEST_F(CommitterTest, ABatchIsClosedWhenItIsLarge) {
  CommitterOptions options;
  options.batch_bytes_max = 100;
  Begin(options);
  Submit(Group(1));
  proposer.began.acquire();
  for (int i = 0; i < 4; ++i) Submit(Group(1, 40));
  Submit(Group(1, 500));
  proposer.go_on.release(5);
  EXPECT_TRUE(committer->Stop(20'000));
  EXPECT_EQ(proposer.batches, (std::vector<size_t>{1, 2, 2, 1}));
}

TEST_F(CommitterTest, OnlyWhoFindsItIdleCommitsAtOnce) {
  proposer.slow = false;
  Begin();
  Submit(Group(1), /*at_once=*/true);
  EXPECT_EQ(proposer.thread, std::this_thread::get_id());
  EXPECT_EQ(committer->at_once_count(), 1u);
  EXPECT_EQ(sink.commands, 1u);
}

TEST_F(CommitterTest, NobodyWaitsForASlowDiskInHisOwnThread) {
  CommitterOptions options;
  proposer.slow = false;
  proposer.took_ns = options.at_once_ns_max + 1;
  Begin(options);
  Submit(Group(1), /*at_once=*/true);
  Submit(Group(1), /*at_once=*/true);
  EXPECT_TRUE(committer->Stop(20'000));
  EXPECT_EQ(committer->at_once_count(), 1u);
  EXPECT_NE(proposer.thread, std::this_thread::get_id());
  EXPECT_EQ(sink.commands, 2u);
}

TEST_F(CommitterTest, WhatWaitsIsBounded) {
  FakeThread thread;
  CommitterOptions options;
  options.waiting_writes_max = 10;
  options.waiting_bytes_max = 1'000;
  Begin(options);
  Submit(Group(1));
  proposer.began.acquire();
  EXPECT_EQ(Submit(Group(10)), Committer::Taken::kYes);
  WriteGroup refused = Group(1, 10, 0, &thread);
  EXPECT_EQ(committer->Submit(&refused, false), Committer::Taken::kFull);
  EXPECT_EQ(refused.writes.size(), 1u) << "it was taken all the same";
  proposer.go_on.release(1);
  proposer.began.acquire();
  EXPECT_EQ(Submit(Group(1, 5'000)), Committer::Taken::kYes) << "refused although nothing waits";
  EXPECT_EQ(Submit(Group(1, 10, 0, &thread)), Committer::Taken::kFull);
  proposer.go_on.release(2);
  EXPECT_TRUE(committer->Stop(20'000));
  EXPECT_EQ(sink.commands, 12u);
}

TEST_F(CommitterTest, OverdueCallsAreNamedOnce) {
  FakeThread thread;
  Begin();
  Submit(Group(1, 10, /*began_ns=*/100, &thread));
  proposer.began.acquire();
  Submit(Group(1, 10, /*began_ns=*/200, &thread));
  Submit(Group(1, 10, /*began_ns=*/150, nullptr));
  auto named = [this](int64_t before_ns) {
    std::vector<uint64_t> ids;
    for (const auto& call : committer->Overdue(before_ns)) ids.push_back(call.call_id);
    return ids;
  };
  EXPECT_EQ(named(100), std::vector<uint64_t>{});
  EXPECT_EQ(named(160), std::vector<uint64_t>{1});
  EXPECT_EQ(named(300), std::vector<uint64_t>{2});
  EXPECT_EQ(named(400), std::vector<uint64_t>{});
  EXPECT_FALSE(committer->Stop(0)) << "stopped although a batch is being committed";
  proposer.go_on.release(2);
  EXPECT_TRUE(committer->Stop(20'000));
}

// -- leases

TEST(LeaseClockTest, ALeaseExpiresOnceAndStaysUntilItIsRevoked) {
  LeaseClock clock;
  clock.Grant(1, 10, 0);
  EXPECT_EQ(clock.NextDeadline(), 10);
  EXPECT_TRUE(clock.Expired(9.9, 100).empty());
  EXPECT_EQ(clock.Expired(10, 100), std::vector<int64_t>{1});
  EXPECT_TRUE(clock.Expired(11, 100).empty()) << "it was named twice";
  EXPECT_TRUE(clock.IsExpired(1, 11));
  clock.Retry(1);
  clock.Retry(1);
  EXPECT_EQ(clock.Expired(11, 100), std::vector<int64_t>{1});
  clock.Revoke(1);
  clock.Retry(1);
  EXPECT_TRUE(std::isinf(clock.NextDeadline()));
}

TEST(LeaseClockTest, ARenewedLeaseEndsLater) {
  LeaseClock clock;
  clock.Grant(1, 10, 0);
  clock.Grant(2, 12, 0);
  for (int now = 1; now < 100'000; ++now) EXPECT_EQ(clock.Renew(1, now % 9), 10);
  EXPECT_EQ(clock.Renew(1, 5), 10);
  EXPECT_EQ(clock.NextDeadline(), 12);
  EXPECT_EQ(clock.Expired(20, 100), (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(clock.Renew(1, 20), 0);
  EXPECT_EQ(clock.Renew(3, 20), 0);
  clock.Grant(4, 10, 20);
  EXPECT_EQ(clock.RenewAll({4, 1, 3}, 25), (std::vector<int64_t>{10, -1, 0}));
}

TEST(LeaseClockTest, AClockThatWasClearedHasNoAnswerUntilItIsRestored) {
  LeaseClock clock;
  clock.Grant(1, 10, 0);
  clock.Clear();
  EXPECT_EQ(clock.size(), 0u);
  EXPECT_TRUE(std::isinf(clock.NextDeadline()));
  EXPECT_EQ(clock.Renew(1, 0, {}), -1);
  clock.Restore({{1, 10, 0}}, 0, 0);
  EXPECT_EQ(clock.Renew(1, 0, {}), 10);
  EXPECT_EQ(clock.Renew(2, 0, {}), 0);
}

TEST(LeaseClockTest, ALeaseGrantedAgainIsAnother) {
  LeaseClock clock;
  clock.Grant(1, 100, 0);
  clock.Revoke(1);
  clock.Grant(1, 10, 0);
  EXPECT_EQ(clock.NextDeadline(), 10);
  clock.Revoke(1);
  clock.Grant(1, 1'000, 0);
  EXPECT_EQ(clock.NextDeadline(), 1'000);
  EXPECT_TRUE(clock.Expired(500, 100).empty());
}

TEST(LeaseClockTest, WhoWaitsForTheEndIsNamedByTheRevocation) {
  LeaseClock clock;
  FakeThread thread;
  clock.Grant(1, 10, 0);
  EXPECT_EQ(clock.Renew(1, 10, {&thread, 7}), -1);
  EXPECT_EQ(clock.Renew(1, 11, {&thread, 8}), -1);
  const std::vector<LeaseClock::Waiter> waiters = clock.Revoke(1);
  ASSERT_EQ(waiters.size(), 2u);
  EXPECT_EQ(waiters[1].call_id, 8u);
  EXPECT_EQ(clock.Renew(1, 12, {&thread, 9}), 0);
}

TEST(LeaseClockTest, WhoSleepsUntilADeadlineIsToldOnceOfAnEarlierOne) {
  int told = 0;
  LeaseClock clock([&told] { ++told; });
  clock.Grant(1, 10, 0);
  EXPECT_EQ(told, 0) << "nobody has asked yet";
  clock.NextDeadline();
  clock.Grant(2, 20, 0);
  EXPECT_EQ(told, 0);
  clock.Grant(3, 5, 0);
  clock.Grant(4, 1, 0);
  EXPECT_EQ(told, 1);
  EXPECT_EQ(clock.NextDeadline(), 1);
  clock.Restore({{5, 100, 0}, {6, 100, 1}}, -2, 0.5);
  EXPECT_EQ(told, 2);
  EXPECT_EQ(clock.NextDeadline(), -0.5);
}

TEST(LeaseClockTest, RestoredLeasesGetTheirTimeAndAGrace) {
  LeaseClock clock;
  clock.Restore({{1, 100, 0}, {2, 100, 30}}, 50, 1);
  EXPECT_EQ(clock.Remaining(1, 50).remaining_s, 101);
  EXPECT_EQ(clock.Remaining(2, 50).remaining_s, 31);
  EXPECT_EQ(clock.Remaining(2, 50).ttl_s, 100);
  EXPECT_FALSE(clock.Remaining(3, 50).found);
  EXPECT_EQ(clock.Ids(), (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(clock.Expired(1'000, 1), std::vector<int64_t>{2});
}

TEST(LeaseClockTest, GrantingAndRevokingForEverEndsWhereItBegan) {
  LeaseClock clock;
  clock.Grant(1, 10, 0);
  for (int64_t id = 2; id < 50'000; ++id) {
    clock.Grant(id, 1'000, 0);
    clock.Revoke(id);
  }
  EXPECT_EQ(clock.size(), 1u);
  EXPECT_EQ(clock.Expired(10'000, 100), std::vector<int64_t>{1});
}

}  // namespace
}  // namespace fastkv::front
