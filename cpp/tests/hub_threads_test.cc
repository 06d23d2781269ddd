// The watch hub under threads: one writer that applies, sweeps and compacts; takers that add, wait, take, lag and
// cancel.
//
// Which key a revision changes follows from its number, so each taker knows on its own which revisions it is owed. It
// checks that they come once, in order, none left out, from a start that lies between the revisions it saw around Add;
// and that only what compaction has overtaken ends early. Run it under ThreadSanitizer and AddressSanitizer too.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "tests/hub_fake.h"
#include "watch/hub.h"

namespace fastkv {
namespace {

constexpr int64_t kRevisions = 30'000;
constexpr int64_t kKeys = 8;

std::string KeyOf(int64_t revision) { return "k" + std::to_string(revision * 7 % 11 % kKeys); }

bool Wants(const WatchSpec& spec, int64_t revision) {
  if (revision < 2) return false;  // an empty store is at revision 1
  const std::string key = KeyOf(revision);
  return spec.range_end.empty() ? key == spec.key : key >= spec.key && key < spec.range_end;
}

uint64_t ReadVarint(const std::string& bytes, size_t* at) {
  uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    const auto byte = static_cast<unsigned char>(bytes.at((*at)++));
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
}

// The mod_revision of each event, from events{kv{key create mod ...}}.
std::vector<int64_t> ModRevisions(const std::string& events) {
  std::vector<int64_t> revisions;
  for (size_t at = 0; at < events.size();) {
    ++at;
    const size_t length = ReadVarint(events, &at), next = at + length;
    ++at;
    ReadVarint(events, &at);  // the length of kv
    ++at;
    const size_t key_length = ReadVarint(events, &at);
    at += key_length;
    ++at;
    ReadVarint(events, &at);  // create_revision
    ++at;
    revisions.push_back(static_cast<int64_t>(ReadVarint(events, &at)));
    at = next;
  }
  return revisions;
}

std::vector<WatchBatch> AsBatches(const WatchNews& news) {
  if (news.events == nullptr && news.compact_revision == 0) return {};
  return {{news.revision, news.events == nullptr ? "" : *news.events, news.compact_revision}};
}

// What one watcher has had so far.
struct Owed {
  WatchSpec spec;
  int64_t next_min = 0, next_max = 0;  // the first revision owed lies in between (equal once something has come)

  // Returns how many events there were.
  size_t Check(const std::vector<WatchBatch>& batches, const FakeSource& source) {
    size_t events = 0;
    for (const WatchBatch& batch : batches) {
      if (batch.compact_revision != 0) {
        EXPECT_LT(next_min, batch.compact_revision);
        EXPECT_EQ(batch.events, "");
        continue;
      }
      EXPECT_LE(batch.revision, source.revision());
      for (const int64_t revision : ModRevisions(batch.events)) {
        EXPECT_TRUE(Wants(spec, revision));
        EXPECT_GE(revision, next_min);
        for (int64_t left_out = next_max; left_out < revision; ++left_out) {
          EXPECT_FALSE(Wants(spec, left_out)) << left_out << " is missing before " << revision;
        }
        next_min = next_max = revision + 1;
        EXPECT_GE(batch.revision, revision);
        ++events;
      }
    }
    return events;
  }

  void CheckProgress(int64_t progress) const {
    for (int64_t revision = next_max; revision <= progress; ++revision) {
      EXPECT_FALSE(Wants(spec, revision)) << "progress " << progress << " promises " << revision;
    }
  }
};

class HubThreads : public testing::Test {
 protected:
  HubThreads()
      : source(static_cast<size_t>(kRevisions) + 100),
        hub(&source, {.pending_max = 16, .scan_records_max = 64, .slice_records = 8}) {}

  // Applies in batches of up to five revisions, sweeps behind each, compacts now and then.
  void Write() {
    std::mt19937_64 random(1);
    while (source.revision() < kRevisions) {
      const size_t batch = 1 + random() % 5;
      for (size_t i = 0; i < batch && source.revision() < kRevisions; ++i) {
        source.Put(KeyOf(source.revision() + 1), "value");
        source.Commit();
      }
      hub.Sweep(source.revision());
      const int64_t keep = static_cast<int64_t>(random() % 400);
      if (random() % 50 == 0 && source.revision() - keep > std::max<int64_t>(source.compact_revision(), 1)) {
        source.Compact(source.revision() - keep);
        source.RemoveCompacted();
      }
      // With fewer cores than threads the takers would only see the end.
      if (random() % 4 == 0) std::this_thread::yield();
    }
    written = true;
  }

  Owed Add(std::mt19937_64* random, uint64_t* id) {
    Owed owed;
    owed.spec.key = "k" + std::to_string((*random)() % kKeys);
    if ((*random)() % 2 == 0) owed.spec.range_end = "k" + std::to_string((*random)() % kKeys) + "~";
    owed.spec.prev_kv = (*random)() % 2 == 0;
    const int64_t before = source.revision();
    if ((*random)() % 2 == 0) {
      const int64_t start = before + 20 - static_cast<int64_t>((*random)() % 60);
      owed.spec.start_revision = std::max<int64_t>(1, start);
      *id = hub.Add(owed.spec);
      owed.next_min = owed.next_max = owed.spec.start_revision;
    } else {
      *id = hub.Add(owed.spec);
      owed.next_min = before + 1;
      owed.next_max = source.revision() + 1;
    }
    return owed;
  }

  // One watcher after the other: waits and takes for a while, drains it if the writer has ended, cancels it.
  void TakeOneByOne(uint64_t seed) {
    std::mt19937_64 random(seed);
    while (!HasFailure()) {
      const bool last = written;
      uint64_t id = 0;
      Owed owed = Add(&random, &id);
      for (size_t takes = random() % 40; takes > 0; --takes) {
        const int64_t progress = hub.Progress(id);
        owed.CheckProgress(progress);
        hub.Wait(id, 0.0005);
        const size_t bytes_max = random() % 500;
        const bool joined = random() % 2 == 0;
        const auto batches = joined ? AsBatches(hub.TakeJoined(id, bytes_max)) : hub.Take(id, bytes_max);
        events_checked += owed.Check(batches, source);
      }
      if (last) {
        bool ended = false;
        while (!ended && hub.Wait(id, 0)) {
          const std::vector<WatchBatch> batches = hub.Take(id, 500);
          events_checked += owed.Check(batches, source);
          ended = !batches.empty() && batches.back().compact_revision != 0;
        }
        if (!ended) owed.CheckProgress(source.revision());
        hub.Cancel(id);
        return;
      }
      hub.Cancel(id);
    }
  }

  // Twenty watchers at once, served as Ready names them. Nobody else may call Ready.
  void TakeReady(uint64_t seed) {
    std::mt19937_64 random(seed);
    std::unordered_map<uint64_t, Owed> mine;
    for (int i = 0; i < 20; ++i) {
      uint64_t id = 0;
      const Owed owed = Add(&random, &id);
      mine.emplace(id, owed);
    }
    for (bool last = false; !last && !HasFailure();) {
      last = written;
      for (const uint64_t id : hub.Ready()) {
        auto found = mine.find(id);
        if (found == mine.end()) continue;  // the other takers'
        const std::vector<WatchBatch> batches = hub.Take(id, random() % 2'000);
        events_checked += found->second.Check(batches, source);
        if (!batches.empty() && batches.back().compact_revision != 0) mine.erase(found);
        last = false;
      }
      std::this_thread::yield();
    }
    if (HasFailure()) return;
    for (const auto& [id, owed] : mine) owed.CheckProgress(source.revision());
  }

  FakeSource source;
  WatchHub hub;
  std::atomic<bool> written{false};
  std::atomic<size_t> events_checked{0};
};

TEST_F(HubThreads, EveryTakerGetsExactlyWhatItIsOwed) {
  std::vector<std::thread> takers;
  for (uint64_t seed = 1; seed <= 3; ++seed) takers.emplace_back([this, seed] { TakeOneByOne(seed); });
  takers.emplace_back([this] { TakeReady(4); });
  Write();
  for (std::thread& taker : takers) taker.join();
  EXPECT_EQ(source.revision(), kRevisions);
  EXPECT_GT(events_checked, static_cast<size_t>(kRevisions) / 100);
}

TEST_F(HubThreads, TakersOfOneWatcherShareItsRevisions) {
  const uint64_t id = hub.Add({.key = "k", .range_end = "l"});
  std::vector<std::vector<int64_t>> got(3);
  std::vector<std::thread> takers;
  for (std::vector<int64_t>& mine : got) {
    takers.emplace_back([this, id, &mine] {
      for (bool last = false; !last;) {
        last = written;
        hub.Wait(id, 0.0005);
        for (const WatchBatch& batch : hub.Take(id, 300)) {
          for (const int64_t revision : ModRevisions(batch.events)) mine.push_back(revision);
          last = false;
        }
        last = last && hub.Progress(id) == kRevisions;
      }
    });
  }
  while (source.revision() < kRevisions) {
    source.Put(KeyOf(source.revision() + 1), "value");
    hub.Sweep(source.Commit());
  }
  written = true;
  for (std::thread& taker : takers) taker.join();
  std::vector<int64_t> all;
  for (const std::vector<int64_t>& mine : got) {
    EXPECT_TRUE(std::is_sorted(mine.begin(), mine.end()));
    all.insert(all.end(), mine.begin(), mine.end());
  }
  std::sort(all.begin(), all.end());
  ASSERT_EQ(all.size(), static_cast<size_t>(kRevisions - 1));
  for (size_t i = 0; i < all.size(); ++i) ASSERT_EQ(all[i], static_cast<int64_t>(i) + 2);
}

// Catching up one revision at a time right where a long slice is being matched: the watcher becomes synced in the
// middle.
TEST_F(HubThreads, CatchingUpIntoARunningSweepLosesNothing) {
  WatchHub wide(&source, {.pending_max = 16, .scan_records_max = 64, .slice_records = 64});
  for (int i = 0; i < 300; ++i) wide.Add({.key = "k", .range_end = "l", .prev_kv = true});
  const auto take = [this, &wide] {
    while (!written && !HasFailure()) {
      Owed owed;
      owed.spec = {.key = "k", .range_end = "l"};
      owed.spec.start_revision = owed.next_min = owed.next_max = std::max<int64_t>(2, source.revision() - 80);
      const uint64_t id = wide.Add(owed.spec);
      for (int takes = 0; takes < 100; ++takes) {
        events_checked += owed.Check(wide.Take(id, 0), source);
        owed.CheckProgress(wide.Progress(id));
      }
      wide.Cancel(id);
    }
  };
  std::thread takers[] = {std::thread(take), std::thread(take)};
  while (source.revision() < kRevisions / 2) {
    for (int i = 0; i < 60; ++i) {
      source.Put(KeyOf(source.revision() + 1), "value");
      source.Commit();
    }
    wide.Sweep(source.revision());
  }
  written = true;
  for (std::thread& taker : takers) taker.join();
  EXPECT_GT(events_checked, 100U);
}

TEST_F(HubThreads, CancelAndCloseAllAreSafeBesideEverything) {
  std::atomic<uint64_t> newest{0};
  std::vector<std::thread> threads;
  for (uint64_t seed = 1; seed <= 2; ++seed) {
    threads.emplace_back([this, seed, &newest] {
      std::mt19937_64 random(seed);
      while (!written) {
        uint64_t id = 0;
        Add(&random, &id);
        newest = id;
        hub.Take(1 + random() % id, 1'000);
        hub.Wait(1 + random() % id, 0);
      }
    });
  }
  threads.emplace_back([this, &newest] {
    std::mt19937_64 random(3);
    while (!written) {
      const uint64_t id = 1 + random() % (newest + 1);
      hub.Cancel(id);
      hub.Progress(id);
      for (const uint64_t ready : hub.Ready()) hub.Cancel(ready);
    }
  });
  while (source.revision() < kRevisions / 4) {
    source.Put(KeyOf(source.revision() + 1), "value");
    hub.Sweep(source.Commit());
  }
  hub.CloseAll();
  EXPECT_EQ(hub.size(), 0U);
  while (source.revision() < kRevisions / 2) {
    source.Put(KeyOf(source.revision() + 1), "value");
    hub.Sweep(source.Commit());
  }
  written = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(hub.size(), 0U);
  EXPECT_TRUE(hub.Ready().empty());
}

}  // namespace
}  // namespace fastkv
