// Watch on a transport of vectors: ids, order, catching up, progress, fragments, and a client that does not read.

#include <gtest/gtest.h>

#include "mvcc/store.h"
#include "tests/commands.h"
#include "tests/front_fakes.h"

namespace fastkv::front {
namespace {

using namespace fastkv::testing;

struct Asked {
  int64_t start = 0, id = 0;
  bool progress_notify = false, prev_kv = false, fragment = false;
  std::string filters = {};  // packed
};

std::string CreateBytes(std::string_view key, std::string_view range_end = {}, const Asked& asked = {}) {
  std::string bytes;
  const size_t begin = BeginMessage(&bytes, 1);
  AppendBytes(&bytes, 1, key);
  AppendBytes(&bytes, 2, range_end);
  AppendNumber(&bytes, 3, asked.start);
  AppendBool(&bytes, 4, asked.progress_notify);
  AppendBytes(&bytes, 5, asked.filters);
  AppendBool(&bytes, 6, asked.prev_kv);
  AppendNumber(&bytes, 7, asked.id);
  AppendBool(&bytes, 8, asked.fragment);
  EndMessage(&bytes, begin);
  return bytes;
}
std::string CancelBytes(int64_t id) {
  std::string body, bytes;
  AppendNumber(&body, 1, id);
  AppendBytesAlways(&bytes, 2, body);
  return bytes;
}
const std::string kProgress("\x1a\x00", 2);

class WatchTest : public ServiceTest {
 protected:
  FakeCall* Watch() { return Open("/etcdserverpb.Watch/Watch"); }
  int64_t Put(std::string_view key, std::string_view value = "v") {
    return Ok(Ask("/etcdserverpb.KV/Put", PutBytes(key, value))).revision();
  }
  void Created(FakeCall* watch, int64_t id) {
    const Fields made = watch->Next();
    EXPECT_EQ(made.number(3), 1);
    EXPECT_EQ(made.number(4), 0);
    EXPECT_EQ(made.number(2), id);
  }
  // Turns until the stream has had so many messages.
  void Messages(FakeCall* watch, size_t count) {
    TurnUntil([watch, count] { return watch->messages.size() >= count; });
  }
  static size_t EventsOf(const FakeCall& call) {
    size_t events = 0;
    for (const std::string& message : call.messages) events += Fields(message).count(11);
    return events;
  }
  static int64_t ModRevision(const std::string& event) { return Fields(Fields(event).bytes(2)).number(3); }
};

TEST_F(WatchTest, IdsCountFromZeroAndBadCreatesKeepTheStreamOpen) {
  Begin();
  FakeCall* const watch = Watch();
  Send(watch, CreateBytes("w"));
  Send(watch, CreateBytes("w", "x", {.id = 2}));
  Send(watch, CreateBytes("w"));
  Send(watch, CreateBytes("w"));
  for (const int64_t id : {0, 2, 1, 3}) Created(watch, id);
  const std::pair<std::string, std::string> refused[] = {
      {CreateBytes("w", {}, {.id = 2}), "mvcc: duplicate watch ID provided on the WatchStream"},
      {CreateBytes("x", "a"), "mvcc: watcher range is empty"},
      {CreateBytes("x", {}, {.start = -1}), "etcdserver: mvcc: required revision has been compacted"},
  };
  for (const auto& [request, reason] : refused) {
    Send(watch, request);
    const Fields answer = watch->Next();
    EXPECT_EQ(answer.number(2), -1);
    EXPECT_EQ(answer.number(3), 1);
    EXPECT_EQ(answer.number(4), 1);
    EXPECT_EQ(answer.bytes(6), reason);
    EXPECT_EQ(answer.revision(), 1);
  }
  Send(watch, CancelBytes(77));
  Send(watch, "");
  EXPECT_TRUE(watch->done());
  Send(watch, "\x0a\xff");
  EXPECT_EQ(watch->code, GrpcCode::kInternal);
  EXPECT_EQ(watch->text,
            "grpc: failed to unmarshal the received message: proto: cannot parse invalid wire-format data");
}

TEST_F(WatchTest, EventsComeInOrderAfterCreated) {
  Begin();
  Put("a");
  FakeCall* const watch = Watch();
  Send(watch, CreateBytes("a", "c", {.start = 2, .prev_kv = true}));
  Created(watch, 0);
  const Fields past = watch->Next();
  EXPECT_EQ(past.count(11), 1u);
  const int64_t revision = Put("a", "w");
  Messages(watch, 3);
  const Fields live = watch->Next();
  EXPECT_EQ(live.revision(), revision);
  EXPECT_EQ(ModRevision(live.bytes(11)), revision);
  EXPECT_EQ(Fields(Fields(live.bytes(11)).bytes(3)).bytes(5), "v");
  Put("d");
  Send(watch, CancelBytes(0));
  const Fields gone = watch->Next();
  EXPECT_EQ(gone.number(4), 1);
  EXPECT_EQ(gone.revision(), 4);
  Put("a");
  Turn();
  EXPECT_TRUE(watch->done());
}

TEST_F(WatchTest, AnEventGoesToEachWatcherByItself) {
  Begin();
  FakeCall* const first = Watch();
  FakeCall* const second = Watch();
  Send(first, CreateBytes("a"));
  Send(first, CreateBytes("a", "b"));
  Send(second, CreateBytes("", kAll, {.filters = std::string("\0", 1)}));  // no puts
  Put("a");
  Messages(first, 4);
  EXPECT_EQ(second->messages.size(), 1u);
  Ok(Ask("/etcdserverpb.KV/DeleteRange", DeleteBytes("a")));
  Messages(first, 6);
  Messages(second, 2);
  End(first);
  Put("a");
  Ok(Ask("/etcdserverpb.KV/DeleteRange", DeleteBytes("a")));
  Messages(second, 3);
  EXPECT_EQ(backend.db().hub().size(), 1u);
}

TEST_F(WatchTest, AStartThatIsCompactedEndsTheWatch) {
  Begin();
  for (int i = 0; i < 4; ++i) Put("a");
  Ok(Ask("/etcdserverpb.KV/Compact", CompactionBytes(4)));
  FakeCall* const watch = Watch();
  Send(watch, CreateBytes("a", {}, {.start = 2}));
  Created(watch, 0);
  const Fields ended = watch->Next();
  EXPECT_EQ(ended.number(4), 1);
  EXPECT_EQ(ended.number(5), 4);
  EXPECT_EQ(ended.revision(), 0);
  EXPECT_EQ(ended.bytes(6), "");
  Send(watch, CreateBytes("a"));
  Created(watch, 1);
}

TEST_F(WatchTest, ProgressFollowsEveryEventAndSpeaksForAll) {
  Begin();
  FakeCall* const watch = Watch();
  Send(watch, kProgress);
  EXPECT_TRUE(watch->done()) << "progress of no watcher";
  Send(watch, CreateBytes("a"));
  Created(watch, 0);
  const int64_t revision = Put("other");
  Send(watch, kProgress);
  const Fields progress = watch->Next();
  EXPECT_EQ(progress.number(2), -1);
  EXPECT_EQ(progress.revision(), revision);
  EXPECT_EQ(progress.count(11), 0u);
  Send(watch, CreateBytes("a", {}, {.start = revision + 100}));
  Created(watch, 1);
  Send(watch, kProgress);
  EXPECT_TRUE(watch->done()) << "a watcher waits for the future";
}

TEST_F(WatchTest, AClientThatDoesNotReadHoldsBackItsOwnStreamOnly) {
  Begin();
  FakeCall* const slow = Watch();
  FakeCall* const quick = Watch();
  Send(slow, CreateBytes("a"));
  Send(quick, CreateBytes("a"));
  constexpr size_t kPuts = 40;
  const std::string value(100 << 10, 'v');
  for (size_t i = 0; i < kPuts; ++i) {
    Put("a", value);
    quick->unsent = 0;
  }
  TurnUntil([quick] { return EventsOf(*quick) == kPuts; });
  EXPECT_LT(slow->unsent, kUnsentHighBytes + value.size() + 1'000);
  const size_t takes = backend.takes;
  Put("a", value);
  TurnUntil([quick] { return EventsOf(*quick) == kPuts + 1; });
  EXPECT_EQ(backend.takes, takes + 1) << "events are taken that nobody reads";
  const auto read_until = [&](const std::function<bool()>& done) {
    for (size_t reads = 0; reads < 10 * kPuts && !done(); ++reads) {
      slow->unsent = 0;
      slow->handler->OnWritable();
      Turn();
    }
    ASSERT_TRUE(done());
  };
  read_until([slow] { return EventsOf(*slow) == kPuts + 1; });
  Send(slow, kProgress);
  read_until([slow] { return Fields(slow->messages.back()).number(2) == -1; });
  Created(slow, 0);
  int64_t last = 1;
  while (slow->messages.size() - slow->seen > 1) {
    const Fields response = slow->Next();
    ASSERT_GT(response.count(11), 0u);
    for (const std::string& event : response.all.at(11)) EXPECT_EQ(ModRevision(event), ++last);
    EXPECT_EQ(response.revision(), last);
  }
  EXPECT_EQ(last, 1 + static_cast<int64_t>(kPuts) + 1);
  const Fields progress = slow->Next();
  EXPECT_EQ(progress.number(2), -1);
  EXPECT_EQ(progress.revision(), last);
}

TEST_F(WatchTest, ALargeResponseIsCutForWhoAsked) {
  ServiceOptions options = TestOptions();
  options.watch.fragment_bytes = 1'000;
  Begin(options);
  std::string txn;
  for (int i = 0; i < 10; ++i)
    AppendOp(&txn, 2, RequestOp::kPut, PutBytes("k" + std::to_string(i), std::string(300, 'v')));
  FakeCall* const watch = Watch();
  Send(watch, CreateBytes("k", "l", {.fragment = true}));
  Send(watch, CreateBytes("k", "l"));
  Created(watch, 0);
  Created(watch, 1);
  Ok(Ask("/etcdserverpb.KV/Txn", txn));
  TurnUntil([watch] { return Fields(watch->messages.back()).number(2) == 1; });
  size_t events = 0, pieces = 0;
  for (; watch->messages.size() - watch->seen > 1; ++pieces) {
    EXPECT_LT(watch->messages[watch->seen].size(), 1'000u);
    const Fields piece = watch->Next();
    events += piece.count(11);
    EXPECT_EQ(piece.number(7), events < 10 ? 1 : 0);
  }
  EXPECT_EQ(events, 10u);
  EXPECT_GT(pieces, 3u);
  EXPECT_EQ(watch->Next().count(11), 10u) << "cut although nobody asked";
}

TEST_F(WatchTest, AQuietWatcherHearsHowFarItIs) {
  ServiceOptions options = TestOptions();
  options.watch.progress_interval_ns = 1'000'000;
  Begin(options);
  FakeCall* const watch = Watch();
  Send(watch, CreateBytes("a", {}, {.progress_notify = true}));
  Send(watch, CreateBytes("a"));
  Messages(watch, 4);
  Created(watch, 0);
  Created(watch, 1);
  for (int i = 0; i < 2; ++i) {
    const Fields notice = watch->Next();
    EXPECT_EQ(notice.number(2), 0);
    EXPECT_EQ(notice.count(11), 0u);
    EXPECT_EQ(notice.revision(), 1);
  }
}

TEST_F(WatchTest, WhoMayNotWatchIsToldWhy) {
  ServiceOptions options = TestOptions();
  options.watch.refusal = [](const Call&, std::string_view key, std::string_view) {
    return std::string(key == "secret" ? "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
                                       : "");
  };
  Begin(options);
  FakeCall* const watch = Watch();
  Send(watch, CreateBytes("secret"));
  EXPECT_EQ(watch->Next().bytes(6), "rpc error: code = PermissionDenied desc = etcdserver: permission denied");
  Send(watch, CreateBytes("open"));
  Created(watch, 0);
}

// One look reads so many records: what is not wanted must not end the catching up.
TEST_F(WatchTest, CatchingUpOverWhatOthersWroteGoesOnByItself) {
  Begin();
  for (int i = 0; i < 250; ++i) {
    std::string txn;
    for (int op = 0; op < 100; ++op) {
      AppendOp(&txn, 2, RequestOp::kPut, PutBytes("other" + std::to_string(op), ""));
    }
    Ok(Ask("/etcdserverpb.KV/Txn", txn));
  }
  const int64_t revision = Put("wanted");
  FakeCall* const watch = Watch();
  Send(watch, CreateBytes("wanted", {}, {.start = 2}));
  Messages(watch, 2);
  Created(watch, 0);
  EXPECT_EQ(ModRevision(watch->Next().bytes(11)), revision);
}

}  // namespace
}  // namespace fastkv::front
