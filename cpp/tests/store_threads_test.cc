// Readers beside one writer and compaction, without locks: each value proves which revision it was read at.
//
// The writer puts the same number under N keys in one txn, so a reader that sees two different numbers at once has seen
// half a revision; and every revision writes its own number, so a header that promises more than the kvs hold is found
// out. FASTKV_RUNS makes it longer. Meant to run under TSan and ASan as well.

#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "mvcc/store.h"
#include "tests/commands.h"

namespace fastkv {
namespace {

using namespace testing;

constexpr int kTogether = 40;  // keys that are always written together: more than a leaf holds

std::string TogetherKey(int i) { return "t/" + std::to_string(100 + i); }

// Revision r of the store holds "r" under each of the keys. Other keys come and go around them, so that leaves split
// and vanish.
class Writer {
 public:
  explicit Writer(Store* store) : store_(store) { WriteOnce(); }

  void WriteOnce() {
    const auto lock = store_->WriteLock();
    std::string txn, ignored;
    const std::string number = std::to_string(store_->revision() + 1);
    for (int i = 0; i < kTogether; ++i) AppendPutOp(&txn, TogetherKey(i), number, 0);
    const uint64_t n = random_() % 400;
    if (random_() % 2 == 0) {
      AppendPutOp(&txn, "s/" + std::to_string(n), number, 0);
      AppendPutOp(&txn, "u/" + std::to_string(n), number, 0);
    } else {
      AppendOp(&txn, 2, RequestOp::kDeleteRange, DeleteBytes("s/" + std::to_string(n)));
      AppendOp(&txn, 2, RequestOp::kDeleteRange, DeleteBytes("u/" + std::to_string(n), "u/" + std::to_string(n + 3)));
    }
    FASTKV_CHECK(store_->Apply(kTagTxn, txn, &ignored) == Code::kOk);
  }
  void Compact(int64_t back) {
    const auto lock = store_->WriteLock();
    std::string ignored;
    const int64_t revision = store_->revision() - back;
    if (revision > store_->compact_revision()) {
      FASTKV_CHECK(store_->Apply(kTagCompaction, CompactionBytes(revision), &ignored) == Code::kOk);
    }
  }
  void CompactSome() {
    const auto lock = store_->WriteLock();
    store_->CompactStep(1 + random_() % 500);
  }

 private:
  Store* const store_;
  std::mt19937_64 random_{42};
};

// Runs `read(random)` in `threads` threads beside the writer until it has written `revisions` and each reader has read
// some; read gives "" or what is wrong.
template <typename Read>
void Beside(Store* store, int threads, int revisions, Read read) {
  Writer writer(store);
  std::atomic<bool> stop{false};
  std::atomic<int> reads{0};
  std::mutex mutex;
  std::string error;
  std::vector<std::thread> readers;
  for (int i = 0; i < threads; ++i) {
    readers.emplace_back([&, i] {
      std::mt19937_64 random(static_cast<uint64_t>(i));
      while (!stop) {
        const std::string wrong = read(random);
        ++reads;
        if (wrong.empty()) continue;
        const std::lock_guard lock(mutex);
        if (error.empty()) error = wrong;
        stop = true;
      }
    });
  }
  revisions *= static_cast<int>(FromEnvironment("FASTKV_RUNS", 1));
  for (int n = 0; (n < revisions || reads < 200) && !stop; ++n) {
    writer.WriteOnce();
    if (n % 50 == 49) writer.Compact(n % 3 == 0 ? 0 : n % 40);
    if (n % 3 == 0) writer.CompactSome();
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(error, "");
  ASSERT_TRUE(CompactFully(store));
  EXPECT_EQ(Problems(*store), "");
}

int64_t Number(std::string_view value) { return std::stoll(std::string(value)); }

// All kTogether keys with one number; that number, or -1.
int64_t OneNumber(const std::vector<KeyValueMessage>& kvs) {
  if (kvs.size() != kTogether) return -1;
  for (const KeyValueMessage& kv : kvs) {
    if (kv.value != kvs[0].value || kv.mod_revision != kvs[0].mod_revision) return -1;
  }
  return Number(kvs[0].value);
}

TEST(StoreThreads, ARangeHoldsOneRevisionAndTheHeaderNamesIt) {
  Store store;
  Beside(&store, 2, 2500, [&](std::mt19937_64& random) -> std::string {
    std::string response;
    RangeOptions options;
    const int64_t newest = store.revision();
    if (random() % 2 == 0) options.revision = std::max<int64_t>(2, newest - static_cast<int64_t>(random() % 60));
    const Code code = store.Range(RangeBytes("t/", "t0", options), &response);
    if (code == Code::kCompacted && options.revision > 0) return {};
    if (code != Code::kOk) return "code " + std::to_string(static_cast<int>(code));
    const RangeAnswer answer = ParseRangeAnswer(response);
    const int64_t number = OneNumber(answer.kvs);
    if (number < 0) return "a range saw half a revision";
    if (options.revision > 0 && number != options.revision) return "a range at a revision saw another";
    // Who lists and then watches from header.revision + 1 would lose what lies between the two.
    if (options.revision == 0 && number != answer.revision) {
      return "the latest range holds revision " + std::to_string(number) + ", its header says " +
             std::to_string(answer.revision);
    }
    return {};
  });
}

TEST(StoreThreads, GetScanAndCountAtARevision) {
  Store store;
  Beside(&store, 2, 2500, [&](std::mt19937_64& random) -> std::string {
    const EpochGuard guard;
    const int64_t newest = store.revision();
    const int64_t at = random() % 2 == 0 ? 0 : std::max<int64_t>(2, newest - static_cast<int64_t>(random() % 60));
    const Record* record = nullptr;
    Code code = store.Get(TogetherKey(static_cast<int>(random() % kTogether)), at, &record);
    if (code == Code::kCompacted && at > 0) return {};
    if (code != Code::kOk || record == nullptr) return "Get finds nothing";
    if (at > 0 ? Number(record->value()) != at : Number(record->value()) < newest) return "Get of another revision";
    std::vector<const Record*> records;
    const bool reverse = random() % 2 == 0;
    code = store.Scan(KeyRange("t/", "t0"), at, 0, reverse, &records);
    if (code == Code::kCompacted && at > 0) return {};
    if (code != Code::kOk || records.size() != kTogether) {
      return "a scan (reverse: " + std::to_string(reverse) + ") finds " + std::to_string(records.size()) + " keys";
    }
    for (const Record* one : records) {
      if (one->main() != records[0]->main()) return "a scan saw half a revision";
    }
    int64_t count = 0;
    code = store.Count(KeyRange("t/", "t0"), at, &count);
    if (code == Code::kCompacted && at > 0) return {};
    return count == kTogether ? "" : "Count finds " + std::to_string(count) + " keys";
  });
}

// The window between taking a revision and naming it is a few instructions wide: many short reads of one key.
TEST(StoreThreads, TheLatestValueIsAsNewAsTheHeaderSays) {
  Store store;
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> reads{0}, stale{0};
  ASSERT_EQ(Apply(&store, kTagPut, PutBytes("k", "v")), Code::kOk);
  std::vector<std::thread> readers;
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&] {
      const std::string request = RangeBytes("k");
      std::string response;
      while (!stop) {
        if (store.Range(request, &response) != Code::kOk) ++stale;
        const RangeAnswer answer = ParseRangeAnswer(response);
        stale += answer.kvs.size() != 1 || answer.kvs[0].mod_revision != answer.revision;
        ++reads;
      }
    });
  }
  const uint64_t wanted = 1'500'000 * FromEnvironment("FASTKV_RUNS", 1);
  for (int n = 0; reads < wanted && stale == 0; ++n) {
    Apply(&store, kTagPut, PutBytes("k", "v"));
    if (n % 1000 == 0) {
      Apply(&store, kTagCompaction, CompactionBytes(store.revision()));
      CompactFully(&store);
    }
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(stale, 0u) << "of " << reads << " reads";
}

// Keys are inserted at the very place where a scan from above begins.
TEST(StoreThreads, AReverseScanFindsItsKeysWhileOthersAppearBehindItsEnd) {
  Store store;
  for (int i = 0; i < 20; ++i)
    ASSERT_EQ(Apply(&store, kTagPut, PutBytes("a/" + std::to_string(10 + i), "v")), Code::kOk);
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> scans{0}, missed{0};
  std::thread reader([&] {
    while (!stop) {
      const EpochGuard guard;
      std::vector<const Record*> records;
      if (store.Scan(KeyRange("a/", "a0"), 0, 0, true, &records) != Code::kOk || records.size() != 20) ++missed;
      ++scans;
    }
  });
  for (int round = 0; round < 3000 || scans < 1000; ++round) {
    // Whole batches of fresh keys right behind the end of the scan, then gone.
    for (int i = 0; i < 40; ++i) Apply(&store, kTagPut, PutBytes("b/" + std::to_string(99 - i), "v"));
    Apply(&store, kTagDeleteRange, DeleteBytes("b/", "c"));
    Apply(&store, kTagCompaction, CompactionBytes(store.revision()));
    Apply(&store, kTagPut, PutBytes("z", "v"));
    Apply(&store, kTagCompaction, CompactionBytes(store.revision()));
    CompactFully(&store);
    if (round > 200'000 || missed > 0) break;
  }
  stop = true;
  reader.join();
  EXPECT_EQ(missed, 0u) << "of " << scans << " scans";
}

TEST(StoreThreads, ChunksTogetherAreOneRevision) {
  Store store;
  Beside(&store, 2, 2000, [&](std::mt19937_64& random) -> std::string {
    std::string request = RangeBytes("t/", "t0"), joined;
    while (!request.empty()) {
      std::string part, next;
      const Code code = store.RangeChunk(request, 1 + random() % 400, &part, &next);
      if (code == Code::kCompacted) return {};  // the pinned revision went meanwhile
      if (code != Code::kOk) return "RangeChunk: code " + std::to_string(static_cast<int>(code));
      joined += part;
      request = next;
    }
    const RangeAnswer answer = ParseRangeAnswer(joined);
    const int64_t number = OneNumber(answer.kvs);
    if (number < 0) return "the chunks are of different revisions";
    if (number != answer.revision || answer.count != kTogether || answer.more)
      return "the last chunk's header or count";
    return {};
  });
}

TEST(StoreThreads, EventsHashesAndPicturesBesideTheWriter) {
  Store store;
  Beside(&store, 2, 1500, [&](std::mt19937_64& random) -> std::string {
    if (random() % 8 == 0) {
      uint32_t first = 0, second = 0;
      int64_t compacted = 0, revision = 0, again_compacted = 0;
      if (store.HashKv(0, &first, &compacted, &revision) != Code::kOk) return "HashKv refused";
      if (store.HashKv(revision, &second, &again_compacted, &revision) != Code::kOk) return {};
      if (compacted == again_compacted && first != second) return "HashKv of one revision gave two hashes";
    }
    if (random() % 40 == 0) {
      Store copy;
      if (!CopyByCheckpoint(&store, &copy)) return "a picture beside the writer does not load";
      std::string response;
      if (copy.Range(RangeBytes("t/", "t0"), &response) != Code::kOk) return "the copy refuses";
      if (OneNumber(ParseRangeAnswer(response).kvs) != copy.revision()) return "the copy holds half a revision";
      if (const std::string problems = Problems(copy); !problems.empty()) return problems;
    }
    const EpochGuard guard;
    const int64_t to = store.revision();
    const int64_t from = std::max<int64_t>(2, to - static_cast<int64_t>(random() % 30));
    std::vector<const Record*> records;
    if (store.Events(from, to, 100'000, &records) < to) return "Events stopped early";
    int64_t main = from - 1;
    int together = kTogether;
    for (const Record* record : records) {
      if (record->main() != main) {
        if (together != kTogether && store.compact_revision() < from) return "Events: half a revision";
        if (record->main() != main + 1 && store.compact_revision() < from) return "Events: a revision is missing";
        main = record->main();
        together = 0;
      }
      together += record->key().starts_with("t/");
    }
    if (store.compact_revision() < from && main != to) return "Events: the newest revision is missing";
    return {};
  });
}

}  // namespace
}  // namespace fastkv
