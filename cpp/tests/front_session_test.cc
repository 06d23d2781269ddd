// gRPC over one HTTP/2 session: what a client sees, one behaviour a test. No socket, no thread, no time but the test's.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "front/limits.h"
#include "front/session.h"
#include "tests/front_harness.h"

namespace fastkv::front {
namespace {

using namespace std::string_literals;
using Log = std::vector<std::string>;

TEST(FrontUnary, AnswerIsHeadersMessageAndTrailers) {
  Harness h;
  const int32_t id = h.client.Call("/stub.Stub/Echo", Framed("hello"));
  h.Exchange();
  const ClientAnswer& answer = h.client.answers[id];
  const Headers expected = {
      {":status", "200"}, {"content-type", "application/grpc"}, {"grpc-status", "0"}, {"grpc-message", ""}};
  EXPECT_EQ(answer.headers, expected);
  EXPECT_EQ(answer.messages(), Log{"hello"});
  EXPECT_TRUE(answer.closed);
  EXPECT_EQ(h.state.calls.size(), 0u);
}

TEST(FrontUnary, EmptyMessageIsAMessage) {
  Harness h;
  const int32_t id = h.client.Call("/stub.Stub/Echo", Framed(""));
  h.Exchange();
  EXPECT_EQ(h.client.answers[id].messages(), Log{""});
  EXPECT_EQ(h.client.answers[id].status(), 0);
}

TEST(FrontUnary, ErrorIsTrailersOnlyWithAPercentEncodedText) {
  Harness h;
  const int32_t id = h.client.Call("/stub.Stub/Echo", Framed("error:9:50% d\xc3\xa9j\xc3\xa0\n"));
  h.Exchange();
  const ClientAnswer& answer = h.client.answers[id];
  EXPECT_EQ(answer.status(), 9);
  EXPECT_EQ(answer.text(), "50%25 d%C3%A9j%C3%A0%0A");
  EXPECT_TRUE(answer.data.empty());
  EXPECT_EQ(answer.headers.size(), 4u);
}

TEST(FrontUnary, LaterAnswersFindTheirCallsInAnyOrder) {
  Harness h;
  std::vector<int32_t> ids;
  for (int i = 0; i < 5; ++i) ids.push_back(h.client.Call("/stub.Stub/Later", Framed(std::to_string(i))));
  h.Exchange();
  ASSERT_EQ(h.service.waiting.size(), 5u);
  for (const int i : {3, 0, 4})
    h.Answer(h.service.waiting[static_cast<size_t>(i)], GrpcCode::kOk, "r" + std::to_string(i));
  h.Answer(h.service.waiting[1], GrpcCode::kUnavailable, "no");
  h.Exchange();
  EXPECT_EQ(h.client.answers[ids[3]].messages(), Log{"r3"});
  EXPECT_EQ(h.client.answers[ids[0]].messages(), Log{"r0"});
  EXPECT_EQ(h.client.answers[ids[1]].status(), 14);
  EXPECT_FALSE(h.client.answers[ids[2]].closed);
  EXPECT_EQ(h.state.calls.size(), 1u);
}

TEST(FrontUnary, AnsweringTwiceIsNothing) {
  Harness h;
  const int32_t id = h.client.Call("/stub.Stub/Later", Framed("x"));
  h.Exchange();
  const uint64_t call_id = h.service.waiting[0];
  h.Answer(call_id, GrpcCode::kOk, "one");
  h.Answer(call_id, GrpcCode::kOk, "two");
  h.Exchange();
  h.Answer(call_id, GrpcCode::kOk, "three");
  h.Exchange();
  EXPECT_EQ(h.client.answers[id].messages(), Log{"one"});
  EXPECT_TRUE(h.service.gone.empty());
}

TEST(FrontMetrics, EveryCallIsCountedOnceByHowItEnded) {
  Harness h;
  const Method& echo = *h.service.Find("/stub.Stub/Echo");
  const Method& later = *h.service.Find("/stub.Stub/Later");
  const Method& stream = *h.service.Find("/stub.Stub/Stream");
  const auto totals = [&](const Method& method) {
    MethodTotals totals;
    h.state.metrics.AddTo(method.number, &totals);
    return totals;
  };
  h.client.Call("/stub.Stub/Echo", Framed("x"));
  h.client.Call("/stub.Stub/Echo", Framed("error:9:no"));
  h.client.Call("/stub.Stub/Echo", "");  // refused by the transport
  h.client.Call("/stub.Stub/None", Framed("x"));
  h.Exchange();
  EXPECT_EQ(totals(echo).started, 3u);
  EXPECT_EQ(totals(echo).handled[0], 1u);
  EXPECT_EQ(totals(echo).handled[9], 1u);
  EXPECT_EQ(totals(echo).handled[2], 1u);
  EXPECT_EQ(totals(echo).messages_received, 2u);
  EXPECT_EQ(totals(echo).messages_sent, 1u);

  const int32_t reset = h.client.Call("/stub.Stub/Later", Framed("x"));
  h.client.Call("/stub.Stub/Later", Framed("x"), {{"grpc-timeout", "40m"}});
  h.client.Call("/stub.Stub/Later", Framed("x"));
  h.Exchange();
  h.client.Reset(reset);
  h.Exchange();
  h.Pass(41);
  h.Exchange();
  h.Answer(h.service.waiting[2], GrpcCode::kOk, "late");
  h.Answer(h.service.waiting[2], GrpcCode::kOk, "twice");
  h.Exchange();
  EXPECT_EQ(totals(later).started, 3u);
  EXPECT_EQ(totals(later).handled[1], 1u);
  EXPECT_EQ(totals(later).handled[4], 1u);
  EXPECT_EQ(totals(later).handled[0], 1u);
  EXPECT_EQ(totals(later).took[3], 2u) << "between 25 and 50 ms: the late one and the one without an answer";
  EXPECT_GE(totals(later).took_ns, 2u * 41'000'000);

  h.client.Call("/stub.Stub/Stream", Framed("a") + Framed("b") + Framed("c"), {}, false);
  h.Exchange();
  EXPECT_EQ(totals(stream).messages_received, 3u);
  EXPECT_EQ(totals(stream).messages_sent, 3u);
  h.session->Abort();
  EXPECT_EQ(totals(stream).handled[1], 1u);
}

struct Wrong {
  std::string name;
  std::string path;
  std::string bytes;
  Headers more;
  int status;
  std::string text;
};

class FrontRefusal : public testing::TestWithParam<Wrong> {};

// Texts: run against grpc-go's.
TEST_P(FrontRefusal, HasGoServersCodeAndText) {
  const Wrong& wrong = GetParam();
  Harness h({.receive_bytes_max = 2097152});
  const int32_t id = h.client.Call(wrong.path, wrong.bytes, wrong.more);
  h.Exchange();
  const ClientAnswer& answer = h.client.answers[id];
  EXPECT_EQ(answer.status(), wrong.status);
  EXPECT_EQ(answer.text(), wrong.text);
  EXPECT_TRUE(answer.closed);
  EXPECT_TRUE(h.service.gone.empty());
  EXPECT_EQ(h.state.calls.size(), 0u);
  EXPECT_TRUE(h.open);
}

INSTANTIATE_TEST_SUITE_P(
    All, FrontRefusal,
    testing::Values(
        Wrong{"service", "/no.Service/M", Framed(""), {}, 12, "unknown service no.Service"},
        Wrong{"method", "/stub.Stub/No", Framed(""), {}, 12, "unknown method No for service stub.Stub"},
        Wrong{"malformed", "/nope", Framed(""), {}, 12, "malformed method name: \"/nope\""},
        Wrong{"empty", "/stub.Stub/Echo", "", {}, 2, "EOF"},
        Wrong{"cut", "/stub.Stub/Echo", Framed("hello").substr(0, 8), {}, 2, "unexpected EOF"},
        Wrong{"cut_prefix", "/stub.Stub/Echo", Framed("hello").substr(0, 3), {}, 2, "unexpected EOF"},
        Wrong{"cut_stream", "/stub.Stub/Stream", Framed("hello").substr(0, 8), {}, 13, "unexpected EOF"},
        Wrong{"two",
              "/stub.Stub/Later",
              Framed("a") + Framed("b"),
              {},
              13,
              "cardinality violation: received multiple request messages for non-client-streaming RPC"},
        Wrong{"compressed",
              "/stub.Stub/Echo",
              "\1" + Framed("hello").substr(1),
              {},
              13,
              "grpc: compressed flag set with identity or empty encoding"},
        Wrong{"flag",
              "/stub.Stub/Echo",
              "\7" + Framed("hello").substr(1),
              {},
              13,
              "grpc: received unexpected payload format 7"},
        Wrong{"encoding",
              "/stub.Stub/Echo",
              Framed("hello"),
              {{"grpc-encoding", "snappy"}},
              12,
              "grpc: Decompressor is not installed for grpc-encoding \"snappy\""},
        Wrong{"large",
              "/stub.Stub/Echo",
              std::string("\0\0\x20\0\1", 5),
              {},
              8,
              "grpc: received message larger than max (2097153 vs. 2097152)"},
        Wrong{"huge",
              "/stub.Stub/Stream",
              "\0\xff\xff\xff\xff"s,
              {},
              8,
              "grpc: received message larger than max (4294967295 vs. 2097152)"},
        Wrong{"timeout_short",
              "/stub.Stub/Echo",
              Framed(""),
              {{"grpc-timeout", "S"}},
              13,
              "malformed grpc-timeout: transport: timeout string is too short: \"S\""},
        Wrong{"timeout_unit",
              "/stub.Stub/Echo",
              Framed(""),
              {{"grpc-timeout", "10x"}},
              13,
              "malformed grpc-timeout: transport: timeout unit is not recognized: \"10x\""},
        Wrong{"timeout_digits",
              "/stub.Stub/Echo",
              Framed(""),
              {{"grpc-timeout", "1x0m"}},
              13,
              "malformed grpc-timeout: strconv.ParseUint: parsing \"1x0\": invalid syntax"},
        Wrong{"timeout_zero", "/stub.Stub/Echo", Framed(""), {{"grpc-timeout", "0S"}}, 4, "context deadline exceeded"}),
    [](const auto& info) { return info.param.name; });

TEST(FrontRequest, OtherContentTypeIs415AndOtherMethodIs405) {
  Harness h;
  Headers headers = Client::Usual("/stub.Stub/Echo");
  headers[5].second = "application/json";
  const int32_t json = h.client.Request(headers, "{}");
  headers[5].second = "application/grpc+proto";
  headers[0].second = "PUT";
  const int32_t put = h.client.Request(headers, Framed(""));
  headers[0].second = "POST";
  const int32_t subtype = h.client.Request(headers, Framed("ok"));
  h.Exchange();
  EXPECT_EQ(h.client.answers[json].Header(":status"), "415");
  EXPECT_EQ(h.client.answers[json].status(), 3);
  EXPECT_EQ(h.client.answers[json].text(), "invalid gRPC request content-type \"application/json\"");
  EXPECT_EQ(h.client.answers[put].Header(":status"), "405");
  EXPECT_EQ(h.client.answers[put].text(), "Received a HEADERS frame with :method \"PUT\" which should be POST");
  EXPECT_EQ(h.client.answers[subtype].messages(), Log{"ok"});
}

TEST(FrontRequest, TooLargeMessageIsRefusedFromItsPrefix) {
  Harness h({.receive_bytes_max = 1000});
  const int32_t id =
      h.client.Call("/stub.Stub/Echo", std::string("\0\0\0\x03\xe9", 5), {}, false);  // and nothing of it
  h.Exchange();
  EXPECT_EQ(h.client.answers[id].status(), 8);
  EXPECT_EQ(h.client.answers[id].text(), "grpc: received message larger than max (1001 vs. 1000)");
  EXPECT_TRUE(h.client.answers[id].closed);  // RST_STREAM NO_ERROR: the client need not send it
  EXPECT_EQ(h.client.answers[id].error_code, uint32_t{NGHTTP2_NO_ERROR});
  EXPECT_EQ(h.state.calls.size(), 0u);
}

TEST(FrontRequest, MessageOfExactlyTheLimitPasses) {
  Harness h({.receive_bytes_max = 100'000});
  const std::string message(100'000, 'm');
  const int32_t id = h.client.Call("/stub.Stub/Echo", Framed(message));
  h.Exchange();
  EXPECT_EQ(h.client.answers[id].messages(), Log{message});
}

TEST(FrontRequest, MetadataKeepsOrderRepeatsAndDecodesBinary) {
  Harness h;
  h.client.Call("/stub.Stub/Echo", Framed(""),
                {{"token", "a.1"},
                 {"x-bin", "AAEC/w"},
                 {"token", "b.2"},
                 {"y-bin", "AAE="},
                 {"grpc-timeout", "10S"},
                 {"user-agent", "test"}});
  h.Exchange();
  const Metadata expected = {{"token", "a.1"}, {"x-bin", "\0\1\2\xff"s}, {"token", "b.2"}, {"y-bin", "\0\1"s}};
  EXPECT_EQ(h.service.metadata, expected);
  h.client.Call("/stub.Stub/Echo", Framed(""), {{"hasleader", "true"}});
  h.Exchange();
  EXPECT_EQ(h.service.metadata, (Metadata{{"hasleader", "true"}}));
}

TEST(FrontRequest, BadBinaryMetadataIsRefused) {
  Harness h;
  const int32_t id = h.client.Call("/stub.Stub/Echo", Framed(""), {{"x-bin", "A*=="}});
  h.Exchange();
  EXPECT_EQ(h.client.answers[id].Header(":status"), "400");
  EXPECT_EQ(h.client.answers[id].status(), 13);
}

TEST(FrontStream, MessagesComeOneByOneAndGoBack) {
  Harness h;
  const int32_t id = h.client.Call("/stub.Stub/Stream", Framed("one") + Framed("two"), {}, false);
  h.Exchange();
  h.client.Send(id, Framed("three").substr(0, 6));
  h.Exchange();
  h.client.Send(id, Framed("three").substr(6), true);
  h.Exchange();
  EXPECT_EQ(h.service.log, (Log{"open", "message one", "message two", "message three", "half-close", "end"}));
  EXPECT_EQ(h.client.answers[id].messages(), (Log{"one", "two", "three"}));
  EXPECT_EQ(h.client.answers[id].status(), 0);
}

TEST(FrontStream, FinishInsideOnMessageDropsTheRestAndEndsOnce) {
  Harness h;
  const int32_t id = h.client.Call("/stub.Stub/Stream", Framed("one") + Framed("fail") + Framed("two"), {}, false);
  h.Exchange();
  EXPECT_EQ(h.service.log, (Log{"open", "message one", "message fail", "end"}));
  EXPECT_EQ(h.client.answers[id].messages(), Log{"one"});
  EXPECT_EQ(h.client.answers[id].status(), 9);
  EXPECT_TRUE(h.client.answers[id].closed);
}

TEST(FrontStream, ProducerIsAskedForMoreAsTheClientTakesIt) {
  Harness h;
  const int32_t id = h.client.Call("/stub.Stub/Stream", Framed("send:5000000"));
  h.Exchange();
  size_t bytes = 0;
  for (const std::string& message : h.client.answers[id].messages()) bytes += message.size();
  EXPECT_EQ(bytes, 5'000'000u);
  EXPECT_EQ(h.client.answers[id].status(), 0);
  EXPECT_LE(h.service.unsent_max, kUnsentHighBytes + 1100);
}

TEST(FrontStream, StalledClientStopsTheProducerAndNobodyElse) {
  Harness h({}, 1000);
  const int32_t stalled = h.client.Call("/stub.Stub/Stream", Framed("send:5000000"));
  h.Exchange();
  EXPECT_EQ(h.client.answers[stalled].data.size(), 1000u);
  EXPECT_LE(h.session->queued_bytes(), kUnsentHighBytes + 1100);
  const int32_t other = h.client.Call("/stub.Stub/Echo", Framed("alive"));
  h.Exchange();
  EXPECT_EQ(h.client.answers[other].messages(), Log{"alive"});
  // A little window, a little data.
  nghttp2_submit_window_update(h.client.session, NGHTTP2_FLAG_NONE, stalled, 500);
  h.Exchange();
  EXPECT_EQ(h.client.answers[stalled].data.size(), 1500u);
  h.client.Reset(stalled);
  h.Exchange();
  EXPECT_EQ(h.session->queued_bytes(), 0u);
  EXPECT_EQ(h.service.log.back(), "end");
}

TEST(FrontStream, LargeAnswerLetsSmallOnesPass) {
  Harness h;
  const int32_t large = h.client.Call("/stub.Stub/Stream", Framed("send:900000"));
  h.Receive(h.client.Take());
  const std::string first = h.Write(100'000);  // some of it is on its way
  const int32_t small = h.client.Call("/stub.Stub/Echo", Framed("small"));
  h.client.Feed(first);
  h.Receive(h.client.Take());
  h.client.Feed(h.Write(200'000));
  EXPECT_EQ(h.client.answers[small].messages(), Log{"small"});
  EXPECT_FALSE(h.client.answers[large].closed);
  h.Exchange();
  EXPECT_TRUE(h.client.answers[large].closed);
}

TEST(FrontSplit, EveryWayToCutASessionGivesTheSameCalls) {
  // Recorded once: two unary calls, a stream of several messages in several frames, a cancel, a ping.
  Client recorder;
  recorder.Call("/stub.Stub/Echo", Framed("first"));
  const int32_t stream =
      recorder.Call("/stub.Stub/Stream", Framed("a") + Framed("") + Framed("bcd").substr(0, 4), {}, false);
  const int32_t canceled = recorder.Call("/stub.Stub/Later", Framed("never"), {{"token", "t"}});
  std::string session = recorder.Take();
  recorder.Send(stream, Framed("bcd").substr(4) + Framed(std::string(300, 'e')), true);
  recorder.Reset(canceled);
  recorder.Ping();
  recorder.Call("/stub.Stub/Echo", Framed("last"));
  session += recorder.Take();

  Harness whole;
  whole.Receive(session);
  const Log& expected = whole.service.log;
  ASSERT_EQ(expected.size(), 11u) << testing::PrintToString(expected);
  const auto outcome = [](Harness& h) {
    h.client.Feed(h.Write());
    return h.state.calls.size();
  };
  EXPECT_EQ(outcome(whole), 0u);
  Log sorted = expected;  // what ends in a turn is told after what came in it
  std::sort(sorted.begin(), sorted.end());
  for (size_t cut = 1; cut < session.size(); ++cut) {
    Harness h;
    h.Receive(std::string_view(session).substr(0, cut));
    h.Receive(std::string_view(session).substr(cut));
    ASSERT_EQ(outcome(h), 0u);
    std::sort(h.service.log.begin(), h.service.log.end());
    ASSERT_EQ(h.service.log, sorted) << "cut at " << cut;
  }
  for (const size_t piece : {1, 2, 3, 7}) {
    Harness h;
    h.Receive(session, piece);
    ASSERT_EQ(outcome(h), 0u);
    std::sort(h.service.log.begin(), h.service.log.end());
    ASSERT_EQ(h.service.log, sorted) << "pieces of " << piece;
  }
}

TEST(FrontDeadline, UnansweredCallEndsWithDeadlineExceeded) {
  Harness h;
  const int32_t id = h.client.Call("/stub.Stub/Later", Framed("x"), {{"grpc-timeout", "50m"}});
  h.Exchange();
  h.Pass(40);
  h.Exchange();
  EXPECT_FALSE(h.client.answers[id].closed);
  h.Pass(20);
  h.Exchange();
  EXPECT_EQ(h.client.answers[id].status(), 4);
  EXPECT_EQ(h.client.answers[id].text(), "context deadline exceeded");
  EXPECT_EQ(h.service.gone, h.service.waiting);
  h.Answer(h.service.waiting[0], GrpcCode::kOk, "late");
  h.Exchange();
  EXPECT_TRUE(h.client.answers[id].data.empty());
}

TEST(FrontDeadline, StreamEndsWithItsHandler) {
  Harness h;
  const int32_t id = h.client.Call("/stub.Stub/Stream", Framed("a"), {{"grpc-timeout", "1S"}}, false);
  h.Exchange();
  h.Pass(1001);
  h.Exchange();
  EXPECT_EQ(h.client.answers[id].messages(), Log{"a"});
  EXPECT_EQ(h.client.answers[id].status(), 4);
  EXPECT_EQ(h.service.log.back(), "end");
  EXPECT_EQ(h.state.calls.size(), 0u);
}

TEST(FrontDeadline, HalfSentAnswerIsReset) {
  for (const bool finished : {false, true}) {
    Harness h({}, 1000);
    const int32_t id = h.client.Call("/stub.Stub/Stream", Framed("send:100000"), {{"grpc-timeout", "1S"}}, finished);
    h.Exchange();
    h.Pass(1001);
    h.Exchange();
    EXPECT_TRUE(h.client.answers[id].closed);
    EXPECT_EQ(h.client.answers[id].error_code, uint32_t{NGHTTP2_CANCEL});
    EXPECT_EQ(h.service.log.back(), "end");
    EXPECT_EQ(h.session->queued_bytes(), 0u);
    EXPECT_EQ(h.state.calls.size(), 0u);
  }
}

TEST(FrontDeadline, PassesUnheardOnceAnswered) {
  Harness h;
  const int32_t id = h.client.Call("/stub.Stub/Echo", Framed("x"), {{"grpc-timeout", "50m"}});
  h.Exchange();
  h.Pass(100);
  h.Exchange();
  EXPECT_EQ(h.client.answers[id].status(), 0);
  EXPECT_TRUE(h.service.gone.empty());
}

TEST(FrontCancel, AtEveryStageNothingIsLeft) {
  // After the headers, within a message, before the answer, within the answer.
  for (const std::string& bytes : {""s, Framed("hello").substr(0, 7), Framed("hello")}) {
    for (const char* path : {"/stub.Stub/Later", "/stub.Stub/Stream"}) {
      for (const bool end : {false, true}) {
        if (end && bytes.size() < Framed("hello").size()) continue;
        SCOPED_TRACE(path + ("+" + std::to_string(bytes.size())));
        Harness h;
        const int32_t id = h.client.Call(path, bytes, {{"grpc-timeout", "1S"}}, end);
        h.Receive(h.client.Take());
        h.client.Reset(id);
        h.Exchange();
        EXPECT_EQ(h.state.calls.size(), 0u);
        EXPECT_EQ(h.state.partial_bytes, 0u);
        EXPECT_EQ(h.state.timers.NextMs(), INT64_MAX);
        EXPECT_EQ(h.service.gone, h.service.waiting);
        const auto times = [&h](const char* what) {
          return std::count(h.service.log.begin(), h.service.log.end(), what);
        };
        EXPECT_EQ(times("end"), path == "/stub.Stub/Stream"s ? 1 : 0);
      }
    }
  }
}

TEST(FrontCancel, WithinAnAnswerItsMemoryIsFreed) {
  Harness h({}, 1000);
  const int32_t id = h.client.Call("/stub.Stub/Later", Framed("x"));
  h.Exchange();
  h.Answer(h.service.waiting[0], GrpcCode::kOk, std::string(500'000, 'a'));
  h.Exchange();
  EXPECT_GT(h.session->queued_bytes(), 400'000u);
  h.client.Reset(id);
  h.Exchange();
  EXPECT_EQ(h.session->queued_bytes(), 0u);
  EXPECT_EQ(h.state.calls.size(), 0u);
  EXPECT_TRUE(h.service.gone.empty());  // it had been answered
}

TEST(FrontCancel, LostConnectionEndsEveryCall) {
  Harness h;
  h.client.Call("/stub.Stub/Later", Framed("x"));
  h.client.Call("/stub.Stub/Stream", Framed("y"), {}, false);
  h.Exchange();
  h.session->Abort();
  h.Turn();
  EXPECT_EQ(h.service.gone, h.service.waiting);
  EXPECT_EQ(h.service.log.back(), h.service.log[h.service.log.size() - 2] == "end" ? "gone" : "end");
  EXPECT_EQ(h.state.calls.size(), 0u);
}

TEST(FrontDrain, CallsUnderWayFinishAndNewOnesGoElsewhere) {
  Harness h;
  const int32_t id = h.client.Call("/stub.Stub/Later", Framed("x"));
  h.Exchange();
  h.session->Drain();
  // Two GOAWAYs: the first lets everything in that is on its way.
  h.client.Feed(h.Write());
  ASSERT_EQ(h.client.goaways.size(), 1u);
  EXPECT_EQ(h.client.goaways[0].last_stream_id, INT32_MAX);
  h.Exchange();
  ASSERT_EQ(h.client.goaways.size(), 2u);
  EXPECT_EQ(h.client.goaways[1].last_stream_id, id);
  EXPECT_EQ(h.client.goaways[1].error_code, uint32_t{NGHTTP2_NO_ERROR});
  EXPECT_FALSE(h.session->ended());
  h.Answer(h.service.waiting[0], GrpcCode::kOk, "done");
  h.Exchange();
  EXPECT_EQ(h.client.answers[id].messages(), Log{"done"});
  EXPECT_TRUE(h.session->ended());
}

TEST(FrontLimits, MoreStreamsThanAllowedAreRefused) {
  Harness h({.max_concurrent_streams = 2});
  // Before the client has read our SETTINGS.
  std::vector<int32_t> ids;
  for (int i = 0; i < 3; ++i) ids.push_back(h.client.Call("/stub.Stub/Later", Framed("x")));
  h.Exchange();
  EXPECT_EQ(h.service.waiting.size(), 2u);
  EXPECT_EQ(h.client.answers[ids[2]].error_code, uint32_t{NGHTTP2_REFUSED_STREAM});
}

}  // namespace
}  // namespace fastkv::front
