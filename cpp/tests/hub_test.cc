// The watch hub, one behaviour a test.
#include "watch/hub.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "tests/hub_fake.h"
#include "watch/event_reader.h"

namespace fastkv {
namespace {

using namespace std::string_literals;

constexpr size_t kNoLimit = std::numeric_limits<size_t>::max();

std::string Event(const Record* record, const Record* previous = nullptr) {
  std::string event;
  AppendEvent(*record, previous, &event);
  return event;
}

class Hub : public testing::Test {
 protected:
  explicit Hub(WatchLimits limits = WatchLimits()) : source(10'000), hub(&source, limits) {}

  // One revision that puts the key; returns its event.
  std::string Put(const std::string& key, const std::string& value = "v") {
    const std::string event = Event(source.Put(key, value));
    hub.Sweep(source.Commit());
    return event;
  }
  std::string Delete(const std::string& key) {
    const std::string event = Event(source.Delete(key));
    hub.Sweep(source.Commit());
    return event;
  }

  // True if Wait was woken: one that nobody woke would find the same, but only when its time is up.
  bool WaitIsWoken(uint64_t id) {
    const auto start = std::chrono::steady_clock::now();
    return hub.Wait(id, 20) && std::chrono::steady_clock::now() - start < std::chrono::seconds(10);
  }

  FakeSource source;
  WatchHub hub;
};

class SmallHub : public Hub {
 protected:
  SmallHub() : Hub({.pending_max = 3, .scan_records_max = 5, .slice_records = 2}) {}
};

TEST_F(Hub, EventIsProtobufOfEtcdsEvent) {
  // WatchResponse.events{kv{key:"k" create:2 mod:2 version:1 value:"v"}}, then {type:DELETE kv{key:"k" mod:3}
  // prev_kv{...}}
  const std::string kv = "\x0a\x01k\x10\x02\x18\x02\x20\x01\x2a\x01v"s;
  const Record* put = source.Put("k", "v");
  source.Commit();
  const Record* tombstone = source.Delete("k");
  source.Commit();
  EXPECT_EQ(Event(put), "\x5a\x0e\x12\x0c"s + kv);
  EXPECT_EQ(Event(tombstone, put), "\x5a\x17\x08\x01\x12\x05\x0a\x01k\x18\x03\x1a\x0c"s + kv);
}

TEST_F(Hub, LongEventsHaveLongLengths) {
  const Record* put = source.Put("k", std::string(300, 'x'));
  const std::string event = Event(put);
  EXPECT_EQ(event.substr(0, 6), "\x5a\xbb\x02\x12\xb8\x02"s);
  EXPECT_EQ(event.substr(6), put->encoded());
}

TEST_F(Hub, LiveBatchIsOneRevisionWithItsOwnNumber) {
  const uint64_t id = hub.Add({.key = "a", .range_end = "c"});
  std::string first = Event(source.Put("a", "1"));
  first += Event(source.Put("b", "1"));
  source.Put("c", "not watched");
  hub.Sweep(source.Commit());
  const std::string second = Put("b");
  Put("c");
  const std::vector<WatchBatch> batches = hub.Take(id, kNoLimit);
  ASSERT_EQ(batches.size(), 2U);
  EXPECT_EQ(batches[0].revision, 2);
  EXPECT_EQ(batches[0].events, first);
  EXPECT_EQ(batches[1].revision, 3);
  EXPECT_EQ(batches[1].events, second);
  EXPECT_TRUE(hub.Take(id, kNoLimit).empty());
}

TEST_F(Hub, JoinedNewsIsAllThatIsPendingAndSharedByWatchersOfOneKind) {
  const uint64_t one = hub.Add({.key = "a", .range_end = ""});
  const uint64_t two = hub.Add({.key = "a", .range_end = ""});
  const uint64_t with_prev = hub.Add({.key = "a", .range_end = "", .prev_kv = true});
  const uint64_t wide = hub.Add({.key = "a", .range_end = "c"});
  const uint64_t late = hub.Add({.key = "a", .range_end = "", .start_revision = 4});
  const std::string first = Put("a"), second = Put("b"), third = Put("a");
  bool more = true;
  const WatchNews news = hub.TakeJoined(one, kNoLimit, &more);
  EXPECT_EQ(news.revision, 4);
  ASSERT_NE(news.events, nullptr);
  EXPECT_EQ(*news.events, first + third);
  EXPECT_FALSE(more);
  EXPECT_EQ(hub.TakeJoined(two, kNoLimit).events, news.events);  // the same bytes, not only equal ones
  EXPECT_NE(*hub.TakeJoined(with_prev, kNoLimit).events, first + third);
  EXPECT_EQ(*hub.TakeJoined(wide, kNoLimit).events, first + second + third);
  EXPECT_EQ(*hub.TakeJoined(late, kNoLimit).events, third);
  EXPECT_EQ(hub.TakeJoined(one, kNoLimit).events, nullptr);
  EXPECT_EQ(hub.Progress(one), 4);
  EXPECT_EQ(hub.Progress(two), 4);
}

TEST_F(Hub, WhatWasSharedIsNotGivenOnceCompactionHasPassedIt) {
  const uint64_t quick = hub.Add({.key = "a", .range_end = ""});
  const uint64_t slow = hub.Add({.key = "a", .range_end = ""});
  Put("a");
  Put("a");
  Put("b");
  ASSERT_NE(hub.TakeJoined(quick, kNoLimit).events, nullptr);
  source.Compact(4);
  const WatchNews news = hub.TakeJoined(slow, kNoLimit);
  EXPECT_EQ(news.events, nullptr);
  EXPECT_EQ(news.compact_revision, 4);
  EXPECT_EQ(hub.size(), 1U);
}

TEST_F(Hub, CatchUpBatchSpansRevisionsWithTheSourcesNumber) {
  const std::string first = Put("a"), second = Put("a"), third = Delete("a");
  Put("b");
  const uint64_t id = hub.Add({.key = "a", .range_end = "", .start_revision = 3});
  const std::vector<WatchBatch> batches = hub.Take(id, kNoLimit);
  ASSERT_EQ(batches.size(), 1U);
  EXPECT_EQ(batches[0].revision, 5);
  EXPECT_EQ(batches[0].events, second + third);
  EXPECT_EQ(hub.Progress(id), 5);
}

TEST_F(Hub, DeleteAndPutOfOneRevisionComeInSubOrder) {
  Put("a", "old");
  const uint64_t plain = hub.Add({.key = "a", .range_end = ""});
  const uint64_t with_prev = hub.Add({.key = "a", .range_end = "", .prev_kv = true});
  const Record* tombstone = source.Delete("a");
  const Record* put = source.Put("a", "new");
  hub.Sweep(source.Commit());
  EXPECT_EQ(hub.Take(plain, kNoLimit).at(0).events, Event(tombstone) + Event(put));
  // The delete has what stood before the revision; the put created the key anew and has nothing.
  EXPECT_EQ(hub.Take(with_prev, kNoLimit).at(0).events, Event(tombstone, tombstone->Previous()) + Event(put));
}

TEST_F(Hub, PrevKvIsLeftOutOnceCompactionHasReachedTheEvent) {
  const uint64_t id = hub.Add({.key = "a", .range_end = "", .prev_kv = true});
  const Record* first = source.Put("a", "1");
  hub.Sweep(source.Commit());
  const Record* second = source.Put("a", "2");
  hub.Sweep(source.Commit());
  EXPECT_EQ(hub.Take(id, 0).at(0).events, Event(first)) << "a created key has no previous value";
  EXPECT_EQ(hub.Take(id, 0).at(0).events, Event(second, first));

  const uint64_t late = hub.Add({.key = "a", .range_end = "", .start_revision = 3, .prev_kv = true});
  source.Compact(3);
  ASSERT_NE(second->Previous(), nullptr) << "not removed yet";
  EXPECT_EQ(hub.Take(late, kNoLimit).at(0).events, Event(second));
}

TEST_F(Hub, FiltersDropEvents) {
  const uint64_t no_put = hub.Add({.key = "a", .range_end = "", .no_put = true});
  const uint64_t no_delete = hub.Add({.key = "a", .range_end = "", .no_delete = true});
  const std::string put = Put("a");
  EXPECT_EQ(hub.Ready(), std::vector{no_delete});
  const std::string tombstone = Delete("a");
  EXPECT_EQ(hub.Take(no_delete, kNoLimit).at(0).events, put);
  EXPECT_EQ(hub.Take(no_put, kNoLimit).at(0).events, tombstone);
  EXPECT_EQ(hub.Progress(no_delete), 3) << "dropped events still advance the progress";
}

TEST_F(Hub, TakeStopsAtBytesMaxWithAtLeastOneRevision) {
  const uint64_t live = hub.Add({.key = "a", .range_end = ""});
  const size_t event_bytes = Put("a").size();
  for (int i = 0; i < 4; ++i) Put("a");
  const uint64_t late = hub.Add({.key = "a", .range_end = "", .start_revision = 2});
  EXPECT_EQ(hub.Take(live, 0).size(), 1U);
  EXPECT_EQ(hub.Take(live, event_bytes + 1).size(), 2U);
  EXPECT_EQ(hub.Take(live, kNoLimit).size(), 2U);
  EXPECT_EQ(hub.Take(late, 0).at(0).events.size(), event_bytes);
  EXPECT_EQ(hub.Take(late, event_bytes + 1).at(0).events.size(), 2 * event_bytes);
  EXPECT_EQ(hub.Take(late, kNoLimit).at(0).events.size(), 2 * event_bytes);
}

TEST_F(Hub, AppliedButUnsweptRevisionsAreNeitherLostNorRepeated) {
  const uint64_t witness = hub.Add({.key = "a", .range_end = ""});
  const std::string event = Event(source.Put("a", "1"));
  source.Commit();
  const uint64_t now = hub.Add({.key = "a", .range_end = ""});
  const uint64_t at_it = hub.Add({.key = "a", .range_end = "", .start_revision = 2});
  const uint64_t early = hub.Add({.key = "a", .range_end = "", .start_revision = 1});
  EXPECT_EQ(hub.Take(early, kNoLimit).at(0).events, event) << "read before the sweep";
  hub.Sweep(2);
  EXPECT_EQ(hub.Take(witness, kNoLimit).at(0).events, event);
  EXPECT_EQ(hub.Take(at_it, kNoLimit).at(0).events, event);
  EXPECT_TRUE(hub.Take(now, kNoLimit).empty()) << "it was visible before Add";
  EXPECT_TRUE(hub.Take(early, kNoLimit).empty());
}

TEST_F(Hub, FutureStartWaitsForItsRevision) {
  const uint64_t id = hub.Add({.key = "a", .range_end = "", .start_revision = 4});
  Put("a");
  Put("a");
  EXPECT_FALSE(hub.Wait(id, 0));
  EXPECT_EQ(hub.Progress(id), -1);
  EXPECT_TRUE(hub.Take(id, kNoLimit).empty());
  Put("b");
  EXPECT_EQ(hub.Progress(id), 4);
  const std::string event = Put("a");
  EXPECT_EQ(hub.Take(id, kNoLimit).at(0).events, event);
}

TEST_F(Hub, ProgressNeedsEverythingTaken) {
  const uint64_t id = hub.Add({.key = "a", .range_end = ""});
  EXPECT_EQ(hub.Progress(id), 1) << "start 0 has reached its start at once, as in etcd";
  Put("a");
  EXPECT_EQ(hub.Progress(id), -1);
  hub.Take(id, kNoLimit);
  EXPECT_EQ(hub.Progress(id), 2);
  source.Put("b", "v");
  source.Commit();
  EXPECT_EQ(hub.Progress(id), 2) << "revision 3 is not swept yet";
  hub.Sweep(3);
  EXPECT_EQ(hub.Progress(id), 3);
  EXPECT_EQ(hub.Progress(id + 1), -1);
}

TEST_F(Hub, CompactRevisionItselfIsReadableBelowItEnds) {
  Put("a");
  const std::string second = Put("a"), third = Put("a");
  source.Compact(3);
  source.RemoveCompacted();
  const uint64_t at = hub.Add({.key = "a", .range_end = "", .start_revision = 3});
  const uint64_t below = hub.Add({.key = "a", .range_end = "", .start_revision = 2});
  EXPECT_EQ(hub.Take(at, kNoLimit).at(0).events, second + third);
  const std::vector<WatchBatch> batches = hub.Take(below, kNoLimit);
  ASSERT_EQ(batches.size(), 1U);
  EXPECT_EQ(batches[0].compact_revision, 3);
  EXPECT_EQ(batches[0].revision, 0);
  EXPECT_EQ(batches[0].events, "");
  EXPECT_TRUE(hub.Take(below, kNoLimit).empty());
  EXPECT_TRUE(hub.Wait(below, 0)) << "it is gone";
  EXPECT_EQ(hub.size(), 1U);
}

TEST_F(Hub, CompactionEndsOnlyWhoOwesWhatItRemoved) {
  const uint64_t quiet = hub.Add({.key = "q", .range_end = ""});
  const uint64_t slow = hub.Add({.key = "a", .range_end = ""});
  const uint64_t quick = hub.Add({.key = "a", .range_end = ""});
  Put("a");
  hub.Take(quick, kNoLimit);
  const std::string last = Put("a");
  source.Compact(3);
  source.RemoveCompacted();
  EXPECT_EQ(hub.Take(slow, kNoLimit).at(0).compact_revision, 3);
  EXPECT_EQ(hub.Take(quick, kNoLimit).at(0).events, last);
  EXPECT_TRUE(hub.Take(quiet, kNoLimit).empty());
  EXPECT_EQ(hub.Progress(quiet), 3);
}

TEST_F(Hub, ReadyGivesEachIdOnceUntilTaken) {
  const uint64_t a = hub.Add({.key = "a", .range_end = ""});
  const uint64_t b = hub.Add({.key = "b", .range_end = ""});
  EXPECT_TRUE(hub.Ready().empty());
  Put("b");
  Put("a");
  Put("b");
  EXPECT_EQ(hub.Ready(), (std::vector{b, a}));
  Put("a");
  EXPECT_TRUE(hub.Ready().empty()) << "handed out, not taken yet";
  hub.Take(a, 0);
  EXPECT_EQ(hub.Ready(), std::vector{a}) << "Take has left something";
  hub.Take(a, kNoLimit);
  hub.Take(b, kNoLimit);
  EXPECT_TRUE(hub.Ready().empty());
  Put("b");
  hub.Cancel(b);
  EXPECT_TRUE(hub.Ready().empty());
}

TEST_F(Hub, EmptyIntervalMatchesNothing) {
  const uint64_t id = hub.Add({.key = "b", .range_end = "a", .start_revision = 1});
  Put("a");
  Put("b");
  EXPECT_TRUE(hub.Take(id, kNoLimit).empty());
  EXPECT_EQ(hub.Progress(id), 3);
  hub.Cancel(id);
  EXPECT_EQ(hub.size(), 0U);
}

TEST_F(SmallHub, OverflowFallsBackToScanning) {
  const uint64_t id = hub.Add({.key = "a", .range_end = ""});
  std::string events;
  for (int i = 0; i < 4; ++i) events += Put("a");
  std::vector<WatchBatch> batches = hub.Take(id, kNoLimit);
  ASSERT_EQ(batches.size(), 1U);
  EXPECT_EQ(batches[0].revision, 5) << "a catch-up batch";
  EXPECT_EQ(batches[0].events, events);
  const std::string live = Put("a");
  EXPECT_EQ(hub.Take(id, kNoLimit).at(0).events, live);
}

TEST_F(SmallHub, CatchUpWorkIsBoundedWhereNothingMatches) {
  for (int i = 0; i < 12; ++i) Put("b");
  const uint64_t id = hub.Add({.key = "a", .range_end = "", .start_revision = 1});
  int takes = 0;
  while (hub.Progress(id) == -1) {
    EXPECT_EQ(hub.Ready(), std::vector{id});
    EXPECT_TRUE(hub.Wait(id, 0));
    EXPECT_TRUE(hub.Take(id, kNoLimit).empty());
    ++takes;
  }
  EXPECT_EQ(takes, 3) << "12 records at 5 a Take";
  EXPECT_TRUE(hub.Ready().empty());
}

TEST_F(SmallHub, RevisionLargerThanEverySliceStaysWhole) {
  const uint64_t live = hub.Add({.key = "a", .range_end = "z"});
  std::string events;
  for (int i = 0; i < 20; ++i) events += Event(source.Put("k" + std::to_string(i), "v"));
  hub.Sweep(source.Commit());
  const uint64_t late = hub.Add({.key = "a", .range_end = "z", .start_revision = 1});
  EXPECT_EQ(hub.Take(live, 0).at(0).events, events);
  EXPECT_EQ(hub.Take(late, 0).at(0).events, events);
}

TEST_F(Hub, WaitSeesWhatIsThereAndTimesOut) {
  const uint64_t id = hub.Add({.key = "a", .range_end = ""});
  EXPECT_FALSE(hub.Wait(id, 0.001));
  EXPECT_FALSE(hub.Wait(id, -1));
  EXPECT_FALSE(hub.Wait(id, std::numeric_limits<double>::quiet_NaN()));
  EXPECT_TRUE(hub.Wait(id + 1, 100)) << "an unknown id";
  Put("a");
  EXPECT_TRUE(hub.Wait(id, std::numeric_limits<double>::infinity()));
}

// Many rounds: in some of them the waiter is already asleep when the event comes.
TEST_F(Hub, WaitWakesForAnEvent) {
  const uint64_t id = hub.Add({.key = "a", .range_end = ""});
  constexpr int kRounds = 500;
  std::atomic<int> rounds{0};
  std::thread waiter([&] {
    while (rounds < kRounds && !HasFailure()) {
      EXPECT_TRUE(WaitIsWoken(id)) << "round " << rounds;
      EXPECT_EQ(hub.Take(id, kNoLimit).size(), 1U);
      ++rounds;
    }
  });
  for (int round = 0; round < kRounds && !HasFailure(); ++round) {
    Put("a");
    while (rounds <= round && !HasFailure()) std::this_thread::yield();
  }
  waiter.join();
}

TEST_F(Hub, WaitWakesForCancel) {
  const uint64_t id = hub.Add({.key = "a", .range_end = ""});
  std::thread waiter([&] { EXPECT_TRUE(WaitIsWoken(id)); });
  hub.Cancel(id);
  hub.Cancel(id);
  waiter.join();
  EXPECT_TRUE(hub.Take(id, kNoLimit).empty());
}

TEST_F(Hub, CloseAllWakesEveryoneForGood) {
  std::vector<std::thread> waiters;
  for (const char* key : {"a", "b", "c"}) {
    const uint64_t id = hub.Add({.key = key, .range_end = ""});
    waiters.emplace_back([this, id] { EXPECT_TRUE(WaitIsWoken(id)); });
  }
  hub.CloseAll();
  for (std::thread& waiter : waiters) waiter.join();
  EXPECT_EQ(hub.size(), 0U);
  const uint64_t late = hub.Add({.key = "a", .range_end = ""});
  EXPECT_TRUE(WaitIsWoken(late));
  Put("a");
  EXPECT_TRUE(hub.Take(late, kNoLimit).empty());
}

TEST_F(Hub, SweepsSkippedWhileNobodyWatchedAreNotMadeUpFor) {
  for (int i = 0; i < 10; ++i) Put("a");
  source.Compact(11);
  source.RemoveCompacted();
  const uint64_t id = hub.Add({.key = "a", .range_end = ""});
  EXPECT_TRUE(hub.Take(id, kNoLimit).empty());
  const std::string event = Put("a");
  EXPECT_EQ(hub.Take(id, kNoLimit).at(0).events, event);
}

}  // namespace
}  // namespace fastkv
