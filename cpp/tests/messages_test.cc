// The message codecs: each field arrives, the last of a scalar wins, unknown fields and other wire types are skipped,
// and what no protobuf writer makes is refused.

#include "proto/messages.h"

#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <string>
#include <vector>

#include "base/coding.h"
#include "tests/commands.h"

namespace fastkv {
namespace {

using namespace std::string_literals;

using Parser = std::function<bool(std::string_view)>;

template <typename Message>
bool Parses(std::string_view bytes) {
  return Message().Parse(bytes);
}
const std::vector<std::pair<const char*, Parser>> kAllMessages = {
    {"KeyValue", Parses<KeyValueMessage>},
    {"RangeRequest", Parses<RangeRequest>},
    {"PutRequest", Parses<PutRequest>},
    {"DeleteRangeRequest", Parses<DeleteRangeRequest>},
    {"Compare", Parses<Compare>},
    {"RequestOp", Parses<RequestOp>},
    {"TxnRequest", Parses<TxnRequest>},
    {"CompactionRequest", Parses<CompactionRequest>},
    {"LeaseGrantRequest", Parses<LeaseGrantRequest>},
    {"LeaseRevokeRequest", Parses<LeaseRevokeRequest>},
    {"LeaseCheckpointRequest", Parses<LeaseCheckpointRequest>},
    {"AlarmRequest", Parses<AlarmRequest>},
};

TEST(Messages, EveryFieldArrives) {
  std::string bytes;
  AppendBytes(&bytes, 1, "key");
  AppendNumber(&bytes, 2, 2);
  AppendNumber(&bytes, 3, INT64_MAX);
  AppendNumber(&bytes, 4, 4);
  AppendBytes(&bytes, 5, "value");
  AppendNumber(&bytes, 6, -6);
  KeyValueMessage kv;
  ASSERT_TRUE(kv.Parse(bytes));
  EXPECT_EQ(kv.key, "key");
  EXPECT_EQ(kv.create_revision, 2);
  EXPECT_EQ(kv.mod_revision, INT64_MAX);
  EXPECT_EQ(kv.version, 4);
  EXPECT_EQ(kv.value, "value");
  EXPECT_EQ(kv.lease, -6);

  bytes.clear();
  AppendBytes(&bytes, 1, "k");
  AppendBytes(&bytes, 2, "z");
  for (uint32_t field = 3; field <= 13; ++field)
    AppendNumber(&bytes, field, static_cast<int64_t>(field) + (field < 7 ? 0 : 100));
  RangeRequest range;
  ASSERT_TRUE(range.Parse(bytes));
  EXPECT_EQ(range.key, "k");
  EXPECT_EQ(range.range_end, "z");
  EXPECT_EQ(range.limit, 3);
  EXPECT_EQ(range.revision, 4);
  EXPECT_EQ(range.sort_order, 5);
  EXPECT_EQ(range.sort_target, 6);
  EXPECT_TRUE(range.serializable && range.keys_only && range.count_only);
  EXPECT_EQ(range.min_mod_revision, 110);
  EXPECT_EQ(range.max_mod_revision, 111);
  EXPECT_EQ(range.min_create_revision, 112);
  EXPECT_EQ(range.max_create_revision, 113);
  EXPECT_TRUE(range.has_filter());

  bytes = testing::PutBytes("k", "v", 7, true);
  AppendBool(&bytes, 5, true);
  AppendBool(&bytes, 6, true);
  PutRequest put;
  ASSERT_TRUE(put.Parse(bytes));
  EXPECT_EQ(put.key, "k");
  EXPECT_EQ(put.value, "v");
  EXPECT_EQ(put.lease, 7);
  EXPECT_TRUE(put.prev_kv && put.ignore_value && put.ignore_lease);

  bytes = testing::DeleteBytes("a", "b", true);
  DeleteRangeRequest del;
  ASSERT_TRUE(del.Parse(bytes));
  EXPECT_EQ(del.key, "a");
  EXPECT_EQ(del.range_end, "b");
  EXPECT_TRUE(del.prev_kv);

  CompactionRequest compaction;
  ASSERT_TRUE(compaction.Parse("\x08\x05\x10\x01"));
  EXPECT_EQ(compaction.revision, 5);
  EXPECT_TRUE(compaction.physical);

  LeaseGrantRequest grant;
  ASSERT_TRUE(grant.Parse(testing::GrantBytes(-3, 60)));
  EXPECT_EQ(grant.id, -3);
  EXPECT_EQ(grant.ttl, 60);
  LeaseRevokeRequest revoke;
  ASSERT_TRUE(revoke.Parse(testing::RevokeBytes(4)));
  EXPECT_EQ(revoke.id, 4);
  LeaseCheckpointRequest checkpoints;
  ASSERT_TRUE(checkpoints.Parse(testing::LeaseCheckpointBytes(1, 2) + testing::LeaseCheckpointBytes(3, 4)));
  ASSERT_EQ(checkpoints.checkpoints.size(), 2u);
  EXPECT_EQ(checkpoints.checkpoints[1].id, 3);
  EXPECT_EQ(checkpoints.checkpoints[1].remaining_ttl, 4);
  AlarmRequest alarm;
  ASSERT_TRUE(alarm.Parse(testing::AlarmBytes(1, UINT64_MAX, 2)));
  EXPECT_EQ(alarm.action, 1);
  EXPECT_EQ(alarm.member_id, UINT64_MAX);
  EXPECT_EQ(alarm.alarm, 2);
}

TEST(Messages, CompareKeepsTheTargetThatCameLast) {
  std::string bytes;
  AppendNumber(&bytes, 1, 3);
  AppendNumber(&bytes, 2, 3);
  AppendBytes(&bytes, 3, "k");
  AppendNumber(&bytes, 4, 9);
  AppendBytes(&bytes, 7, "v");
  AppendBytes(&bytes, 64, "z");
  Compare compare;
  ASSERT_TRUE(compare.Parse(bytes));
  EXPECT_EQ(compare.result, Compare::kNotEqual);
  EXPECT_EQ(compare.target, Compare::kValue);
  EXPECT_EQ(compare.key, "k");
  EXPECT_EQ(compare.range_end, "z");
  EXPECT_EQ(compare.union_target, Compare::kValue);
  EXPECT_EQ(compare.value, "v");
  for (const auto& [field, target] :
       {std::pair(4u, Compare::kVersion), {5u, Compare::kCreate}, {6u, Compare::kMod}, {8u, Compare::kLease}}) {
    std::string last = bytes;
    AppendNumber(&last, field, -5);
    Compare again;
    ASSERT_TRUE(again.Parse(last));
    EXPECT_EQ(again.union_target, target);
    EXPECT_EQ(again.number, -5);
  }
}

TEST(Messages, TxnsKeepTheirOpsInOrder) {
  std::string txn;
  AppendBytesAlways(&txn, 1, "\x1a\x01k");
  testing::AppendOp(&txn, 2, RequestOp::kPut, testing::PutBytes("a", "1"));
  testing::AppendOp(&txn, 3, RequestOp::kRange, testing::RangeBytes("b"));
  testing::AppendOp(&txn, 2, RequestOp::kDeleteRange, testing::DeleteBytes("c"));
  testing::AppendOp(&txn, 2, RequestOp::kTxn, "");
  AppendPutOp(&txn, "d", std::string(300, 'v'), -1);
  TxnRequest request;
  ASSERT_TRUE(request.Parse(txn));
  EXPECT_EQ(request.compare.size(), 1u);
  ASSERT_EQ(request.success.size(), 4u);
  ASSERT_EQ(request.failure.size(), 1u);
  EXPECT_EQ(request.success[0].kind, RequestOp::kPut);
  EXPECT_EQ(request.success[1].kind, RequestOp::kDeleteRange);
  EXPECT_EQ(request.success[2].kind, RequestOp::kTxn);
  EXPECT_TRUE(request.success[2].body.empty());
  PutRequest put;
  ASSERT_TRUE(put.Parse(request.success[3].body));
  EXPECT_EQ(put.key, "d");
  EXPECT_EQ(put.value.size(), 300u);
  EXPECT_EQ(put.lease, -1);
  std::string by_hand;
  testing::AppendOp(&by_hand, 2, RequestOp::kPut, testing::PutBytes("", "", 5));
  std::string made;
  AppendPutOp(&made, "", "", 5);
  EXPECT_EQ(made, by_hand);
}

TEST(Messages, MalformedBytesAreRefusedByEveryMessage) {
  const std::vector<std::pair<const char*, std::string>> malformed = {
      {"a varint of eleven bytes", "\x08"s + std::string(10, '\x80') + "\x00"s},
      {"bits beyond the 64th", "\x08"s + std::string(9, '\xff') + "\x02"s},
      {"a tag cut short", "\x80"s},
      {"a varint cut short", "\x08\x80"s},
      {"a length without its bytes",
       "\x0a\x05"
       "abcd"s},
      {"a length beyond 64 bits", "\x0a"s + std::string(9, '\xff') + "\x7f"s},
      {"a length that would overflow", "\x0a"s + std::string(9, '\xff') + "\x01"s + "abc"},
      {"a length cut short", "\x0a\xff"s},
      {"field number 0", "\x02\x00"s},
      {"field number 0, varint", "\x00\x01"s},
      {"a group", "\x0b\x0c"s},
      {"the end of a group", "\x0c"s},
      {"wire type 6", "\x0e\x00"s},
      {"wire type 7", "\x0f\x00"s},
      {"eight bytes cut short",
       "\x09"
       "1234567"s},
      {"four bytes cut short",
       "\x0d"
       "123"s},
      {"a field number beyond 29 bits", "\x80\x80\x80\x80\x10\x00"s},
  };
  for (const auto& [what, bytes] : malformed) {
    for (const auto& [message, parse] : kAllMessages) {
      EXPECT_FALSE(parse(bytes)) << message << " took " << what;
      EXPECT_FALSE(parse("\xaa\x3e\x01x"s + bytes)) << message << " took " << what << " behind an unknown field";
    }
  }
}

TEST(Messages, UnknownFieldsAndOtherWireTypesAreSkipped) {
  const std::vector<std::string> skipped = {
      "\xf8\x7f\x05"s,    // field 2047, varint
      "\xfa\x7f\x02hi"s,  // bytes
      "\xf9\x7f"
      "12345678"s,  // eight bytes
      "\xfd\x7f"
      "1234"s,                  // four
      "\xf8\x7f\x80\x80\x00"s,  // a varint longer than it needs: protobuf takes it
      "\xf8\xff\x00\x01"s,      // a tag longer than it needs
      "\x09"
      "12345678"s,  // field 1 of another wire type
      "\x0d"
      "1234"s,
  };
  for (const auto& [message, parse] : kAllMessages) {
    EXPECT_TRUE(parse("")) << message;
    for (const std::string& bytes : skipped) EXPECT_TRUE(parse(bytes)) << message;
  }
  PutRequest put;
  const std::string bytes = "\x08\x07" + testing::PutBytes("k", "v") +
                            "\x1a\x01x\x0d"
                            "1234";
  ASSERT_TRUE(put.Parse(bytes));
  EXPECT_EQ(put.key, "k");
  EXPECT_EQ(put.lease, 0);
}

TEST(Messages, TheLastOfAScalarWins) {
  PutRequest put;
  const std::string twice = testing::PutBytes("a", "1", 1) + testing::PutBytes("b", "2", 2);
  ASSERT_TRUE(put.Parse(twice));
  EXPECT_EQ(put.key, "b");
  EXPECT_EQ(put.value, "2");
  EXPECT_EQ(put.lease, 2);
  RangeRequest range;
  ASSERT_TRUE(range.Parse("\x28\x80\x80\x80\x80\x20"));  // an enum of 2^33: protobuf keeps its low 32 bits
  EXPECT_EQ(range.sort_order, 0);
  ASSERT_TRUE(range.Parse("\x28\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"));
  EXPECT_EQ(range.sort_order, -1);
}

TEST(Messages, ACutOpMakesTheTxnMalformed) {
  TxnRequest txn;
  EXPECT_FALSE(
      txn.Parse("\x12\x03\x12\x05"
                "a"));
  LeaseCheckpointRequest checkpoints;
  EXPECT_FALSE(checkpoints.Parse("\x0a\x01\x08"));
  EXPECT_TRUE(LeaseCheckpointRequest().Parse("\x0a\x02\x28\x01"));  // an unknown field inside
}

TEST(Messages, LengthsAreRightAtEverySize) {
  for (const size_t size : {0u, 1u, 126u, 127u, 128u, 129u, 16'383u, 16'384u, 70'000u}) {
    std::string bytes = "before";
    const size_t begin = BeginMessage(&bytes, 3);
    bytes.append(size, 'x');
    EndMessage(&bytes, begin);
    std::string expected = "before";
    AppendBytesAlways(&expected, 3, std::string(size, 'x'));
    EXPECT_EQ(bytes, expected) << size;
    std::string op;
    AppendPutOp(&op, std::string(size, 'k'), std::string(size, 'v'), 1);
    std::string by_hand;
    testing::AppendOp(&by_hand, 2, RequestOp::kPut,
                      testing::PutBytes(std::string(size, 'k'), std::string(size, 'v'), 1));
    EXPECT_EQ(op, by_hand) << size;
  }
}

TEST(Messages, RandomBytesNeverReachBeyondTheirEnd) {
  std::mt19937_64 random(5);
  for (int i = 0; i < 50'000; ++i) {
    std::string bytes(random() % 24, '\0');
    for (char& c : bytes) c = static_cast<char>(random() % 4 == 0 ? random() : random() % 32);
    const std::vector<char> exact(bytes.begin(), bytes.end());  // so that ASan sees a read behind it
    for (const auto& [message, parse] : kAllMessages) parse({exact.data(), exact.size()});
    DeletedOf({exact.data(), exact.size()});
  }
}

}  // namespace
}  // namespace fastkv
