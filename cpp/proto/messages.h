// The etcd messages that the store itself reads and writes, as views into the client's bytes.
//
// Parse() takes hostile bytes: false (never a crash or an exception) unless they are a well-formed protobuf message.
// Unknown fields, and known fields of another wire type, are skipped. Scalars: the last one wins, as in protobuf. The
// views live as long as the bytes that were parsed. Field numbers: etcd's mvccpb and etcdserverpb.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fastkv {

struct KeyValueMessage {
  std::string_view key, value;
  int64_t create_revision = 0, mod_revision = 0, version = 0, lease = 0;
  bool Parse(std::string_view bytes);
};

struct RangeRequest {
  enum SortOrder : int32_t { kNone, kAscend, kDescend };
  enum SortTarget : int32_t { kKey, kVersion, kCreate, kMod, kValue };
  std::string_view key, range_end;
  int64_t limit = 0, revision = 0;
  int32_t sort_order = kNone, sort_target = kKey;
  bool serializable = false, keys_only = false, count_only = false;
  int64_t min_mod_revision = 0, max_mod_revision = 0, min_create_revision = 0, max_create_revision = 0;
  // Ours, not etcd's: how RangeChunk remembers, from one chunk's request to the next, the header's revision and the kvs
  // sent so far.
  static constexpr uint32_t kChunkHeader = 1000, kChunkSent = 1001;
  int64_t chunk_header = 0, chunk_sent = 0;
  bool Parse(std::string_view bytes);
  bool has_filter() const {
    return min_mod_revision != 0 || max_mod_revision != 0 || min_create_revision != 0 || max_create_revision != 0;
  }
};

struct PutRequest {
  std::string_view key, value;
  int64_t lease = 0;
  bool prev_kv = false, ignore_value = false, ignore_lease = false;
  bool Parse(std::string_view bytes);
};

struct DeleteRangeRequest {
  std::string_view key, range_end;
  bool prev_kv = false;
  bool Parse(std::string_view bytes);
};

struct Compare {
  enum Result : int32_t { kEqual, kGreater, kLess, kNotEqual };
  enum Target : int32_t { kVersion, kCreate, kMod, kValue, kLease };
  int32_t result = kEqual, target = kVersion;
  std::string_view key, range_end;
  // target_union: the member that came last, if any.
  int32_t union_target = -1;
  int64_t number = 0;
  std::string_view value;
  bool Parse(std::string_view bytes);
};

// One member of a txn branch. The body is parsed when the op is checked and again when it runs: cheaper than keeping
// it.
struct RequestOp {
  enum Kind : uint8_t { kEmpty = 0, kRange = 1, kPut = 2, kDeleteRange = 3, kTxn = 4 };
  Kind kind = kEmpty;
  std::string_view body;
  bool Parse(std::string_view bytes);
};

struct TxnRequest {
  std::vector<std::string_view> compare;
  std::vector<RequestOp> success, failure;
  bool Parse(std::string_view bytes);
};

struct CompactionRequest {
  int64_t revision = 0;
  bool physical = false;
  bool Parse(std::string_view bytes);
};

struct LeaseGrantRequest {
  int64_t ttl = 0, id = 0;
  bool Parse(std::string_view bytes);
};

struct LeaseRevokeRequest {
  int64_t id = 0;
  bool Parse(std::string_view bytes);
};

struct LeaseCheckpointRequest {
  struct Checkpoint {
    int64_t id = 0, remaining_ttl = 0;
  };
  std::vector<Checkpoint> checkpoints;
  bool Parse(std::string_view bytes);
};

struct AlarmRequest {
  enum Action : int32_t { kGet, kActivate, kDeactivate };
  int32_t action = kGet, alarm = 0;
  uint64_t member_id = 0;
  bool Parse(std::string_view bytes);
};

// Appending fields; a zero or empty field is left out unless the name says Always.
void AppendNumber(std::string* to, uint32_t field, int64_t value);
void AppendBool(std::string* to, uint32_t field, bool value);
void AppendBytes(std::string* to, uint32_t field, std::string_view bytes);
void AppendBytesAlways(std::string* to, uint32_t field, std::string_view bytes);
void AppendVarint(std::string* to, uint64_t value);

// RequestOp{request_put} as field success of a TxnRequest.
void AppendPutOp(std::string* to, std::string_view key, std::string_view value, int64_t lease);
// DeleteRangeResponse.deleted.
int64_t DeletedOf(std::string_view response);

// A nested message whose length is known only once it is written: Begin, append the fields, End.
size_t BeginMessage(std::string* to, uint32_t field);
void EndMessage(std::string* to, size_t begin);

}  // namespace fastkv
