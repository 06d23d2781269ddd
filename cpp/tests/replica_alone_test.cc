// A replica that is alone: batches come through Db::Commit, the log says so once, and Raft takes over where they end.
//
// Power loss: random commits, changes between alone and Raft, checkpoints and crashes at any moment. Promises tested:
// what was acknowledged is there afterwards, behind it nothing but what was being committed; what a member wrote while
// it was alone opens without Raft, too, with the same state. A failure prints its seed; FASTKV_SEED=<n> runs that one
// alone, FASTKV_RUNS=<n> runs n times as many. The threaded test is meant to run under TSan and ASan too.

#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "log/recovery.h"
#include "tests/replica_support.h"

namespace fastkv {
namespace {

using namespace testing;

Status OpenWithoutRaft(FaultEnv* env, bool readonly, std::unique_ptr<Db>* db) {
  DbOptions options = ReplicaOptions(env);
  options.replicated = false;
  options.readonly = readonly;
  return Db::Open("/data", options, db);
}

Status Put(Db* db, std::string_view key, std::string_view value) {
  CommandResult result;
  FASTKV_RETURN_IF_ERROR(db->Put(key, value, 0, &result));
  return {result.code};
}

class ReplicaAloneTest : public ::testing::Test {
 protected:
  void SetUp() override { Reopen(); }

  void Reopen() {
    db_.reset();
    env_.KillProcess();
    const Status status = OpenReplica(&env_, &db_);
    ASSERT_TRUE(status.ok()) << status.message();
    replica_ = db_->replica();
  }
  std::map<RecordType, int> Records() {
    std::map<RecordType, int> counts;
    LogScan scan;
    const auto count = [&](const RecordView& record, const RecordPlace&) -> Status {
      ++counts[record.type];
      return {};
    };
    EXPECT_TRUE(ScanLog(&env_, "/data/log", count, &scan).ok());
    return counts;
  }

  FaultEnv env_{1};
  std::unique_ptr<Db> db_;
  Replica* replica_ = nullptr;
};

TEST_F(ReplicaAloneTest, ACommitIsAnEntryOfTheCurrentTermAndNothingElse) {
  EXPECT_EQ(Put(db_.get(), "a", "0").code(), Code::kReadOnly);
  db_->SetIdentity(1, kOwnMember, 5);
  ASSERT_TRUE(replica_->SetAlone(true).ok());
  for (int i = 1; i <= 20; ++i) ASSERT_TRUE(Put(db_.get(), "a", std::to_string(i)).ok());
  EXPECT_EQ(replica_->state(), (HardState{5, kOwnMember, 20, true}));
  EXPECT_EQ(Records(), (std::map<RecordType, int>{{RecordType::kEntry, 20}, {RecordType::kHardState, 1}}));
  const OwnedEntry last = LogOf(db_.get()).back();
  EXPECT_EQ(last, (OwnedEntry{5, 20, EntryKind::kNormal, BatchOf(0, 20, {{kTagPut, PutBytes("a", "20")}})}));

  // A later term is said, the same one is not said again; nor by the next process.
  db_->SetIdentity(1, kOwnMember, 6);
  ASSERT_TRUE(replica_->SetAlone(true).ok());
  ASSERT_TRUE(replica_->SetAlone(true).ok());
  ASSERT_TRUE(Put(db_.get(), "a", "21").ok());
  Reopen();
  EXPECT_EQ(db_->applied_index(), 21u);
  EXPECT_EQ(ValueOf(db_.get(), "a"), "21");
  EXPECT_EQ(Put(db_.get(), "a", "22").code(), Code::kReadOnly);  // until it is said again that it is alone
  ASSERT_TRUE(replica_->SetAlone(true).ok());
  ASSERT_TRUE(Put(db_.get(), "a", "22").ok());
  EXPECT_EQ(LogOf(db_.get()).back().term, 6u);
  EXPECT_EQ(Records(), (std::map<RecordType, int>{{RecordType::kEntry, 22}, {RecordType::kHardState, 2}}));
}

TEST_F(ReplicaAloneTest, WhatItWroteOpensWithoutRaftAndBack) {
  ASSERT_TRUE(replica_->SetMembership("one").ok());
  ASSERT_TRUE(replica_->SetAlone(true).ok());
  ASSERT_TRUE(Put(db_.get(), "a", "1").ok());
  const uint64_t term = replica_->state().term;
  for (const bool readonly : {true, false}) {
    db_.reset();
    env_.KillProcess();
    std::unique_ptr<Db> db;
    ASSERT_TRUE(OpenWithoutRaft(&env_, readonly, &db).ok());
    EXPECT_EQ(ValueOf(db.get(), "a"), "1");
    if (!readonly) {
      ASSERT_TRUE(Put(db.get(), "a", "2").ok());
    }
    db.reset();
  }
  Reopen();
  EXPECT_EQ(ValueOf(db_.get(), "a"), "2");
  EXPECT_EQ(replica_->membership(), "one");
  EXPECT_EQ(LogOf(db_.get()).back().term, term);
}

TEST_F(ReplicaAloneTest, RaftTakesOverWhereTheCommitsEnd) {
  ASSERT_TRUE(replica_->SetMembership("one").ok());
  ASSERT_TRUE(replica_->SetAlone(true).ok());
  ASSERT_TRUE(Put(db_.get(), "a", "1").ok());
  EXPECT_EQ(AppendAndSync(db_.get(), {PutEntry(1, 2, "a", "2")}, {1, 0, 1}).code(), Code::kReadOnly);
  EXPECT_EQ(ApplyEntries(db_.get(), {PutEntry(1, 2, "a", "2")}).code(), Code::kReadOnly);
  FaultEnv other_env(2);
  std::unique_ptr<Db> other;
  ASSERT_TRUE(OpenReplica(&other_env, &other).ok());
  ASSERT_TRUE(other->replica()->SetMembership("two").ok());
  ASSERT_TRUE(Commit(other.get(), {PutEntry(1, 1, "a", "1"), PutEntry(1, 2, "a", "2")}).ok());
  uint64_t index = 0;
  ASSERT_TRUE(other->Checkpoint(&index).ok());
  const std::string snapshot = SnapshotBytes(other.get());
  EXPECT_EQ(Install(db_.get(), 2, 1, snapshot).code(), Code::kReadOnly);

  ASSERT_TRUE(replica_->SetAlone(false).ok());
  ASSERT_TRUE(replica_->SetAlone(false).ok());
  EXPECT_EQ(Put(db_.get(), "a", "2").code(), Code::kReadOnly);
  EXPECT_EQ(replica_->state(), (HardState{1, kOwnMember, 1, false}));
  ASSERT_TRUE(AppendAndSync(db_.get(), {{2, 2, EntryKind::kEmpty, ""}}, {2, kOwnMember, 1}).ok());
  EXPECT_EQ(replica_->SetAlone(true).code(), Code::kReadOnly);  // it has not applied all it holds
  Reopen();
  EXPECT_EQ(db_->applied_index(), 1u);  // the second one needs votes
  std::unique_ptr<Db> db;
  db_.reset();
  env_.KillProcess();
  EXPECT_EQ(OpenWithoutRaft(&env_, false, &db).code(), Code::kFormat);
}

TEST_F(ReplicaAloneTest, OneThatCannotSayThatItIsNotAloneStaysAlone) {
  ASSERT_TRUE(replica_->SetAlone(true).ok());
  ASSERT_TRUE(Put(db_.get(), "a", "1").ok());
  env_.FailNth(FaultEnv::Op::kWrite, 1, Code::kNoSpace);
  EXPECT_EQ(replica_->SetAlone(false).code(), Code::kNoSpace);
  ASSERT_TRUE(Put(db_.get(), "a", "2").ok());
  ASSERT_TRUE(replica_->SetAlone(false).ok());
  EXPECT_EQ(replica_->state().commit, 2u);
  env_.FailNth(FaultEnv::Op::kWrite, 1, Code::kNoSpace);
  EXPECT_EQ(replica_->SetAlone(true).code(), Code::kNoSpace);
  EXPECT_EQ(Put(db_.get(), "a", "3").code(), Code::kReadOnly);
}

// Without Raft nobody can tell what a change of membership has made of it.
TEST_F(ReplicaAloneTest, ChangesOfMembershipAreInACheckpointBeforeItIsAlone) {
  ASSERT_TRUE(replica_->SetMembership("two").ok());
  const std::vector<OwnedEntry> change = {ChangeEntry(1, 1)};
  ASSERT_TRUE(AppendAndSync(db_.get(), change, {1, kOwnMember, 1}).ok());
  ASSERT_TRUE(ApplyEntries(db_.get(), change, nullptr, "one").ok());
  const std::vector<OwnedEntry> put = {PutEntry(1, 2, "a", "1")};
  ASSERT_TRUE(AppendAndSync(db_.get(), put, {1, kOwnMember, 2}, /*alone=*/true).ok());
  ASSERT_TRUE(ApplyEntries(db_.get(), put).ok());
  std::unique_ptr<Db> db;
  db_.reset();
  env_.KillProcess();
  EXPECT_EQ(OpenWithoutRaft(&env_, false, &db).code(), Code::kFormat);
  ASSERT_TRUE(OpenWithoutRaft(&env_, true, &db).ok());
  EXPECT_EQ(ValueOf(db.get(), "a"), "1");
  db.reset();

  Reopen();
  ASSERT_TRUE(ApplyEntries(db_.get(), change, nullptr, "one").ok());
  ASSERT_TRUE(ApplyEntries(db_.get(), put).ok());
  ASSERT_TRUE(replica_->SetAlone(true).ok());
  db_.reset();
  env_.KillProcess();
  ASSERT_TRUE(OpenWithoutRaft(&env_, false, &db).ok());
  uint64_t index = 0;
  ASSERT_TRUE(Put(db.get(), "a", "2").ok());
  ASSERT_TRUE(db->Checkpoint(&index).ok());
  db.reset();
  Reopen();
  EXPECT_EQ(replica_->membership(), "one");
}

TEST_F(ReplicaAloneTest, TheEndWaitsForCommitsUnderWayAndRefusesLaterOnes) {
  ASSERT_TRUE(replica_->SetAlone(true).ok());
  constexpr int kThreads = 4;
  std::atomic<int> committed{0};
  std::atomic<bool> failed{false}, stop{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      const std::string key = "k" + std::to_string(t);
      while (!stop) {
        const Status status = Put(db_.get(), key, "v");
        if (status.ok()) committed.fetch_add(1);
        if (!status.ok() && status.code() != Code::kReadOnly) failed = true;
      }
    });
  }
  for (int round = 0; round < 50; ++round) {
    const int target = committed + 10;
    while (committed < target && !failed) std::this_thread::yield();
    ASSERT_TRUE(replica_->SetAlone(false).ok());
    const uint64_t applied = db_->applied_index();
    EXPECT_EQ(replica_->last_index(), applied);
    EXPECT_EQ(replica_->state().commit, applied);
    const std::vector<OwnedEntry> entry = {{replica_->state().term, applied + 1, EntryKind::kEmpty, ""}};
    ASSERT_TRUE(Commit(db_.get(), entry).ok());
    ASSERT_TRUE(replica_->SetAlone(true).ok());
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(failed);
  EXPECT_EQ(db_->store().revision(), 1 + committed);
  EXPECT_EQ(Problems(db_->store()), "");
}

// -- power loss

struct Totals {
  uint64_t crashes_in_open = 0, lost = 0, switched = 0, plain = 0, refused = 0;
};

class PowerLossRun {
 public:
  PowerLossRun(uint64_t seed, Totals* totals) : env_(seed), random_(seed * 104'729 + 17), totals_(totals) {}
  FaultEnv& env() { return env_; }

  // Empty: all promises held.
  std::string Run() {
    if (const Status status = OpenReplica(&env_, &db_); !status.ok()) return "first open: " + status.message();
    if (!db_->replica()->SetMembership("one").ok()) return "first membership";
    for (uint64_t rounds = 3 + Below(3); rounds > 0; --rounds) {
      if (std::string error = Work(); !error.empty()) return error;
      if (std::string error = Reopen(rounds > 1); !error.empty()) return error;
    }
    db_.reset();
    return {};
  }

 private:
  uint64_t Below(uint64_t n) { return random_() % n; }

  // Value n of the key "n" is the n-th put: the state is the number of puts in it.
  std::string Work() {
    Replica* replica = db_->replica();
    env_.CrashAfterOps(Below(3) == 0 ? Below(20) : Below(200));
    bool closed = false;
    for (int i = 0; i < 60 && !env_.crashed() && !closed; ++i) {
      if (Below(80) == 0) env_.FailNth(FaultEnv::Op::kWrite, 1 + Below(3), Code::kNoSpace);
      const uint64_t choice = Below(100);
      Status status;
      if (choice < 60) {
        status = alone_ ? PutDirect() : PutThroughRaft();
      } else if (choice < 80) {
        status = replica->SetAlone(!alone_);
        if (status.ok()) {
          alone_ = !alone_;
          ++totals_->switched;
        }
      } else if (choice < 85) {
        db_->SetIdentity(1, kOwnMember, replica->state().term + 1);
        if (alone_) status = replica->SetAlone(true);
      } else if (choice < 95) {
        uint64_t index = 0;
        status = db_->Checkpoint(&index);
      } else if (Below(3) == 0) {
        closed = true;
        status = db_->Close();
      }
      if (status.ok() || env_.crashed()) continue;
      // A full disk; or an entry that it kept from being applied, so that the member may not be alone yet.
      if (status.code() == Code::kNoSpace || status.code() == Code::kReadOnly) continue;
      return "work: " + status.message();
    }
    db_.reset();
    if (Below(4) == 0 && !env_.crashed()) {
      env_.KillProcess();
    } else {
      env_.Crash();
    }
    return {};
  }

  Status PutDirect() {
    under_way_ = acknowledged_ + 1;
    committed_ = true;
    FASTKV_RETURN_IF_ERROR(Put(db_.get(), std::to_string(acknowledged_ + 1), "v"));
    ++acknowledged_;
    return {};
  }
  Status PutThroughRaft() {
    Replica* replica = db_->replica();
    HardState state = replica->state();
    const uint64_t index = db_->applied_index() + 1;  // what was not acknowledged is cut
    const std::vector<OwnedEntry> entries = {PutEntry(state.term, index, std::to_string(acknowledged_ + 1), "v")};
    const std::vector<LogEntry> views = Views(entries);
    under_way_ = acknowledged_ + 1;
    committed_ = false;
    FASTKV_RETURN_IF_ERROR(replica->Append(views, nullptr, false));
    FASTKV_RETURN_IF_ERROR(replica->Sync());
    state.commit = index;
    committed_ = true;
    FASTKV_RETURN_IF_ERROR(replica->Append({}, &state, false));
    FASTKV_RETURN_IF_ERROR(replica->Sync());
    FASTKV_RETURN_IF_ERROR(ApplyEntries(db_.get(), entries));
    ++acknowledged_;
    return {};
  }

  std::string Reopen(bool may_crash) {
    env_.ClearFailures();
    if (may_crash && Below(4) == 0) env_.CrashAfterOps(Below(12));
    const bool plain_first = Below(2) == 0;
    for (bool plain = plain_first;; plain = false) {
      Status status = plain ? OpenWithoutRaft(&env_, false, &db_) : OpenReplica(&env_, &db_);
      if (plain && status.code() == Code::kFormat) {
        ++totals_->refused;
        continue;
      }
      if (!status.ok() && env_.crashed()) {
        ++totals_->crashes_in_open;
        env_.Crash();
        continue;
      }
      if (!status.ok()) return "open: " + status.message();
      const uint64_t puts = static_cast<uint64_t>(db_->store().revision()) - 1;
      if (puts != acknowledged_ && !(committed_ && puts == under_way_)) {
        return std::to_string(puts) + " puts after " + std::to_string(acknowledged_) + " were acknowledged";
      }
      if (ValueOf(db_.get(), std::to_string(puts)) != (puts == 0 ? "" : "v")) return "another state";
      if (const std::string problems = Problems(db_->store()); !problems.empty()) return problems;
      totals_->lost += puts < under_way_;
      if (!env_.crashed()) acknowledged_ = under_way_ = puts;  // what a crash may still take again was shown to nobody
      if (!plain && db_->replica()->membership() != "one") return "another membership";
      totals_->plain += plain;
      if (!plain && !env_.crashed()) {
        status = db_->replica()->SetAlone(true);
        alone_ = status.ok();
        if (alone_ || status.code() == Code::kReadOnly) return {};
        if (!env_.crashed()) return "alone again: " + status.message();
      }
      db_.reset();
      if (env_.crashed()) env_.Crash();
    }
  }

  FaultEnv env_;
  std::mt19937_64 random_;
  Totals* const totals_;
  std::unique_ptr<Db> db_;
  bool alone_ = false;
  uint64_t acknowledged_ = 0, under_way_ = 0;
  bool committed_ = true;  // what is under way; else it is only in the log, and needs votes
};

TEST(ReplicaAlonePowerLoss, WhatWasAcknowledgedIsThereWithAndWithoutRaft) {
  const auto [first, count] = SeedsFor(400);
  Totals totals;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    PowerLossRun run(seed, &totals);
    const std::string error = run.Run();
    ASSERT_EQ(error, "") << Replay("replica_alone_test", "ReplicaAlonePowerLoss.WhatWas*", seed);
  }
  if (count < 400) return;
  // The runs must have been where it is dangerous.
  EXPECT_GT(totals.lost, count / 10);
  EXPECT_GT(totals.crashes_in_open, count / 20);
  EXPECT_GT(totals.switched, count * 5);
  EXPECT_GT(totals.plain, count / 2);
  EXPECT_GT(totals.refused, count / 4);
}

// The canary: a disk that says "synced" and is not must be found out, or the test above tests nothing.
TEST(ReplicaAlonePowerLoss, ADiskThatLiesAboutSyncIsNoticed) {
  Totals totals;
  int noticed = 0;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    PowerLossRun run(seed, &totals);
    run.env().LieAboutSync(true);
    noticed += !run.Run().empty();
  }
  EXPECT_GT(noticed, 20);
}

}  // namespace
}  // namespace fastkv
