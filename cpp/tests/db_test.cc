// One Db and those around it: callers that share a sync, a disk that is full or fails, closing in the middle, other
// owners.
//
// Power loss is in db_power_loss_test.cc. FASTKV_RUNS makes the threaded tests longer; they are meant to run under TSan
// and ASan too.

#include "db/db.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <latch>
#include <mutex>
#include <new>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/fault_env.h"
#include "base/fork.h"
#include "tests/commands.h"

namespace fastkv {
namespace {

using namespace testing;

// A FaultEnv that calls a hook before each sync of a file, another before each write to a checkpoint.
class HookEnv : public FaultEnv {
 public:
  HookEnv() : FaultEnv(1) {}
  std::function<void()> before_sync, before_checkpoint_write;

  Status Create(const std::string& path, uint64_t size, WriteMode mode, std::unique_ptr<WritableFile>* file) override {
    FASTKV_RETURN_IF_ERROR(FaultEnv::Create(path, size, mode, file));
    *file = std::make_unique<File>(this, std::move(*file), path.find(".ckpt") != std::string::npos);
    return {};
  }
  Status OpenForWrite(const std::string& path, WriteMode mode, std::unique_ptr<WritableFile>* file) override {
    FASTKV_RETURN_IF_ERROR(FaultEnv::OpenForWrite(path, mode, file));
    *file = std::make_unique<File>(this, std::move(*file), false);
    return {};
  }

 private:
  class File : public WritableFile {
   public:
    File(HookEnv* env, std::unique_ptr<WritableFile> file, bool is_checkpoint)
        : env_(env), file_(std::move(file)), is_checkpoint_(is_checkpoint) {}
    Status Write(uint64_t offset, std::span<const std::string_view> parts) override {
      if (is_checkpoint_ && env_->before_checkpoint_write) env_->before_checkpoint_write();
      return file_->Write(offset, parts);
    }
    Status Sync() override {
      if (env_->before_sync) env_->before_sync();
      return file_->Sync();
    }

   private:
    HookEnv* const env_;
    std::unique_ptr<WritableFile> file_;
    const bool is_checkpoint_;
  };
};

DbOptions Options(Env* env) {
  DbOptions options;
  options.env = env;
  options.segment_bytes_first = 16 << 10;
  options.segment_bytes_max = 64 << 10;
  return options;
}

std::unique_ptr<Db> Open(Env* env, bool sync = true) {
  DbOptions options = Options(env);
  options.sync = sync;
  std::unique_ptr<Db> db;
  const Status status = Db::Open("/data", options, &db);
  FASTKV_CHECK(status.ok());
  return db;
}

Code Put(Db* db, std::string_view key, std::string_view value) {
  CommandResult result;
  const Status status = db->Put(key, value, 0, &result);
  return status.ok() ? result.code : status.code();
}

std::string Get(Db* db, std::string_view key) {
  const EpochGuard guard;
  const Record* record = nullptr;
  if (db->store().Get(key, 0, &record) != Code::kOk || record == nullptr) return "(none)";
  return std::string(record->value());
}

std::string Problems(const Db& db) {
  std::vector<std::string> problems;
  db.Check(&problems);
  return problems.empty() ? "" : problems.front();
}

TEST(Db, ABatchWithoutCommandsOnlyAsksWhetherWritesAreAllowed) {
  FaultEnv env(1);
  auto db = Open(&env);
  std::vector<CommandResult> results(3);
  EXPECT_TRUE(db->Commit({}, &results).ok());
  EXPECT_TRUE(results.empty());
  EXPECT_EQ(db->applied_index(), 0u);
  ASSERT_TRUE(db->Close().ok());
  EXPECT_EQ(db->Commit({}, &results).code(), Code::kClosed);
  CommandResult result;
  EXPECT_EQ(db->CommitOne(kTagPut, "", &result).code(), Code::kClosed);
  EXPECT_EQ(Put(db.get(), "k", "v"), Code::kClosed);
  EXPECT_TRUE(db->Close().ok());
}

TEST(Db, WhatNeedsNoStateToBeRefusedIsNotLoggedAndTheRestKeepsItsPlace) {
  FaultEnv env(1);
  auto db = Open(&env);
  const std::string bad = PutBytes("", "v"), first = PutBytes("a", "1"), second = PutBytes("b", "2"),
                    unleased = PutBytes("c", "3", 9);
  const std::vector<Command> commands = {
      {kTagPut, bad}, {kTagPut, first}, {99, bad}, {kTagPut, unleased}, {kTagPut, second}};
  std::vector<CommandResult> results;
  ASSERT_TRUE(db->Commit(commands, &results).ok());
  ASSERT_EQ(results.size(), 5u);
  EXPECT_EQ(results[0].code, Code::kEmptyKey);
  EXPECT_EQ(results[1].code, Code::kOk);
  EXPECT_EQ(results[1].revision, 2);
  EXPECT_EQ(results[2].code, Code::kMalformed);
  EXPECT_EQ(results[3].code, Code::kLeaseNotFound);
  EXPECT_TRUE(results[3].response.empty());
  EXPECT_EQ(results[4].revision, 3);
  EXPECT_EQ(db->applied_index(), 1u);
  const std::vector<Command> refused = {{kTagPut, bad}};
  ASSERT_TRUE(db->Commit(refused, &results).ok());
  EXPECT_EQ(db->applied_index(), 1u);
  db.reset();
  env.KillProcess();
  db = Open(&env);
  EXPECT_EQ(db->applied_index(), 1u);
  EXPECT_EQ(Get(db.get(), "b"), "2");
}

TEST(Db, AnAnswerIsNotAppendedToTheOneBefore) {
  std::unique_ptr<Db> db;
  ASSERT_TRUE(Db::Open("", {}, &db).ok());
  CommandResult result;
  ASSERT_TRUE(db->Put("k", "v", 0, &result).ok());
  const size_t length = result.response.size();
  ASSERT_TRUE(db->Put("k", "v", 0, &result).ok());
  EXPECT_EQ(result.response.size(), length);
}

TEST(Db, AFullDiskFailsWritesAndNothingElse) {
  for (const bool sync : {true, false}) {
    FaultEnv env(3);
    auto db = Open(&env, sync);
    int written = 0;
    while (Put(db.get(), "k" + std::to_string(written), std::string(500, 'v')) == Code::kOk) {
      if (++written == 20) env.SetCapacity(40 << 10);
      ASSERT_LT(written, 10'000);
    }
    EXPECT_EQ(Put(db.get(), "no", std::string(500, 'v')), Code::kNoSpace);
    EXPECT_EQ(Get(db.get(), "no"), "(none)");
    EXPECT_EQ(Get(db.get(), "k0"), std::string(500, 'v'));
    env.SetCapacity(0);
    uint64_t index = 0;
    EXPECT_EQ(db->Checkpoint(&index).code(), Code::kNoSpace);
    env.SetCapacity(UINT64_MAX);
    EXPECT_EQ(Put(db.get(), "room", "again"), Code::kOk);
    ASSERT_TRUE(db->Checkpoint(&index).ok());
    ASSERT_TRUE(db->Close().ok());
    db = Open(&env, sync);
    EXPECT_EQ(Get(db.get(), "room"), "again");
    EXPECT_EQ(Get(db.get(), "no"), "(none)");
    EXPECT_EQ(db->store().GetStats().keys, static_cast<uint64_t>(written) + 1);
    EXPECT_EQ(Problems(*db), "");
  }
}

TEST(Db, AFailedSyncEndsWritesForGoodAndReadsGoOn) {
  FaultEnv env(5);
  std::mutex mutex;
  std::string said;
  DbOptions options = Options(&env);
  options.log = [&](const std::string& line) {
    const std::lock_guard lock(mutex);
    said += line + "\n";
  };
  std::unique_ptr<Db> db;
  ASSERT_TRUE(Db::Open("/data", options, &db).ok());
  ASSERT_EQ(Put(db.get(), "a", "1"), Code::kOk);
  env.FailNth(FaultEnv::Op::kSync, 1, Code::kIoError);
  EXPECT_EQ(Put(db.get(), "b", "2"), Code::kPoisoned);
  EXPECT_NE(said.find("no more writes"), std::string::npos) << said;
  uint64_t index = 0;
  EXPECT_EQ(Put(db.get(), "b", "2"), Code::kPoisoned);
  EXPECT_EQ(db->Sync().code(), Code::kPoisoned);
  EXPECT_EQ(db->Checkpoint(&index).code(), Code::kPoisoned);
  EXPECT_EQ(db->WriteMeta("m").code(), Code::kPoisoned);
  EXPECT_EQ(Get(db.get(), "a"), "1");
  EXPECT_EQ(Get(db.get(), "b"), "(none)");
  EXPECT_EQ(Problems(*db), "");
  (void)db->Close();
  db = Open(&env);
  EXPECT_EQ(Get(db.get(), "a"), "1");
  EXPECT_EQ(Put(db.get(), "b", "2"), Code::kOk);
}

// What cannot happen, happens: nobody may hang, and nobody may be told that it worked.
TEST(Db, AnExceptionWhileWritingPoisons) {
  for (const bool out_of_memory : {false, true}) {
    HookEnv env;
    auto db = Open(&env);
    ASSERT_EQ(Put(db.get(), "a", "1"), Code::kOk);
    std::atomic<bool> armed{true};
    env.before_sync = [&] {
      if (!armed.exchange(false)) return;
      if (out_of_memory) throw std::bad_alloc();
      throw InvariantBroken("for the test");
    };
    std::atomic<int> poisoned{0};
    std::vector<std::thread> callers;
    for (int i = 0; i < 4; ++i) {
      callers.emplace_back([&, i] { poisoned += Put(db.get(), "b" + std::to_string(i), "2") == Code::kPoisoned; });
    }
    for (std::thread& caller : callers) caller.join();
    EXPECT_EQ(poisoned, 4);
    EXPECT_EQ(Get(db.get(), "a"), "1");
    EXPECT_TRUE(db->CompactStep(10));
    (void)db->Close();
    env.before_sync = nullptr;
    db = Open(&env);
    EXPECT_EQ(Get(db.get(), "a"), "1");
  }
}

TEST(Db, CallersShareSyncsAndEachGetsItsOwnAnswer) {
  constexpr int kThreads = 8;
  const int each = 150 * static_cast<int>(FromEnvironment("FASTKV_RUNS", 1));
  HookEnv env;
  env.before_sync = [] {  // a disk takes its time
    for (int i = 0; i < 20; ++i) std::this_thread::yield();
  };
  auto db = Open(&env);
  std::mutex mutex;
  std::set<int64_t> revisions;
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < each; ++i) {
        // Odd ones ask for the value before, which only they have written; every eighth fails.
        const std::string key = "t" + std::to_string(t), value = std::to_string(i);
        CommandResult result;
        const bool fails = i % 8 == 7;
        const std::string payload = PutBytes(key, value, fails ? 12345 : 0, true);
        if (!db->CommitOne(kTagPut, payload, &result).ok()) ++wrong;
        if (fails) {
          wrong += result.code != Code::kLeaseNotFound || !result.response.empty();
          continue;
        }
        wrong += result.code != Code::kOk;
        const std::lock_guard lock(mutex);
        wrong += !revisions.insert(result.revision).second;
        const RangeAnswer answer =
            ParseRangeAnswer(result.response);  // PutResponse: the same header, prev_kv as field 2
        wrong += answer.revision != result.revision;
        const int before = i - (i % 8 == 0 ? 2 : 1);
        if (i > 0)
          wrong += answer.kvs.size() != 1 || answer.kvs[0].key != key || answer.kvs[0].value != std::to_string(before);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  const Db::Stats stats = db->GetStats();
  EXPECT_EQ(stats.commands, static_cast<uint64_t>(kThreads * each));
  EXPECT_LT(stats.batches, stats.commands);
  EXPECT_LT(stats.syncs, stats.commands);
  const uint32_t hash = db->store().Hash();
  db.reset();
  env.Crash();
  db = Open(&env);
  EXPECT_EQ(db->store().Hash(), hash);
}

TEST(Db, ACommandLargerThanAGroupIsABatchOfItsOwn) {
  FaultEnv env(1);
  auto db = Open(&env);
  const std::string large(17 << 20, 'v');
  std::vector<std::thread> threads;
  std::atomic<int> failed{0};
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([&, i] { failed += Put(db.get(), "k" + std::to_string(i), large) != Code::kOk; });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failed, 0);
  EXPECT_EQ(db->GetStats().batches, 3u);
  db.reset();
  env.KillProcess();
  db = Open(&env);
  EXPECT_EQ(Get(db.get(), "k2"), large);
}

TEST(Db, ReadonlySeesWhatIsThereAndChangesNothing) {
  FaultEnv env(1);
  auto db = Open(&env);
  ASSERT_EQ(Put(db.get(), "a", "1"), Code::kOk);
  uint64_t index = 0;
  ASSERT_TRUE(db->Checkpoint(&index).ok());
  ASSERT_EQ(Put(db.get(), "b", "2"), Code::kOk);
  const uint64_t ops = env.ops();
  DbOptions options = Options(&env);
  options.readonly = true;
  std::unique_ptr<Db> reader;
  ASSERT_TRUE(Db::Open("/data", options, &reader).ok());  // beside the owner
  EXPECT_EQ(Get(reader.get(), "a"), "1");
  EXPECT_EQ(Get(reader.get(), "b"), "2");
  EXPECT_EQ(Put(reader.get(), "c", "3"), Code::kReadOnly);
  std::vector<CommandResult> results;
  EXPECT_EQ(reader->Commit({}, &results).code(), Code::kReadOnly);
  EXPECT_EQ(reader->Checkpoint(&index).code(), Code::kReadOnly);
  EXPECT_EQ(reader->Sync().code(), Code::kReadOnly);
  EXPECT_EQ(reader->WriteMeta("m").code(), Code::kReadOnly);
  (void)reader->GetStats();
  EXPECT_TRUE(reader->Close().ok());
  EXPECT_EQ(env.ops(), ops);
  EXPECT_EQ(Put(db.get(), "c", "3"), Code::kOk);
  options.readonly = true;
  EXPECT_EQ(Db::Open("/nothing", options, &reader).code(), Code::kNotFound);
}

TEST(Db, OneOwnerAtATime) {
  FaultEnv env(1);
  auto db = Open(&env);
  std::unique_ptr<Db> second;
  EXPECT_EQ(Db::Open("/data", Options(&env), &second).code(), Code::kLocked);
  ASSERT_EQ(Put(db.get(), "a", "1"), Code::kOk);
  ASSERT_TRUE(db->Close().ok());
  ASSERT_TRUE(Db::Open("/data", Options(&env), &second).ok());  // closed is enough
  EXPECT_EQ(Get(second.get(), "a"), "1");
}

TEST(Db, ACheckpointAppearsInTheBackgroundWhileWritesGoOn) {
  FaultEnv env(1);
  DbOptions options = Options(&env);
  options.checkpoint_bytes = 64 << 10;
  std::unique_ptr<Db> db;
  ASSERT_TRUE(Db::Open("/data", options, &db).ok());
  std::atomic<int> failed{0}, written{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      // Until several checkpoints have been written; each needs some 64 KiB of log.
      for (int i = 0; (i < 500 || db->GetStats().checkpoint_index < 1000) && i < 200'000; ++i, ++written) {
        failed +=
            Put(db.get(), "k" + std::to_string(t) + "/" + std::to_string(i % 300), std::string(100, 'v')) != Code::kOk;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failed, 0);
  EXPECT_GE(db->GetStats().checkpoint_index, 1000u);
  const uint32_t hash = db->store().Hash();
  const uint64_t index = db->applied_index();
  db.reset();
  env.Crash();
  ASSERT_TRUE(Db::Open("/data", options, &db).ok());
  EXPECT_EQ(db->applied_index(), index);
  EXPECT_EQ(db->store().Hash(), hash);
  EXPECT_GE(db->GetStats().checkpoint_index, 1000u);
  EXPECT_EQ(Problems(*db), "");
}

TEST(Db, ACheckpointUnderWayIsGivenUpByACloseThatWaitsForNone) {
  HookEnv env;
  DbOptions options = Options(&env);
  options.checkpoint_on_close = false;
  std::unique_ptr<Db> db;
  ASSERT_TRUE(Db::Open("/data", options, &db).ok());
  for (int i = 0; i < 40; ++i) ASSERT_EQ(Put(db.get(), "k" + std::to_string(i), std::string(100'000, 'v')), Code::kOk);
  std::latch writing(1);
  bool told = false;
  env.before_checkpoint_write = [&] {
    if (!std::exchange(told, true)) writing.count_down();
    while (!db->closed()) std::this_thread::yield();
  };
  Status status;
  std::thread checkpointer([&] {
    uint64_t index = 0;
    status = db->Checkpoint(&index);
  });
  writing.wait();
  EXPECT_TRUE(db->Close().ok());
  checkpointer.join();
  EXPECT_EQ(status.code(), Code::kClosed);
  std::vector<std::string> left;
  ASSERT_TRUE(env.List("/data/checkpoint", &left).ok());
  EXPECT_TRUE(left.empty());
  ASSERT_TRUE(Db::Open("/data", options, &db).ok());
  EXPECT_EQ(db->store().revision(), 41);
}

TEST(Db, AnEmptyStoreCanBeCheckpointed) {
  FaultEnv env(1);
  auto db = Open(&env);
  uint64_t index = 7;
  ASSERT_TRUE(db->Checkpoint(&index).ok());
  EXPECT_EQ(index, 0u);
  ASSERT_TRUE(db->Checkpoint(&index).ok());
  ASSERT_TRUE(db->Close().ok());
  db = Open(&env);
  EXPECT_EQ(db->store().revision(), 1);
  ASSERT_EQ(Put(db.get(), "a", "1"), Code::kOk);
  ASSERT_TRUE(db->Checkpoint(&index).ok());
  EXPECT_EQ(index, 1u);
  ASSERT_TRUE(db->Checkpoint(&index).ok());
  db.reset();
  env.KillProcess();
  db = Open(&env);
  EXPECT_EQ(Get(db.get(), "a"), "1");
}

// Everything that uses the log, and Close in the middle of it: each call succeeds or says kClosed, and what was
// acknowledged is there.
TEST(Db, ClosingWhileOthersAreInside) {
  const int rounds = 25 * static_cast<int>(FromEnvironment("FASTKV_RUNS", 1));
  for (int round = 0; round < rounds; ++round) {
    FaultEnv env(static_cast<uint64_t>(round));
    auto db = Open(&env, round % 2 == 0);
    std::atomic<int> wrong{0};
    std::atomic<int> acknowledged[3] = {};
    std::latch started(6);
    std::vector<std::thread> threads;
    auto check = [&wrong](const Status& status) {
      if (!status.ok() && status.code() != Code::kClosed) ++wrong;
      return status.ok();
    };
    for (int t = 0; t < 3; ++t) {
      threads.emplace_back([&, t] {
        started.arrive_and_wait();
        CommandResult result;
        for (int i = 1; check(db->Put("t" + std::to_string(t), std::to_string(i), 0, &result)); ++i)
          acknowledged[t] = i;
      });
    }
    threads.emplace_back([&] {
      started.arrive_and_wait();
      uint64_t index = 0;
      while (check(db->Checkpoint(&index))) (void)db->GetStats();
    });
    threads.emplace_back([&] {
      started.arrive_and_wait();
      while (check(db->Sync()) && check(db->WriteMeta("m"))) db->CompactStep(10);
      (void)db->GetStats();
    });
    started.arrive_and_wait();
    for (int i = 0; i < round * 5; ++i) std::this_thread::yield();
    std::thread second([&] { check(db->Close()); });
    EXPECT_TRUE(db->Close().ok());
    second.join();
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(wrong, 0);
    db.reset();
    env.Crash();
    db = Open(&env);
    for (int t = 0; t < 3; ++t) {
      const std::string wanted = acknowledged[t] > 0 ? std::to_string(acknowledged[t]) : "(none)";
      EXPECT_EQ(Get(db.get(), "t" + std::to_string(t)), wanted);
    }
    EXPECT_EQ(Problems(*db), "");
  }
}

int CountEvents(const std::string& events) {
  int count = 0;
  ByteReader in(events);
  uint64_t tag = 0;
  std::string_view event;
  while (!in.done()) {
    FASTKV_CHECK(in.Varint(&tag) && in.LengthPrefixed(&event));
    ++count;
  }
  return count;
}

// A batch that writes and compacts, with somebody who removes what is released at any moment: a watcher gets every
// event, or learns that compaction was faster. It must not lose one in silence.
TEST(Db, RemovalNeverOvertakesTheWatchers) {
  std::unique_ptr<Db> db;
  ASSERT_TRUE(Db::Open("", {}, &db).ok());
  std::atomic<bool> stop{false};
  std::thread compactor([&] {
    while (!stop) db->CompactStep(SIZE_MAX);
  });
  WatchSpec spec;
  spec.key = "k";
  uint64_t watcher = db->hub().Add(spec);
  const int rounds = 20'000 * static_cast<int>(FromEnvironment("FASTKV_RUNS", 1));
  int lost = 0;
  for (int round = 0; round < rounds && lost == 0; ++round) {
    const std::string put = PutBytes("k", "v"), compact = CompactionBytes(db->store().revision() + 2);
    const std::vector<Command> commands = {{kTagPut, put}, {kTagPut, put}, {kTagCompaction, compact}};
    std::vector<CommandResult> results;
    ASSERT_TRUE(db->Commit(commands, &results).ok());
    int events = 0;
    bool compacted = false;
    while (!compacted && events < 2) {
      const std::vector<WatchBatch> batches = db->hub().Take(watcher, 1 << 20);
      if (batches.empty()) break;
      for (const WatchBatch& batch : batches) {
        events += CountEvents(batch.events);
        compacted = compacted || batch.compact_revision != 0;
      }
    }
    if (compacted) {
      watcher = db->hub().Add(spec);
    } else {
      lost += 2 - events;
    }
  }
  stop = true;
  compactor.join();
  EXPECT_EQ(lost, 0);
}

TEST(Db, MetaSurvives) {
  FaultEnv env(1);
  auto db = Open(&env);
  EXPECT_EQ(db->ReadMeta(), "");
  ASSERT_TRUE(db->WriteMeta("one").ok());
  ASSERT_EQ(Put(db.get(), "a", "1"), Code::kOk);
  uint64_t index = 0;
  ASSERT_TRUE(db->Checkpoint(&index).ok());
  ASSERT_TRUE(db->WriteMeta("two").ok());
  db.reset();
  env.Crash();
  db = Open(&env);
  EXPECT_EQ(db->ReadMeta(), "two");
}

TEST(Fork, TheChildKnowsThatItIsOne) {
  WatchForks();
  const uint64_t here = ForkGeneration();
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) _exit(ForkGeneration() == here + 1 ? 0 : 1);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  EXPECT_EQ(ForkGeneration(), here);
}

}  // namespace
}  // namespace fastkv
