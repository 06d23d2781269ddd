// Power loss and the death of the process, at any moment of a replica's life: appending, cutting a suffix, committing,
// applying, changing the membership, checkpointing, installing a snapshot, closing, opening.
//
// Promises tested: what was appended and synced is there afterwards, and behind it a beginning of what was under way;
// the applied state is that of the committed history at its index, with the membership of that index; a hard state
// comes back as it was written; an installed snapshot stays installed. Method: a history is fixed beforehand; the log
// holds its committed part and, behind that, entries that may be cut again. After each crash the log must be one of the
// logs that there were since the last sync. A failure prints its seed; FASTKV_SEED=<n> runs that one alone,
// FASTKV_RUNS=<n> runs n times as many.

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/replica_support.h"

namespace fastkv {
namespace {

using namespace testing;

constexpr uint64_t kHistory = 400;

struct Totals {
  uint64_t crashes_in_open = 0, lost = 0, installed = 0, install_crashes = 0, cuts = 0, checkpoints = 0, changes = 0,
           jumped = 0, poisoned = 0;
};

// What every member comes to apply, and the state and membership at each index.
struct History {
  std::vector<OwnedEntry> entries;  // by index - 1
  std::vector<uint32_t> hashes = {Store().Hash()};
  std::vector<std::string> memberships = {"first"};
  std::vector<int64_t> revisions = {1};

  explicit History(uint64_t seed) {
    std::mt19937_64 random(seed);
    Store store;
    uint64_t term = 1;
    std::string membership = "first";
    for (uint64_t index = 1; index <= kHistory; ++index) {
      term += random() % 12 == 0 ? 1 : 0;
      OwnedEntry entry{term, index, EntryKind::kNormal, ""};
      if (random() % 25 == 0) {
        entry = ChangeEntry(term, index);
        membership = "members as of " + std::to_string(index);
      } else if (random() % 12 == 0) {
        entry.kind = EntryKind::kEmpty;
      } else {
        std::vector<std::pair<uint64_t, std::string>> commands;
        for (uint64_t n = 1 + random() % 3; n > 0; --n) {
          const std::string key = "k" + std::to_string(random() % 12);
          switch (random() % 8) {
            case 0:
              commands.emplace_back(kTagDeleteRange, DeleteBytes(key));
              break;
            case 1:
              commands.emplace_back(kTagCompaction, CompactionBytes(std::max<int64_t>(1, store.revision() - 5)));
              break;
            default:
              commands.emplace_back(kTagPut, PutBytes(key, std::string(random() % 400, 'v')));
          }
        }
        entry.batch = BatchOf(1 + random() % 3, index, commands);
        for (const auto& [tag, payload] : commands) testing::Apply(&store, tag, payload);
      }
      entries.push_back(std::move(entry));
      hashes.push_back(store.Hash());
      revisions.push_back(store.revision());
      memberships.push_back(membership);
    }
  }
};

class ReplicaPowerLossRun {
 public:
  ReplicaPowerLossRun(uint64_t seed, Totals* totals)
      : env_(seed), random_(seed * 104'729 + 11), history_(1 + seed % 4), totals_(totals) {}
  FaultEnv& env() { return env_; }

  // Empty: all promises held.
  std::string Run() {
    if (const Status status = OpenReplica(&env_, &db_); !status.ok()) return "first open: " + status.message();
    if (!db_->replica()->SetMembership("first").ok()) return "first membership";
    for (uint64_t rounds = 2 + Below(3); rounds > 0; --rounds) {
      if (std::string error = Work(); !error.empty()) return error;
      if (std::string error = Reopen(rounds > 1); !error.empty()) return error;
    }
    db_.reset();
    return {};
  }

 private:
  // A log as it stood after some record: what a crash may leave.
  struct View {
    std::vector<OwnedEntry> entries;  // of the log behind base
    uint64_t base = 0;                // a snapshot stands for all up to here
    HardState state;

    uint64_t last() const { return base + entries.size(); }
    void Put(const OwnedEntry& entry) {
      entries.resize(entry.index - base - 1);
      entries.push_back(entry);
    }
  };

  uint64_t Below(uint64_t n) { return random_() % n; }

  // One of the views since the last sync is what the log says now.
  std::string Recovered() {
    Replica* replica = db_->replica();
    const uint64_t applied = db_->applied_index();
    if (applied > kHistory || applied < durable_applied_) return "applied " + std::to_string(applied);
    if (db_->store().Hash() != history_.hashes[applied]) return "another state at " + std::to_string(applied);
    if (db_->store().revision() != history_.revisions[applied]) return "another revision";
    if (replica->membership() != history_.memberships[applied]) return "another membership";
    if (const std::string problems = Problems(db_->store()); !problems.empty()) return problems;
    const std::vector<OwnedEntry> log = LogOf(db_.get(), std::max(applied + 1, replica->first_index()));
    const uint64_t last = replica->last_index();
    for (size_t i = views_.size(); i-- > 0;) {
      const View& view = views_[i];
      HardState state = view.state;
      const uint64_t last_term = view.entries.empty() ? 0 : view.entries.back().term;
      if (last_term > state.term || TermAt(view.base) > state.term) {
        state.term = std::max(last_term, TermAt(view.base));
        state.vote = 0;
      }
      state.commit = std::max(state.commit, applied);
      if (view.last() != last || replica->state() != state) continue;
      const size_t skip = std::min(applied - std::min(applied, view.base), uint64_t{view.entries.size()});
      if (!std::equal(view.entries.begin() + static_cast<std::ptrdiff_t>(skip), view.entries.end(), log.begin(),
                      log.end()))
        continue;
      totals_->lost += i + 1 < views_.size();
      now_ = view;
      views_ = {now_};
      written_ = view.state;
      now_.state = state;  // it may know more than is written: the next write says so

      commit_ = std::max(commit_, state.commit);
      return {};
    }
    return "the log (" + std::to_string(replica->first_index()) + " to " + std::to_string(last) + ", term " +
           std::to_string(replica->state().term) + ", commit " + std::to_string(replica->state().commit) +
           ") is none of those that there were";
  }
  uint64_t TermAt(uint64_t index) const { return index == 0 ? 0 : history_.entries[index - 1].term; }

  std::string Reopen(bool may_crash) {
    db_.reset();
    env_.ClearFailures();
    if (may_crash && Below(4) == 0) env_.CrashAfterOps(Below(12));
    for (;;) {
      const Status status = OpenReplica(&env_, &db_);
      if (!status.ok() && env_.crashed()) {
        ++totals_->crashes_in_open;
        env_.Crash();
        continue;
      }
      if (!status.ok()) return "open: " + status.message();
      if (std::string error = Recovered(); !error.empty()) return error;
      if (!env_.crashed()) return {};
      db_.reset();
      env_.Crash();
    }
  }

  View Written() const { return {now_.entries, now_.base, written_}; }

  bool Failed(const Status& status) {
    if (status.code() == Code::kPoisoned) {
      totals_->poisoned += !poisoned_;
      poisoned_ = true;
    }
    return !status.ok();
  }

  // Entries of the history, or others behind what is committed, and perhaps a hard state.
  std::string Append() {
    const uint64_t applied = db_->applied_index();
    const uint64_t committed = std::max(commit_, applied);
    uint64_t first = now_.last() + 1;
    if (now_.last() > committed && Below(4) == 0) {
      first = committed + 1 + Below(now_.last() - committed);
      durable_ = std::min(durable_, first - 1);
      ++totals_->cuts;
    }
    const uint64_t term = now_.state.term + (Below(3) == 0 ? 1 : 0);
    const bool real = Below(3) != 0 && Follows(first - 1);
    std::vector<OwnedEntry> entries;
    for (uint64_t n = Below(5); n > 0 && first + entries.size() <= kHistory; --n) {
      const uint64_t index = first + entries.size();
      entries.push_back(real ? history_.entries[index - 1] : PutEntry(kHistory + term, index, "wrong", "v"));
    }
    HardState state = now_.state;
    state.term = std::max(term, entries.empty() ? 0 : entries.back().term);
    state.vote = state.term != now_.state.term ? Below(3) : now_.state.vote;
    // Committed is what a history shares with the log, once it is durable here.
    const bool owes_state = now_.state != written_;
    const bool given = entries.empty() || state.term != now_.state.term || Below(2) == 0;
    if (!real) state.commit = std::min(state.commit, first - 1);
    View view = Written();
    std::vector<View> steps;
    for (const OwnedEntry& entry : entries) {
      view.Put(entry);
      steps.push_back(view);
    }
    if (given || owes_state) {
      view.state = given ? state : now_.state;
      steps.push_back(view);
    }
    const std::vector<LogEntry> raw = Views(entries);
    const Status status = db_->replica()->Append(raw, given ? &state : nullptr, false);
    views_.insert(views_.end(), steps.begin(), steps.end());
    if (status.ok()) {
      now_ = view;
      written_ = now_.state;
    } else if (!Failed(status) || (status.code() != Code::kNoSpace && !env_.crashed() && !poisoned_)) {
      return "append: " + status.message();
    } else {
      stuck_ = true;  // a beginning of it may be in the log: Raft repeats it or ends
    }
    return {};
  }
  // Whether the log up to index is the history's.
  bool Follows(uint64_t index) const {
    return index <= now_.base || now_.entries[index - now_.base - 1] == history_.entries[index - 1];
  }

  void Sync() {
    if (Failed(db_->replica()->Sync())) return;
    views_ = {Written()};
    durable_ = now_.last();
  }

  // What is durable and the history's may be committed; what is committed may be applied.
  std::string ApplySome() {
    uint64_t index = db_->applied_index();
    const uint64_t until = std::min(durable_, index + Below(8));
    while (index < until && index < now_.last() && Follows(index + 1)) {
      ++index;
      commit_ = std::max(commit_, index);
      const OwnedEntry& entry = history_.entries[index - 1];
      const bool change = entry.kind == EntryKind::kConfChange;
      totals_->changes += change;
      const Status status =
          ApplyEntries(db_.get(), {entry}, nullptr, change ? history_.memberships[index].c_str() : nullptr);
      if (Failed(status)) return poisoned_ || env_.crashed() ? "" : "apply: " + status.message();
      if (db_->store().revision() != history_.revisions[index]) return "revision after apply";
    }
    return {};
  }

  // As another member with the same history would send it.
  std::string SnapshotOf(uint64_t index) {
    FaultEnv env(1);
    std::unique_ptr<Db> leader;
    FASTKV_CHECK(OpenReplica(&env, &leader).ok() && leader->replica()->SetMembership("first").ok());
    for (uint64_t i = 1; i <= index; ++i) {
      const OwnedEntry& entry = history_.entries[i - 1];
      FASTKV_CHECK(leader->replica()->Append(Views({entry}), nullptr, false).ok());
      const bool change = entry.kind == EntryKind::kConfChange;
      FASTKV_CHECK(
          ApplyEntries(leader.get(), {entry}, nullptr, change ? history_.memberships[i].c_str() : nullptr).ok());
    }
    uint64_t made = 0;
    FASTKV_CHECK(leader->Checkpoint(&made).ok() && made == index);
    return SnapshotBytes(leader.get());
  }

  std::string InstallSome() {
    const uint64_t applied = db_->applied_index();
    const uint64_t index = std::max(applied, commit_) + 1 + Below(40);
    if (index > kHistory) return {};
    const uint64_t term = TermAt(index);
    std::unique_ptr<SnapshotWriter> writer;
    Status status = Receive(db_.get(), index, term, SnapshotOf(index), &writer);
    if (Failed(status)) {
      return env_.crashed() || poisoned_ || status.code() == Code::kNoSpace || status.code() == Code::kIoError
                 ? ""
                 : "receive: " + status.message();
    }
    // A crash may leave the checkpoint without the mark: what the log holds stays if it has the same entry there.
    const auto same = [&](const View& view) {
      return index <= view.last() && view.entries[index - view.base - 1].term == term;
    };
    std::vector<View> unmarked = views_;
    for (View& view : unmarked) {
      if (!same(view)) view = {{}, index, view.state};
    }
    const View marked = {{}, index, written_};
    View stated = {{}, index, now_.state};
    stated.state.commit = std::max(stated.state.commit, index);
    if (term > stated.state.term) {
      stated.state.term = term;
      stated.state.vote = 0;
    }
    const bool jumps = !same(now_);
    status = db_->replica()->InstallSnapshot(writer.get());
    if (status.ok()) {
      ++totals_->installed;
      totals_->jumped += jumps;
      now_ = stated;
      written_ = now_.state;
      views_ = {now_};
      durable_ = durable_applied_ = index;
      commit_ = std::max(commit_, index);
      if (db_->store().Hash() != history_.hashes[index]) return "another state after an install";
      if (db_->replica()->membership() != history_.memberships[index]) return "another membership after an install";
      return {};
    }
    Failed(status);
    if (!env_.crashed() && !poisoned_ && status.code() != Code::kNoSpace) return "install: " + status.message();
    ++totals_->install_crashes;
    views_.insert(views_.end(), unmarked.begin(), unmarked.end());
    views_.push_back(marked);
    views_.push_back(stated);
    stuck_ = true;
    return {};
  }

  std::string Work() {
    poisoned_ = stuck_ = false;
    env_.CrashAfterOps(Below(3) == 0 ? Below(40) : Below(400));
    bool closed = false;
    for (int i = 0; i < 60 && !env_.crashed() && !closed && !stuck_ && !poisoned_; ++i) {
      if (Below(120) == 0) env_.FailNth(FaultEnv::Op::kWrite, 1 + Below(3), Code::kNoSpace);
      if (Below(200) == 0) env_.FailNth(FaultEnv::Op::kSync, 1 + Below(2), Code::kIoError);
      const uint64_t choice = Below(100);
      std::string error;
      if (choice < 45) {
        error = Append();
      } else if (choice < 65) {
        Sync();
      } else if (choice < 85) {
        error = ApplySome();
      } else if (choice < 91) {
        uint64_t index = 0;
        const Status status = db_->Checkpoint(&index);
        Failed(status);
        if (status.ok()) {
          durable_applied_ = std::max(durable_applied_, index);
          ++totals_->checkpoints;
        }
      } else if (choice < 95) {
        error = InstallSome();
      } else if (choice < 98) {
        db_->CompactStep(1 + Below(20));
      } else if (Below(3) == 0) {
        closed = true;
        View view = now_;
        view.state.commit = std::max(view.state.commit, db_->applied_index());
        views_.push_back(view);
        if (db_->Close().ok() && !poisoned_) views_ = {Written(), view};  // a full disk does without the commit index
      }
      if (!error.empty()) return error;
    }
    db_.reset();
    if (Below(4) == 0 && !env_.crashed()) {
      env_.KillProcess();
    } else {
      env_.Crash();
    }
    return {};
  }

  FaultEnv env_;
  std::mt19937_64 random_;
  const History history_;
  Totals* const totals_;
  std::unique_ptr<Db> db_;
  View now_;
  HardState written_;                   // now_.state as the log has it
  std::vector<View> views_ = {View()};  // since the last sync, that one first
  uint64_t durable_ = 0, commit_ = 0, durable_applied_ = 0;
  bool poisoned_ = false, stuck_ = false;
};

TEST(ReplicaPowerLoss, TheLogIsWhatWasSyncedAndTheStateThatOfTheHistory) {
  const auto [first, count] = SeedsFor(400);
  Totals totals;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    ReplicaPowerLossRun run(seed, &totals);
    const std::string error = run.Run();
    ASSERT_EQ(error, "") << Replay("replica_power_loss_test", "ReplicaPowerLoss.TheLog*", seed);
  }
  if (count < 400) return;
  // The runs must have been where it is dangerous.
  EXPECT_GT(totals.lost, count / 10);
  EXPECT_GT(totals.crashes_in_open, count / 20);
  EXPECT_GT(totals.installed, count / 2);
  EXPECT_GT(totals.install_crashes, count / 20);
  EXPECT_GT(totals.cuts, count);
  EXPECT_GT(totals.checkpoints, count);
  EXPECT_GT(totals.changes, count / 10);
  EXPECT_GT(totals.jumped, count / 4);
  EXPECT_GT(totals.poisoned, count / 50);
}

// The canary: a disk that says "synced" and is not must be found out, or the test above tests nothing.
TEST(ReplicaPowerLoss, ADiskThatLiesAboutSyncIsNoticed) {
  Totals totals;
  int noticed = 0;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    ReplicaPowerLossRun run(seed, &totals);
    run.env().LieAboutSync(true);
    noticed += !run.Run().empty();
  }
  EXPECT_GT(noticed, 20);
}

}  // namespace
}  // namespace fastkv
