// A replica: its log as Raft drives it, what is applied and who is told, what opening finds, snapshots both ways.
//
// Power loss is in replica_power_loss_test.cc. The threaded test is meant to run under TSan and ASan too; FASTKV_RUNS
// makes it longer.

#include "db/replica.h"

#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/replica_support.h"

namespace fastkv {
namespace {

using namespace testing;

class ReplicaTest : public ::testing::Test {
 protected:
  void SetUp() override { Reopen(); }
  void TearDown() override {
    if (db_ != nullptr) {
      EXPECT_EQ(Problems(db_->store()), "");
    }
  }

  void Reopen() {
    db_.reset();
    env_.KillProcess();
    const Status status = OpenReplica(&env_, &db_);
    ASSERT_TRUE(status.ok()) << status.message();
    replica_ = db_->replica();
  }
  // As a store without Raft.
  Status OpenAlone(bool readonly, std::unique_ptr<Db>* db) {
    db_.reset();
    env_.KillProcess();
    DbOptions options;
    options.env = &env_;
    options.readonly = readonly;
    return Db::Open("/data", options, db);
  }

  FaultEnv env_{1};
  std::unique_ptr<Db> db_;
  Replica* replica_ = nullptr;
};

class Recorder : public ApplyObserver {
 public:
  void Applied(uint64_t sequence, std::vector<CommandResult> results) override {
    applied[sequence] = std::move(results);
  }
  std::map<uint64_t, std::vector<CommandResult>> applied;
};

TEST_F(ReplicaTest, ResultsGoToWhoeverExpectsTheBatchAndToNobodyElse) {
  Recorder front;
  replica_->Expect(100, &front);
  replica_->Expect(101, nullptr);
  replica_->Expect(103, nullptr);
  const std::vector<OwnedEntry> entries = {
      {1, 1, EntryKind::kNormal,
       BatchOf(kOwnMember, 100, {{kTagPut, PutBytes("a", "1")}, {kTagDeleteRange, DeleteBytes("none")}})},
      {1, 2, EntryKind::kNormal, BatchOf(kOwnMember, 101, {{kTagPut, PutBytes("a", "2", /*lease=*/9)}})},
      {1, 3, EntryKind::kNormal, BatchOf(kOwnMember, 102, {{kTagPut, PutBytes("b", "3")}})},  // expected by nobody
      {1, 4, EntryKind::kNormal, BatchOf(8, 103, {{kTagPut, PutBytes("c", "4")}})},           // another member's 103
      {1, 5, EntryKind::kEmpty, ""},
  };
  ASSERT_TRUE(AppendAndSync(db_.get(), entries, {1, 0, 5}).ok());
  std::vector<Replica::Answers> answers;
  ASSERT_TRUE(ApplyEntries(db_.get(), entries, &answers).ok());
  ASSERT_EQ(front.applied.size(), 1u);
  ASSERT_EQ(front.applied[100].size(), 2u);
  EXPECT_EQ(front.applied[100][0].code, Code::kOk);
  EXPECT_EQ(front.applied[100][0].revision, 2);
  EXPECT_FALSE(front.applied[100][0].response.empty());
  EXPECT_EQ(front.applied[100][1].revision, 2);
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_EQ(answers[0].sequence, 101u);
  EXPECT_EQ(answers[0].results.at(0).code, Code::kLeaseNotFound);
  EXPECT_EQ(db_->applied_index(), 5u);
  EXPECT_EQ(db_->store().revision(), 4);
  EXPECT_TRUE(replica_->Forget(103));
  EXPECT_FALSE(replica_->Forget(100));
}

TEST_F(ReplicaTest, WatchersAreMatchedBeforeTheResultsAreOut) {
  struct Looker : ApplyObserver {
    void Applied(uint64_t, std::vector<CommandResult>) override { ready = hub->Ready(); }
    WatchHub* hub = nullptr;
    std::vector<uint64_t> ready;
  } looker;
  looker.hub = &db_->hub();
  const uint64_t watcher = db_->hub().Add({"a", "", 0, false, false, false});
  replica_->Expect(1, &looker);
  ASSERT_TRUE(Commit(db_.get(), {PutEntry(1, 1, "a", "x", kOwnMember)}).ok());
  EXPECT_EQ(looker.ready, std::vector<uint64_t>{watcher});
}

TEST_F(ReplicaTest, TheFollowerHearsOfEveryMembersCompactionsLeasesAndAlarmsBeforeTheAsker) {
  struct Listener : ApplyFollower, ApplyObserver {
    void Followed(uint64_t sequence, std::span<const FollowedCommand> commands) override {
      for (const FollowedCommand& command : commands) {
        lines.push_back(std::to_string(sequence) + ": " + std::to_string(command.tag) + "@" +
                        std::to_string(command.place) + " " + std::to_string(static_cast<int>(command.code)) +
                        (command.response.empty() ? "" : " answered") +
                        (command.payload == RevokeBytes(5) ? " of 5" : ""));
      }
    }
    void Applied(uint64_t sequence, std::vector<CommandResult> results) override {
      lines.push_back("asker of " + std::to_string(sequence) + ": " + std::to_string(results.size()));
    }
    std::vector<std::string> lines;
  } listener;
  replica_->SetFollower(&listener);
  replica_->Expect(1, &listener);
  const std::string put = PutBytes("a", "1");
  const std::vector<OwnedEntry> entries = {
      {1, 1, EntryKind::kNormal,
       BatchOf(kOwnMember, 1, {{kTagPut, put}, {kTagLeaseGrant, GrantBytes(5, 60)}, {kTagPut, put}})},
      {1, 2, EntryKind::kNormal, BatchOf(8, 9, {{kTagPut, put}, {kTagLeaseRevoke, RevokeBytes(5)}})},
      {1, 3, EntryKind::kNormal, BatchOf(8, 10, {{kTagPut, put}})},
      {1, 4, EntryKind::kNormal, BatchOf(kOwnMember, 2, {{kTagCompaction, CompactionBytes(1'000)}})},
  };
  ASSERT_TRUE(Commit(db_.get(), entries).ok());
  EXPECT_EQ(listener.lines,
            (std::vector<std::string>{"1: 8@1 0 answered", "asker of 1: 3", "0: 9@1 0 answered of 5", "2: 7@0 9"}));
  replica_->SetFollower(nullptr);
  ASSERT_TRUE(Commit(db_.get(), {{1, 5, EntryKind::kNormal, BatchOf(8, 11, {{kTagAlarm, AlarmBytes(1, 8, 1)}})}}).ok());
  EXPECT_EQ(listener.lines.size(), 4u);
}

TEST_F(ReplicaTest, EntriesComeBackFromTheLogAsTheyWere) {
  const std::vector<OwnedEntry> entries = {PutEntry(1, 1, "a", "1"),
                                           ChangeEntry(1, 2),
                                           {2, 3, EntryKind::kEmpty, ""},
                                           {3, 4, EntryKind::kEmpty, std::string(16, 'h')},
                                           PutEntry(3, 5, "b", std::string(9000, 'x')),
                                           PutEntry(3, 6, "c", "2")};
  ASSERT_TRUE(AppendAndSync(db_.get(), entries, {3, 2, 0}).ok());
  EXPECT_EQ(LogOf(db_.get()), entries);
  EXPECT_EQ(replica_->state(), (HardState{3, 2, 0}));
  Reopen();
  EXPECT_EQ(LogOf(db_.get()), entries);
  EXPECT_EQ(replica_->state(), (HardState{3, 2, 0}));
  EXPECT_EQ(db_->applied_index(), 0u);
  uint64_t term = 0;
  EXPECT_TRUE(replica_->Term(2, &term).ok());
  EXPECT_EQ(term, 1u);
  EXPECT_TRUE(replica_->Term(0, &term).ok());
  EXPECT_EQ(term, 0u);
  EXPECT_EQ(replica_->Term(7, &term).code(), Code::kNotFound);
}

TEST_F(ReplicaTest, EntriesAreCutAtTheBytesThatWereAskedFor) {
  std::vector<OwnedEntry> entries;
  for (uint64_t i = 1; i <= 40; ++i) entries.push_back(PutEntry(1, i, "k", std::string(300, 'v')));
  ASSERT_TRUE(AppendAndSync(db_.get(), entries, {1, 0, 0}).ok());
  const size_t each = entries[0].batch.size();
  std::vector<Log::OwnedEntry> read;
  const auto count = [&](uint64_t low, uint64_t high, uint64_t bytes_max) {
    EXPECT_TRUE(replica_->Entries(low, high, bytes_max, &read).ok());
    return read.size();
  };
  EXPECT_EQ(count(1, 41, UINT64_MAX), 40u);
  EXPECT_EQ(count(3, 9, UINT64_MAX), 6u);
  EXPECT_EQ(count(3, 41, 0), 1u);
  EXPECT_EQ(count(3, 41, 30 * each), 30u);
  EXPECT_EQ(count(3, 41, 30 * each - 1), 29u);
  EXPECT_EQ(count(5, 5, 100), 0u);
  EXPECT_EQ(replica_->Entries(39, 50, UINT64_MAX, &read).code(), Code::kNotFound);
}

TEST_F(ReplicaTest, AConflictingSuffixIsCutAndStaysCut) {
  ASSERT_TRUE(AppendAndSync(db_.get(), {PutEntry(1, 1, "a", "1"), PutEntry(1, 2, "a", "2"), PutEntry(1, 3, "a", "3")},
                            {1, 0, 1})
                  .ok());
  ASSERT_TRUE(AppendAndSync(db_.get(), {PutEntry(2, 2, "b", "2")}, {2, 0, 1}).ok());
  const std::vector<OwnedEntry> expected = {PutEntry(1, 1, "a", "1"), PutEntry(2, 2, "b", "2")};
  EXPECT_EQ(LogOf(db_.get()), expected);
  Reopen();
  EXPECT_EQ(LogOf(db_.get()), expected);
  EXPECT_EQ(db_->applied_index(), 1u);
}

TEST_F(ReplicaTest, WhatIsAppliedIsNeverCut) {
  ASSERT_TRUE(Commit(db_.get(), {PutEntry(1, 1, "a", "1"), PutEntry(1, 2, "a", "2")}).ok());
  EXPECT_EQ(AppendAndSync(db_.get(), {PutEntry(2, 2, "b", "2")}, {2, 0, 0}).code(), Code::kPoisoned);
  EXPECT_EQ(replica_->Append({}, nullptr, false).code(), Code::kPoisoned);
  EXPECT_EQ(ValueOf(db_.get(), "a"), "2");
}

TEST_F(ReplicaTest, AnEntryThatTheLogDoesNotHoldIsNotApplied) {
  ASSERT_TRUE(AppendAndSync(db_.get(), {PutEntry(1, 1, "a", "1")}, {1, 0, 1}).ok());
  EXPECT_EQ(ApplyEntries(db_.get(), {PutEntry(2, 1, "a", "1")}).code(), Code::kPoisoned);
  EXPECT_EQ(db_->store().revision(), 1);
}

TEST_F(ReplicaTest, ABatchThatIsNoneIsRefusedBeforeTheLog) {
  for (const std::string& batch :
       {std::string("short"), std::string(), BatchOf(1, 1, {{99, "unknown"}}), BatchOf(1, 1, {}) + "\x04\x7f"}) {
    const OwnedEntry entry{1, 1, EntryKind::kNormal, batch};
    EXPECT_EQ(AppendAndSync(db_.get(), {entry}, {1, 0, 0}).code(), Code::kMalformed);
  }
  EXPECT_EQ(replica_->last_index(), 0u);
  // A payload that is no message is the client's error, the same on every replica.
  const OwnedEntry entry{1, 1, EntryKind::kNormal, BatchOf(kOwnMember, 5, {{kTagPut, "\xff"}})};
  replica_->Expect(5, nullptr);
  std::vector<Replica::Answers> answers;
  ASSERT_TRUE(AppendAndSync(db_.get(), {entry}, {1, 0, 1}).ok());
  ASSERT_TRUE(ApplyEntries(db_.get(), {entry}, &answers).ok());
  EXPECT_EQ(answers.at(0).results.at(0).code, Code::kMalformed);
  Reopen();
  EXPECT_EQ(db_->applied_index(), 1u);
}

TEST_F(ReplicaTest, ACommitThatDoesNotComeThroughRaftIsRefused) {
  CommandResult result;
  EXPECT_EQ(db_->CommitOne(kTagPut, PutBytes("a", "1"), &result).code(), Code::kReadOnly);
  EXPECT_EQ(replica_->last_index(), 0u);
}

TEST_F(ReplicaTest, OpeningAppliesWhatIsCommittedUpToTheFirstChangeOfMembership) {
  ASSERT_TRUE(
      AppendAndSync(
          db_.get(),
          {PutEntry(1, 1, "a", "1"), {1, 2, EntryKind::kEmpty, ""}, PutEntry(1, 3, "a", "3"), PutEntry(1, 4, "a", "4")},
          {1, 0, 3})
          .ok());
  Reopen();
  EXPECT_EQ(db_->applied_index(), 3u);
  EXPECT_EQ(ValueOf(db_.get(), "a"), "3");
  ASSERT_TRUE(AppendAndSync(db_.get(), {ChangeEntry(1, 5), PutEntry(1, 6, "a", "6")}, {1, 0, 6}).ok());
  Reopen();
  EXPECT_EQ(db_->applied_index(), 4u);
  EXPECT_EQ(replica_->state().commit, 6u);
  ASSERT_TRUE(ApplyEntries(db_.get(), {ChangeEntry(1, 5)}, nullptr, "two").ok());
  ASSERT_TRUE(ApplyEntries(db_.get(), {PutEntry(1, 6, "a", "6")}).ok());
  EXPECT_EQ(replica_->membership(), "two");
  uint64_t index = 0;
  ASSERT_TRUE(db_->Checkpoint(&index).ok());
  Reopen();
  EXPECT_EQ(db_->applied_index(), 6u);
  EXPECT_EQ(replica_->membership(), "two");
}

TEST_F(ReplicaTest, AMemberThatIsAloneHasCommittedWhatItsLogHolds) {
  ASSERT_TRUE(AppendAndSync(db_.get(), {PutEntry(1, 1, "a", "1"), PutEntry(1, 2, "a", "2")}, {1, 7, 0}, true).ok());
  EXPECT_EQ(replica_->state(), (HardState{1, 7, 2, true}));
  // No hard state of the caller's: the claim goes along.
  const std::vector<OwnedEntry> third = {PutEntry(1, 3, "a", "3")};
  ASSERT_TRUE(replica_->Append(Views(third), nullptr, true).ok());
  Reopen();
  EXPECT_EQ(db_->applied_index(), 3u);
  // With a change of membership under way it is not claimed.
  ASSERT_TRUE(AppendAndSync(db_.get(), {ChangeEntry(1, 4), PutEntry(1, 5, "a", "5")}, {1, 7, 3}, true).ok());
  EXPECT_EQ(replica_->state(), (HardState{1, 7, 3, false}));
  Reopen();
  EXPECT_EQ(db_->applied_index(), 3u);
  EXPECT_EQ(replica_->state().commit, 3u);
  ASSERT_TRUE(ApplyEntries(db_.get(), {ChangeEntry(1, 4)}, nullptr, "still alone").ok());
  const std::vector<OwnedEntry> sixth = {PutEntry(1, 6, "a", "6")};
  ASSERT_TRUE(replica_->Append(Views(sixth), nullptr, true).ok());
  EXPECT_EQ(replica_->state(), (HardState{1, 7, 6, true}));
}

TEST_F(ReplicaTest, EntriesOfATermThatNoHardStateNamesRaiseIt) {
  ASSERT_TRUE(AppendAndSync(db_.get(), {PutEntry(3, 1, "a", "1")}, {2, 7, 0}).ok());
  Reopen();
  EXPECT_EQ(replica_->state(), (HardState{3, 0, 0}));
}

TEST_F(ReplicaTest, ClosingLeavesTheCommitIndexInTheLog) {
  ASSERT_TRUE(AppendAndSync(db_.get(), {PutEntry(1, 1, "a", "1"), PutEntry(1, 2, "a", "2")}, {1, 0, 0}).ok());
  ASSERT_TRUE(ApplyEntries(db_.get(), {PutEntry(1, 1, "a", "1")}).ok());
  ASSERT_TRUE(db_->Close().ok());
  Reopen();
  EXPECT_EQ(db_->applied_index(), 1u);
}

// -- the same directory with and without Raft

TEST_F(ReplicaTest, ADirectoryWithoutRaftBecomesAReplicasAndBack) {
  std::unique_ptr<Db> db;
  ASSERT_TRUE(OpenAlone(false, &db).ok());
  CommandResult result;
  ASSERT_TRUE(db->Put("a", "1", 0, &result).ok());
  ASSERT_TRUE(db->WriteMeta("identity").ok());
  uint64_t index = 0;
  ASSERT_TRUE(db->Checkpoint(&index).ok());
  ASSERT_TRUE(db->Put("a", "2", 0, &result).ok());
  db.reset();
  Reopen();
  EXPECT_EQ(db_->applied_index(), 2u);
  EXPECT_EQ(replica_->state(), (HardState{1, 0, 2}));
  ASSERT_TRUE(replica_->SetMembership("one").ok());
  ASSERT_TRUE(AppendAndSync(db_.get(), {PutEntry(2, 3, "a", "3")}, {2, 7, 0}, true).ok());

  ASSERT_TRUE(OpenAlone(false, &db).ok());
  EXPECT_EQ(ValueOf(db.get(), "a"), "3");
  EXPECT_EQ(db->ReadMeta(), "identity");
  ASSERT_TRUE(db->Put("a", "4", 0, &result).ok());
  ASSERT_TRUE(db->Checkpoint(&index).ok());
  ASSERT_TRUE(db->Put("a", "5", 0, &result).ok());
  db.reset();
  Reopen();
  EXPECT_EQ(ValueOf(db_.get(), "a"), "5");
  EXPECT_EQ(db_->applied_index(), 5u);
  EXPECT_EQ(replica_->membership(), "one");
  EXPECT_EQ(db_->ReadMeta(), "identity");
}

TEST_F(ReplicaTest, AMembersDirectoryOpensWithoutRaftOnlyForReading) {
  ASSERT_TRUE(replica_->SetMembership("three").ok());
  std::unique_ptr<Db> db;
  EXPECT_EQ(OpenAlone(false, &db).code(), Code::kFormat);  // before anything was written
  Reopen();
  ASSERT_TRUE(AppendAndSync(db_.get(),
                            {PutEntry(1, 1, "a", "1"), ChangeEntry(1, 2), PutEntry(1, 3, "a", "3"),
                             PutEntry(1, 4, "a", "uncommitted")},
                            {1, 0, 3})
                  .ok());
  EXPECT_EQ(OpenAlone(false, &db).code(), Code::kFormat);
  const Status status = OpenAlone(true, &db);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(db->applied_index(), 3u);
  EXPECT_EQ(ValueOf(db.get(), "a"), "3");
}

// -- snapshots

class SnapshotTest : public ReplicaTest {
 protected:
  void SetUp() override {
    ReplicaTest::SetUp();
    ASSERT_TRUE(OpenReplica(&leader_env_, &leader_).ok());
    ASSERT_TRUE(leader_->replica()->SetMembership("members").ok());
  }

  // The leader's log and state go on.
  void Lead(uint64_t count, uint64_t term = 1) {
    std::vector<OwnedEntry> entries;
    for (uint64_t i = 0; i < count; ++i) {
      const uint64_t index = leader_->applied_index() + 1 + i;
      entries.push_back(PutEntry(term, index, "k" + std::to_string(index % 10), "v" + std::to_string(index)));
    }
    ASSERT_TRUE(Commit(leader_.get(), entries).ok());
  }
  std::string Checkpointed() {
    uint64_t index = 0;
    EXPECT_TRUE(leader_->Checkpoint(&index).ok());
    return SnapshotBytes(leader_.get(), &index_, &term_);
  }

  FaultEnv leader_env_{2};
  std::unique_ptr<Db> leader_;
  uint64_t index_ = 0, term_ = 0;  // of the snapshot
};

TEST_F(SnapshotTest, AnInstalledSnapshotIsTheStateAndTheLogGoesOnBehindIt) {
  ASSERT_TRUE(AppendAndSync(db_.get(), {PutEntry(1, 1, "old", "1"), PutEntry(1, 2, "old", "2")}, {1, 3, 1}).ok());
  Lead(50, 4);
  const std::string bytes = Checkpointed();
  EXPECT_EQ(index_, 50u);
  const Status installed = Install(db_.get(), index_, term_, bytes);
  ASSERT_TRUE(installed.ok()) << installed.message();
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(db_->applied_index(), 50u);
    EXPECT_EQ(db_->store().Hash(), leader_->store().Hash());
    EXPECT_EQ(db_->store().revision(), 51);
    EXPECT_EQ(replica_->membership(), "members");
    EXPECT_EQ(replica_->first_index(), 51u);
    EXPECT_EQ(replica_->last_index(), 50u);
    EXPECT_EQ(replica_->state(), (HardState{4, 0, 50}));
    uint64_t term = 0;
    EXPECT_TRUE(replica_->Term(50, &term).ok());
    EXPECT_EQ(term, 4u);
    Reopen();
  }
  ASSERT_TRUE(Commit(db_.get(), {PutEntry(4, 51, "a", "b")}).ok());
  Reopen();
  EXPECT_EQ(ValueOf(db_.get(), "a"), "b");
  EXPECT_EQ(SnapshotBytes(db_.get()), bytes);  // a follower may send on what it was sent
}

TEST_F(SnapshotTest, RevisionsNeverGoBack) {
  Lead(20);
  const std::string old_bytes = Checkpointed();
  const uint64_t old_index = index_;
  Lead(20);
  ASSERT_TRUE(Install(db_.get(), 40, 1, Checkpointed()).ok());
  EXPECT_EQ(Install(db_.get(), old_index, 1, old_bytes).code(), Code::kNotFound);
  EXPECT_EQ(Install(db_.get(), 40, 1, Checkpointed()).code(), Code::kNotFound);
  EXPECT_EQ(db_->store().revision(), 41);
  // A state of another history that claims a later index.
  FaultEnv other_env(3);
  std::unique_ptr<Db> other;
  ASSERT_TRUE(OpenReplica(&other_env, &other).ok());
  ASSERT_TRUE(other->replica()->SetMembership("m").ok());
  std::vector<OwnedEntry> empty;
  for (uint64_t i = 1; i <= 60; ++i) empty.push_back({1, i, EntryKind::kEmpty, ""});
  ASSERT_TRUE(Commit(other.get(), empty).ok());
  uint64_t index = 0;
  ASSERT_TRUE(other->Checkpoint(&index).ok());
  EXPECT_EQ(Install(db_.get(), 60, 1, SnapshotBytes(other.get())).code(), Code::kCorrupt);
  EXPECT_EQ(db_->store().revision(), 41);
  ASSERT_TRUE(Commit(db_.get(), {PutEntry(1, 41, "a", "b")}).ok());
}

TEST_F(SnapshotTest, WatchersGoOnAreToldOrWaitOn) {
  Lead(10);
  ASSERT_TRUE(Install(db_.get(), 10, 1, Checkpointed()).ok());  // revision 11
  WatchHub& hub = db_->hub();
  const uint64_t live = hub.Add({"k", "l", 0, false, false, false});
  const uint64_t old = hub.Add({"k", "l", 5, false, false, false});
  const uint64_t future = hub.Add({"k", "l", 60, false, false, false});
  Lead(10);
  ASSERT_TRUE(Install(db_.get(), 20, 1, Checkpointed()).ok());  // revision 21, nothing compacted
  const auto revisions = [&hub](uint64_t watcher) {
    std::pair<int64_t, int64_t> last;  // revision, compact revision
    for (bool more = true; more;) {
      for (const WatchBatch& batch : hub.Take(watcher, SIZE_MAX, &more))
        last = {batch.revision, batch.compact_revision};
    }
    return last;
  };
  using Pair = std::pair<int64_t, int64_t>;
  const std::vector<uint64_t> ready = hub.Ready();
  EXPECT_EQ(std::set<uint64_t>(ready.begin(), ready.end()), (std::set<uint64_t>{live, old}));
  EXPECT_EQ(revisions(live), Pair(21, 0));
  EXPECT_EQ(revisions(old), Pair(21, 0));
  EXPECT_EQ(revisions(future), Pair(0, 0));
  const uint64_t reader = hub.Add({"k", "l", 15, false, false, false});

  Lead(10);
  const OwnedEntry compact = {1, 31, EntryKind::kNormal, BatchOf(1, 31, {{kTagCompaction, CompactionBytes(25)}})};
  ASSERT_TRUE(Commit(leader_.get(), {compact}).ok());
  ASSERT_TRUE(Install(db_.get(), 31, 1, Checkpointed()).ok());  // revision 31, compacted at 25
  EXPECT_EQ(revisions(live), Pair(0, 25));
  EXPECT_EQ(revisions(reader), Pair(0, 25));
  EXPECT_EQ(revisions(future), Pair(0, 0));
  const uint64_t again = hub.Add({"k", "l", 26, false, false, false});
  EXPECT_EQ(revisions(again), Pair(31, 0));
  std::string response;
  EXPECT_EQ(db_->store().Range(RangeBytes("k1", "", {.revision = 20}), &response), Code::kCompacted);
  EXPECT_EQ(db_->store().Range(RangeBytes("k1", "", {.revision = 26}), &response), Code::kOk);
  ASSERT_TRUE(Commit(db_.get(), {PutEntry(1, 32, "k1", "live again")}).ok());
  EXPECT_EQ(revisions(again), Pair(32, 0));
  EXPECT_EQ(hub.Progress(future), -1);
}

TEST_F(SnapshotTest, HostileBytesAreRefusedAndLeaveNothing) {
  Lead(30);
  const std::string bytes = Checkpointed();
  const auto files = [this] {
    std::vector<std::string> names;
    EXPECT_TRUE(env_.List("/data/checkpoint", &names).ok());
    return names;
  };
  const std::vector<std::string> before = files();
  for (size_t at = 0; at < bytes.size(); at += 7) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ (1 << at % 8));
    EXPECT_EQ(Install(db_.get(), index_, term_, damaged).code(), Code::kCorrupt) << at;
  }
  for (const size_t length : {size_t{0}, size_t{7}, bytes.size() / 2, bytes.size() - 1}) {
    EXPECT_EQ(Install(db_.get(), index_, term_, bytes.substr(0, length)).code(), Code::kCorrupt) << length;
  }
  EXPECT_EQ(Install(db_.get(), index_ + 1, term_, bytes).code(), Code::kCorrupt);
  EXPECT_EQ(Install(db_.get(), index_, term_ + 1, bytes).code(), Code::kCorrupt);
  EXPECT_EQ(files(), before);
  EXPECT_EQ(db_->applied_index(), 0u);
  EXPECT_TRUE(Install(db_.get(), index_, term_, bytes).ok());
}

TEST_F(SnapshotTest, WhatWasBeingReceivedGoesWithTheProcess) {
  std::unique_ptr<SnapshotWriter> writer;
  ASSERT_TRUE(replica_->ReceiveSnapshot(5, 1, &writer).ok());
  ASSERT_TRUE(writer->Write("bytes").ok());
  uint64_t index = 0;
  ASSERT_TRUE(Commit(db_.get(), {PutEntry(1, 1, "a", "1")}).ok());
  ASSERT_TRUE(db_->Checkpoint(&index).ok());  // prunes, but not this
  std::vector<std::string> names;
  ASSERT_TRUE(env_.List("/data/checkpoint", &names).ok());
  EXPECT_EQ(names.size(), 2u);
  env_.KillProcess();
  [[maybe_unused]] static SnapshotWriter* volatile died_with_its_process;  // reachable, so that it is no leak
  died_with_its_process = writer.release();
  Reopen();
  ASSERT_TRUE(env_.List("/data/checkpoint", &names).ok());
  EXPECT_EQ(names.size(), 1u);
}

TEST_F(SnapshotTest, ASnapshotStaysReadableWhenItIsPruned) {
  Lead(10);
  const std::string bytes = Checkpointed();
  std::unique_ptr<SnapshotReader> reader;
  ASSERT_TRUE(leader_->replica()->OpenSnapshot(&reader).ok());
  for (int i = 0; i < 3; ++i) {
    Lead(10);
    Checkpointed();
  }
  FileInfo info;
  ASSERT_TRUE(leader_env_.Stat("/data/checkpoint/" + CheckpointFileName(10), &info).ok());
  EXPECT_FALSE(info.exists);
  std::string read;
  ASSERT_TRUE(reader->Read(0, SIZE_MAX, &read).ok());
  EXPECT_EQ(read, bytes);
  EXPECT_EQ(reader->membership(), "members");
}

TEST_F(SnapshotTest, AMembersOwnCheckpointIsNotSentButReplaced) {
  std::unique_ptr<Db> db;
  ASSERT_TRUE(OpenAlone(false, &db).ok());
  CommandResult result;
  ASSERT_TRUE(db->Put("a", "1", 0, &result).ok());
  ASSERT_TRUE(db->WriteMeta("identity").ok());
  uint64_t index = 0;
  ASSERT_TRUE(db->Checkpoint(&index).ok());
  const std::string own = env_.Contents("/data/checkpoint/" + CheckpointFileName(1));
  db.reset();
  Reopen();
  std::unique_ptr<SnapshotReader> reader;
  EXPECT_EQ(replica_->OpenSnapshot(&reader).code(), Code::kNotFound);  // no membership yet
  ASSERT_TRUE(replica_->SetMembership("one").ok());
  const std::string bytes = SnapshotBytes(db_.get(), &index_, &term_);
  EXPECT_EQ(bytes.find("identity"), std::string::npos);
  EXPECT_EQ(Install(leader_.get(), 1, 1, own).code(), Code::kCorrupt);
  EXPECT_TRUE(Install(leader_.get(), index_, term_, bytes).ok());
  Reopen();
  EXPECT_EQ(db_->ReadMeta(), "identity");
}

TEST_F(SnapshotTest, EntriesAreKeptForMembersThatAreALittleBehind) {
  leader_.reset();
  DbOptions options = ReplicaOptions(&leader_env_);
  options.snapshot_catchup_entries = 500;
  ASSERT_TRUE(Db::Open("/data", options, &leader_).ok());
  for (int i = 0; i < 12; ++i) {
    Lead(200);
    Checkpointed();
  }
  EXPECT_LE(leader_->replica()->first_index(), 2400u - 500u);
  EXPECT_GT(leader_->replica()->first_index(), 2400u - 1000u);
  EXPECT_EQ(LogOf(leader_.get(), leader_->replica()->first_index()).front().index, leader_->replica()->first_index());
}

TEST_F(SnapshotTest, AfterSoManyEntriesACheckpointIsWrittenByItself) {
  leader_.reset();
  DbOptions options = ReplicaOptions(&leader_env_);
  options.snapshot_count = 100;
  ASSERT_TRUE(Db::Open("/data", options, &leader_).ok());
  while (leader_->GetStats().checkpoint_index < 500) Lead(10);
  EXPECT_GT(leader_->replica()->last_index(), 500u);
}

// The checkpoint was renamed, and the mark did not get into the log, which holds another history there.
TEST_F(SnapshotTest, AnUnfinishedInstallIsFinishedByTheNextOpen) {
  Lead(5, 1);
  Lead(5, 4);
  const std::string bytes = Checkpointed();
  std::vector<OwnedEntry> others;
  for (uint64_t i = 1; i <= 15; ++i) others.push_back(PutEntry(i <= 5 ? 1 : 2, i, "other", std::to_string(i)));
  ASSERT_TRUE(AppendAndSync(db_.get(), others, {2, 0, 5}).ok());
  for (uint64_t ops = 0;; ++ops) {
    std::unique_ptr<SnapshotWriter> writer;
    ASSERT_TRUE(Receive(db_.get(), index_, term_, bytes, &writer).ok());
    env_.CrashAfterOps(ops);
    const Status status = replica_->InstallSnapshot(writer.get());
    writer.reset();
    db_.reset();
    env_.Crash();
    ASSERT_TRUE(OpenReplica(&env_, &db_).ok());
    replica_ = db_->replica();
    if (status.ok() || db_->applied_index() == 10) {
      EXPECT_EQ(db_->store().Hash(), leader_->store().Hash());
      EXPECT_EQ(replica_->last_index(), 10u);
      EXPECT_EQ(replica_->first_index(), 11u);
      EXPECT_EQ(replica_->state().commit, 10u);
      ASSERT_TRUE(Commit(db_.get(), {PutEntry(4, 11, "a", "b")}).ok());
      Reopen();
      EXPECT_EQ(db_->applied_index(), 11u);
      if (status.ok()) break;
      // Again from before the install.
      db_.reset();
      env_.KillProcess();
      for (const char* dir : {"/data/log", "/data/checkpoint"}) {
        std::vector<std::string> names;
        ASSERT_TRUE(env_.List(dir, &names).ok());
        for (const std::string& name : names) ASSERT_TRUE(env_.Remove(JoinPath(dir, name)).ok());
      }
      Reopen();
      ASSERT_TRUE(AppendAndSync(db_.get(), others, {2, 0, 5}).ok());
      continue;
    }
    EXPECT_EQ(LogOf(db_.get()), others);
    EXPECT_EQ(db_->applied_index(), 5u);
  }
}

// Readers and watchers while snapshot after snapshot takes the place of what they read: every answer is one of the
// history, whole, and no revision goes back. The history: revision r puts k = r and, in the same txn, l = r.
TEST_F(SnapshotTest, ReadersAndWatchersAreNotDisturbed) {
  const int snapshots = static_cast<int>(8 * FromEnvironment("FASTKV_RUNS", 1));
  constexpr uint64_t kStep = 300;
  std::atomic<bool> stop{false};
  std::atomic<int> reads{0};
  std::atomic<bool> failed{false};
  const auto reader = [&] {
    int64_t last = 0;
    while (!stop) {
      std::string response;
      if (db_->store().Range(RangeBytes("k", "m"), &response) != Code::kOk) failed = true;
      const RangeAnswer answer = ParseRangeAnswer(response);
      const bool empty = answer.revision == 1;
      if (answer.kvs.size() != (empty ? 0u : 2u) || answer.revision < last) failed = true;
      for (const auto& kv : answer.kvs) {
        if (kv.value != std::to_string(answer.revision) || kv.mod_revision != answer.revision) failed = true;
      }
      last = answer.revision;
      const Code code =
          db_->store().Range(RangeBytes("k", "m", {.revision = std::max<int64_t>(last - 20, 2)}), &response);
      if (code == Code::kOk && ParseRangeAnswer(response).kvs.size() != 2) failed = true;
      if (code != Code::kOk && code != Code::kCompacted && code != Code::kFutureRevision) failed = true;
      uint32_t hash = 0;
      int64_t compact = 0, at = 0;
      if (db_->store().HashKv(0, &hash, &compact, &at) != Code::kOk) failed = true;
      reads.fetch_add(1);
    }
  };
  const auto watching = [&] {
    while (!stop) {
      const int64_t from = db_->store().revision();
      const uint64_t id = db_->hub().Add({"k", "", from + 1, true, false, false});
      int64_t last = from;
      for (bool gone = false; !gone && !stop;) {
        db_->hub().Wait(id, 0.01);
        for (const WatchBatch& batch : db_->hub().Take(id, 1 << 20)) {
          gone = gone || batch.compact_revision > 0;
          if (!gone && batch.revision <= last) failed = true;
          last = batch.revision;
        }
      }
      db_->hub().Cancel(id);
    }
  };
  std::vector<std::thread> threads;
  threads.emplace_back(reader);
  threads.emplace_back(reader);
  threads.emplace_back(watching);
  for (int i = 0; i < snapshots; ++i) {
    std::vector<OwnedEntry> entries;
    for (uint64_t n = 0; n < kStep; ++n) {
      const uint64_t index = leader_->applied_index() + 1 + n;
      if (i % 2 == 1 && n == kStep - 1) {
        const std::string payload = CompactionBytes(leader_->store().revision() + static_cast<int64_t>(n) - 1);
        entries.push_back({1, index, EntryKind::kNormal, BatchOf(1, index, {{kTagCompaction, payload}})});
        continue;
      }
      const std::string value = std::to_string(leader_->store().revision() + 1 + static_cast<int64_t>(n));
      std::string txn;
      AppendPutOp(&txn, "k", value, 0);
      AppendPutOp(&txn, "l", value, 0);
      entries.push_back({1, index, EntryKind::kNormal, BatchOf(1, index, {{kTagTxn, txn}})});
    }
    ASSERT_TRUE(Commit(leader_.get(), entries).ok());
    const std::string bytes = Checkpointed();
    ASSERT_TRUE(Install(db_.get(), index_, term_, bytes).ok());
    const OwnedEntry next = {1, index_ + 1, EntryKind::kEmpty, ""};
    ASSERT_TRUE(Commit(db_.get(), {next}).ok());
    ASSERT_TRUE(Commit(leader_.get(), {next}).ok());
    const int target = reads + 5;
    while (reads < target) std::this_thread::yield();
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(failed);
}

}  // namespace
}  // namespace fastkv
