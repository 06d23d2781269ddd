// The Log on the real disk and on FaultEnv: what it promises to its callers, one test a promise.

#include "log/log.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/coding.h"
#include "base/crc32c.h"
#include "base/fault_env.h"
#include "log/recovery.h"

namespace fastkv {
namespace {

#define ASSERT_OK(expr)                                 \
  do {                                                  \
    const Status ok_status = (expr);                    \
    ASSERT_TRUE(ok_status.ok()) << ok_status.message(); \
  } while (0)

struct Opened {
  Status status;
  std::unique_ptr<Log> log;
  LogRecovered recovered;
  std::vector<Log::OwnedEntry> entries;
  std::vector<std::string> warnings;

  std::string Batches() const {
    std::string all;
    for (const auto& entry : entries) all += std::to_string(entry.index) + "=" + entry.batch + " ";
    return all;
  }
};

Opened OpenLog(Env* env, const std::string& dir, LogOptions options = {}, LogStart start = {}) {
  Opened opened;
  options.warn = [&](const std::string& line) { opened.warnings.push_back(line); };
  opened.status = Log::Open(
      env, dir, options, start,
      [&](const LogEntry& entry) {
        opened.entries.push_back({entry.term, entry.index, std::string(entry.batch)});
        return Status();
      },
      &opened.recovered, &opened.log);
  return opened;
}

LogOptions SmallSegments(bool sync = true) {
  LogOptions options;
  options.sync = sync;
  options.segment_bytes_first = 4096;
  options.segment_bytes_max = 8192;
  return options;
}

class MemoryLogTest : public testing::Test {
 protected:
  MemoryLogTest() { EXPECT_TRUE(env_.CreateDir(dir_).ok()); }
  FaultEnv env_{1};
  const std::string dir_ = "/log";
  const std::string first_ = "/log/0000000000000001.log";
};

class DiskLogTest : public testing::TestWithParam<bool> {  // sync
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "fastkv_log_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  Env* const env_ = Env::Posix();
  std::string dir_;
};
INSTANTIATE_TEST_SUITE_P(SyncAndMapped, DiskLogTest, testing::Bool());

TEST_P(DiskLogTest, EverythingComesBackInOrderAcrossSegments) {
  const LogOptions options = SmallSegments(GetParam());
  std::string expected;
  {
    Opened opened = OpenLog(env_, dir_, options);
    ASSERT_OK(opened.status);
    for (uint64_t index = 1; index <= 500; ++index) {
      const std::string batch = std::to_string(index * index);
      const std::vector<std::string_view> parts = {batch, "-", "tail"};
      ASSERT_OK(opened.log->Append(3, index, parts));
      expected += std::to_string(index) + "=" + batch + "-tail ";
    }
    ASSERT_OK(opened.log->AppendHardState({3, 7, 400}));
    ASSERT_OK(opened.log->AppendMeta("who I am"));
    if (GetParam()) ASSERT_OK(opened.log->Sync());
    EXPECT_GT(opened.log->counters().segments_created, 3u);
  }  // no Close: the process has died
  {
    Opened opened = OpenLog(env_, dir_, options);
    ASSERT_OK(opened.status);
    EXPECT_EQ(opened.Batches(), expected);
    EXPECT_EQ(opened.recovered.hard_state, (HardState{3, 7, 400}));
    EXPECT_EQ(opened.recovered.meta, "who I am");
    EXPECT_FALSE(opened.recovered.clean);
    EXPECT_TRUE(opened.warnings.empty());
    EXPECT_EQ(opened.log->last_term(), 3u);
    ASSERT_OK(opened.log->Close(500));
    EXPECT_EQ(opened.log->Append(3, 501, "x").code(), Code::kClosed);
  }
  Opened opened = OpenLog(env_, dir_, options, {490, 3, 0, ""});
  ASSERT_OK(opened.status);
  EXPECT_TRUE(opened.recovered.clean);
  EXPECT_EQ(opened.recovered.applied_index, 500u);
  EXPECT_EQ(opened.entries.size(), 10u);
  EXPECT_EQ(opened.entries.front().index, 491u);
}

TEST_P(DiskLogTest, ARecordLargerThanASegmentGetsASegmentOfItsOwn) {
  const std::string big(3 << 20, 'v');
  {
    Opened opened = OpenLog(env_, dir_, SmallSegments(GetParam()));
    ASSERT_OK(opened.status);
    ASSERT_OK(opened.log->Append(1, 1, "small"));
    ASSERT_OK(opened.log->Append(1, 2, big));
    ASSERT_OK(opened.log->Append(1, 3, "small again"));
    ASSERT_OK(opened.log->Sync());
    std::vector<Log::OwnedEntry> read;
    ASSERT_OK(opened.log->Read(1, 1, &read));
    EXPECT_EQ(read.size(), 1u);  // at least one, whatever bytes_max
    ASSERT_OK(opened.log->Read(2, UINT64_MAX, &read));
    ASSERT_EQ(read.size(), 3u);
    EXPECT_EQ(read[1].batch, big);
  }
  Opened opened = OpenLog(env_, dir_, SmallSegments(GetParam()));
  ASSERT_OK(opened.status);
  ASSERT_EQ(opened.entries.size(), 3u);
  EXPECT_EQ(opened.entries[1].batch, big);
}

TEST_P(DiskLogTest, ReadonlyWritesNothingAndSeesWhatALivingWriterHasAppended) {
  LogOptions options = SmallSegments(GetParam());
  Opened writer = OpenLog(env_, dir_, options);
  ASSERT_OK(writer.status);
  ASSERT_OK(writer.log->Append(1, 1, "a"));
  options.readonly = true;
  Opened reader = OpenLog(env_, dir_, options);
  ASSERT_OK(reader.status);
  EXPECT_EQ(reader.Batches(), "1=a ");
  EXPECT_EQ(reader.log->Append(1, 2, "b").code(), Code::kReadOnly);
  EXPECT_EQ(reader.log->Sync().code(), Code::kReadOnly);
  std::vector<Log::OwnedEntry> read;
  ASSERT_OK(reader.log->Read(1, 100, &read));
  EXPECT_EQ(read.at(0).batch, "a");
  ASSERT_OK(reader.log->Close(0));
  ASSERT_OK(writer.log->Append(1, 2, "b"));
}

TEST_P(DiskLogTest, SyncRunsBesideAppendsAndEveryCallerIsCovered) {
  Opened opened = OpenLog(env_, dir_, SmallSegments(GetParam()));
  ASSERT_OK(opened.status);
  Log& log = *opened.log;
  constexpr int kThreads = 4, kEach = 50;
  std::mutex order;
  uint64_t next = 1;
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kEach; ++i) {
        uint64_t number;
        {
          const std::lock_guard guard(order);
          wrong += !log.Append(1, next, "batch " + std::to_string(next)).ok();
          ++next;
          number = log.last_number();
        }
        wrong += !log.Sync().ok();
        wrong += log.durable_number() < number;
      }
    });
  }
  threads.emplace_back([&] {
    for (int i = 0; i < 100; ++i) {
      std::vector<Log::OwnedEntry> read;
      const uint64_t last = log.last_index();
      if (last == 0) continue;
      wrong += !log.Read(1, 4096, &read).ok();
      wrong += log.BytesSince(0) == 0;
      for (const auto& entry : read) wrong += entry.batch != "batch " + std::to_string(entry.index);
    }
  });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_LE(log.counters().syncs, log.counters().sync_calls + log.counters().segments_created);
  EXPECT_EQ(log.counters().sync_calls, uint64_t{kThreads * kEach});
}

TEST_F(MemoryLogTest, AConflictingEntryCutsWhatStandsAboveIt) {
  {
    Opened opened = OpenLog(&env_, dir_, SmallSegments());
    ASSERT_OK(opened.status);
    for (uint64_t index = 1; index <= 200; ++index)
      ASSERT_OK(opened.log->Append(1, index, "old" + std::string(40, '.')));
    ASSERT_GT(opened.log->counters().segments_created, 2u);
    ASSERT_OK(opened.log->Append(2, 3, "new"));
    EXPECT_EQ(opened.log->last_index(), 3u);
    EXPECT_EQ(opened.log->last_term(), 2u);
    ASSERT_OK(opened.log->Append(2, 4, "newer"));
    std::vector<Log::OwnedEntry> read;
    ASSERT_OK(opened.log->Read(2, UINT64_MAX, &read));
    ASSERT_EQ(read.size(), 3u);
    EXPECT_EQ(read[1].batch, "new");
    uint64_t term;
    ASSERT_OK(opened.log->Term(2, &term));
    EXPECT_EQ(term, 1u);
    ASSERT_OK(opened.log->Term(3, &term));
    EXPECT_EQ(term, 2u);
    EXPECT_EQ(opened.log->Term(5, &term).code(), Code::kNotFound);
  }
  Opened opened = OpenLog(&env_, dir_, SmallSegments(), {1, 1, 0, ""});
  ASSERT_OK(opened.status);
  ASSERT_EQ(opened.entries.size(), 3u);
  EXPECT_EQ(opened.entries[1].batch, "new");
  EXPECT_EQ(opened.entries[2].batch, "newer");
}

TEST_F(MemoryLogTest, AGapInTheIndexesIsOurMistake) {
  Opened opened = OpenLog(&env_, dir_);
  ASSERT_OK(opened.status);
  EXPECT_THROW((void)opened.log->Append(1, 2, "x").ok(), InvariantBroken);
  ASSERT_OK(opened.log->Append(1, 1, "x"));
}

TEST_F(MemoryLogTest, ASnapshotMarkMovesTheLogOn) {
  {
    Opened opened = OpenLog(&env_, dir_);
    ASSERT_OK(opened.log->Append(1, 1, "x"));
    ASSERT_OK(opened.log->AppendSnapshot(100, 4));
    EXPECT_EQ(opened.log->first_index(), 101u);
    EXPECT_EQ(opened.log->last_index(), 100u);
    EXPECT_EQ(opened.log->last_term(), 4u);
    ASSERT_OK(opened.log->Append(5, 101, "y"));
  }
  EXPECT_EQ(OpenLog(&env_, dir_).status.code(), Code::kCorrupt);  // the checkpoint that the mark names is missing
  Opened opened = OpenLog(&env_, dir_, {}, {100, 4, 0, ""});
  ASSERT_OK(opened.status);
  EXPECT_EQ(opened.Batches(), "101=y ");
  EXPECT_EQ(opened.recovered.snapshot.index, 100u);
}

TEST_F(MemoryLogTest, ACheckpointAheadOfTheLogIsWhereItGoesOn) {
  {
    Opened opened = OpenLog(&env_, dir_);
    ASSERT_OK(opened.log->Append(1, 1, "x"));
  }
  {
    Opened opened = OpenLog(&env_, dir_, {}, {50, 2, 0, ""});
    ASSERT_OK(opened.status);
    EXPECT_EQ(opened.log->last_index(), 50u);
    EXPECT_EQ(opened.log->last_term(), 2u);
    ASSERT_OK(opened.log->Append(2, 51, "y"));
  }
  Opened opened = OpenLog(&env_, dir_, {}, {50, 2, 0, ""});
  ASSERT_OK(opened.status);
  EXPECT_EQ(opened.Batches(), "51=y ");
}

TEST_F(MemoryLogTest, ADamagedCheckpointNeedsALogThatReachesIt) {
  {
    Opened opened = OpenLog(&env_, dir_);
    for (uint64_t index = 1; index <= 10; ++index) ASSERT_OK(opened.log->Append(1, index, "x"));
  }
  ASSERT_OK(OpenLog(&env_, dir_, {}, {5, 1, 10, "checkpoint a is damaged"}).status);
  const Status status = OpenLog(&env_, dir_, {}, {5, 1, 11, "checkpoint a is damaged"}).status;
  EXPECT_EQ(status.code(), Code::kCorrupt);
  EXPECT_EQ(status.message(),
            "checkpoint a is damaged; an older checkpoint does not make up for it, because the log ends at entry 10");
}

TEST_F(MemoryLogTest, DropBeforeKeepsHardStateAndMetaAndWhatIsNewer) {
  {
    Opened opened = OpenLog(&env_, dir_, SmallSegments());
    ASSERT_OK(opened.log->AppendHardState({9, 8, 7}));
    ASSERT_OK(opened.log->AppendMeta("meta"));
    for (uint64_t index = 1; index <= 400; ++index) ASSERT_OK(opened.log->Append(1, index, std::string(50, 'x')));
    const uint64_t whole = opened.log->BytesSince(0);
    EXPECT_EQ(opened.log->BytesSince(399), RecordBytes(kEntryPrefixBytes + 50));
    EXPECT_EQ(opened.log->BytesSince(400), 0u);
    EXPECT_GE(whole, 400 * RecordBytes(kEntryPrefixBytes + 50));
    EXPECT_LT(whole, 401 * RecordBytes(kEntryPrefixBytes + 50) + 10 * 4096);
    ASSERT_OK(opened.log->DropBefore(300));
    EXPECT_GT(opened.log->counters().segments_removed, 1u);
    EXPECT_GT(opened.log->first_index(), 100u);
    EXPECT_LE(opened.log->first_index(), 301u);
    std::vector<Log::OwnedEntry> read;
    EXPECT_EQ(opened.log->Read(1, 1, &read).code(), Code::kNotFound);
    ASSERT_OK(opened.log->Read(301, UINT64_MAX, &read));
    EXPECT_EQ(read.size(), 100u);
  }
  env_.Crash();
  Opened opened = OpenLog(&env_, dir_, SmallSegments(), {300, 1, 0, ""});
  ASSERT_OK(opened.status);
  EXPECT_EQ(opened.entries.size(), 100u);
  EXPECT_EQ(opened.recovered.hard_state, (HardState{9, 8, 7}));
  EXPECT_EQ(opened.recovered.meta, "meta");
  EXPECT_EQ(OpenLog(&env_, dir_, SmallSegments()).status.code(), Code::kCorrupt);  // not without the checkpoint
}

TEST_F(MemoryLogTest, AFullDiskLeavesTheLogUsableAndIsOverWhenSpaceIsFreed) {
  Opened opened = OpenLog(&env_, dir_, SmallSegments());
  ASSERT_OK(opened.log->Append(1, 1, "fits"));
  env_.SetCapacity(4096);
  EXPECT_EQ(opened.log->Append(1, 2, std::string(10'000, 'x')).code(), Code::kNoSpace);
  EXPECT_EQ(opened.log->last_index(), 1u);
  ASSERT_OK(opened.log->Append(1, 2, "still fits"));
  ASSERT_OK(opened.log->Sync());
  env_.FailNth(FaultEnv::Op::kWrite, 1, Code::kNoSpace);  // in the middle of a record
  EXPECT_EQ(opened.log->Append(1, 3, "half written").code(), Code::kNoSpace);
  env_.FailNth(FaultEnv::Op::kWrite, 1, Code::kNoSpace, /*for_good=*/true);
  EXPECT_EQ(opened.log->Append(1, 3, "half written").code(), Code::kNoSpace);  // nor can it be wiped
  EXPECT_EQ(opened.log->Append(1, 3, "half written").code(), Code::kNoSpace);
  env_.ClearFailures();
  env_.SetCapacity(UINT64_MAX);
  ASSERT_OK(opened.log->Append(1, 3, std::string(10'000, 'y')));
  ASSERT_OK(opened.log->Sync());
  opened.log.reset();
  env_.Crash();
  Opened again = OpenLog(&env_, dir_, SmallSegments());
  ASSERT_OK(again.status);
  EXPECT_EQ(again.Batches(), "1=fits 2=still fits 3=" + std::string(10'000, 'y') + " ");
  EXPECT_TRUE(again.warnings.empty());
}

TEST_F(MemoryLogTest, ANearlyFullDiskIsUsedToItsEnd) {
  LogOptions options = SmallSegments();
  options.segment_bytes_first = options.segment_bytes_max = 64 << 10;
  env_.SetCapacity(20 << 10);  // no room for a segment as large as asked for, but for smaller ones
  Opened opened = OpenLog(&env_, dir_, options);
  uint64_t index = 0;
  while (opened.log->Append(1, index + 1, std::string(1000, 'x')).ok()) ++index;
  EXPECT_GE(index, 17u);
  EXPECT_EQ(opened.log->Append(1, index + 1, std::string(5000, 'x')).code(), Code::kNoSpace);
  ASSERT_OK(opened.log->Sync());
  opened.log.reset();
  Opened again = OpenLog(&env_, dir_, options);
  ASSERT_OK(again.status);
  EXPECT_EQ(again.log->last_index(), index);
}

TEST_F(MemoryLogTest, AFailedSyncPoisonsForGood) {
  for (const auto op : {FaultEnv::Op::kSync, FaultEnv::Op::kSyncDir}) {
    env_.ClearFailures();
    Opened opened = OpenLog(&env_, dir_, SmallSegments());
    ASSERT_OK(opened.status);
    ASSERT_OK(opened.log->Append(1, opened.log->last_index() + 1, std::string(5000, 'x')));  // begins a segment
    env_.FailNth(op, 1, Code::kIoError);
    const Status first = opened.log->Sync();
    EXPECT_EQ(first.code(), Code::kPoisoned);
    EXPECT_NE(first.message().find("Input/output error"), std::string::npos) << first.message();
    EXPECT_EQ(opened.log->Sync().message(), first.message());
    EXPECT_EQ(opened.log->Append(1, 2, "y").message(), first.message());
    EXPECT_EQ(opened.log->poisoned().message(), first.message());
    EXPECT_EQ(opened.log->Close(1).code(), Code::kPoisoned);
    env_.KillProcess();
  }
}

TEST_F(MemoryLogTest, ATornTailIsCutWithAWarningThatCountsItsBytes) {
  {
    Opened opened = OpenLog(&env_, dir_);
    ASSERT_OK(opened.log->Append(1, 1, "one"));
    ASSERT_OK(opened.log->Append(1, 2, "two"));
  }
  std::string bytes = env_.Contents(first_);
  const uint64_t second = kSegmentHeaderBytes + RecordBytes(kEntryPrefixBytes + 3);
  bytes[second + kRecordHeaderBytes + kEntryPrefixBytes] ^= 1;  // in "two"; its last byte is not zero
  env_.SetContents(first_, bytes);
  {
    Opened readonly = OpenLog(&env_, dir_, [] {
      LogOptions options;
      options.readonly = true;
      return options;
    }());
    ASSERT_OK(readonly.status);
    EXPECT_EQ(readonly.Batches(), "1=one ");
    EXPECT_EQ(env_.Contents(first_), bytes);
  }
  Opened opened = OpenLog(&env_, dir_);
  ASSERT_OK(opened.status);
  EXPECT_EQ(opened.Batches(), "1=one ");
  ASSERT_EQ(opened.warnings.size(), 1u);
  EXPECT_EQ(opened.warnings[0], "/log: cut a torn tail of 51 bytes behind record 1 (" + first_ + " offset " +
                                    std::to_string(second) + "): it was written but never synced");
  ASSERT_OK(opened.log->Append(1, 2, "too"));
  opened.log.reset();
  EXPECT_EQ(OpenLog(&env_, dir_).Batches(), "1=one 2=too ");
}

TEST_F(MemoryLogTest, AMissingSegmentIsRefused) {
  {
    Opened opened = OpenLog(&env_, dir_, SmallSegments());
    for (uint64_t index = 1; index <= 300; ++index) {
      ASSERT_OK(opened.log->Append(1, index, std::string(50, 'x')));
      if (index % 10 == 0) ASSERT_OK(opened.log->Sync());
    }
    ASSERT_OK(opened.log->Close(300));
  }
  ASSERT_OK(env_.Remove("/log/0000000000000002.log"));
  const Status status = OpenLog(&env_, dir_).status;
  EXPECT_EQ(status.code(), Code::kCorrupt);
  EXPECT_NE(status.message().find("fastkv check"), std::string::npos);
  ASSERT_OK(env_.Remove("/log/0000000000000001.log"));
  EXPECT_EQ(OpenLog(&env_, dir_).status.code(), Code::kCorrupt);
}

// A client may put anything into a value, whole segments of another log included; neither that nor a value made of
// things that look like record headers may be slow or wrong while nothing is torn.
TEST_F(MemoryLogTest, ValuesThatLookLikeRecordsAreJustValues) {
  std::string hostile;
  for (uint64_t i = 0; i < 20'000; ++i) {
    char header[kRecordHeaderBytes];
    RecordView record;
    record.number = 1000;
    record.durable = 999;
    EncodeRecordHeader(record, 1 << 18, header);
    hostile.append(header, sizeof header);
  }
  {
    Opened opened = OpenLog(&env_, dir_);
    ASSERT_OK(opened.log->Append(1, 1, hostile));
    ASSERT_OK(opened.log->Append(1, 2, env_.Contents(first_).substr(0, 200)));
  }
  std::string bytes = env_.Contents("/log/0000000000000001.log");
  EXPECT_EQ(OpenLog(&env_, dir_).entries.size(), 2u);
  bytes[kSegmentHeaderBytes] ^= 1;  // torn: every place in it is tried
  env_.SetContents("/log/0000000000000001.log", bytes);
  Opened opened = OpenLog(&env_, dir_);
  ASSERT_OK(opened.status);
  EXPECT_EQ(opened.entries.size(), 0u);
}

// Bytes that would prove, by number and durable, that a torn record in front of them was synced: as a value they prove
// nothing, whether they verify without a salt or with one of their own.
TEST_F(MemoryLogTest, AValueThatHoldsAValidRecordDoesNotTurnATornTailIntoDamage) {
  for (const uint64_t salt : {uint64_t{0}, uint64_t{1234567}}) {
    char header[kRecordHeaderBytes];
    RecordView record;
    record.number = 1'000'000;
    record.durable = 999'999;
    EncodeRecordHeader(record, 0, header);
    const std::string_view covered(header + 4, sizeof header - 4);
    record.crc = salt == 0 ? Crc32c(covered) : Crc32cExtend(RecordSeed(salt), covered);
    EncodeRecordHeader(record, 0, header);
    const std::string value(header, sizeof header);
    ASSERT_TRUE(DecodeRecord(value, 0, salt == 0 ? 0 : RecordSeed(salt)));

    const std::string dir = dir_ + std::to_string(salt);
    ASSERT_OK(env_.CreateDir(dir));
    {
      Opened opened = OpenLog(&env_, dir);
      ASSERT_OK(opened.log->Append(1, 1, "kept"));
      ASSERT_OK(opened.log->Sync());
      ASSERT_OK(opened.log->Append(1, 2, "lost"));
      ASSERT_OK(opened.log->Append(1, 3, value));
    }
    const std::string path = dir + "/0000000000000001.log";
    std::string bytes = env_.Contents(path);
    const uint64_t second = kSegmentHeaderBytes + RecordBytes(kEntryPrefixBytes + 4);
    ASSERT_EQ(bytes.find(value) % 8, 0u);
    bytes[second] ^= 1;
    env_.SetContents(path, bytes);
    Opened opened = OpenLog(&env_, dir);
    ASSERT_OK(opened.status);
    EXPECT_EQ(opened.Batches(), "1=kept ");
    EXPECT_EQ(opened.warnings.size(), 1u);
  }
}

// The same search, where there is something to find: a record so long that its crc is put together from pieces.
TEST_F(MemoryLogTest, ALongRecordProvesThatADamagedOneBeforeItWasSynced) {
  {
    Opened opened = OpenLog(&env_, dir_);
    ASSERT_OK(opened.log->Append(1, 1, "one"));
    ASSERT_OK(opened.log->Sync());
    ASSERT_OK(opened.log->Append(1, 2, std::string(50'001, 'x')));
  }
  std::string bytes = env_.Contents(first_);
  bytes[kSegmentHeaderBytes] ^= 1;
  env_.SetContents(first_, bytes);
  EXPECT_EQ(OpenLog(&env_, dir_).status.code(), Code::kCorrupt);
}

// Without the salt no record could be told from a value: a header that goes must not take the records along silently.
TEST_F(MemoryLogTest, ALostHeaderWithAnythingBehindItIsDamage) {
  {
    Opened opened = OpenLog(&env_, dir_);
    ASSERT_OK(opened.log->Append(1, 1, "x"));
    ASSERT_OK(opened.log->Sync());
  }
  std::string bytes = env_.Contents(first_);
  bytes.replace(0, kSegmentHeaderBytes, kSegmentHeaderBytes, '\0');
  env_.SetContents(first_, bytes);
  const Status status = OpenLog(&env_, dir_).status;
  EXPECT_EQ(status.code(), Code::kCorrupt);
  EXPECT_NE(status.message().find(first_ + ": the segment header at offset 0"), std::string::npos) << status.message();

  bytes.replace(0, bytes.size(), bytes.size(), '\0');
  bytes.replace(0, 7, "fkvlog\0");  // and this is all that a power loss left of it
  env_.SetContents(first_, bytes);
  Opened opened = OpenLog(&env_, dir_);
  ASSERT_OK(opened.status);
  EXPECT_EQ(opened.entries.size(), 0u);
}

TEST_F(MemoryLogTest, EverySegmentHasAnotherSalt) {
  {
    Opened opened = OpenLog(&env_, dir_, SmallSegments());
    for (uint64_t index = 1; index <= 300; ++index) ASSERT_OK(opened.log->Append(1, index, std::string(50, 'x')));
  }
  std::set<std::string> salts;
  std::vector<std::string> names;
  ASSERT_OK(env_.List(dir_, &names));
  for (const auto& name : names) salts.insert(env_.Contents(JoinPath(dir_, name)).substr(32, 8));
  EXPECT_GT(names.size(), 3u);
  EXPECT_EQ(salts.size(), names.size());
  EXPECT_NE(Env::Posix()->Random64(), Env::Posix()->Random64());
}

TEST_F(MemoryLogTest, CloseAndOpenAgainAddNothing) {
  {
    Opened opened = OpenLog(&env_, dir_);
    ASSERT_OK(opened.log->Append(1, 1, "x"));
    ASSERT_OK(opened.log->Close(1));
  }
  const std::string bytes = env_.Contents(first_);
  const uint64_t ops = env_.ops();
  Opened opened = OpenLog(&env_, dir_);
  ASSERT_OK(opened.status);
  EXPECT_TRUE(opened.recovered.clean);
  ASSERT_OK(opened.log->Close(1));
  EXPECT_EQ(env_.Contents(first_), bytes);
  EXPECT_LE(env_.ops(), ops + 1);  // one sync: of the clean record, in case its own was cut short
}

TEST(LogFormat, HeaderAndRecordAreTheDocumentedBytes) {
  char header[kSegmentHeaderBytes];
  EncodeSegmentHeader({1, 2, 3, 4, 5}, header);
  std::string expected("fkvlog\0\1", 8);
  PutU64(&expected, 1);
  PutU64(&expected, 2);
  PutU64(&expected, 3);
  PutU64(&expected, 5);
  PutU32(&expected, 4);
  PutU32(&expected, Crc32c(expected));
  EXPECT_EQ(std::string(header, sizeof header), expected);

  FaultEnv env(1);
  ASSERT_OK(env.CreateDir("/log"));
  Opened opened = OpenLog(&env, "/log");
  ASSERT_OK(opened.log->Append(7, 1, "batch"));
  std::string record;
  PutU32(&record, 0);       // prev
  PutU32(&record, 16 + 5);  // length
  record += std::string("\x01\0\0\0", 4);
  PutU64(&record, 1);  // number
  PutU64(&record, 0);  // durable
  PutU64(&record, 7);
  PutU64(&record, 1);
  record += "batch";
  std::string crc;
  const std::string segment = env.Contents("/log/0000000000000001.log");
  PutU32(&crc, Crc32c(segment.substr(32, 8) + record));
  EXPECT_EQ(segment.substr(kSegmentHeaderBytes, 4 + record.size() + 3), crc + record + std::string(3, '\0'));
}

TEST(LogFormat, Names) {
  EXPECT_EQ(SegmentFileName(0x2a), "000000000000002a.log");
  EXPECT_EQ(ParseSegmentFileName("000000000000002a.log"), 0x2au);
  for (const char* name :
       {"2a.log", "000000000000002A.log", "000000000000002a.ckpt", "000000000000002a.log.tmp", ".log"}) {
    EXPECT_FALSE(ParseSegmentFileName(name)) << name;
  }
}

}  // namespace
}  // namespace fastkv
