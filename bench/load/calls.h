// gRPC calls on a Loop: messages out of DATA frames, unary calls one after another, and the check of revisions.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "histogram.h"
#include "loop.h"
#include "messages.h"

namespace fastkv::load {

inline constexpr char kPut[] = "/etcdserverpb.KV/Put";
inline constexpr char kRange[] = "/etcdserverpb.KV/Range";
inline constexpr char kRangeStream[] = "/etcdserverpb.KV/RangeStream";
inline constexpr char kTxn[] = "/etcdserverpb.KV/Txn";
inline constexpr char kCompact[] = "/etcdserverpb.KV/Compact";
inline constexpr char kWatch[] = "/etcdserverpb.Watch/Watch";
inline constexpr char kLeaseGrant[] = "/etcdserverpb.Lease/LeaseGrant";
inline constexpr char kLeaseKeepAlive[] = "/etcdserverpb.Lease/LeaseKeepAlive";

// Cuts a stream's DATA into messages. One that lies whole in a frame is not copied.
class MessageReader {
 public:
  template <typename OnMessage>
  void Feed(std::string_view bytes, OnMessage on_message) {
    if (!kept_.empty()) {
      kept_.append(bytes);
      bytes = kept_;
    }
    size_t at = 0;
    while (bytes.size() - at >= 5) {
      const uint32_t length = __builtin_bswap32(LoadU32(bytes.data() + at + 1));
      if (bytes[at] != 0) throw Failure("a compressed message, which nobody asked for");
      if (bytes.size() - at - 5 < length) break;
      on_message(bytes.substr(at + 5, length));
      at += 5 + length;
    }
    if (kept_.empty()) {
      kept_ = bytes.substr(at);
    } else {
      kept_.erase(0, at);
    }
  }
  bool empty() const { return kept_.empty(); }

 private:
  std::string kept_;
};

// A unary call; reusable once it is done.
class Unary : public Stream {
 public:
  // on_answer(message) checks; on_done() is called when the trailers said OK. Anything else throws Failure.
  void Start(Loop* loop, size_t connection, const char* path, std::string_view request);
  void OnData(std::string_view bytes) override;
  void OnEnd(int grpc_status, const std::string& text) override;

 protected:
  virtual void OnAnswer(std::string_view message) = 0;
  virtual void OnDone() = 0;

 private:
  MessageReader reader_;
  int answers_ = 0;
};

// One call on its own: the answer's bytes.
std::string Call(Loop* loop, size_t connection, const char* path, std::string_view request);

// The store's revision, by a linearizable range.
int64_t CurrentRevision(Loop* loop);

// Holds a run's writes against the revisions that the server gave them.
//
// Invariants: a write's revision is above every revision known when it was sent; all writes together have exactly the
// revisions first+1 .. first+count, which their sum proves, given that they lie within.
class RevisionLedger {
 public:
  void Begin(int64_t revision) { first_ = seen_ = revision; }
  int64_t seen() const { return seen_; }
  uint64_t writes() const { return writes_; }

  void Write(int64_t revision, int64_t seen_when_sent) {
    if (revision <= seen_when_sent) throw Failure("a write got a revision that was taken when it was sent");
    writes_++;
    sum_ += static_cast<uint64_t>(revision - first_);
    if (revision > seen_) seen_ = revision;
  }
  void Read(int64_t revision, int64_t seen_when_sent) {
    if (revision < seen_when_sent) throw Failure("a read saw a revision older than one answered before it was sent");
    if (revision > seen_) seen_ = revision;
  }
  // `revision`: the store's after all writes were answered. shared: others have written, too; then it is only known
  // that ours are among them.
  void End(int64_t revision, bool shared = false) const;

 private:
  int64_t first_ = 0;
  int64_t seen_ = 0;
  uint64_t writes_ = 0;
  uint64_t sum_ = 0;
};

}  // namespace fastkv::load
