// Checkpoints and the data directory: what they hold comes back, what is damaged or foreign is refused in one sentence.

#include "log/checkpoint.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/coding.h"
#include "base/crc32c.h"
#include "base/fault_env.h"
#include "log/directory.h"

namespace fastkv {
namespace {

#define ASSERT_OK(expr)                                 \
  do {                                                  \
    const Status ok_status = (expr);                    \
    ASSERT_TRUE(ok_status.ok()) << ok_status.message(); \
  } while (0)

using Blocks = std::vector<std::pair<BlockType, std::string>>;

Status Write(Env* env, const std::string& dir, uint64_t index, const Blocks& blocks) {
  std::unique_ptr<CheckpointWriter> writer;
  FASTKV_RETURN_IF_ERROR(CheckpointWriter::Create(env, dir, {index, 2, 30, -1, 4, 5}, nullptr, &writer));
  for (const auto& [type, payload] : blocks) FASTKV_RETURN_IF_ERROR(writer->AddBlock(type, payload));
  return writer->Finish();
}

Blocks ReadBlocks(const CheckpointReader& reader) {
  Blocks blocks;
  EXPECT_TRUE(reader
                  .ForEachBlock([&](BlockType type, std::string_view payload) {
                    blocks.emplace_back(type, payload);
                    return Status();
                  })
                  .ok());
  return blocks;
}

class CheckpointTest : public testing::Test {
 protected:
  CheckpointTest() { EXPECT_TRUE(env_.CreateDir(dir_).ok()); }
  std::string Path(uint64_t index) const { return JoinPath(dir_, CheckpointFileName(index)); }
  Status Open(uint64_t index) { return CheckpointReader::Open(&env_, Path(index), index, &reader_); }

  FaultEnv env_{3};
  const std::string dir_ = "/checkpoint";
  const Blocks blocks_ = {{BlockType::kRecords, std::string(1000, 'r')},
                          {BlockType::kRecords, std::string(3 << 20, 's')},  // larger than a chunk
                          {BlockType::kLeases, "leases"},
                          {BlockType::kMeta, "meta"},
                          {BlockType::kHardState, EncodeHardState({1, 2, 3})}};
  std::unique_ptr<CheckpointReader> reader_;
};

TEST_F(CheckpointTest, WhatIsWrittenComesBackAfterAPowerLoss) {
  ASSERT_OK(Write(&env_, dir_, 42, blocks_));
  env_.Crash();
  ASSERT_OK(Open(42));
  EXPECT_EQ(reader_->head().index, 42u);
  EXPECT_EQ(reader_->head().term, 2u);
  EXPECT_EQ(reader_->head().revision, 30u);
  EXPECT_EQ(reader_->head().compact_revision, -1);
  EXPECT_EQ(reader_->head().records, 5u);
  EXPECT_TRUE(reader_->has_hard_state());
  EXPECT_EQ(reader_->hard_state(), (HardState{1, 2, 3}));
  EXPECT_TRUE(ReadBlocks(*reader_) == blocks_);
  const std::string bytes = env_.Contents(Path(42));
  ASSERT_OK(CheckpointReader::OpenBytes(bytes, "received", &reader_));
  EXPECT_TRUE(ReadBlocks(*reader_) == blocks_);
}

TEST_F(CheckpointTest, BytesAreTheDocumentedOnes) {
  ASSERT_OK(Write(&env_, dir_, 1, {}));
  const auto block = [](uint32_t type, const std::string& payload, uint32_t* crc) {
    std::string rest;
    PutU32(&rest, static_cast<uint32_t>(payload.size()));
    PutU32(&rest, type);
    rest += payload;
    *crc = Crc32c(rest);
    std::string out;
    PutU32(&out, *crc);
    return out + rest;
  };
  std::string head, footer, crcs;
  for (const uint64_t v : {1, 2, 30, -1, 4, 5}) PutU64(&head, v);
  uint32_t crc;
  std::string expected = std::string("fkvckpt\2") + block(1, head, &crc);
  PutU32(&crcs, crc);
  PutU64(&footer, 1);
  PutU32(&footer, Crc32c(crcs));
  PutU32(&footer, 0);
  expected += block(255, footer, &crc);
  EXPECT_EQ(env_.Contents(Path(1)), expected);
}

TEST_F(CheckpointTest, EveryFlippedByteAndEveryTruncationIsRefused) {
  ASSERT_OK(Write(&env_, dir_, 7, {{BlockType::kRecords, "some records"}, {BlockType::kAlarms, "alarm"}}));
  const std::string good = env_.Contents(Path(7));
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ (1 << (i % 8)));
    env_.SetContents(Path(7), bad);
    const Status status = Open(7);
    ASSERT_EQ(status.code(), Code::kCorrupt) << "byte " << i;
    ASSERT_NE(status.message().find(Path(7)), std::string::npos);
    ASSERT_NE(status.message().find("at offset "), std::string::npos);
    env_.SetContents(Path(7), good.substr(0, i));
    ASSERT_EQ(Open(7).code(), Code::kCorrupt) << "cut at " << i;
  }
  env_.SetContents(Path(7), good + "x");
  EXPECT_EQ(Open(7).code(), Code::kCorrupt);
  env_.SetContents(Path(8), good);
  EXPECT_EQ(Open(8).code(), Code::kCorrupt);  // renamed by hand: the head says 7
}

TEST_F(CheckpointTest, BlocksInTheWrongOrderAreRefused) {
  for (const Blocks& blocks : std::vector<Blocks>{{{BlockType::kLeases, "l"}, {BlockType::kRecords, "r"}},
                                                  {{BlockType::kMeta, "m"}, {BlockType::kMeta, "m"}},
                                                  {{static_cast<BlockType>(9), "?"}},
                                                  {{BlockType::kHardState, "short"}}}) {
    ASSERT_OK(Write(&env_, dir_, 5, blocks));
    EXPECT_EQ(Open(5).code(), Code::kCorrupt);
  }
}

TEST_F(CheckpointTest, AnUnfinishedOneLeavesNoFileAndAFullDiskIsNoSpace) {
  std::unique_ptr<CheckpointWriter> writer;
  ASSERT_OK(CheckpointWriter::Create(&env_, dir_, {}, nullptr, &writer));
  env_.SetCapacity(100);
  EXPECT_EQ(writer->AddBlock(BlockType::kRecords, std::string(2 << 20, 'x')).code(), Code::kNoSpace);
  writer.reset();
  std::vector<std::string> names;
  ASSERT_OK(env_.List(dir_, &names));
  EXPECT_TRUE(names.empty());
}

TEST_F(CheckpointTest, ThrottleSeesEveryByteAndMayAbort) {
  uint64_t seen = 0;
  std::unique_ptr<CheckpointWriter> writer;
  ASSERT_OK(CheckpointWriter::Create(
      &env_, dir_, {}, [&](uint64_t bytes) { return seen += bytes, Status(); }, &writer));
  for (const auto& [type, payload] : blocks_) ASSERT_OK(writer->AddBlock(type, payload));
  ASSERT_OK(writer->Finish());
  EXPECT_EQ(seen, env_.Contents(Path(0)).size());
  ASSERT_OK(CheckpointWriter::Create(
      &env_, dir_, {}, [](uint64_t) { return Status(Code::kClosed, "stop"); }, &writer));
  EXPECT_EQ(writer->AddBlock(BlockType::kRecords, std::string(2 << 20, 'x')).code(), Code::kClosed);
}

TEST_F(CheckpointTest, TheNewestThatVerifiesIsLoadedAndADamagedOneIsReported) {
  for (const uint64_t index : {10, 20, 30}) ASSERT_OK(Write(&env_, dir_, index, blocks_));
  ASSERT_OK(env_.WriteAtomically("/checkpoint/0000000000000028.ckpt.tmp", "unfinished"));
  std::vector<std::string> warnings;
  const auto warn = [&](const std::string& line) { warnings.push_back(line); };
  NewestCheckpoint newest;
  ASSERT_OK(LoadNewestCheckpoint(&env_, dir_, warn, &newest));
  ASSERT_NE(newest.reader, nullptr);
  EXPECT_EQ(newest.reader->head().index, 30u);
  EXPECT_EQ(newest.reach_index, 0u);
  EXPECT_TRUE(warnings.empty());

  std::string bytes = env_.Contents(Path(30));
  bytes[100] ^= 4;
  env_.SetContents(Path(30), bytes);
  ASSERT_OK(LoadNewestCheckpoint(&env_, dir_, warn, &newest));
  EXPECT_EQ(newest.reader->head().index, 20u);
  EXPECT_EQ(newest.reach_index, 30u);
  EXPECT_EQ(newest.damaged, std::vector<uint64_t>{30});
  EXPECT_EQ(warnings.size(), 1u);

  uint64_t oldest_kept;
  ASSERT_OK(Write(&env_, dir_, 40, blocks_));
  ASSERT_OK(PruneCheckpoints(&env_, dir_, newest.damaged, 2, &oldest_kept));
  EXPECT_EQ(oldest_kept, 20u);
  std::vector<CheckpointInfo> left;
  ASSERT_OK(ListCheckpoints(&env_, dir_, &left));
  ASSERT_EQ(left.size(), 2u);
  EXPECT_EQ(left[0].index, 40u);
  EXPECT_EQ(left[1].index, 20u);
  std::vector<std::string> names;
  ASSERT_OK(env_.List(dir_, &names));
  EXPECT_EQ(names.size(), 2u);
}

TEST_F(CheckpointTest, ASingleCheckpointFreesNoLog) {
  ASSERT_OK(Write(&env_, dir_, 10, blocks_));
  uint64_t oldest_kept;
  ASSERT_OK(PruneCheckpoints(&env_, dir_, {}, 2, &oldest_kept));
  EXPECT_EQ(oldest_kept, 0u);
}

// At any moment of writing the third checkpoint and pruning: after the crash the newest that verifies is the second or
// the third.
TEST(CheckpointPowerLoss, ANameWithoutTmpAlwaysVerifies) {
  uint64_t seconds = 0, thirds = 0;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    FaultEnv env(seed);
    ASSERT_OK(env.CreateDir("/c"));
    ASSERT_OK(Write(&env, "/c", 1, {{BlockType::kRecords, "one"}}));
    ASSERT_OK(Write(&env, "/c", 2, {{BlockType::kRecords, "two"}}));
    env.CrashAfterOps(seed % 12);
    const bool finished = Write(&env, "/c", 3, {{BlockType::kRecords, std::string(3000, '3')}}).ok();
    uint64_t oldest_kept;
    if (finished) (void)PruneCheckpoints(&env, "/c", {}, 2, &oldest_kept).ok();
    env.Crash();
    NewestCheckpoint newest;
    ASSERT_OK(LoadNewestCheckpoint(&env, "/c", nullptr, &newest));
    ASSERT_NE(newest.reader, nullptr) << "seed " << seed;
    EXPECT_TRUE(newest.damaged.empty()) << "seed " << seed;
    const uint64_t index = newest.reader->head().index;
    EXPECT_TRUE(index == 3 || (index == 2 && !finished)) << "seed " << seed << " index " << index;
    (index == 3 ? thirds : seconds)++;
  }
  EXPECT_GT(seconds, 50u);
  EXPECT_GT(thirds, 50u);
}

class DirectoryTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "fastkv_directory_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  std::string Path(const std::string& name) const { return JoinPath(root_, name); }
  Status Open(const std::string& path, DirectoryOptions options = {}) {
    directory_.reset();
    return DataDirectory::Open(env_, path, options, &directory_);
  }

  Env* const env_ = Env::Posix();
  std::string root_;
  std::unique_ptr<DataDirectory> directory_;
};

TEST_F(DirectoryTest, IsMadeWithItsParentsAndOpensAgain) {
  ASSERT_OK(Open(Path("a/b/data")));
  EXPECT_TRUE(directory_->created());
  std::string marker;
  ASSERT_OK(env_->ReadAll(Path("a/b/data/FASTKV"), &marker));
  EXPECT_EQ(marker, "fastkv 2\n");
  std::string pid;
  ASSERT_OK(env_->ReadAll(Path("a/b/data/LOCK"), &pid));
  EXPECT_EQ(pid, std::to_string(getpid()) + "\n");
  ASSERT_OK(Open(Path("a/b/data")));
  EXPECT_FALSE(directory_->created());
  std::unique_ptr<DataDirectory> second;
  const Status locked = DataDirectory::Open(env_, Path("a/b/data"), {}, &second);
  EXPECT_EQ(locked.code(), Code::kLocked);
  EXPECT_NE(locked.message().find("process " + std::to_string(getpid())), std::string::npos);
  ASSERT_OK(DataDirectory::Open(env_, Path("a/b/data"), {.readonly = true}, &second));
}

TEST_F(DirectoryTest, RefusalsAreOneSentenceAndChangeNothing) {
  ASSERT_OK(env_->WriteAtomically(Path("file"), "x"));
  Status status = Open(Path("file"));
  EXPECT_EQ(status.code(), Code::kFormat);
  EXPECT_EQ(status.message(), Path("file") + " is a file, not a directory");

  ASSERT_OK(env_->CreateDir(Path("etcd")));
  ASSERT_OK(env_->CreateDir(Path("etcd/member")));
  status = Open(Path("etcd"));
  EXPECT_EQ(status.code(), Code::kFormat);
  EXPECT_EQ(status.message(), Path("etcd") + " is not a fastkv directory; its \"member\" looks like etcd's");

  ASSERT_OK(env_->CreateDir(Path("foreign")));
  ASSERT_OK(env_->WriteAtomically(Path("foreign/photo.jpg"), "x"));
  status = Open(Path("foreign"));
  EXPECT_EQ(status.code(), Code::kFormat);
  std::vector<std::string> names;
  ASSERT_OK(env_->List(Path("foreign"), &names));
  EXPECT_EQ(names, std::vector<std::string>{"photo.jpg"});

  ASSERT_OK(env_->CreateDir(Path("newer")));
  ASSERT_OK(env_->WriteAtomically(Path("newer/FASTKV"), "fastkv 3\n"));
  status = Open(Path("newer"));
  EXPECT_EQ(status.code(), Code::kFormat);
  EXPECT_EQ(status.message(),
            Path("newer") + " was written by a newer fastkv: its format is 3, this one knows up to 2");
  ASSERT_OK(env_->WriteAtomically(Path("newer/FASTKV"), "fastkv 1\n"));
  status = Open(Path("newer"));
  EXPECT_EQ(status.code(), Code::kFormat);
  EXPECT_EQ(status.message(),
            Path("newer") + " was written before fastkv 0.1.0: its format is 1, this one knows only 2");

  for (const char* marker : {"", "fastkv 2", "fastkv x\n", "fastkv 0\n", "fastkv 99999999999\n", "other 1\n"}) {
    ASSERT_OK(env_->WriteAtomically(Path("newer/FASTKV"), marker));
    EXPECT_EQ(Open(Path("newer")).code(), Code::kFormat) << marker;
  }

  EXPECT_EQ(Open(Path("none"), {.readonly = true}).code(), Code::kNotFound);
  EXPECT_EQ(Open(Path("none"), {.create_if_missing = false}).code(), Code::kNotFound);
  EXPECT_EQ(Open("").code(), Code::kNotFound);
  FileInfo info;
  ASSERT_OK(env_->Stat(Path("none"), &info));
  EXPECT_FALSE(info.exists);
}

TEST_F(DirectoryTest, NoPermissionIsSaidInOneSentence) {
  ASSERT_EQ(chmod(root_.c_str(), 0755), 0);
  ASSERT_EQ(mkdir(Path("closed").c_str(), 0555), 0);
  const pid_t pid = fork();
  if (pid == 0) {
    if (geteuid() == 0 && setuid(65534) != 0) _exit(1);  // root may do everything
    const Status status = Open(Path("closed/data"));
    if (status.code() != Code::kIoError) _exit(2);
    _exit(status.message() == "create directory " + Path("closed/data") + ": Permission denied" ? 0 : 3);
  }
  int state = 0;
  ASSERT_EQ(waitpid(pid, &state, 0), pid);
  EXPECT_TRUE(WIFEXITED(state));
  EXPECT_EQ(WEXITSTATUS(state), 0);
}

TEST_F(DirectoryTest, AnUnfinishedCreationIsFinished) {
  FaultEnv env(5);
  for (uint64_t crash_at = 0; crash_at < 20; ++crash_at) {
    const std::string path = "/data" + std::to_string(crash_at);
    env.CrashAfterOps(crash_at);
    std::unique_ptr<DataDirectory> directory;
    (void)DataDirectory::Open(&env, path, {}, &directory).ok();
    directory.reset();
    env.Crash();
    ASSERT_OK(DataDirectory::Open(&env, path, {}, &directory));
  }
}

}  // namespace
}  // namespace fastkv
