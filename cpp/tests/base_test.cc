// Coding and crc32c: known answers, round trips, and readers on hostile bytes; work in several threads.

#include <gtest/gtest.h>

#include <atomic>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/coding.h"
#include "base/crc32c.h"
#include "base/parallel.h"

namespace fastkv {
namespace {

TEST(Crc32c, KnownAnswers) {
  EXPECT_EQ(Crc32c(""), 0u);
  EXPECT_EQ(Crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8A9136AAu);  // RFC 3720, B.4
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62A8AB43u);
}

TEST(Crc32c, HardwareAndTableAgreeOnEveryLengthAndAlignment) {
  std::mt19937_64 random(1);
  std::string bytes(600, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  for (size_t from = 0; from < 9; ++from) {
    for (size_t length = 0; from + length <= 300; ++length) {
      const auto start = static_cast<uint32_t>(random());
      ASSERT_EQ(Crc32cExtend(start, bytes.data() + from, length),
                crc32c_internal::ExtendTable(start, bytes.data() + from, length));
    }
  }
}

TEST(Crc32c, ExtendAndCombineEqualTheWhole) {
  std::mt19937_64 random(2);
  std::string bytes(100'000, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  const uint32_t whole = Crc32c(bytes);
  for (int i = 0; i < 200; ++i) {
    const size_t cut = random() % (bytes.size() + 1);
    const std::string_view a = std::string_view(bytes).substr(0, cut), b = std::string_view(bytes).substr(cut);
    ASSERT_EQ(Crc32cExtend(Crc32c(a), b), whole);
    ASSERT_EQ(Crc32cCombine(Crc32c(a), Crc32c(b), b.size()), whole);
  }
}

TEST(Coding, FixedIntegersAreLittleEndian) {
  std::string out;
  PutU32(&out, 0x04030201);
  PutU64(&out, 0x0c0b0a0908070605);
  PutI64(&out, -2);
  EXPECT_EQ(out.substr(0, 12), std::string("\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c"));
  ByteReader in(out);
  uint32_t u32;
  uint64_t u64;
  int64_t i64;
  ASSERT_TRUE(in.U32(&u32) && in.U64(&u64) && in.I64(&i64) && in.done());
  EXPECT_EQ(u32, 0x04030201u);
  EXPECT_EQ(u64, 0x0c0b0a0908070605u);
  EXPECT_EQ(i64, -2);
}

TEST(Coding, VarintsRoundTripAtEveryWidth) {
  for (int bits = 0; bits <= 64; ++bits) {
    for (const uint64_t delta : {0, 1, 2}) {
      const uint64_t value = (bits == 64 ? 0 : uint64_t{1} << bits) - delta;
      std::string out;
      PutVarint(&out, value);
      EXPECT_EQ(out.size(), VarintLength(value));
      ByteReader in(out);
      uint64_t back;
      ASSERT_TRUE(in.Varint(&back) && in.done());
      EXPECT_EQ(back, value);
    }
  }
}

TEST(Coding, VarintsThatDoNotFitOrEndAreRefused) {
  for (const std::string& bytes :
       {std::string(), std::string("\x80"), std::string(9, '\xff') + "\x02", std::string(10, '\x80') + "\x01"}) {
    ByteReader in(bytes);
    uint64_t value;
    EXPECT_FALSE(in.Varint(&value));
    EXPECT_TRUE(in.failed());
    EXPECT_EQ(in.rest().size(), bytes.size());  // a failed read consumes nothing
  }
  ByteReader in(std::string_view("\x81\x00", 2));  // longer than needed, as protobuf accepts it
  uint64_t value;
  EXPECT_TRUE(in.Varint(&value));
  EXPECT_EQ(value, 1u);
}

TEST(Coding, LengthsBeyondTheBytesAreRefusedAndTheFailureSticks) {
  std::string out;
  PutVarint(&out, UINT64_MAX);
  out += "abc";
  ByteReader in(out);
  std::string_view bytes;
  EXPECT_FALSE(in.LengthPrefixed(&bytes));
  EXPECT_EQ(in.rest().size(), out.size());
  uint64_t value;
  EXPECT_FALSE(in.Varint(&value));
  EXPECT_FALSE(in.done());
}

TEST(Parallel, EveryPieceIsDoneOnceHoweverManyWork) {
  for (const size_t workers : {size_t{1}, size_t{2}, size_t{7}}) {
    std::vector<std::atomic<int>> done(100);
    RunParallel(workers, done.size(), [&done](size_t i) { ++done[i]; });
    for (const auto& times : done) EXPECT_EQ(times, 1);
  }
  RunParallel(3, 0, [](size_t) { FAIL(); });
}

TEST(Parallel, WithOneWorkerThePiecesRunHereInOrder) {
  std::vector<size_t> order;
  const auto here = std::this_thread::get_id();
  RunParallel(1, 5, [&](size_t i) {
    EXPECT_EQ(std::this_thread::get_id(), here);
    order.push_back(i);
  });
  EXPECT_EQ(order, (std::vector<size_t>{0, 1, 2, 3, 4}));
}

TEST(Parallel, AnExceptionReachesTheCaller) {
  EXPECT_THROW(RunParallel(3, 50,
                           [](size_t i) {
                             if (i == 20) throw std::bad_alloc();
                           }),
               std::bad_alloc);
}

TEST(Parallel, WorkersAreAtLeastOneAndAtMostWhatIsWanted) {
  EXPECT_EQ(Workers(0), 1u);
  EXPECT_EQ(Workers(1), 1u);
  EXPECT_LE(Workers(2), 2u);
}

}  // namespace
}  // namespace fastkv
