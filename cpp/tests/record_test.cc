// Records: the bytes they hold, and what VisibleAt finds in long histories that compaction has cut.
//
// Under ASan the cut-off records really are freed, so a skip pointer that is followed into them is caught.

#include "mvcc/record.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "tests/commands.h"

namespace fastkv {
namespace {

using testing::Replay;
using testing::SeedsFor;

std::string Encode(const Record::KeyValue& kv) {  // fields ascending, zeros omitted: what protobuf would write
  std::string bytes;
  AppendBytes(&bytes, 1, kv.key);
  AppendNumber(&bytes, 2, kv.create_revision);
  AppendNumber(&bytes, 3, kv.mod_revision);
  AppendNumber(&bytes, 4, kv.version);
  AppendBytes(&bytes, 5, kv.value);
  AppendNumber(&bytes, 6, kv.lease);
  return bytes;
}

TEST(Record, HoldsTheCanonicalKeyValue) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 2000; ++i) {
    const std::string key(1 + random() % (i % 9 == 0 ? 400 : 20), static_cast<char>(random()));
    const std::string value(random() % (i % 7 == 0 ? 40'000 : 200), static_cast<char>(random()));
    const int64_t main = 1 + static_cast<int64_t>(random() >> (1 + random() % 62));
    Record::KeyValue kv{key, value, 1 + main / 2, main, 1 + static_cast<int64_t>(random() >> (1 + random() % 62)), 0};
    if (random() % 2) kv.lease = static_cast<int64_t>(random());  // negative ones too
    Record* record = Record::NewPut(kv, static_cast<uint32_t>(random() % 1000), nullptr, -1);
    EXPECT_EQ(record->encoded(), Encode(kv));
    EXPECT_EQ(record->key(), key);
    EXPECT_EQ(record->value(), value);
    EXPECT_EQ(record->leased(), kv.lease != 0);
    EXPECT_FALSE(record->tombstone());
    const Record::KeyValue decoded = record->Decode();
    EXPECT_EQ(Encode(decoded), Encode(kv));
    Record::KeyValue bare = kv;
    bare.value = {};
    bare.lease = 0;
    EXPECT_EQ(record->encoded_key_only(), Encode(bare));
    Record* again = Record::NewEncoded(record->encoded(), main, record->sub(), false, nullptr);
    ASSERT_NE(again, nullptr);
    EXPECT_EQ(again->encoded(), record->encoded());
    Record::Delete(again);
    Record::Delete(record);

    Record* tombstone = Record::NewTombstone(key, main, 7, nullptr, -1);
    EXPECT_EQ(tombstone->encoded(), Encode({key, {}, 0, main, 0, 0}));
    EXPECT_TRUE(tombstone->tombstone());
    EXPECT_EQ(tombstone->sub(), 7u);
    EXPECT_EQ(tombstone->key(), key);
    EXPECT_TRUE(tombstone->value().empty());
    again = Record::NewEncoded(tombstone->encoded(), main, 7, true, nullptr);
    ASSERT_NE(again, nullptr);
    Record::Delete(again);
    Record::Delete(tombstone);
  }
}

TEST(Record, RefusesBytesThatNoStoreHasWritten) {
  const Record::KeyValue kv{"key", "value", 3, 5, 2, 9};
  const std::string good = Encode(kv);
  auto refused = [](std::string_view bytes, int64_t main, uint32_t sub, bool tombstone) {
    Record* record = Record::NewEncoded(bytes, main, sub, tombstone, nullptr);
    if (record != nullptr) Record::Delete(record);
    return record == nullptr;
  };
  EXPECT_FALSE(refused(good, 5, 0, false));
  EXPECT_TRUE(refused(good, 6, 0, false));                            // another revision than it says
  EXPECT_TRUE(refused(good, 5, 1u << 30, false));                     // a sub revision that cannot be
  EXPECT_TRUE(refused(good, 5, 0, true));                             // a tombstone with a value
  EXPECT_TRUE(refused(good + '\x30', 5, 0, false));                   // cut short
  EXPECT_TRUE(refused(good + std::string("\x38\x01"), 5, 0, false));  // an unknown field
  EXPECT_TRUE(refused(Encode({"", "value", 3, 5, 2, 0}), 5, 0, false));
  std::string overlong;  // version 2 in two bytes
  AppendBytes(&overlong, 1, "key");
  overlong += std::string("\x10\x03\x18\x05\x20\x82\x00", 7);
  EXPECT_TRUE(refused(overlong, 5, 0, false));
  std::string disordered;
  AppendNumber(&disordered, 3, 5);
  AppendBytes(&disordered, 1, "key");
  EXPECT_TRUE(refused(disordered, 5, 0, true));
  for (size_t cut = 0; cut < good.size(); ++cut) {
    const std::string_view part = std::string_view(good).substr(0, cut);
    KeyValueMessage message;
    // A cut at the end of a field leaves a message that may be one of another key: it must at least say so itself.
    if (!message.Parse(part) || message.mod_revision != 5 || message.key.empty()) {
      EXPECT_TRUE(refused(part, 5, 0, false)) << cut;
    }
  }
}

// One key's history and its naive twin. Compaction cuts as CompactStep does, and frees at once.
class History {
 public:
  explicit History(uint64_t seed) : random_(seed) {}
  ~History() { Free(newest_); }

  void Grow() {
    // Some revisions change the key several times.
    if (records_.empty() || random_() % 5 != 0) main_ += 1 + static_cast<int64_t>(random_() % 3);
    const uint32_t sub = !records_.empty() && records_.back()->main() == main_ ? records_.back()->sub() + 1 : 0;
    newest_ = random_() % 4 == 0 ? Record::NewTombstone("k", main_, sub, newest_, compacted_)
                                 : Record::NewPut({"k", "v", 1, main_, 1, 0}, sub, newest_, compacted_);
    records_.push_back(newest_);
  }
  void Compact() {
    if (main_ <= compacted_) return;
    compacted_ += 1 + static_cast<int64_t>(random_() % static_cast<uint64_t>(main_ - compacted_));
    // Base: the oldest record of the compact revision, or else the newest below it.
    size_t base = records_.size();
    for (size_t i = records_.size(); i-- > 0 && records_[i]->main() >= compacted_;) base = i;
    if (base == records_.size() || records_[base]->main() > compacted_) {
      if (base == 0) return;
      --base;
    }
    Record* cut = records_[base]->older();
    records_[base]->CutOlder();
    Free(cut);
    records_.erase(records_.begin(), records_.begin() + static_cast<std::ptrdiff_t>(base));
  }
  const Record* NaiveVisibleAt(int64_t revision) const {
    const Record* visible = nullptr;
    for (const Record* record : records_) {
      if (record->main() <= revision) visible = record;
    }
    return visible;
  }
  int64_t Pick() {  // a revision that may be asked for
    const int64_t low = std::max<int64_t>(compacted_, 0);
    return low + static_cast<int64_t>(random_() % static_cast<uint64_t>(main_ - low + 2));
  }
  const Record* newest() const { return newest_; }
  int64_t main() const { return main_; }
  uint64_t Random() { return random_(); }

 private:
  static void Free(Record* record) {
    while (record != nullptr) {
      Record* older = record->older();
      Record::Delete(record);
      record = older;
    }
  }
  std::mt19937_64 random_;
  Record* newest_ = nullptr;
  std::vector<Record*> records_;  // that are left, oldest first
  int64_t main_ = 0, compacted_ = -1;
};

TEST(Record, VisibleAtFindsWhatAWalkFindsWhateverWasCutAway) {
  const auto [first, count] = SeedsFor(60);
  for (uint64_t seed = first; seed < first + count; ++seed) {
    History history(seed);
    const uint64_t length = seed % 10 == 0 ? 4000 : 50 + history.Random() % 600;
    for (uint64_t i = 0; i < length; ++i) {
      history.Grow();
      if (history.Random() % 100 == 0) history.Compact();
      if (history.Random() % 4 != 0) continue;
      const int64_t revision = history.Pick();
      ASSERT_EQ(history.newest()->VisibleAt(revision), history.NaiveVisibleAt(revision))
          << "at revision " << revision << " of " << history.main() << Replay("record_test", "Record.VisibleAt*", seed);
    }
  }
}

// The skip pointers are there to make it fast: a walk of 200,000 steps for each of these would take minutes.
TEST(Record, VisibleAtOfALongHistoryIsFast) {
  Record* newest = nullptr;
  for (int64_t main = 1; main <= 200'000; ++main) newest = Record::NewPut({"k", {}, 1, main, main, 0}, 0, newest, -1);
  for (int64_t main = 1; main <= 200'000; ++main) ASSERT_EQ(newest->VisibleAt(main)->main(), main);
  EXPECT_EQ(newest->VisibleAt(0), nullptr);
  while (newest != nullptr) {
    Record* older = newest->older();
    Record::Delete(newest);
    newest = older;
  }
}

TEST(Record, PreviousIsWhatTheKeyHeldBeforeTheRevision) {
  Record* one = Record::NewPut({"k", "1", 1, 1, 1, 0}, 0, nullptr, -1);
  Record* two = Record::NewPut({"k", "2", 1, 2, 2, 0}, 0, one, -1);
  Record* gone = Record::NewTombstone("k", 2, 1, two, -1);
  Record* back = Record::NewPut({"k", "3", 2, 2, 1, 0}, 2, gone, -1);
  Record* deleted = Record::NewTombstone("k", 5, 0, back, -1);
  Record* last = Record::NewPut({"k", "4", 6, 6, 1, 0}, 0, deleted, -1);
  EXPECT_EQ(one->Previous(), nullptr);
  EXPECT_EQ(two->Previous(), one);
  EXPECT_EQ(gone->Previous(), one);
  EXPECT_EQ(back->Previous(), one);
  EXPECT_EQ(deleted->Previous(), back);
  EXPECT_EQ(last->Previous(), nullptr);
  for (Record* record : {one, two, gone, back, deleted, last}) Record::Delete(record);
}

}  // namespace
}  // namespace fastkv
