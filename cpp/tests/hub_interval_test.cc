// The key interval rule, the interval tree and the matcher, against brute force.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "watch/interval_tree.h"
#include "watch/key_interval.h"
#include "watch/matcher.h"

namespace fastkv {
namespace {

using namespace std::string_literals;

// Keys of up to three bytes out of five, NUL and 0xff among them: they collide and nest all the time.
std::string RandomKey(std::mt19937_64* random, size_t length_min) {
  static const char kBytes[] = {'\0', 'a', 'b', 'c', '\xff'};
  std::string key;
  const size_t length = length_min + (*random)() % (4 - length_min);
  for (size_t i = 0; i < length; ++i) key.push_back(kBytes[(*random)() % sizeof(kBytes)]);
  return key;
}

KeyInterval RandomInterval(std::mt19937_64* random) {
  switch ((*random)() % 8) {
    case 0:
      return KeyInterval::Of(RandomKey(random, 1), "");
    case 1:
      return KeyInterval::Of(RandomKey(random, 1), "\0"s);
    default:
      return KeyInterval::Of(RandomKey(random, 1), RandomKey(random, 0));
  }
}

TEST(KeyInterval, FollowsEtcdsRule) {
  EXPECT_TRUE(KeyInterval::Of("a", "").Contains("a"));
  EXPECT_FALSE(KeyInterval::Of("a", "").Contains("a\0"s));
  EXPECT_TRUE(KeyInterval::Of("a", "\0"s).Contains("a"));
  EXPECT_TRUE(KeyInterval::Of("a", "\0"s).Contains("\xff\xff"));
  EXPECT_FALSE(KeyInterval::Of("b", "\0"s).Contains("a"));
  EXPECT_TRUE(KeyInterval::Of("\0"s, "\0"s).Contains("\0"s));
  EXPECT_TRUE(KeyInterval::Of("a", "c").Contains("b\xff"));
  EXPECT_FALSE(KeyInterval::Of("a", "c").Contains("c"));
  EXPECT_FALSE(KeyInterval::Of("c", "a").Contains("b"));
  EXPECT_FALSE(KeyInterval::Of("a", "a").Contains("a"));
  EXPECT_TRUE(KeyInterval::Of("a", "\x80").Contains("z")) << "bytes compare unsigned";
}

TEST(IntervalTree, StabFindsWhatBruteForceFinds) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    IntervalTree<int> tree;
    std::vector<IntervalTree<int>::Node*> nodes;
    for (int step = 0; step < 400; ++step) {
      const bool grow = random() % 400 < 400 - static_cast<uint64_t>(step) / 2;
      if (grow) {
        const KeyInterval interval = RandomInterval(&random);
        if (interval.kind != KeyInterval::Kind::kBounded && interval.kind != KeyInterval::Kind::kUnbounded) continue;
        IntervalTree<int>::Node* node = tree.Insert(interval);
        if (std::find(nodes.begin(), nodes.end(), node) == nodes.end()) {
          node->value = step;
          nodes.push_back(node);
        }
      } else if (!nodes.empty()) {
        const size_t victim = random() % nodes.size();
        tree.Erase(nodes[victim]);
        nodes.erase(nodes.begin() + static_cast<ptrdiff_t>(victim));
      }
      ASSERT_EQ(tree.size(), nodes.size());
      ASSERT_TRUE(tree.Check()) << "step " << step;
      const std::string key = RandomKey(&random, 0);
      std::multiset<int> expected, found;
      for (const auto* node : nodes) {
        if (node->interval().Contains(key)) expected.insert(node->value);
      }
      tree.Stab(key, [&found](int value) { found.insert(value); });
      ASSERT_EQ(found, expected) << "step " << step;
    }
  }
}

TEST(IntervalTree, StaysBalancedWhenKeysArriveInOrder) {
  IntervalTree<int> tree;
  std::vector<IntervalTree<int>::Node*> nodes;
  for (int i = 0; i < 5000; ++i) {
    const std::string begin = std::to_string(100000 + i);
    nodes.push_back(tree.Insert(KeyInterval::Of(begin, begin + "~")));
  }
  ASSERT_TRUE(tree.Check());
  for (int i = 0; i < 4000; ++i) tree.Erase(nodes[static_cast<size_t>(i)]);
  EXPECT_TRUE(tree.Check());
  EXPECT_EQ(tree.size(), 1000U);
}

struct FakeWatcher {
  KeyInterval interval;
  Matcher<FakeWatcher>::Place place;
};

TEST(Matcher, VisitsEachWatcherOfTheKeyOnce) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    Matcher<FakeWatcher> matcher;
    std::vector<std::unique_ptr<FakeWatcher>> watchers;
    for (int step = 0; step < 400; ++step) {
      if (random() % 5 < 3) {
        watchers.push_back(std::make_unique<FakeWatcher>());
        watchers.back()->interval = RandomInterval(&random);
        matcher.Insert(watchers.back()->interval, watchers.back().get());
      } else if (!watchers.empty()) {
        std::swap(watchers[random() % watchers.size()], watchers.back());
        matcher.Erase(watchers.back()->interval, watchers.back().get());
        watchers.pop_back();
      }
      const std::string key = RandomKey(&random, 1);
      std::multiset<const FakeWatcher*> expected, found;
      for (const auto& watcher : watchers) {
        if (watcher->interval.Contains(key)) expected.insert(watcher.get());
      }
      matcher.Match(key, [&found](const FakeWatcher* watcher) { found.insert(watcher); });
      ASSERT_EQ(found, expected) << "step " << step;
    }
  }
}

}  // namespace
}  // namespace fastkv
