// Power loss and the death of the process, at any moment of a Db's life: writing, checkpointing, compacting, closing,
// opening.
//
// Promises tested: what Commit answered is there afterwards (sync: whatever happened; no sync: after the death of the
// process, and after a power loss a prefix, at least up to the last Sync, Checkpoint or Close); nothing else is there
// but what was under way. Method: the batches are kept; after each crash the recovered state must equal a fresh store
// to which the first applied_index batches were applied, by its hash, revisions, leases, alarms and meta. A failure
// prints its seed; FASTKV_SEED=<n> runs that one alone, FASTKV_RUNS=<n> runs n times as many.

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/fault_env.h"
#include "db/db.h"
#include "tests/commands.h"

namespace fastkv {
namespace {

using namespace testing;

using Batch = std::vector<std::pair<uint64_t, std::string>>;  // tag, payload

struct Totals {
  uint64_t batches_lost = 0, crashes_in_open = 0, checkpoints = 0, no_space = 0, poisoned = 0, kills = 0,
           from_checkpoint = 0;
};

class PowerLossRun {
 public:
  PowerLossRun(uint64_t seed, Totals* totals) : env_(seed), random_(seed * 6151 + 3), totals_(totals) {
    options_.sync = Below(3) != 0;
    options_.segment_bytes_first = 4096;
    options_.segment_bytes_max = 8192;
    // A session makes fewer batches than MaybeStartCheckpoint looks at: the background thread sleeps and a seed means
    // one run. Close writes a checkpoint when this is small.
    options_.checkpoint_bytes = Below(2) == 0 ? 2048 : 1 << 30;
    options_.env = &env_;
    model_ = std::make_unique<Store>();
  }
  FaultEnv& env() { return env_; }

  // Empty: all promises held.
  std::string Run() {
    for (uint64_t rounds = 2 + Below(3); rounds > 0; --rounds) {
      if (std::string error = Reopen(true); !error.empty()) return error;
      if (std::string error = Work(); !error.empty()) return error;
    }
    if (std::string error = Reopen(false); !error.empty()) return error;
    const Status closed = db_->Close();
    if (!closed.ok()) return "close: " + closed.message();
    if (std::string error = Reopen(false); !error.empty()) return error;
    db_.reset();
    return {};
  }

 private:
  uint64_t Below(uint64_t n) { return random_() % n; }

  std::string Reopen(bool may_crash) {
    db_.reset();
    env_.ClearFailures();
    if (may_crash && Below(4) == 0) env_.CrashAfterOps(Below(25));
    for (;;) {
      const Status status = Db::Open("/data", options_, &db_);
      if (!status.ok() && env_.crashed()) {
        ++totals_->crashes_in_open;
        env_.Crash();
        continue;
      }
      if (!status.ok()) return "open: " + status.message();
      if (std::string error = Recovered(); !error.empty()) return error;
      if (env_.crashed()) {  // where nothing more had to be written
        db_.reset();
        env_.Crash();
        continue;
      }
      if (may_crash) env_.CrashAfterOps(Below(4) == 0 ? Below(30) : Below(300));
      return {};
    }
  }

  // What was recovered is a prefix of the batches that holds all that must be there.
  std::string Recovered() {
    const uint64_t applied = db_->applied_index();
    if (applied < durable_) {
      return "batches up to " + std::to_string(durable_) + " were acknowledged, the store ends at " +
             std::to_string(applied);
    }
    if (applied > batches_.size()) return "batch " + std::to_string(applied) + " was never committed";
    totals_->batches_lost += batches_.size() - applied;
    totals_->from_checkpoint += db_->GetStats().checkpoint_index > 0;
    if (modelled_ > applied) {
      model_ = std::make_unique<Store>();
      modelled_ = 0;
    }
    batches_.resize(applied);
    for (; modelled_ < applied; ++modelled_) {
      for (const auto& [tag, payload] : batches_[modelled_]) Apply(model_.get(), tag, payload);
    }
    if (std::string error = Compare(); !error.empty()) return error + " at index " + std::to_string(applied);
    if (!metas_.contains(db_->ReadMeta())) return "another meta";
    if (options_.sync) {  // what such a store shows is on the disk
      metas_ = {db_->ReadMeta()};
      durable_ = applied;
    }
    return {};
  }

  std::string Compare() {
    Store& store = db_->store();
    if (const std::string problems = Problems(store); !problems.empty()) return problems;
    if (store.revision() != model_->revision()) return "revision " + std::to_string(store.revision());
    if (store.compact_revision() != model_->compact_revision()) return "another compact revision";
    if (store.Hash() != model_->Hash()) return "another hash";
    auto alarms = [](Store* of) {
      const auto lock = of->WriteLock();
      return of->TakePicture().alarms;
    };
    const bool same = alarms(&store) == alarms(model_.get());
    store.ReleasePicture();
    model_->ReleasePicture();
    return same ? "" : "other alarms";
  }

  std::string Key() { return "k" + std::to_string(Below(25)); }
  std::string Value() {
    return std::string(Below(12) == 0 ? Below(5000) : Below(120), static_cast<char>('a' + Below(26)));
  }

  std::pair<uint64_t, std::string> RandomCommand() {
    const uint64_t choice = Below(100);
    const auto id = static_cast<int64_t>(1 + Below(5));
    if (choice < 50) return {kTagPut, PutBytes(Below(30) == 0 ? "" : Key(), Value(), Below(4) == 0 ? id : 0)};
    if (choice < 62) return {kTagDeleteRange, DeleteBytes(Key(), Below(3) == 0 ? "k2" : "")};
    if (choice < 75) {
      std::string txn;
      for (uint64_t ops = Below(5); ops > 0; --ops) AppendPutOp(&txn, Key(), Value(), 0);
      AppendOp(&txn, 2, RequestOp::kDeleteRange, DeleteBytes("x" + Key()));
      return {kTagTxn, txn};
    }
    if (choice < 82) return {kTagLeaseGrant, GrantBytes(id, 10 + id)};
    if (choice < 86) return {kTagLeaseRevoke, RevokeBytes(id)};
    if (choice < 90) return {kTagLeaseCheckpoint, LeaseCheckpointBytes(id, static_cast<int64_t>(Below(9)))};
    if (choice < 92) return {kTagAlarm, AlarmBytes(static_cast<int32_t>(1 + Below(2)), Below(2), 2)};
    const int64_t revision = db_->store().revision();
    return {kTagCompaction, CompactionBytes(std::max<int64_t>(1, revision - static_cast<int64_t>(Below(12))))};
  }

  std::string Commit() {
    Batch batch;
    // One caller's commands or those of several that were gathered: to the log it is the same.
    for (uint64_t n = 1 + (Below(3) == 0 ? Below(5) : 0); n > 0; --n) batch.push_back(RandomCommand());
    std::vector<Command> commands;
    Batch logged;
    for (const auto& [tag, payload] : batch) {
      commands.push_back({tag, payload});
      if (Validate(tag, payload, {}) == Code::kOk) logged.emplace_back(tag, payload);
    }
    std::vector<CommandResult> results;
    const Status status = db_->Commit(commands, &results);
    if (logged.empty()) return {};
    if (status.ok()) {
      if (poisoned_) return "a commit succeeded after a failed sync";
      for (const auto& [tag, payload] : logged) Apply(model_.get(), tag, payload);
      batches_.push_back(std::move(logged));
      ++modelled_;
      if (options_.sync) durable_ = batches_.size();
      if (db_->applied_index() != batches_.size()) return "applied_index after a commit";
      if (results.back().revision != model_->revision() &&
          Validate(batch.back().first, batch.back().second, {}) == Code::kOk) {
        return "the answer's revision";
      }
      return {};
    }
    if (db_->applied_index() != modelled_) return "a failed commit was applied";
    if (status.code() == Code::kNoSpace && !env_.crashed()) {
      ++totals_->no_space;
      return {};  // it must never come back
    }
    if (status.code() == Code::kPoisoned) {
      if (!poisoned_) under_way_ = logged;
      NotePoison(status);
      return Compare();  // reads go on
    }
    if (!env_.crashed()) return "commit: " + status.message();
    if (under_way_.empty() && !poisoned_) under_way_ = logged;
    return {};
  }

  void NotePoison(const Status& status) {
    if (status.code() != Code::kPoisoned) return;
    totals_->poisoned += !poisoned_;
    poisoned_ = true;
  }

  std::string Work() {
    poisoned_ = false;
    under_way_.clear();
    bool closed = false;
    for (int i = 0; i < 55 && !env_.crashed() && !closed; ++i) {
      if (Below(25) == 0) {
        env_.FailNth(Below(2) == 0 ? FaultEnv::Op::kWrite : FaultEnv::Op::kCreate, 1 + Below(3), Code::kNoSpace);
      }
      if (Below(150) == 0) env_.FailNth(FaultEnv::Op::kSync, 1 + Below(2), Code::kIoError);
      const uint64_t choice = Below(100);
      std::string error;
      if (choice < 78) {
        error = Commit();
      } else if (choice < 84) {
        uint64_t index = 0;
        const Status status = db_->Checkpoint(&index);
        NotePoison(status);
        if (status.ok()) {
          if (index != db_->applied_index()) return "a checkpoint of another index";
          durable_ = std::max(durable_, index);
          ++totals_->checkpoints;
        }
      } else if (choice < 92) {
        db_->CompactStep(1 + Below(20));
      } else if (choice < 95) {
        const std::string meta = "meta" + std::to_string(random_() % 1000);
        const Status status = db_->WriteMeta(meta);
        NotePoison(status);
        if (status.ok()) {
          metas_ = {meta};
          durable_ = batches_.size();
        } else {
          metas_.insert(meta);
        }
      } else if (choice < 98) {
        const Status status = db_->Sync();
        NotePoison(status);
        if (status.ok()) durable_ = batches_.size();
      } else if (Below(3) == 0) {
        closed = true;
        if (db_->Close().ok() && !poisoned_) durable_ = batches_.size();
      }
      if (!error.empty()) return error;
    }
    db_.reset();
    const uint64_t committed = batches_.size();
    if (!under_way_.empty()) batches_.push_back(under_way_);  // may be there
    if (Below(4) == 0 && !env_.crashed()) {
      ++totals_->kills;
      env_.KillProcess();
      const uint64_t on_disk = durable_;
      durable_ = committed;
      if (std::string error = Reopen(false); !error.empty()) return "after a kill: " + error;
      db_.reset();
      if (!options_.sync) durable_ = on_disk;
    }
    env_.Crash();
    return {};
  }

  FaultEnv env_;
  std::mt19937_64 random_;
  Totals* const totals_;
  DbOptions options_;
  std::unique_ptr<Db> db_;
  std::vector<Batch> batches_;    // by index - 1
  std::unique_ptr<Store> model_;  // the first modelled_ of them applied
  uint64_t modelled_ = 0, durable_ = 0;
  std::set<std::string> metas_ = {""};
  Batch under_way_;  // failed in a crash or with the sync: it may be there or not
  bool poisoned_ = false;
};

TEST(DbPowerLoss, AcknowledgedSurvivesAndNothingIsInvented) {
  const auto [first, count] = SeedsFor(1200);
  Totals totals;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    PowerLossRun run(seed, &totals);
    const std::string error = run.Run();
    ASSERT_EQ(error, "") << Replay("db_power_loss_test", "DbPowerLoss.Acknowledged*", seed);
  }
  if (count < 1000) return;
  // The runs must have been where it is dangerous.
  EXPECT_GT(totals.batches_lost, count / 4);
  EXPECT_GT(totals.crashes_in_open, count / 10);
  EXPECT_GT(totals.checkpoints, count);
  EXPECT_GT(totals.from_checkpoint, count / 2);
  EXPECT_GT(totals.no_space, count / 4);
  EXPECT_GT(totals.poisoned, count / 20);
  EXPECT_GT(totals.kills, count / 10);
}

// Seeds that once found something. 4410: Close said OK of a log whose last sync had failed.
TEST(DbPowerLoss, SeedsThatOnceFailed) {
  Totals totals;
  for (const uint64_t seed : {612u, 4410u}) {
    PowerLossRun run(seed, &totals);
    ASSERT_EQ(run.Run(), "") << Replay("db_power_loss_test", "DbPowerLoss.Acknowledged*", seed);
  }
}

// The canary: a disk that says "synced" and is not must be found out, or the test above tests nothing.
TEST(DbPowerLoss, ADiskThatLiesAboutSyncIsNoticed) {
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
