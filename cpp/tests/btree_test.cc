// The key index against std::map: the same keys in the same order after any inserts, erases and changes, walked both
// ways, with Check() clean after each round. Keys are chosen to hurt: long shared prefixes, zero bytes, keys that begin
// other keys.

#include "mvcc/btree.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/commands.h"

namespace fastkv {
namespace {

using testing::Replay;
using testing::SeedsFor;

class Tree {
 public:
  ~Tree() {
    for (auto& [key, record] : model_) Forget(record);
  }

  void Put(const std::string& key) { Install(key, false); }
  void Tombstone(const std::string& key) { Install(key, true); }
  void Erase(const std::string& key) {
    const BTree::Place place = tree_->Locate(key);
    ASSERT_NE(place.newest, nullptr);
    tree_->Erase(place);
    Forget(model_[key]);
    model_.erase(key);
    retired_.Reclaim();
  }
  void Load(const std::set<std::string>& keys) {
    std::vector<Record*> records;
    for (const std::string& key : keys) {
      records.push_back(New(key, false, nullptr));
      model_[key] = records.back();
    }
    tree_->BulkLoad(records);
  }

  const std::map<std::string, Record*>& model() const { return model_; }
  const BTree& tree() const { return *tree_; }

  // Walks both ways and looks everything up. `probes`: keys that may be there or not.
  std::string Compare(const std::vector<std::string>& probes) const {
    std::vector<std::string> problems;
    tree_->Check(&problems);
    if (!problems.empty()) return problems.front();
    if (tree_->keys() != model_.size()) return "keys() is " + std::to_string(tree_->keys());
    auto forward = tree_->LowerBound("");
    for (const auto& [key, record] : model_) {
      if (!forward.valid() || forward.record() != record) return "the walk forward misses a key";
      forward.Next();
    }
    if (forward.valid()) return "the walk forward finds a key too many";
    auto backward = tree_->Last();
    for (auto it = model_.rbegin(); it != model_.rend(); ++it) {
      if (!backward.valid() || backward.record() != it->second) return "the walk backward misses a key";
      backward.Prev();
    }
    if (backward.valid()) return "the walk backward finds a key too many";
    for (const std::string& probe : probes) {
      const auto found = model_.find(probe);
      if (tree_->Find(probe) != (found == model_.end() ? nullptr : found->second)) return "Find";
      if (tree_->Locate(probe).newest != (found == model_.end() ? nullptr : found->second)) return "Locate";
      const auto lower = model_.lower_bound(probe);
      const auto at = tree_->LowerBound(probe);
      if (at.valid() != (lower != model_.end()) || (at.valid() && at.record() != lower->second)) return "LowerBound";
      const auto before = tree_->Before(probe);
      if (before.valid() != (lower != model_.begin())) return "Before";
      if (before.valid() && before.record() != std::prev(lower)->second) return "Before";
    }
    return {};
  }

 private:
  Record* New(const std::string& key, bool tombstone, Record* older) {
    const int64_t main = ++revision_;
    return tombstone ? Record::NewTombstone(key, main, 0, older, -1)
                     : Record::NewPut({key, "v", main, main, 1, 0}, 0, older, -1);
  }
  void Install(const std::string& key, bool tombstone) {
    const BTree::Place place = tree_->Locate(key);
    Record* record = New(key, tombstone, place.newest);
    tree_->Install(place, record);
    model_[key] = record;
    retired_.Reclaim();
  }
  void Forget(Record* record) {
    while (record != nullptr) {
      Record* older = record->older();
      retired_.Add(record, [](void* memory, void*) { Record::Delete(static_cast<Record*>(memory)); });
      record = older;
    }
  }

  SlabPool pool_;
  Retired retired_;
  std::unique_ptr<BTree> tree_ = std::make_unique<BTree>(&retired_, &pool_);
  std::map<std::string, Record*> model_;
  int64_t revision_ = 0;
};

// A family of keys: the same numbers give keys that share much, little, zeros, or beginnings.
std::string KeyOf(uint64_t family, uint64_t n) {
  switch (family % 6) {
    case 0:
      return "k" + std::to_string(n);
    case 1: {  // a long shared prefix and a tail of big-endian bytes, zeros included
      std::string key(60, 'p');
      for (int shift = 24; shift >= 0; shift -= 8) key.push_back(static_cast<char>(n >> shift));
      return key;
    }
    case 2:
      return std::string(1 + n % 40, '\0') + std::string(n / 40 % 3, '\1');  // only zeros and ones
    case 3:
      return std::string(1 + n % 200, 'a');  // each the beginning of the next
    case 4: {
      std::string key = "/registry/pods/namespace-" + std::to_string(n % 7) + "/";
      key += std::to_string(n * 2654435761u);
      return key;
    }
    default: {  // few letters, any length: every relation between neighbours
      std::string key;
      for (uint64_t rest = n + 1; rest > 0; rest /= 3) key.push_back("\0a\xff"[rest % 3]);
      return key;
    }
  }
}

TEST(BTree, AgreesWithAMapWhateverIsDone) {
  const auto [first, count] = SeedsFor(24);
  for (uint64_t seed = first; seed < first + count; ++seed) {
    std::mt19937_64 random(seed);
    Tree tree;
    const uint64_t universe = 1 + random() % 6000;
    if (seed % 3 == 0) {
      std::set<std::string> keys;
      for (uint64_t i = 0; i < universe / 2; ++i) keys.insert(KeyOf(seed, random() % universe));
      tree.Load(keys);
    }
    for (int round = 0; round < 8; ++round) {
      const uint64_t erase_percent = random() % 100;
      for (int i = 0; i < 1200; ++i) {
        const std::string key = KeyOf(seed, random() % universe);
        const bool there = tree.model().contains(key);
        if (there && random() % 100 < erase_percent) {
          tree.Erase(key);
        } else if (there && random() % 3 == 0) {
          tree.Tombstone(key);
        } else {
          tree.Put(key);
        }
      }
      std::vector<std::string> probes = {std::string(), std::string(1, '\0'), "\xff", "p", std::string(61, 'p')};
      for (int i = 0; i < 500; ++i) {
        probes.push_back(KeyOf(seed, random() % universe));
        probes.push_back(probes.back() + '\0');
        probes.push_back(probes.back().substr(0, random() % probes.back().size()));
      }
      const std::string error = tree.Compare(probes);
      ASSERT_EQ(error, "") << Replay("btree_test", "BTree.Agrees*", seed);
    }
  }
}

TEST(BTree, AscendingDescendingAndFromTheMiddle) {
  for (const int order : {0, 1, 2}) {
    Tree tree;
    std::vector<std::string> keys;
    for (int i = 0; i < 5000; ++i) {
      char key[16];
      snprintf(key, sizeof key, "%08d", order == 0 ? i : order == 1 ? 10'000 - i : 5000 + (i % 2 ? i : -i));
      keys.push_back(key);
      tree.Put(key);
    }
    ASSERT_EQ(tree.Compare(keys), "") << order;
    for (size_t i = 0; i < keys.size(); i += 2) tree.Erase(keys[i]);
    ASSERT_EQ(tree.Compare(keys), "") << order;
    for (size_t i = 1; i < keys.size(); i += 2) tree.Erase(keys[i]);
    ASSERT_EQ(tree.Compare(keys), "") << order;
    tree.Put("again");
    ASSERT_EQ(tree.Compare({"again", "", "z"}), "");
  }
}

TEST(BTree, LoadsAnyNumberOfKeysAndGrowsOn) {
  for (const size_t count : {0u, 1u, 2u, 27u, 28u, 29u, 56u, 57u, 1568u, 1569u, 1596u, 1597u, 3137u, 20'000u}) {
    Tree tree;
    std::set<std::string> keys;
    for (size_t i = 0; i < count; ++i) keys.insert(KeyOf(4, i));
    tree.Load(keys);
    std::vector<std::string> probes(keys.begin(), keys.end());
    ASSERT_EQ(tree.Compare(probes), "") << count;
    for (size_t i = 0; i < 2000; ++i) tree.Put(KeyOf(4, count + i));
    ASSERT_EQ(tree.Compare(probes), "") << count;
  }
}

// Keys that come in order in batches, of which all but a few are erased, as a log of jobs would: the tree must not grow
// higher with each batch than its keys need (a Cursor has room for kHeightMax levels).
TEST(BTree, StaysLowWhenMostOfWhatCameInOrderIsErased) {
  Tree tree;
  uint64_t next = 0;
  for (int batch = 0; batch < 40; ++batch) {
    const uint64_t begin = next;
    for (int i = 0; i < 2200; ++i) {
      char key[24];
      snprintf(key, sizeof key, "%012llu", static_cast<unsigned long long>(next++));
      tree.Put(key);
    }
    for (uint64_t n = begin + 40; n + 5 < next; ++n) {
      char key[24];
      snprintf(key, sizeof key, "%012llu", static_cast<unsigned long long>(n));
      tree.Erase(key);
    }
    ASSERT_EQ(tree.Compare({}), "") << "after batch " << batch;
  }
}

// A reader that entered before a change may see it or not, but never a tree that is cut or out of order.
TEST(BTree, ACursorOutlivesWhatItStandsOn) {
  Tree tree;
  for (uint64_t i = 0; i < 3000; ++i) tree.Put(KeyOf(1, i));
  const EpochGuard guard;
  auto cursor = tree.tree().LowerBound("");
  auto last = tree.tree().Last();
  for (uint64_t i = 0; i < 3000; ++i) tree.Erase(KeyOf(1, i));
  int seen = 0;
  std::string previous;
  for (; cursor.valid(); cursor.Next(), ++seen) {
    ASSERT_LT(previous, cursor.record()->key());
    previous = cursor.record()->key();
  }
  EXPECT_GE(seen, 1);
  ASSERT_TRUE(last.valid());
  EXPECT_EQ(last.record()->key(), KeyOf(1, 2999));
}

}  // namespace
}  // namespace fastkv
