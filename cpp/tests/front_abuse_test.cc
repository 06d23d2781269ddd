// What a hostile client may do to one session before it is told to go: limits.h, one limit a test.
#include <gtest/gtest.h>

#include <string>

#include "front/limits.h"
#include "tests/front_harness.h"

namespace fastkv::front {
namespace {

void ExpectCalm(const Harness& h, const std::string& reason) {
  EXPECT_FALSE(h.open);
  ASSERT_FALSE(h.client.goaways.empty());
  EXPECT_EQ(h.client.goaways.back().error_code, uint32_t{NGHTTP2_ENHANCE_YOUR_CALM});
  EXPECT_EQ(h.client.goaways.back().text, reason);
  EXPECT_EQ(h.session->fault(), reason);
  EXPECT_TRUE(h.session->ended());
}

std::string Frame(uint8_t type, uint8_t flags, uint32_t stream_id, std::string_view payload = {}) {
  std::string frame;
  for (const int shift : {16, 8, 0}) frame += static_cast<char>(payload.size() >> shift);
  frame += static_cast<char>(type);
  frame += static_cast<char>(flags);
  for (const int shift : {24, 16, 8, 0}) frame += static_cast<char>(stream_id >> shift);
  return frame.append(payload);
}

// Sends the bytes over and over, as one who never reads; returns how often until the server had enough.
int64_t Flood(Harness* h, const std::string& bytes, int64_t count) {
  h->Receive(h->client.Take());
  for (int64_t i = 0; i < count; ++i) {
    h->Receive(bytes);
    if (!h->open) {
      h->client.Feed(h->Write());
      return i;
    }
    if (i % 100 == 0) h->client.Feed(h->Write());
  }
  return count;
}

TEST(FrontAbuse, PingsWithoutACallAreTooManyAfterTwoStrikes) {
  Harness h;
  h.Exchange();
  for (int i = 0; i < 3; ++i) {  // the first is free, two may be early
    h.client.Ping();
    h.Exchange();
    ASSERT_TRUE(h.open);
  }
  EXPECT_EQ(h.client.pongs, 3);
  h.client.Ping();
  h.Exchange();
  ExpectCalm(h, "too_many_pings");
}

TEST(FrontAbuse, PingsFarEnoughApartDuringACallAreFine) {
  Harness h({.keepalive_min_time_ms = 5000});
  h.client.Call("/stub.Stub/Later", Framed("x"));
  h.Exchange();
  for (int i = 0; i < 20; ++i) {
    h.Pass(5001);
    h.client.Ping();
    h.Exchange();
  }
  EXPECT_TRUE(h.open);
  EXPECT_EQ(h.client.pongs, 20);
  for (int i = 0; i < 2; ++i) {
    h.Pass(1000);
    h.client.Ping();
    h.Exchange();
  }
  EXPECT_TRUE(h.open);
  h.Pass(1000);
  h.client.Ping();
  h.Exchange();
  ExpectCalm(h, "too_many_pings");
}

TEST(FrontAbuse, PingAfterDataMeasuresThePathAndIsForgiven) {
  Harness h;
  for (int i = 0; i < 50; ++i) {
    h.client.Call("/stub.Stub/Echo", Framed("x"));
    h.Exchange();
    h.client.Ping();
    h.Exchange();
  }
  EXPECT_TRUE(h.open);
}

TEST(FrontAbuse, PingsOverTlsAreForgivenAsEtcdDoesButNotWithoutEnd) {
  Harness h({}, 0, true);
  EXPECT_EQ(Flood(&h, Frame(NGHTTP2_PING, 0, 0, "12345678"), 1000), 1000);
  EXPECT_TRUE(h.open);
  EXPECT_LE(Flood(&h, Frame(NGHTTP2_PING, 0, 0, "12345678"), kControlBurst + 1), kControlBurst);
  ExpectCalm(h, "too_many_pings");
}

TEST(FrontAbuse, RapidResetEndsTheConnection) {
  Harness h;
  h.Exchange();
  int64_t resets = 0;
  for (; h.open && resets < 2 * kResetsBurst; ++resets) {
    const int32_t id = h.client.Call("/stub.Stub/Later", Framed("x"));
    const std::string request = h.client.Take();
    h.client.Reset(id);
    h.Receive(request + h.client.Take());
  }
  EXPECT_EQ(resets, kResetsBurst + 1);
  h.client.Feed(h.Write());
  ExpectCalm(h, "too_many_resets");
  EXPECT_EQ(h.service.gone.size(), static_cast<size_t>(resets));
}

TEST(FrontAbuse, ResetsAtAnHonestPaceAreFine) {
  Harness h;
  for (int64_t i = 0; i < 2 * kResetsBurst; ++i) {
    const int32_t id = h.client.Call("/stub.Stub/Later", Framed("x"));
    h.Exchange();
    h.client.Reset(id);
    h.Exchange();
    h.Pass(1000 / kResetsPerSecond + 1);
  }
  EXPECT_TRUE(h.open);
}

TEST(FrontAbuse, SettingsFloodEndsTheConnection) {
  Harness h;
  h.Receive(h.client.Take());
  std::string written;
  int64_t frames = 0;
  for (; h.open && frames < 2 * kControlBurst; ++frames) {
    h.Receive(Frame(NGHTTP2_SETTINGS, 0, 0));
    written = h.Write();
  }
  EXPECT_LE(frames, kControlBurst + 1);
  EXPECT_NE(written.find("too_many_control_frames"), std::string::npos);
  EXPECT_TRUE(h.session->ended());
}

TEST(FrontAbuse, EmptyDataFloodEndsTheConnection) {
  Harness h;
  const int32_t id = h.client.Call("/stub.Stub/Stream", Framed("x"), {}, false);
  h.Exchange();
  EXPECT_LE(Flood(&h, Frame(NGHTTP2_DATA, 0, static_cast<uint32_t>(id)), 2 * kControlBurst), kControlBurst + 1);
  ExpectCalm(h, "too_many_control_frames");
}

TEST(FrontAbuse, PriorityFloodEndsTheConnection) {
  Harness h;
  EXPECT_LE(Flood(&h, Frame(NGHTTP2_PRIORITY, 0, 5, std::string("\0\0\0\0\1", 5)), 2 * kControlBurst),
            kControlBurst + 1);
  ExpectCalm(h, "too_many_control_frames");
}

TEST(FrontAbuse, TooLargeHeaderListResetsTheStreamThenTheConnection) {
  Harness h({.header_bytes_max = 4096});
  h.Exchange();
  int64_t refused = 0;
  for (; h.open && refused < 1000; ++refused) {
    const int32_t id = h.client.Call("/stub.Stub/Echo", Framed("x"), {{"big", std::string(5000, 'b')}});
    h.Receive(h.client.Take());
    h.client.Feed(h.Write());
    ASSERT_TRUE(!h.open || h.client.answers[id].error_code == NGHTTP2_FRAME_SIZE_ERROR);
  }
  EXPECT_LE(refused, kControlBurst / kBadHeadersCost + 1);
  EXPECT_GE(refused, kControlBurst / kBadHeadersCost / 2);
  ExpectCalm(h, "too_large_headers");
  EXPECT_TRUE(h.service.log.empty());
}

TEST(FrontAbuse, HpackBombIsRefusedBeforeItIsUnpacked) {
  // One entry of 4,000 bytes in the dynamic table, then a reference of one byte to it, sixteen thousand times.
  Harness h;
  h.Receive(h.client.Take());
  std::string block =
      "\x40\x01"
      "a"
      "\x7f" +
      std::string(1, static_cast<char>(0xa0 + 1)) + "\x1e" + std::string(4000, 'v');
  block += std::string(12'000, '\xbe');
  h.Receive(Frame(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM, 1, block));
  h.client.Feed(h.Write());
  EXPECT_EQ(h.state.calls.size(), 0u);
  EXPECT_TRUE(h.service.log.empty());
}

TEST(FrontAbuse, ContinuationFloodEndsTheConnection) {
  Harness h;
  h.Receive(h.client.Take());
  h.Receive(Frame(NGHTTP2_HEADERS, 0, 1, "\x82"));
  EXPECT_TRUE(h.session->in_headers());
  int frames = 0;
  for (; h.open && frames < 100; ++frames) h.Receive(Frame(NGHTTP2_CONTINUATION, 0, 1, "\x86"));
  EXPECT_LT(frames, 100);
  EXPECT_TRUE(h.service.log.empty());
}

TEST(FrontAbuse, UnfinishedMessagesOfAConnectionAreBounded) {
  Harness h;
  h.Exchange();
  const size_t message = 2 << 20;
  size_t refused = 0;
  for (size_t i = 0; i < 2 * kPartialBytesMax / message && h.open; ++i) {
    const int32_t id =
        h.client.Call("/stub.Stub/Echo", Framed(std::string(message, 'p')).substr(0, message), {}, false);
    h.Exchange();
    refused += h.client.answers[id].status() == 8;
    ASSERT_LE(h.state.partial_bytes, kPartialBytesMax + message);
  }
  EXPECT_GT(refused, 0u);
  EXPECT_TRUE(h.open);
}

TEST(FrontAbuse, NotHttp2IsCutAtOnce) {
  Harness h;
  h.Receive("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n");
  EXPECT_FALSE(h.open);
  EXPECT_FALSE(h.session->fault().empty());
}

}  // namespace
}  // namespace fastkv::front
