// Memory that a reader could still see is not freed; memory that none can see is.

#include "mvcc/epoch.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <latch>
#include <thread>
#include <vector>

namespace fastkv {
namespace {

void Count(void* counter, void*) { ++*static_cast<std::atomic<int>*>(counter); }

TEST(Epoch, FreesAtOnceWhenNobodyReads) {
  std::atomic<int> freed{0};
  Retired retired;
  retired.Add(&freed, Count);
  EXPECT_EQ(freed, 0);
  retired.Reclaim();
  EXPECT_EQ(freed, 1);
  EXPECT_EQ(retired.size(), 0u);
}

TEST(Epoch, WaitsForTheReaderThatWasInsideAndNotForLaterOnes) {
  std::atomic<int> freed{0};
  Retired retired;
  std::latch inside(1), retire(1), second(1), leave(1), left(1);
  std::thread early([&] {
    {
      const EpochGuard guard;
      const EpochGuard nested;
      inside.count_down();
      retire.wait();
    }
    left.count_down();
  });
  inside.wait();
  retired.Add(&freed, Count);
  retired.Reclaim();
  EXPECT_EQ(freed, 0);
  std::thread late([&] {
    const EpochGuard guard;
    second.count_down();
    leave.wait();
  });
  second.wait();
  retired.Reclaim();
  EXPECT_EQ(freed, 0);
  retire.count_down();
  left.wait();
  retired.Reclaim();  // the late reader is still inside: it came after
  EXPECT_EQ(freed, 1);
  retired.Add(&freed, Count);
  retired.Reclaim();
  EXPECT_EQ(freed, 1);
  leave.count_down();
  early.join();
  late.join();
  retired.Reclaim();
  EXPECT_EQ(freed, 2);
}

TEST(Epoch, ANestedGuardThatEndsKeepsTheOuterOne) {
  std::atomic<int> freed{0};
  Retired retired;
  {
    const EpochGuard outer;
    { const EpochGuard inner; }
    retired.Add(&freed, Count);
    retired.Reclaim();
    EXPECT_EQ(freed, 0);
  }
  retired.Reclaim();
  EXPECT_EQ(freed, 1);
}

TEST(Epoch, DestructionFreesTheRest) {
  std::atomic<int> freed{0};
  {
    Retired retired;
    for (int i = 0; i < 10; ++i) retired.Add(&freed, Count);
  }
  EXPECT_EQ(freed, 10);
}

// Two writers (two stores in one process) share the epoch; a value that a reader reached through the pointer must stay
// what it was.
TEST(Epoch, NothingIsFreedUnderAReaderOfTwoWriters) {
  struct Box {
    std::atomic<uint64_t> canary{0x5a5a5a5a};
  };
  constexpr int kWriters = 2;
  std::atomic<Box*> current[kWriters];
  for (auto& box : current) box = new Box;
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> wrong{0}, reads{0};
  std::vector<std::thread> threads;
  for (int reader = 0; reader < 2; ++reader) {
    threads.emplace_back([&] {
      while (!stop) {
        const EpochGuard guard;
        for (auto& box : current) {
          const Box* seen = box.load(std::memory_order_acquire);
          for (int i = 0; i < 20; ++i) wrong += seen->canary.load(std::memory_order_relaxed) != 0x5a5a5a5a;
        }
        ++reads;
      }
    });
  }
  std::vector<std::thread> writers;
  for (auto& box : current) {
    writers.emplace_back([&box, &reads] {
      Retired retired;
      for (int i = 0; i < 30'000 || reads < 100; ++i) {
        Box* old = box.exchange(new Box, std::memory_order_acq_rel);
        retired.Add(old, [](void* memory, void*) {
          static_cast<Box*>(memory)->canary = 0;
          delete static_cast<Box*>(memory);
        });
        if (i % 3 == 0) retired.Reclaim();
      }
      // Readers may still be inside: what is left goes when they are not.
      while (retired.size() > 0) {
        retired.Reclaim();
        std::this_thread::yield();
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0u);
  for (auto& box : current) delete box.load();
}

TEST(Epoch, AForkedChildWaitsForNoReaderOfItsParent) {
  std::latch inside(1), leave(1);
  std::thread reader([&] {
    const EpochGuard guard;
    inside.count_down();
    leave.wait();
  });
  inside.wait();
  const pid_t child = fork();
  if (child == 0) {
    std::atomic<int> freed{0};
    Retired retired;
    retired.Add(&freed, Count);
    retired.Reclaim();
    _exit(freed == 1 ? 0 : 1);
  }
  leave.count_down();
  reader.join();
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace fastkv
