// Power loss, again and again, at any moment: appending, syncing, rotating, dropping segments, recovering.
//
// Promise tested: every record that a Sync covered is there after the crash, in order, and what is there beyond them is
// a prefix of what was appended: nothing invented, nothing skipped. Damage to an acknowledged record is refused.
// Method: a model keeps what the log means after every record number; after each crash the recovered log must mean
// exactly what the model says for the number it ends at, and that number must lie between acknowledged and appended. A
// failure prints its seed; FASTKV_SEED=<n> runs that one alone. FASTKV_RUNS sets how many.

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/fault_env.h"
#include "log/log.h"
#include "log/recovery.h"

namespace fastkv {
namespace {

const std::string kDir = "/log";

struct Meaning {
  std::map<uint64_t, std::pair<uint64_t, std::string>> entries;  // index -> term, batch
  uint64_t last_index = 0;
  HardState hard_state;
  std::string meta;

  void Entry(uint64_t term, uint64_t index, const std::string& batch) {
    entries.erase(entries.lower_bound(index), entries.end());
    entries[index] = {term, batch};
    last_index = index;
  }
  bool HoldsOther(uint64_t index, uint64_t term) const {
    const auto found = entries.find(index);
    return found != entries.end() && found->second.first != term;
  }
  void Mark(uint64_t index, uint64_t term) {
    if (index > last_index || HoldsOther(index, term)) entries.clear();
    entries.erase(entries.upper_bound(index), entries.end());
    last_index = index;
  }
};

class PowerLossRun {
 public:
  explicit PowerLossRun(uint64_t seed) : env_(seed), random_(seed * 7919 + 1) {
    FASTKV_CHECK(env_.CreateDir(kDir).ok());
    options_.sync = Below(3) != 0;
    options_.segment_bytes_first = 4096;
    options_.segment_bytes_max = 16384;
    meanings_[0] = {};
  }

  FaultEnv& env() { return env_; }
  uint64_t segments_removed() const { return segments_removed_; }
  uint64_t records_lost() const { return records_lost_; }
  uint64_t crashes_in_recovery() const { return crashes_in_recovery_; }
  uint64_t jumps() const { return jumps_; }

  // Empty: all promises held.
  std::string Run() {
    const uint64_t rounds = 2 + Below(4);
    for (uint64_t round = 0; round < rounds; ++round) {
      if (std::string error = Reopen(); !error.empty()) return error;
      if (std::string error = Work(); !error.empty()) return error;
    }
    return Reopen();
  }

 private:
  uint64_t Below(uint64_t n) { return random_() % n; }

  std::string Reopen(bool may_crash = true) {
    env_.ClearFailures();
    if (may_crash && Below(4) == 0) env_.CrashAfterOps(Below(8));
    for (;;) {
      std::map<uint64_t, std::pair<uint64_t, std::string>> delivered;
      uint64_t delivered_last = checkpoint_index_;
      bool in_order = true;
      LogRecovered recovered;
      const Status status = Log::Open(
          &env_, kDir, options_, {checkpoint_index_, checkpoint_term_, 0, ""},
          [&](const LogEntry& entry) {
            in_order &= entry.index == ++delivered_last;
            delivered[entry.index] = {entry.term, std::string(entry.batch)};
            return Status();
          },
          &recovered, &log_);
      if (!status.ok() && env_.crashed()) {
        ++crashes_in_recovery_;
        env_.Crash();
        continue;
      }
      if (!status.ok()) return "open: " + status.message();
      if (!in_order) return "entries were not delivered in order";
      const uint64_t number = log_->last_number();
      if (number < acknowledged_) {
        return "records up to " + std::to_string(acknowledged_) + " were acknowledged, the log ends at " +
               std::to_string(number);
      }
      if (!meanings_.contains(number)) return "record " + std::to_string(number) + " was never appended";
      records_lost_ += meanings_.rbegin()->first - number;
      meanings_.erase(meanings_.upper_bound(number), meanings_.end());
      Meaning expected = meanings_[number];
      mark_pending_at_ = UINT64_MAX;
      if (expected.last_index < checkpoint_index_ || expected.HoldsOther(checkpoint_index_, checkpoint_term_)) {
        expected.Mark(checkpoint_index_, checkpoint_term_);
        ++jumps_;
        mark_pending_at_ = number;
      }
      auto wanted = expected.entries;
      wanted.erase(wanted.begin(), wanted.upper_bound(checkpoint_index_));
      if (delivered != wanted) return "the entries at record " + std::to_string(number) + " are not those appended";
      if (log_->last_index() != expected.last_index) return "last_index is " + std::to_string(log_->last_index());
      if (recovered.hard_state != expected.hard_state) return "another hard state";
      if (recovered.meta != expected.meta) return "another meta";
      now_ = expected;
      if (options_.sync) acknowledged_ = number;
      if (env_.crashed()) continue;  // it crashed where nothing more had to be written
      env_.CrashAfterOps(Below(3) == 0 ? Below(20) : Below(200));
      return {};
    }
  }

  std::string Work() {
    for (uint64_t i = 0; i < 80 && !env_.crashed(); ++i) {
      if (Below(20) == 0)
        env_.FailNth(Below(2) ? FaultEnv::Op::kWrite : FaultEnv::Op::kCreate, 1 + Below(3), Code::kNoSpace);
      const uint64_t choice = Below(100);
      std::string error;
      if (choice < 60) {
        error = AppendEntry();
      } else if (choice < 66) {
        Meaning after = now_;
        after.hard_state = {Below(100), Below(3), Below(100)};
        error = Appended(log_->AppendHardState(after.hard_state), after);
      } else if (choice < 70) {
        Meaning after = now_;
        after.meta = Bytes(Below(50));
        error = Appended(log_->AppendMeta(after.meta), after);
      } else if (choice < 73) {
        const uint64_t index = now_.last_index + Below(3);
        if (index <= checkpoint_index_) continue;
        Meaning after = now_;
        const auto there = now_.entries.find(index);
        const uint64_t term = there != now_.entries.end() && Below(2) == 0 ? there->second.first : 9;
        after.Mark(index, term);
        // A mark follows the checkpoint that it names, which is durable by then; a crash may lose the mark, not the
        // checkpoint.
        checkpoint_index_ = index;
        checkpoint_term_ = term;
        mark_pending_at_ = UINT64_MAX;  // this one takes its place
        error = Appended(log_->AppendSnapshot(index, term), after);
      } else if (choice < 90) {
        const uint64_t number = log_->last_number();
        if (log_->Sync().ok()) acknowledged_ = number;
      } else if (choice < 96) {
        error = Drop();
      } else if (choice == 99) {
        if (log_->Close(now_.last_index).ok()) acknowledged_ = log_->last_number();
        NoteUnchangedUpTo(log_->last_number() + 1);
        break;
      }
      if (!error.empty()) return error;
    }
    segments_removed_ += log_->counters().segments_removed;
    const uint64_t appended = log_->last_number();
    log_.reset();
    if (Below(4) == 0 && !env_.crashed()) {
      env_.KillProcess();
      const uint64_t on_disk = acknowledged_;
      acknowledged_ = appended;  // everything, until the next power loss
      if (std::string error = Reopen(false); !error.empty()) return "after a kill: " + error;
      log_.reset();
      if (!options_.sync) acknowledged_ = on_disk;
    }
    env_.Crash();
    return {};
  }

  std::string Bytes(uint64_t length) {
    std::string bytes(length, '\0');
    for (char& c : bytes) c = static_cast<char>(Below(3) == 0 ? 0 : random_());
    return bytes;
  }

  std::string AppendEntry() {
    uint64_t index = now_.last_index + 1;
    const uint64_t cuttable = now_.last_index - std::min(now_.last_index, checkpoint_index_);
    if (Below(8) == 0 && cuttable > 0) index = now_.last_index - Below(std::min<uint64_t>(cuttable, 5));
    const std::string batch = Bytes(Below(10) == 0 ? Below(6000) : Below(300));
    const uint64_t term = 1 + Below(3);
    Meaning after = now_;
    after.Entry(term, index, batch);
    return Appended(log_->Append(term, index, batch), after);
  }

  // The call may have put a pending mark in front, and if it failed in a crash its record may be there or not.
  std::string Appended(const Status& status, const Meaning& after) {
    const uint64_t number = log_->last_number();
    if (!status.ok()) {
      NoteUnchangedUpTo(number);
      if (!env_.crashed() && status.code() != Code::kNoSpace) return "append: " + status.message();
      if (env_.crashed()) meanings_[number + 1] = number == mark_pending_at_ ? now_ : after;
      return {};
    }
    NoteUnchangedUpTo(number - 1);
    meanings_[number] = after;
    now_ = after;
    return {};
  }
  void NoteUnchangedUpTo(uint64_t number) {
    for (uint64_t n = meanings_.rbegin()->first + 1; n <= number; ++n) meanings_[n] = now_;
  }

  std::string Drop() {
    // A checkpoint may hold what the log has not synced only in a store that does not sync.
    if (options_.sync) {
      const uint64_t number = log_->last_number();
      if (!log_->Sync().ok()) return {};
      acknowledged_ = number;
    }
    if (now_.last_index <= checkpoint_index_) return {};
    uint64_t term;
    const uint64_t index = checkpoint_index_ + 1 + Below(now_.last_index - checkpoint_index_);
    const Status found = log_->Term(index, &term);
    if (!found.ok()) return "term: " + found.message();
    checkpoint_index_ = index;
    checkpoint_term_ = term;
    const Status status = log_->DropBefore(index);
    NoteUnchangedUpTo(log_->last_number() + (env_.crashed() ? 1 : 0));
    if (!status.ok() && !env_.crashed() && status.code() != Code::kNoSpace) return "drop: " + status.message();
    return {};
  }

  FaultEnv env_;
  std::mt19937_64 random_;
  LogOptions options_;
  std::unique_ptr<Log> log_;
  std::map<uint64_t, Meaning> meanings_;  // record number -> what the log means up to it
  Meaning now_;
  uint64_t acknowledged_ = 0;
  uint64_t mark_pending_at_ = UINT64_MAX;  // the log's number when it still had to write a mark of its own
  uint64_t checkpoint_index_ = 0, checkpoint_term_ = 0;
  uint64_t segments_removed_ = 0, records_lost_ = 0, crashes_in_recovery_ = 0, jumps_ = 0;
};

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = getenv(name);
  return text == nullptr ? otherwise : strtoull(text, nullptr, 10);
}

TEST(LogPowerLoss, AcknowledgedSurvivesAndNothingIsInvented) {
  const uint64_t first = FromEnvironment("FASTKV_SEED", 1);
  const uint64_t runs = getenv("FASTKV_SEED") != nullptr ? 1 : FromEnvironment("FASTKV_RUNS", 1500);
  uint64_t segments_removed = 0, records_lost = 0, crashes_in_recovery = 0, jumps = 0;
  for (uint64_t seed = first; seed < first + runs; ++seed) {
    PowerLossRun run(seed);
    const std::string error = run.Run();
    ASSERT_TRUE(error.empty()) << error << "\n    replay: FASTKV_SEED=" << seed
                               << " log_power_loss_test --gtest_filter=LogPowerLoss.Acknowledged*";
    segments_removed += run.segments_removed();
    records_lost += run.records_lost();
    crashes_in_recovery += run.crashes_in_recovery();
    jumps += run.jumps();
  }
  if (runs < 1000) return;
  // The runs must have been where it is dangerous.
  EXPECT_GT(segments_removed, runs / 10);
  EXPECT_GT(records_lost, runs);
  EXPECT_GT(crashes_in_recovery, runs / 20);
  EXPECT_GT(jumps, runs / 100);
}

// The canary: a disk that says "synced" and is not must be found out, or the test above tests nothing.
TEST(LogPowerLoss, ADiskThatLiesAboutSyncIsNoticed) {
  uint64_t noticed = 0;
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    PowerLossRun run(seed);
    run.env().LieAboutSync(true);
    noticed += !run.Run().empty();
  }
  EXPECT_GT(noticed, 25u);
}

struct PlacedRecord {
  std::string path;
  uint64_t offset, bytes, number;
};

// Flips every kind of bit in turn in a log whose records were all acknowledged before the next one was written.
TEST(LogPowerLoss, ABitFlipInAnAcknowledgedRecordIsRefused) {
  for (const bool clean : {false, true}) {
    FaultEnv env(7);
    ASSERT_TRUE(env.CreateDir(kDir).ok());
    LogOptions options;
    options.segment_bytes_first = 4096;
    options.segment_bytes_max = 4096;
    const auto ignore = [](const LogEntry&) { return Status(); };
    LogRecovered recovered;
    std::unique_ptr<Log> log;
    ASSERT_TRUE(Log::Open(&env, kDir, options, {}, ignore, &recovered, &log).ok());
    for (uint64_t index = 1; index <= 60; ++index) {
      ASSERT_TRUE(log->Append(1, index, std::string(index * 5, static_cast<char>('a' + index % 26))).ok());
      ASSERT_TRUE(log->Sync().ok());
    }
    if (clean) {
      ASSERT_TRUE(log->Close(60).ok());
    }
    log.reset();
    env.KillProcess();

    std::vector<PlacedRecord> records;
    LogScan scan;
    ASSERT_TRUE(ScanLog(
                    &env, kDir,
                    [&](const RecordView& record, const RecordPlace& place) {
                      records.push_back({scan.segments[place.segment].path, place.offset,
                                         kRecordHeaderBytes + record.payload.size(), record.number});
                      return Status();
                    },
                    &scan)
                    .ok());
    ASSERT_EQ(records.size(), clean ? 61u : 60u);
    ASSERT_GT(scan.segments.size(), 3u);
    records.pop_back();  // of the last one nothing behind it says that it was acknowledged (or it is the clean record)
    const auto refused = [&](const std::string& path, uint64_t offset, int bit) {
      const std::string before = env.Contents(path);
      std::string after = before;
      after[offset] = static_cast<char>(after[offset] ^ (1 << bit));
      env.SetContents(path, after);
      const Status status = Log::Open(&env, kDir, options, {}, ignore, &recovered, &log);
      env.SetContents(path, before);
      EXPECT_EQ(status.code(), Code::kCorrupt) << path << " offset " << offset << " bit " << bit;
      EXPECT_NE(status.message().find(path), std::string::npos) << status.message();
      EXPECT_NE(status.message().find("offset"), std::string::npos) << status.message();
      return status.code() == Code::kCorrupt;
    };
    std::mt19937_64 random(11);
    for (const auto& record : records) {
      for (uint64_t at = 0; at < record.bytes; at += at < kRecordHeaderBytes ? 1 : 17) {
        ASSERT_TRUE(refused(record.path, record.offset + at, static_cast<int>(random() % 8)));
      }
    }
    for (const auto& segment : scan.segments) {
      if (&segment == &scan.segments.back() && segment.used_bytes == kSegmentHeaderBytes) continue;
      for (uint64_t at = 0; at < kSegmentHeaderBytes; ++at) {
        ASSERT_TRUE(refused(segment.path, at, static_cast<int>(random() % 8)));
      }
    }
    ASSERT_TRUE(Log::Open(&env, kDir, options, {}, ignore, &recovered, &log).ok());
  }
}

}  // namespace
}  // namespace fastkv
