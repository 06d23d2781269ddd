// The requests that the front end reads itself, and how it writes answers: the counterpart of proto/messages.h for what
// never reaches the store. Parse takes hostile bytes; the rules are those of proto/messages.h.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "front/grpc_frame.h"
#include "proto/messages.h"

namespace fastkv::front {

// Command tags, as mvcc/store.h has them.
enum : uint64_t {
  kPutTag = 4,
  kDeleteRangeTag = 5,
  kTxnTag = 6,
  kCompactionTag = 7,
  kLeaseGrantTag = 8,
  kLeaseRevokeTag = 9,
  kAlarmTag = 10,
  kLeaseCheckpointTag = 11,
};

struct WatchCreateRequest {
  std::string_view key, range_end;
  int64_t start_revision = 0, watch_id = 0;
  bool progress_notify = false, prev_kv = false, fragment = false;
  bool no_put = false, no_delete = false;
  bool Parse(std::string_view bytes);
};

struct WatchRequest {
  enum Kind : uint8_t { kEmpty, kCreate, kCancel, kProgress };
  Kind kind = kEmpty;
  WatchCreateRequest create;
  int64_t cancel_id = 0;
  bool Parse(std::string_view bytes);
};

struct LeaseIdRequest {  // LeaseKeepAliveRequest
  int64_t id = 0;
  bool Parse(std::string_view bytes);
};

// What a TxnRequest is like, without looking further than that needs.
struct TxnShape {
  bool only_reads = true;   // every operation looks like a range; the store has the last word
  bool single_keys = true;  // and every one, and every compare, is of one key
  bool Parse(std::string_view bytes);
};

// Whether a request wants its answer from this member as it is, be it behind the others. Such a transaction holds
// nothing but serializable ranges (or nothing).
bool IsSerializableRange(std::string_view request);
bool IsSerializableTxn(std::string_view request);

// gRPC's length-prefixed message in place: room for the prefix, then the message, then EndFrame.
inline size_t BeginFrame(std::string* to) {
  const size_t begin = to->size();
  to->append(kPrefixBytes, '\0');
  return begin;
}
inline void EndFrame(std::string* to, size_t begin) {
  StorePrefix(to->data() + begin, to->size() - begin - kPrefixBytes);
}

}  // namespace fastkv::front
