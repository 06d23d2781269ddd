// The store against a naive model of MVCC: every revision that may be read, with every way to read it, after random
// commands, compactions in slices, pictures and copies; and what hostile numbers do to it.
//
// What each operation answers, field by field, is in the golden scripts; here the invariants of store.h are tested.

#include "mvcc/store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "base/crc32c.h"
#include "tests/commands.h"

namespace fastkv {
namespace {

using namespace testing;

// What a key held from each revision on; nothing is ever forgotten.
class Model {
 public:
  struct Version {
    int64_t main;
    bool tombstone;
    std::string value;
    int64_t create_revision, version, lease;
  };
  std::map<std::string, std::vector<Version>> keys;
  std::map<int64_t, int64_t> leases;  // id -> ttl
  int64_t revision = 1, compact_revision = -1;

  const Version* At(const std::string& key, int64_t at) const {
    const auto found = keys.find(key);
    if (found == keys.end()) return nullptr;
    const Version* visible = nullptr;
    for (const Version& version : found->second) {
      if (version.main <= at) visible = &version;
    }
    return visible == nullptr || visible->tombstone ? nullptr : visible;
  }
  void Put(int64_t main, const std::string& key, const std::string& value, int64_t lease) {
    const Version* old = At(key, main);
    const Version made{
        main, false, value, old != nullptr ? old->create_revision : main, old != nullptr ? old->version + 1 : 1, lease};
    keys[key].push_back(made);
  }
  int64_t Delete(int64_t main, const KeyRange& range) {
    int64_t deleted = 0;
    for (auto& [key, versions] : keys) {
      if (!range.Contains(key) || At(key, main) == nullptr) continue;
      versions.push_back({main, true, "", 0, 0, 0});
      ++deleted;
    }
    return deleted;
  }
  std::vector<std::pair<std::string, const Version*>> Range(const KeyRange& range, int64_t at) const {
    std::vector<std::pair<std::string, const Version*>> found;
    for (const auto& [key, versions] : keys) {
      if (!range.Contains(key)) continue;
      if (const Version* version = At(key, at); version != nullptr) found.emplace_back(key, version);
    }
    return found;
  }
};

class RandomRun {
 public:
  explicit RandomRun(uint64_t seed) : random_(seed) {
    universe_ = 1 + Below(seed % 4 == 0 ? 3 : 150);
    churn_ = seed % 3 == 0;
  }

  std::string Run() {
    for (int step = 0; step < 260; ++step) {
      if (std::string error = Step(); !error.empty()) return error + " at step " + std::to_string(step);
      if (step % 20 == 19) {
        if (std::string error = Verify(); !error.empty()) return error + " at step " + std::to_string(step);
      }
    }
    if (pictures_ > 0) store_.ReleasePicture();
    CompactFully(&store_);
    return Verify();
  }

 private:
  uint64_t Below(uint64_t n) { return random_() % n; }
  std::string Key() {
    const uint64_t n = Below(universe_);
    return churn_ ? std::string(1 + n % 5, static_cast<char>(n / 5)) + "x" : "key/" + std::to_string(n);
  }
  std::pair<std::string, std::string> KeysOfRange() {
    switch (Below(4)) {
      case 0:
        return {Key(), ""};
      case 1:
        return {Key(), kAll};
      case 2:
        return {kAll, kAll};
      default:
        return {Key(), Key()};
    }
  }
  int64_t ReadableRevision() {
    const int64_t low = std::max<int64_t>(model_.compact_revision, 1);
    return low + static_cast<int64_t>(Below(static_cast<uint64_t>(model_.revision - low + 1)));
  }

  std::string Expect(Code code, Code wanted, const char* what) {
    if (code == wanted) return {};
    return std::string(what) + " gave code " + std::to_string(static_cast<int>(code));
  }

  std::string Step() {
    const uint64_t choice = Below(100);
    const int64_t main = model_.revision + 1;
    if (choice < 40) {
      const std::string key = Key(), value = "v" + std::to_string(random_() % 1000);
      const int64_t lease = static_cast<int64_t>(Below(4) == 0 ? 1 + Below(4) : 0);
      const bool known = lease == 0 || model_.leases.contains(lease);
      if (known) {
        model_.Put(main, key, value, lease);
        model_.revision = main;
      }
      return Expect(Apply(&store_, kTagPut, PutBytes(key, value, lease)), known ? Code::kOk : Code::kLeaseNotFound,
                    "put");
    }
    if (choice < 58) {
      const auto [key, end] = KeysOfRange();
      if (model_.Delete(main, KeyRange(key, end)) > 0) model_.revision = main;
      return Expect(Apply(&store_, kTagDeleteRange, DeleteBytes(key, end)), Code::kOk, "delete");
    }
    if (choice < 76) {  // a txn: deletes and puts in any order, the same keys several times by way of nested txns
      std::string txn;
      bool changed = false;
      for (uint64_t ops = 1 + Below(5); ops > 0; --ops) {
        if (Below(3) == 0) {
          const auto [key, end] = KeysOfRange();
          AppendOp(&txn, 2, RequestOp::kDeleteRange, DeleteBytes(key, end));
          changed = model_.Delete(main, KeyRange(key, end)) > 0 || changed;
        } else {
          const std::string key = Key(), value = std::to_string(random_() % 1000);
          AppendOp(&txn, 2, RequestOp::kPut, PutBytes(key, value));
          model_.Put(main, key, value, 0);
          changed = true;
        }
      }
      if (changed) model_.revision = main;
      return Expect(Apply(&store_, kTagTxn, txn), Code::kOk, "txn");  // Apply trusts that Validate has seen it
    }
    if (choice < 82) {
      const auto id = static_cast<int64_t>(1 + Below(4));
      const bool fresh = model_.leases.try_emplace(id, 60).second;
      return Expect(Apply(&store_, kTagLeaseGrant, GrantBytes(id, 60)), fresh ? Code::kOk : Code::kLeaseExists,
                    "grant");
    }
    if (choice < 86) {
      const auto id = static_cast<int64_t>(1 + Below(4));
      if (model_.leases.erase(id) == 0) {
        return Expect(Apply(&store_, kTagLeaseRevoke, RevokeBytes(id)), Code::kLeaseNotFound, "revoke");
      }
      bool changed = false;
      for (auto& [key, versions] : model_.keys) {
        const Model::Version* now = model_.At(key, main);
        if (now == nullptr || now->lease != id) continue;
        versions.push_back({main, true, "", 0, 0, 0});
        changed = true;
      }
      if (changed) model_.revision = main;
      return Expect(Apply(&store_, kTagLeaseRevoke, RevokeBytes(id)), Code::kOk, "revoke");
    }
    if (choice < 92) {
      const int64_t revision = Below(3) == 0 ? model_.revision : ReadableRevision();
      const bool ahead = revision > model_.compact_revision;
      if (ahead) model_.compact_revision = revision;
      return Expect(Apply(&store_, kTagCompaction, CompactionBytes(revision)), ahead ? Code::kOk : Code::kCompacted,
                    "compact");
    }
    if (choice < 97) {
      const auto lock = store_.WriteLock();
      const bool done = store_.CompactStep(1 + Below(40));
      if (done && pictures_ > 0 && removal_pending_) return "compaction went on under a picture";
      return {};
    }
    if (pictures_ == 0) {
      const auto lock = store_.WriteLock();
      removal_pending_ = !store_.CompactStep(1);
      picture_ = store_.TakePicture();
      ++pictures_;
      return {};
    }
    std::string error = VerifyPicture();
    store_.ReleasePicture();
    --pictures_;
    removal_pending_ = false;
    return error;
  }

  // The picture, loaded into another store, is the store as it was.
  std::string VerifyPicture() {
    Store::Picture picture = picture_;
    store_.CountPicture(&picture);
    Store copy;
    Store::Loader loader(&copy);
    bool loaded = true;
    const Status status = store_.WriteChains(
        picture,
        [&](std::string_view payload) -> Status {
          loaded = loaded && loader.AddChains(payload);
          return {};
        },
        1 + Below(2000));
    if (!status.ok() || !loaded || !loader.Finish(picture)) return "a picture does not load";
    if (copy.revision() != picture.revision || copy.compact_revision() != picture.compact_revision)
      return "picture: revisions";
    if (const std::string problems = Problems(copy); !problems.empty()) return "picture: " + problems;
    for (int64_t at = std::max<int64_t>(1, picture.compact_revision); at <= picture.revision;
         at += 1 + static_cast<int64_t>(Below(9))) {
      if (std::string error = VerifyRange(copy, {kAll, kAll}, at); !error.empty()) return "picture: " + error;
    }
    return {};
  }

  std::string VerifyRange(const Store& store, const std::pair<std::string, std::string>& keys, int64_t at) {
    const std::string where = " at revision " + std::to_string(at) + " of " + std::to_string(store.revision());
    const auto wanted = model_.Range(KeyRange(keys.first, keys.second), at);
    RangeOptions options;
    options.revision = at;
    std::string response;
    if (store.Range(RangeBytes(keys.first, keys.second, options), &response) != Code::kOk)
      return "Range refused" + where;
    const RangeAnswer answer = ParseRangeAnswer(response);
    if (answer.revision != store.revision()) return "Range: the header's revision" + where;
    if (answer.count != static_cast<int64_t>(wanted.size()) || answer.more || answer.kvs.size() != wanted.size()) {
      return "Range: count" + where;
    }
    for (size_t i = 0; i < wanted.size(); ++i) {
      const KeyValueMessage& kv = answer.kvs[i];
      const auto& [key, version] = wanted[i];
      if (kv.key != key || kv.value != version->value || kv.mod_revision != version->main ||
          kv.version != version->version || kv.create_revision != version->create_revision ||
          kv.lease != version->lease) {
        return "Range: the wrong KeyValue of " + key + where;
      }
    }
    options.count_only = true;
    if (store.Range(RangeBytes(keys.first, keys.second, options), &response) != Code::kOk)
      return "Range refused" + where;
    if (ParseRangeAnswer(response).count != answer.count) return "count_only differs" + where;
    options.count_only = false;
    options.limit = static_cast<int64_t>(1 + Below(5));
    if (store.Range(RangeBytes(keys.first, keys.second, options), &response) != Code::kOk)
      return "Range refused" + where;
    const RangeAnswer limited = ParseRangeAnswer(response);
    if (limited.count != answer.count || limited.more != (answer.count > options.limit) ||
        limited.kvs.size() != std::min(wanted.size(), static_cast<size_t>(options.limit))) {
      return "Range with a limit" + where;
    }
    int64_t count = 0;
    if (store.Count(KeyRange(keys.first, keys.second), at, &count) != Code::kOk || count != answer.count)
      return "Count" + where;
    const EpochGuard guard;
    std::vector<const Record*> forward, backward;
    if (store.Scan(KeyRange(keys.first, keys.second), at, 0, false, &forward) != Code::kOk)
      return "Scan refused" + where;
    if (store.Scan(KeyRange(keys.first, keys.second), at, 0, true, &backward) != Code::kOk)
      return "Scan refused" + where;
    std::reverse(backward.begin(), backward.end());
    if (forward != backward || forward.size() != wanted.size()) return "Scan" + where;
    for (size_t i = 0; i < wanted.size(); ++i) {
      if (forward[i]->key() != wanted[i].first || forward[i]->main() != wanted[i].second->main) return "Scan" + where;
      const Record* found = nullptr;
      if (store.Get(wanted[i].first, at, &found) != Code::kOk || found != forward[i]) return "Get" + where;
    }
    return {};
  }

  std::string VerifyChunks(int64_t at) {
    std::string whole, joined;
    RangeOptions options;
    options.revision = at;
    options.limit = Below(2) == 0 ? 0 : static_cast<int64_t>(1 + Below(40));
    std::string request = RangeBytes(kAll, kAll, options);
    if (store_.Range(request, &whole) != Code::kOk) return "Range refused";
    int chunks = 0;
    for (; !request.empty() && chunks < 10'000; ++chunks) {
      std::string part, next;
      if (store_.RangeChunk(request, 1 + Below(300), &part, &next) != Code::kOk) return "RangeChunk refused";
      joined += part;
      request = next;
    }
    const RangeAnswer one = ParseRangeAnswer(whole), many = ParseRangeAnswer(joined);
    if (one.count != many.count || one.more != many.more || one.revision != many.revision ||
        one.kvs.size() != many.kvs.size()) {
      return "RangeChunk: the chunks together are not the whole";
    }
    for (size_t i = 0; i < one.kvs.size(); ++i) {
      if (one.kvs[i].key != many.kvs[i].key || one.kvs[i].mod_revision != many.kvs[i].mod_revision)
        return "RangeChunk: a key";
    }
    return {};
  }

  // Every change since the compact revision, in order; of that revision itself only the last one of a key.
  std::string VerifyEvents(int64_t from, int64_t to) {
    std::vector<std::tuple<int64_t, std::string, bool>> wanted, found;
    for (const auto& [key, versions] : model_.keys) {
      for (size_t i = 0; i < versions.size(); ++i) {
        if (versions[i].main < from || versions[i].main > to) continue;
        const bool last = i + 1 == versions.size() || versions[i + 1].main != versions[i].main;
        if (versions[i].main > model_.compact_revision || last)
          wanted.emplace_back(versions[i].main, key, versions[i].tombstone);
      }
    }
    const EpochGuard guard;
    std::vector<const Record*> records;
    for (int64_t next = from; next <= to;) {
      const size_t before = records.size();
      const int64_t covered = store_.Events(next, to, 1 + Below(20), &records);
      if (covered < next) return "Events does not get on";
      for (size_t i = before; i < records.size(); ++i) {
        if (records[i]->main() < next || records[i]->main() > covered) return "Events: a record outside";
        if (i > before && std::pair(records[i - 1]->main(), records[i - 1]->sub()) >=
                              std::pair(records[i]->main(), records[i]->sub())) {
          return "Events: out of order";
        }
      }
      next = covered + 1;
    }
    for (const Record* record : records) found.emplace_back(record->main(), record->key(), record->tombstone());
    std::sort(wanted.begin(), wanted.end());
    std::sort(found.begin(), found.end());
    return wanted == found ? "" : "Events: not the changes that were made";
  }

  std::string VerifyHistory() {
    const EpochGuard guard;
    for (const auto& [key, versions] : model_.keys) {
      std::vector<int64_t> wanted;
      for (const Model::Version& version : versions) {
        if (version.main > model_.compact_revision) wanted.push_back(version.main);
      }
      const Model::Version* base = nullptr;
      for (const Model::Version& version : versions) {
        if (version.main <= model_.compact_revision) base = &version;
      }
      if (base != nullptr && (!base->tombstone || base->main == model_.compact_revision))
        wanted.insert(wanted.begin(), base->main);
      std::vector<const Record*> records;
      store_.History(key, &records);
      std::vector<int64_t> found;
      for (const Record* record : records) found.push_back(record->main());
      if (found != wanted) return "History of " + key;
    }
    return {};
  }

  std::string Verify() {
    if (store_.revision() != model_.revision || store_.compact_revision() != model_.compact_revision)
      return "revisions";
    if (const std::string problems = Problems(store_); !problems.empty()) return problems;
    for (int i = 0; i < 6; ++i) {
      const int64_t at = ReadableRevision();
      if (std::string error = VerifyRange(store_, KeysOfRange(), at); !error.empty()) return error;
      if (std::string error = VerifyChunks(at); !error.empty()) return error;
    }
    if (std::string error = VerifyRange(store_, {kAll, kAll}, model_.revision); !error.empty()) return error;
    if (std::string error = VerifyEvents(ReadableRevision(), ReadableRevision()); !error.empty()) return error;
    if (std::string error = VerifyEvents(std::max<int64_t>(model_.compact_revision, 1), model_.revision);
        !error.empty())
      return error;
    if (std::string error = VerifyHistory(); !error.empty()) return error;
    for (const auto& [id, ttl] : model_.leases) {
      std::set<std::string> wanted;
      for (const auto& [key, version] : model_.Range(KeyRange(kAll, kAll), model_.revision)) {
        if (version->lease == id) wanted.insert(key);
      }
      const auto keys = store_.LeaseKeys(id);
      if (std::set<std::string>(keys.begin(), keys.end()) != wanted) return "the keys of a lease";
    }
    if (store_.Leases().size() != model_.leases.size()) return "leases";
    if (store_.GetStats().keys != model_.Range(KeyRange(kAll, kAll), model_.revision).size()) return "stats: keys";

    // A copy by way of a checkpoint is the same store, whatever removal still has to do here.
    Store copy;
    if (!CopyByCheckpoint(&store_, &copy)) return "a checkpoint does not load";
    if (const std::string problems = Problems(copy); !problems.empty()) return "copy: " + problems;
    if (copy.Hash() != store_.Hash()) return "copy: another hash";
    if (std::string error = VerifyRange(copy, {kAll, kAll}, ReadableRevision()); !error.empty())
      return "copy: " + error;
    const int64_t at = ReadableRevision();
    uint32_t hash = 0, again = 0;
    int64_t compacted = 0, hashed = 0;
    if (store_.HashKv(at, &hash, &compacted, &hashed) != Code::kOk || hashed != at ||
        compacted != model_.compact_revision)
      return "HashKv";
    if (copy.HashKv(at, &again, &compacted, &hashed) != Code::kOk || again != hash) return "copy: another HashKv";
    return {};
  }

  std::mt19937_64 random_;
  Store store_;
  Model model_;
  uint64_t universe_;
  bool churn_;
  int pictures_ = 0;
  bool removal_pending_ = false;
  Store::Picture picture_;
};

TEST(Store, ReadsWhatTheModelReadsAtEveryRevision) {
  const auto [first, count] = SeedsFor(60);
  for (uint64_t seed = first; seed < first + count; ++seed) {
    RandomRun run(seed);
    const std::string error = run.Run();
    ASSERT_EQ(error, "") << Replay("store_test", "Store.ReadsWhat*", seed);
  }
}

void PutKey(Store* store, std::string_view key, std::string_view value) {
  ASSERT_EQ(Apply(store, kTagPut, PutBytes(key, value)), Code::kOk);
}

// After everything has been compacted and removed, memory holds what is visible and no more.
TEST(Store, CompactionLeavesNothingBehind) {
  Store store;
  std::mt19937_64 random(3);
  for (int round = 0; round < 30; ++round) {
    for (int i = 0; i < 200; ++i) {
      const std::string key = "k" + std::to_string(random() % 50);
      if (random() % 3 == 0) {
        Apply(&store, kTagDeleteRange, DeleteBytes(key));
      } else {
        PutKey(&store, key, "v");
      }
    }
    ASSERT_EQ(Apply(&store, kTagCompaction, CompactionBytes(store.revision())), Code::kOk);
    ASSERT_TRUE(CompactFully(&store, 1 + random() % 100));
    ASSERT_EQ(Problems(store), "");
  }
  ASSERT_EQ(Apply(&store, kTagDeleteRange, DeleteBytes(kAll, kAll)), Code::kOk);
  PutKey(&store, "only", "v");
  ASSERT_EQ(Apply(&store, kTagCompaction, CompactionBytes(store.revision())), Code::kOk);
  ASSERT_TRUE(CompactFully(&store));
  EXPECT_EQ(store.GetStats().records, 1u);
  EXPECT_EQ(store.GetStats().keys, 1u);
}

TEST(Store, SeveralChangesOfAKeyInTheCompactRevision) {
  for (const bool delete_last : {false, true}) {
    Store store;
    PutKey(&store, "k", "old");
    std::string txn;  // one revision: put, delete, put (and delete)
    AppendOp(&txn, 2, RequestOp::kPut, PutBytes("k", "1"));
    AppendOp(&txn, 2, RequestOp::kDeleteRange, DeleteBytes("k"));
    AppendOp(&txn, 2, RequestOp::kPut, PutBytes("k", "2"));
    if (delete_last) AppendOp(&txn, 2, RequestOp::kDeleteRange, DeleteBytes("k"));
    ASSERT_EQ(Apply(&store, kTagTxn, txn), Code::kOk);
    const int64_t revision = store.revision();
    ASSERT_EQ(Apply(&store, kTagCompaction, CompactionBytes(revision)), Code::kOk);
    ASSERT_TRUE(CompactFully(&store, 1));
    ASSERT_EQ(Problems(store), "");
    {
      const EpochGuard guard;
      std::vector<const Record*> records;
      store.Events(revision, revision, 100, &records);
      ASSERT_EQ(records.size(), 1u);
      EXPECT_EQ(records[0]->tombstone(), delete_last);
      EXPECT_EQ(records[0]->sub(), delete_last ? 3u : 2u);
      const Record* found = nullptr;
      ASSERT_EQ(store.Get("k", revision, &found), Code::kOk);
      EXPECT_EQ(found == nullptr, delete_last);
    }
    PutKey(&store, "k", "new");
    ASSERT_EQ(Apply(&store, kTagCompaction, CompactionBytes(store.revision())), Code::kOk);
    ASSERT_TRUE(CompactFully(&store, 1));
    EXPECT_EQ(store.GetStats().records, 1u);
    ASSERT_EQ(Problems(store), "");
  }
}

TEST(Store, ASecondCompactionBeforeTheFirstHasRemovedAnything) {
  Store store;
  for (int i = 0; i < 1000; ++i) PutKey(&store, "k" + std::to_string(i % 7), std::to_string(i));
  ASSERT_EQ(Apply(&store, kTagCompaction, CompactionBytes(300)), Code::kOk);
  {
    const auto lock = store.WriteLock();
    EXPECT_FALSE(store.CompactStep(100));
  }
  ASSERT_EQ(Apply(&store, kTagCompaction, CompactionBytes(600)), Code::kOk);
  ASSERT_TRUE(CompactFully(&store, 77));
  EXPECT_EQ(store.GetStats().records, 7u + 401u);  // 601..1001, and the bases of the other keys at 600
  EXPECT_EQ(Problems(store), "");
  std::string response;
  RangeOptions options;
  options.revision = 599;
  EXPECT_EQ(store.Range(RangeBytes("k1", "", options), &response), Code::kCompacted);
}

TEST(Store, APictureHoldsCompactionBack) {
  Store store;
  for (int i = 0; i < 100; ++i) PutKey(&store, "k", std::to_string(i));
  Store::Picture picture;
  {
    const auto lock = store.WriteLock();
    picture = store.TakePicture();
  }
  ASSERT_EQ(Apply(&store, kTagCompaction, CompactionBytes(store.revision())), Code::kOk);
  {
    const auto lock = store.WriteLock();
    EXPECT_FALSE(store.CompactStep(SIZE_MAX));
  }
  store.CountPicture(&picture);
  EXPECT_EQ(picture.records, 100u);
  store.ReleasePicture();
  ASSERT_TRUE(CompactFully(&store));
  EXPECT_EQ(store.GetStats().records, 1u);
}

TEST(Store, HashKvOfARevisionStaysWhileWritesGoOn) {
  Store store;
  for (int i = 0; i < 300; ++i) PutKey(&store, "k" + std::to_string(i % 40), std::to_string(i));
  uint32_t then = 0, now = 0;
  int64_t compacted = 0, revision = 0;
  ASSERT_EQ(store.HashKv(200, &then, &compacted, &revision), Code::kOk);
  for (int i = 0; i < 300; ++i) PutKey(&store, "k" + std::to_string(i % 50), std::to_string(i));
  ASSERT_EQ(store.HashKv(200, &now, &compacted, &revision), Code::kOk);
  EXPECT_EQ(then, now);
  // Removing what a compaction has released changes no hash either.
  ASSERT_EQ(Apply(&store, kTagCompaction, CompactionBytes(150)), Code::kOk);
  ASSERT_EQ(store.HashKv(200, &then, &compacted, &revision), Code::kOk);
  EXPECT_EQ(compacted, 150);
  ASSERT_TRUE(CompactFully(&store, 10));
  ASSERT_EQ(store.HashKv(200, &now, &compacted, &revision), Code::kOk);
  EXPECT_EQ(then, now);
}

TEST(Store, HostileNumbersAreOnlyNumbers) {
  Store store;
  for (int i = 0; i < 10; ++i) PutKey(&store, "k" + std::to_string(i), std::to_string(9 - i));
  std::string response, next;
  for (const int64_t limit : {INT64_MAX, INT64_MAX - 1, INT64_MIN, int64_t{-1}}) {
    for (int32_t target = RangeRequest::kKey; target <= RangeRequest::kValue; ++target) {
      for (int32_t order = RangeRequest::kNone; order <= RangeRequest::kDescend; ++order) {
        RangeOptions options;
        options.limit = limit;
        options.sort_target = target;
        options.sort_order = order;
        ASSERT_EQ(store.Range(RangeBytes("k", kAll, options), &response), Code::kOk);
        EXPECT_EQ(ParseRangeAnswer(response).kvs.size(), 10u)
            << "limit " << limit << " target " << target << " order " << order;
      }
    }
    RangeOptions options;
    options.limit = limit;
    ASSERT_EQ(store.RangeChunk(RangeBytes("k", kAll, options), 1, &response, &next), Code::kOk);
    EXPECT_EQ(ParseRangeAnswer(response).kvs.size(), 1u);
  }
  for (const int64_t revision : {INT64_MIN, int64_t{-1}}) {
    RangeOptions options;
    options.revision = revision;
    ASSERT_EQ(store.Range(RangeBytes("k", kAll, options), &response), Code::kOk);
    EXPECT_EQ(ParseRangeAnswer(response).kvs.size(), 10u);
    EXPECT_EQ(Apply(&store, kTagCompaction, CompactionBytes(revision)), Code::kCompacted);
  }
  RangeOptions future;
  future.revision = INT64_MAX;
  EXPECT_EQ(store.Range(RangeBytes("k", "", future), &response), Code::kFutureRevision);
  EXPECT_EQ(Apply(&store, kTagCompaction, CompactionBytes(INT64_MAX)), Code::kFutureRevision);
  uint32_t hash = 0;
  int64_t compacted = 0, revision = 0;
  EXPECT_EQ(store.HashKv(INT64_MAX, &hash, &compacted, &revision), Code::kFutureRevision);
  EXPECT_EQ(store.HashKv(INT64_MIN, &hash, &compacted, &revision), Code::kOk);
  EXPECT_EQ(Apply(&store, kTagLeaseGrant, GrantBytes(INT64_MIN, INT64_MIN)), Code::kOk);
  EXPECT_EQ(Apply(&store, kTagLeaseGrant, GrantBytes(1, INT64_MAX)), Code::kLeaseTtlTooLarge);
  // The fields that RangeChunk keeps in its next request, sent by a client.
  std::string forged = RangeBytes("k", kAll);
  AppendNumber(&forged, RangeRequest::kChunkSent, INT64_MAX);
  AppendNumber(&forged, RangeRequest::kChunkHeader, INT64_MAX);
  EXPECT_EQ(store.RangeChunk(forged, SIZE_MAX, &response, &next), Code::kOk);
  {
    const EpochGuard guard;
    std::vector<const Record*> records;
    store.Events(INT64_MIN, INT64_MAX, SIZE_MAX, &records);
    EXPECT_EQ(records.size(), 10u);
  }
  EXPECT_EQ(Problems(store), "");
}

// A record as a records block holds it. first: of its chain.
std::string BlockRecord(const Record::KeyValue& kv, bool first, uint32_t sub = 0, bool tombstone = false) {
  Record* record = tombstone ? Record::NewTombstone(kv.key, kv.mod_revision, sub, nullptr, -1)
                             : Record::NewPut(kv, sub, nullptr, -1);
  std::string bytes;
  PutVarint(&bytes, static_cast<uint64_t>(kv.mod_revision));
  PutVarint(&bytes, sub);
  PutVarint(&bytes, (tombstone ? 1 : 0) | (first ? 2 : 0));
  PutVarint(&bytes, record->encoded().size());
  bytes += record->encoded();
  Record::Delete(record);
  return bytes;
}

TEST(Store, AHistoryLargerThanABlockGoesOnInTheNext) {
  Store store;
  for (const char* key : {"a", "long", "z"}) {
    for (int i = 0; i < (key[0] == 'l' ? 1000 : 2); ++i) Apply(&store, kTagPut, PutBytes(key, std::string(90, 'v')));
  }
  Apply(&store, kTagDeleteRange, DeleteBytes("long"));
  const uint32_t hash = store.Hash();
  Store::Picture picture;
  {
    const auto lock = store.WriteLock();
    picture = store.TakePicture();
  }
  store.CountPicture(&picture);
  for (const size_t block_bytes : {1, 100, 5000, 1 << 20}) {
    Store copy;
    Store::Loader loader(&copy);
    size_t blocks = 0;
    uint32_t crc = 0;
    const Status status = store.WriteChains(
        picture,
        [&](std::string_view payload) -> Status {
          ++blocks;
          crc = Crc32cExtend(crc, payload);
          EXPECT_FALSE(payload.empty());
          EXPECT_LT(payload.size(), block_bytes + 150);  // one record is less
          EXPECT_TRUE(loader.AddChains(payload)) << loader.refusal();
          return {};
        },
        block_bytes);
    ASSERT_TRUE(status.ok() && loader.Finish(picture)) << block_bytes;
    EXPECT_EQ(crc, hash);  // wherever it is cut
    EXPECT_EQ(copy.Hash(), hash);
    EXPECT_EQ(Problems(copy), "");
    EXPECT_EQ(blocks == 1, block_bytes == 1 << 20) << blocks;
    EXPECT_EQ(blocks == 1005, block_bytes == 1) << blocks;  // every record a block of its own
  }
  int sunk = 0;
  const Status stopped = store.WriteChains(
      picture, [&sunk](std::string_view) { return ++sunk == 3 ? Status(Code::kNoSpace, "full") : Status(); }, 1000);
  EXPECT_EQ(stopped.code(), Code::kNoSpace);
  EXPECT_EQ(sunk, 3);
  store.ReleasePicture();
}

// Payloads loaded by several threads, in parts, are judged as by one that reads them in order.
TEST(Store, LoadingInPartsIsLoadingInOrder) {
  std::mt19937 random(3);
  for (int round = 0; round < 60; ++round) {
    Store store;
    for (int i = 0; i < 300; ++i) {
      const std::string key = random() % 3 == 0 ? "long" : "k" + std::to_string(random() % 40);
      if (random() % 6 == 0) {
        Apply(&store, kTagDeleteRange, DeleteBytes(key));
      } else {
        Apply(&store, kTagPut, PutBytes(key, std::string(random() % 90, 'v')));
      }
    }
    Store::Picture picture;
    {
      const auto lock = store.WriteLock();
      picture = store.TakePicture();
    }
    store.CountPicture(&picture);
    std::vector<std::string> payloads;
    const Status written = store.WriteChains(
        picture,
        [&payloads](std::string_view payload) -> Status {
          payloads.emplace_back(payload);
          return {};
        },
        1 + random() % 400);
    store.ReleasePicture();
    ASSERT_TRUE(written.ok());
    for (int damage = 0; damage < 20; ++damage) {
      std::vector<std::string> damaged = payloads;
      for (int i = 0; i < damage; ++i) {
        std::string& payload = damaged[random() % damaged.size()];
        if (random() % 3 == 0) {
          std::swap(payload, damaged[random() % damaged.size()]);
        } else if (!payload.empty()) {
          payload[random() % payload.size()] ^= static_cast<char>(1 << random() % 8);
        }
      }
      const std::vector<std::string_view> views(damaged.begin(), damaged.end());
      Store one, many;
      Store::Loader in_order(&one), in_parts(&many);
      size_t refused_in_order = 0, refused_in_parts = 0;
      const bool loaded = in_order.AddAll(views, &refused_in_order, 1);
      ASSERT_EQ(in_parts.AddAll(views, &refused_in_parts, 2 + random() % 6), loaded);
      if (!loaded) {
        ASSERT_EQ(refused_in_parts, refused_in_order);
        ASSERT_STREQ(in_parts.refusal(), in_order.refusal());
        continue;
      }
      const bool finished = in_order.Finish(picture);
      ASSERT_EQ(in_parts.Finish(picture), finished);
      ASSERT_TRUE(finished || damage > 0);
      if (!finished) continue;
      ASSERT_EQ(many.Hash(), one.Hash());
      ASSERT_EQ(Problems(many), "");
      if (damage == 0) {
        ASSERT_EQ(many.Hash(), store.Hash());
      }
    }
  }
}

TEST(Store, TheLoaderRefusesAContinuationThatIsNone) {
  const Record::KeyValue k2{"k", "v", 2, 2, 1, 0}, k3{"k", "v", 2, 3, 2, 0}, l3{"l", "v", 3, 3, 1, 0};
  auto refusal = [](const std::vector<std::string>& payloads) -> std::string {
    Store store;
    Store::Loader loader(&store);
    for (const std::string& payload : payloads) {
      if (!loader.AddChains(payload)) return loader.refusal();
    }
    return "";
  };
  EXPECT_EQ(refusal({BlockRecord(k2, true), BlockRecord(k3, false)}), "");
  EXPECT_EQ(refusal({BlockRecord(k2, true), BlockRecord(k2, false, 1)}), "");
  EXPECT_EQ(refusal({BlockRecord(k2, false)}), "a record continues a chain that has not begun");
  EXPECT_EQ(refusal({BlockRecord(k2, true), BlockRecord(l3, false)}),
            "a chain is continued by a record of another key");
  EXPECT_EQ(refusal({BlockRecord(k3, true), BlockRecord(k2, false)}), "the revisions of a key do not rise");
  EXPECT_EQ(refusal({BlockRecord(k2, true), BlockRecord(k2, false)}), "the revisions of a key do not rise");
  EXPECT_EQ(refusal({BlockRecord(k2, true), BlockRecord(k3, true)}), "the keys do not ascend");
  EXPECT_EQ(refusal({BlockRecord(l3, true), BlockRecord(k2, true)}), "the keys do not ascend");
  const std::string cut = BlockRecord(k2, true) + BlockRecord(k3, false);
  EXPECT_EQ(refusal({cut.substr(0, cut.size() - 1)}), "a record is cut short");
  std::string flags = BlockRecord(k2, true);
  flags[2] = 6;
  EXPECT_EQ(refusal({flags}), "a record is malformed");
}

TEST(Store, TheLoaderRefusesChainsThatNoStoreHasWritten) {
  const Record::KeyValue kv{"k", "v", 2, 3, 2, 0};
  auto chain = [](const std::vector<std::tuple<Record::KeyValue, uint32_t, bool>>& records) {
    std::string bytes;
    for (const auto& [of, sub, tombstone] : records) bytes += BlockRecord(of, bytes.empty(), sub, tombstone);
    return bytes;
  };
  auto loads = [](const std::string& payload, const Store::Picture& picture) {
    Store store;
    Store::Loader loader(&store);
    return loader.AddChains(payload) && loader.Finish(picture) && Problems(store).empty();
  };
  Store::Picture one;
  one.revision = 5;
  one.keys = one.records = 1;
  const std::string good = chain({{kv, 0, false}});
  EXPECT_TRUE(loads(good, one));
  for (size_t cut = 1; cut < good.size(); ++cut) EXPECT_FALSE(loads(good.substr(0, cut), one)) << cut;
  EXPECT_FALSE(loads("", one));
  EXPECT_FALSE(loads(good + good, one));  // a key twice
  Store::Picture wrong = one;
  wrong.keys = 2;
  EXPECT_FALSE(loads(good, wrong));
  wrong = one;
  wrong.records = 2;
  EXPECT_FALSE(loads(good, wrong));
  wrong = one;
  wrong.revision = 2;  // the record is newer
  EXPECT_FALSE(loads(good, wrong));
  wrong = one;
  wrong.compact_revision = 6;
  EXPECT_FALSE(loads(good, wrong));
  wrong = one;
  wrong.revision = INT64_MAX / 2;  // far from dense
  EXPECT_TRUE(loads(good, wrong));
  wrong.revision = INT64_MAX;  // the next write would overflow
  EXPECT_FALSE(loads(good, wrong));
  Record::KeyValue leased = kv;
  leased.lease = 7;
  EXPECT_FALSE(loads(chain({{leased, 0, false}}), one));  // a lease that is not there

  Store::Picture two = one;
  two.records = 2;
  Record::KeyValue later = kv;
  later.mod_revision = 4;
  EXPECT_TRUE(loads(chain({{kv, 0, false}, {later, 0, false}}), two));
  EXPECT_FALSE(loads(chain({{later, 0, false}, {kv, 0, false}}), two));
  EXPECT_FALSE(loads(chain({{kv, 0, false}, {kv, 0, false}}), two));
  Record::KeyValue other = later;
  other.key = "l";
  EXPECT_FALSE(loads(chain({{kv, 0, false}, {other, 0, false}}), two));
}

TEST(Store, ValidateLooksAtSizesBeforeBytes) {
  Limits limits;
  limits.max_request_bytes = 100;
  EXPECT_EQ(Validate(kTagPut, PutBytes("k", std::string(50, 'v')), limits), Code::kOk);
  EXPECT_EQ(Validate(kTagPut, PutBytes("k", std::string(150, 'v')), limits), Code::kRequestTooLarge);
  limits = {};
  limits.max_txn_ops = 3;
  std::string txn;
  for (int i = 0; i < 3; ++i) AppendPutOp(&txn, "k" + std::to_string(i), "v", 0);
  EXPECT_EQ(Validate(kTagTxn, txn, limits), Code::kOk);
  AppendPutOp(&txn, "k3", "v", 0);
  EXPECT_EQ(Validate(kTagTxn, txn, limits), Code::kTooManyOps);
  std::string nested;  // deeper than any stack needs to go
  for (int i = 0; i < 5000; ++i) {
    std::string outer;
    AppendOp(&outer, 2, RequestOp::kTxn, nested);
    nested = std::move(outer);
    if (nested.size() > 60'000) break;
  }
  EXPECT_EQ(Validate(kTagTxn, nested, {}), Code::kTooManyOps);
  Store store;
  EXPECT_EQ(Apply(&store, kTagTxn, nested), Code::kTooManyOps);
}

}  // namespace
}  // namespace fastkv
