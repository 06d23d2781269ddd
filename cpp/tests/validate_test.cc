// What is refused without state: duplicate keys against a model that tries every pair, and hostile sizes and nestings.

#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/commands.h"

namespace fastkv {
namespace {

using namespace testing;

// etcd's checkIntervals as it is written there: every put against every put and every deleted interval.
struct Model {
  struct Op {
    RequestOp::Kind kind;
    std::string key, range_end;
    std::vector<Op> success, failure;  // of a nested txn
  };
  using Intervals = std::vector<std::pair<std::string, std::string>>;

  static bool Deletes(const Intervals& deletes, const std::string& key) {
    for (const auto& [begin, end] : deletes) {
      if (key >= begin && key < end) return true;
    }
    return false;
  }
  static bool Check(const std::vector<Op>& ops, std::set<std::string>* puts, Intervals* deletes) {
    for (const Op& op : ops) {
      if (op.kind != RequestOp::kDeleteRange) continue;
      deletes->emplace_back(op.key, op.range_end.empty() ? op.key + kAll : op.range_end);
    }
    for (const Op& op : ops) {
      if (op.kind != RequestOp::kTxn) continue;
      std::set<std::string> then_puts, else_puts;
      Intervals then_deletes, else_deletes;
      if (!Check(op.success, &then_puts, &then_deletes) || !Check(op.failure, &else_puts, &else_deletes)) return false;
      for (const auto& key : then_puts) {
        if (puts->contains(key) || Deletes(*deletes, key)) return false;
      }
      for (const auto& key : else_puts) {
        if (!then_puts.contains(key) && (puts->contains(key) || Deletes(*deletes, key))) return false;
      }
      puts->insert(then_puts.begin(), then_puts.end());
      puts->insert(else_puts.begin(), else_puts.end());
      deletes->insert(deletes->end(), then_deletes.begin(), then_deletes.end());
      deletes->insert(deletes->end(), else_deletes.begin(), else_deletes.end());
    }
    for (const Op& op : ops) {
      if (op.kind == RequestOp::kPut && (!puts->insert(op.key).second || Deletes(*deletes, op.key))) return false;
    }
    return true;
  }
  static Code Check(const std::vector<Op>& ops) {
    std::set<std::string> puts;
    Intervals deletes;
    return Check(ops, &puts, &deletes) ? Code::kOk : Code::kDuplicateKey;
  }
};

std::string Encode(const std::vector<Model::Op>& success, const std::vector<Model::Op>& failure = {}) {
  std::string txn;
  for (const auto& [branch, ops] : {std::pair(2u, &success), std::pair(3u, &failure)}) {
    for (const Model::Op& op : *ops) {
      AppendOp(&txn, branch, op.kind,
               op.kind == RequestOp::kPut   ? PutBytes(op.key, "")
               : op.kind == RequestOp::kTxn ? Encode(op.success, op.failure)
                                            : DeleteBytes(op.key, op.range_end));
    }
  }
  return txn;
}

TEST(Validate, DuplicateKeysAreThoseOfAModelThatTriesEveryPair) {
  std::mt19937_64 random;
  auto below = [&random](uint64_t n) { return random() % n; };
  auto key = [&below](size_t kinds) {
    std::string made(1, static_cast<char>('a' + below(kinds)));
    if (below(3) == 0) made.push_back(static_cast<char>('a' + below(kinds)));
    return made;
  };
  std::function<std::vector<Model::Op>(int, size_t)> make = [&](int depth, size_t kinds) {
    std::vector<Model::Op> ops(below(depth == 0 ? 7 : 5));
    for (Model::Op& op : ops) {
      const uint64_t what = below(depth < 3 ? 10 : 7);
      op.kind = what < 4 ? RequestOp::kPut : what < 7 ? RequestOp::kDeleteRange : RequestOp::kTxn;
      op.key = key(kinds);
      if (op.kind == RequestOp::kDeleteRange && below(3) > 0) op.range_end = below(5) == 0 ? kAll : key(kinds);
      if (op.kind != RequestOp::kTxn) continue;
      op.success = make(depth + 1, kinds);
      op.failure = make(depth + 1, kinds);
    }
    return ops;
  };
  const Seeds seeds = SeedsFor(30'000);
  uint64_t refused = 0;
  for (uint64_t seed = seeds.first; seed < seeds.first + seeds.count; ++seed) {
    random.seed(seed);
    const auto ops = make(0, 3 + seed % 20);
    const Code wanted = Model::Check(ops);
    ASSERT_EQ(Validate(kTagTxn, Encode(ops), {}), wanted)
        << Replay("validate_test", "Validate.DuplicateKeysAreThoseOfAModelThatTriesEveryPair", seed);
    ASSERT_EQ(Validate(kTagTxn, Encode({}, ops), {}), wanted) << seed;
    refused += wanted != Code::kOk;
  }
  const bool mixed = refused > seeds.count / 10 && refused < seeds.count * 9 / 10;
  EXPECT_TRUE(mixed || seeds.count == 1) << refused;
}

std::string Numbered(char prefix, size_t number) {
  std::string digits = std::to_string(number);
  return std::string(1, prefix) + std::string(7 - digits.size(), '0') + digits;
}

constexpr size_t kMany = 40'000;  // minutes, if every put were compared with every interval

TEST(Validate, ManyIntervalsAndPutsSideBySide) {
  std::vector<Model::Op> ops;
  for (size_t i = 0; i < kMany; ++i) {
    ops.push_back({RequestOp::kDeleteRange, Numbered('k', 4 * i), Numbered('k', 4 * i + 2), {}, {}});
    ops.push_back({RequestOp::kPut, Numbered('k', 4 * i + 2), "", {}, {}});
  }
  EXPECT_EQ(Validate(kTagTxn, Encode(ops), {}), Code::kOk);
  ops.push_back({RequestOp::kPut, Numbered('k', 4 * (kMany - 1) + 1), "", {}, {}});
  EXPECT_EQ(Validate(kTagTxn, Encode(ops), {}), Code::kDuplicateKey);
  ops.back().key = Numbered('k', 2);
  EXPECT_EQ(Validate(kTagTxn, Encode(ops), {}), Code::kDuplicateKey);
}

TEST(Validate, ManyNestedTxnsSideBySide) {
  std::vector<Model::Op> ops;
  for (size_t i = 0; i < kMany; ++i) {
    ops.push_back({RequestOp::kTxn,
                   "",
                   "",
                   {{RequestOp::kDeleteRange, Numbered('k', 4 * i), Numbered('k', 4 * i + 2), {}, {}}},
                   {{RequestOp::kPut, Numbered('k', 4 * i + 3), "", {}, {}}}});
  }
  EXPECT_EQ(Validate(kTagTxn, Encode(ops), {}), Code::kOk);
  ops.push_back({RequestOp::kTxn, "", "", {{RequestOp::kPut, Numbered('k', 1), "", {}, {}}}, {}});
  EXPECT_EQ(Validate(kTagTxn, Encode(ops), {}), Code::kDuplicateKey);
  std::swap(ops.front(), ops.back());  // the put stands in front of the sibling that deletes
  EXPECT_EQ(Validate(kTagTxn, Encode(ops), {}), Code::kOk);
}

TEST(Validate, ManyPutsBelowManyLevels) {
  std::vector<Model::Op> ops;
  for (size_t i = 0; i < kMany; ++i) {
    ops.push_back({RequestOp::kPut, Numbered('k', 2 * i), "", {}, {}});
    ops.push_back({RequestOp::kDeleteRange, Numbered('k', 2 * i + 1), "", {}, {}});
  }
  for (size_t level = 0; level < 128; ++level) {
    std::vector<Model::Op> outer = {{RequestOp::kTxn, "", "", {}, {}},
                                    {RequestOp::kDeleteRange, Numbered('l', level), Numbered('l', level + 1), {}, {}},
                                    {RequestOp::kPut, Numbered('m', level), "", {}, {}}};
    outer.front().success = std::move(ops);
    ops = std::move(outer);
  }
  EXPECT_EQ(Validate(kTagTxn, Encode(ops), {}), Code::kOk);
  ops.push_back({RequestOp::kPut, Numbered('k', 2 * kMany - 2), "", {}, {}});
  EXPECT_EQ(Validate(kTagTxn, Encode(ops), {}), Code::kDuplicateKey);
  ops.back() = {RequestOp::kDeleteRange, Numbered('k', 1), Numbered('k', 3), {}, {}};
  EXPECT_EQ(Validate(kTagTxn, Encode(ops), {}), Code::kDuplicateKey);
}

TEST(Validate, ManyDeletesBeforeManyPutsThatKeepTheValue) {
  Store store;
  std::string txn, keep;
  for (size_t i = 0; i < kMany; ++i) {
    AppendPutOp(&txn, Numbered('k', i), "old", 0);
    AppendOp(&keep, 2, RequestOp::kDeleteRange, DeleteBytes(Numbered('l', i), kAll));
  }
  ASSERT_EQ(Apply(&store, kTagTxn, txn), Code::kOk);
  auto put = [](size_t i) { return PutBytes(Numbered('k', i), "") + std::string("\x28\x01", 2); };  // ignore_value
  for (size_t i = 0; i < kMany; ++i) AppendOp(&keep, 2, RequestOp::kPut, put(i));
  ASSERT_EQ(Validate(kTagTxn, keep, {}), Code::kOk);
  EXPECT_EQ(Apply(&store, kTagTxn, keep), Code::kOk);
  std::string covered;
  AppendOp(&covered, 2, RequestOp::kDeleteRange, DeleteBytes(Numbered('k', kMany / 2), kAll));
  AppendOp(&covered, 2, RequestOp::kPut, put(kMany / 2 - 1));
  EXPECT_EQ(Apply(&store, kTagTxn, covered), Code::kOk);
  AppendOp(&covered, 2, RequestOp::kPut, put(kMany / 2));
  EXPECT_EQ(Validate(kTagTxn, covered, {}), Code::kOk);
  EXPECT_EQ(Apply(&store, kTagTxn, covered), Code::kKeyNotFound);
}

// Keys chosen so that all of a batch fall into one place of a table of any size up to 2,048.
TEST(Validate, KeysThatCollideAreStillDifferent) {
  std::vector<Model::Op> ops;
  for (size_t i = 0; ops.size() < 600; ++i) {
    const std::string key = Numbered('k', i);
    if (std::hash<std::string_view>()(key) % 2048 == 7) ops.push_back({RequestOp::kPut, key, "", {}, {}});
  }
  EXPECT_EQ(Validate(kTagTxn, Encode(ops), {}), Code::kOk);
  ops.push_back(ops.front());
  EXPECT_EQ(Validate(kTagTxn, Encode(ops), {}), Code::kDuplicateKey);
}

// A txn nested so deep. Built from the inside out without copying the inner one: lengths first, then the tags
// backwards.
std::string Nested(size_t levels, std::string_view innermost) {
  std::string reversed(innermost.rbegin(), innermost.rend());
  auto wrap = [&reversed](char tag) {
    std::string length;
    PutVarint(&length, reversed.size());
    reversed.append(length.rbegin(), length.rend());
    reversed.push_back(tag);
  };
  for (size_t i = 0; i < levels; ++i) {
    wrap(0x22);  // RequestOp.request_txn
    wrap(0x12);  // TxnRequest.success
  }
  return {reversed.rbegin(), reversed.rend()};
}

TEST(Validate, NestingBeyondTheLimitIsRefusedOnEveryPath) {
  std::string put;
  AppendPutOp(&put, "k", "v", 0);
  Store store;
  EXPECT_EQ(Validate(kTagTxn, Nested(128, put), {}), Code::kOk);
  EXPECT_TRUE(Grows(kTagTxn, Nested(128, put)));
  EXPECT_EQ(Apply(&store, kTagTxn, Nested(128, put)), Code::kOk);
  EXPECT_EQ(store.revision(), 2);
  for (const size_t levels : {size_t{129}, size_t{1000}, size_t{300'000}}) {
    const std::string txn = Nested(levels, put);
    EXPECT_EQ(Validate(kTagTxn, txn, {}), Code::kTooManyOps);
    EXPECT_EQ(Validate(kTagTxn, txn, {.max_txn_ops = 128}), Code::kTooManyOps);
    EXPECT_FALSE(Grows(kTagTxn, txn));
    EXPECT_EQ(Apply(&store, kTagTxn, txn), Code::kTooManyOps);
    bool reads_only = true;
    std::string response;
    EXPECT_EQ(store.ReadTxn(txn, {}, &reads_only, &response), Code::kOk);
    EXPECT_FALSE(reads_only);
  }
  EXPECT_EQ(store.revision(), 2);
}

}  // namespace
}  // namespace fastkv
