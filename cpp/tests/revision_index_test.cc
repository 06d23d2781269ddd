// The revision index against a plain vector: appends, trims and searches over many chunks, and readers beside the
// writer.

#include "mvcc/revision_index.h"

#include <gtest/gtest.h>

#include <atomic>
#include <deque>
#include <random>
#include <thread>
#include <vector>

#include "tests/commands.h"

namespace fastkv {
namespace {

using testing::Replay;
using testing::SeedsFor;

Record* NewRecord(int64_t main, uint32_t sub) { return Record::NewTombstone("k", main, sub, nullptr, -1); }
void FreeRecord(void* record, void*) { Record::Delete(static_cast<Record*>(record)); }

TEST(RevisionIndex, AgreesWithAVector) {
  const auto [first, count] = SeedsFor(6);
  for (uint64_t seed = first; seed < first + count; ++seed) {
    std::mt19937_64 random(seed);
    Retired retired;
    RevisionIndex index(&retired);
    std::deque<Record*> model;
    uint64_t trimmed = 0;
    int64_t main = 1;
    uint32_t sub = 0;
    for (int step = 0; step < 300; ++step) {
      for (uint64_t n = random() % 800; n > 0; --n) {
        if (random() % 3 == 0) {
          ++sub;
        } else {
          main += 1 + static_cast<int64_t>(random() % 3);
          sub = 0;
        }
        model.push_back(NewRecord(main, sub));
        index.Append(model.back());
      }
      if (random() % 4 == 0) {
        const uint64_t drop = random() % (model.size() + 1);
        trimmed += drop;
        index.TrimTo(trimmed);
        for (uint64_t i = 0; i < drop; ++i, model.pop_front()) retired.Add(model.front(), FreeRecord);
        retired.Reclaim();
      }
      const std::string replay = Replay("revision_index_test", "RevisionIndex.Agrees*", seed);
      ASSERT_EQ(index.begin(), trimmed) << replay;
      ASSERT_EQ(index.end(), trimmed + model.size()) << replay;
      for (int probe = 0; probe < 30; ++probe) {
        const int64_t wanted = static_cast<int64_t>(random() % static_cast<uint64_t>(main + 3));
        const auto found = std::lower_bound(model.begin(), model.end(), wanted,
                                            [](const Record* record, int64_t at) { return record->main() < at; });
        ASSERT_EQ(index.LowerBound(wanted), trimmed + static_cast<uint64_t>(found - model.begin())) << replay;
        if (!model.empty()) {
          const uint64_t i = random() % model.size();
          ASSERT_EQ(index.at(trimmed + i), model[i]) << replay;
        }
      }
    }
    EXPECT_EQ(index.LowerBound(INT64_MIN), index.begin());
    EXPECT_EQ(index.LowerBound(INT64_MAX), index.end());
    for (Record* record : model) retired.Add(record, FreeRecord);
  }
}

// Readers walk from a revision while the writer appends and trims: what they see ascends without a hole, from at or
// behind what they asked for.
TEST(RevisionIndex, ReadersSeeAscendingRevisionsBesideTheWriter) {
  Retired retired;
  RevisionIndex index(&retired);
  std::atomic<bool> stop{false};
  std::atomic<int64_t> published{0}, trimmed_to{0};
  std::atomic<uint64_t> errors{0}, walked{0};
  std::vector<std::thread> readers;
  for (uint64_t reader = 0; reader < 3; ++reader) {
    readers.emplace_back([&, reader] {
      std::mt19937_64 random(reader);
      while (!stop) {
        const EpochGuard guard;
        const int64_t newest = published;
        if (newest == 0) continue;
        const int64_t from = newest - static_cast<int64_t>(random() % 3000);
        int64_t previous = 0;
        const uint64_t end = index.end();
        for (uint64_t at = index.LowerBound(from); at < end && at < index.LowerBound(from) + 2000; ++at) {
          const Record* record = index.at(at);
          if (record == nullptr) continue;  // trimmed meanwhile
          if (previous == 0 ? record->main() < from : record->main() != previous + 1 && trimmed_to < record->main())
            ++errors;
          previous = record->main();
        }
        if (previous != 0) ++walked;
      }
    });
  }
  std::deque<Record*> live;
  uint64_t begin = 0;
  for (int64_t main = 1; main <= 60'000 || walked < 50; ++main) {
    live.push_back(NewRecord(main, 0));
    index.Append(live.back());
    published = main;
    if (main % 1500 == 0) {
      const uint64_t drop = live.size() / 2;
      begin += drop;
      trimmed_to = live[drop]->main();
      index.TrimTo(begin);
      for (uint64_t i = 0; i < drop; ++i, live.pop_front()) retired.Add(live.front(), FreeRecord);
      retired.Reclaim();
    }
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(errors, 0u);
  EXPECT_GT(walked, 0u);
  for (Record* record : live) retired.Add(record, FreeRecord);
}

}  // namespace
}  // namespace fastkv
