// The protobuf messages that the load generator sends, and as much of the answers as it checks.
//
// Field numbers are etcd's. A parser throws Failure for bytes that are no such message; fields that no check needs are
// stepped over. Thread safety: none needed; no state.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

#include "base/coding.h"

namespace fastkv::load {

// A wrong or missing answer: it ends the run, for numbers of a run that went wrong say nothing.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline void AddVarint(std::string* out, uint32_t field, uint64_t value) {
  if (value == 0) return;
  PutVarint(out, field << 3);
  PutVarint(out, value);
}
inline void AddBytes(std::string* out, uint32_t field, std::string_view bytes) {
  PutVarint(out, field << 3 | 2);
  PutVarint(out, bytes.size());
  out->append(bytes);
}

// What to do with each field of a message: `on_bytes(field, bytes)`, `on_varint(field, value)`.
template <typename OnBytes, typename OnVarint>
void ForEachField(std::string_view message, OnBytes on_bytes, OnVarint on_varint) {
  ByteReader in(message);
  while (!in.done()) {
    uint64_t tag, value;
    std::string_view bytes;
    if (!in.Varint(&tag)) throw Failure("a message that is no protobuf");
    if ((tag & 7) == 2 && in.LengthPrefixed(&bytes)) {
      on_bytes(static_cast<uint32_t>(tag >> 3), bytes);
    } else if ((tag & 7) == 0 && in.Varint(&value)) {
      on_varint(static_cast<uint32_t>(tag >> 3), value);
    } else {
      throw Failure("a message that is no protobuf");
    }
  }
}

// ---- requests ----

inline void PutRequest(std::string* out, std::string_view key, std::string_view value) {
  AddBytes(out, 1, key);
  AddBytes(out, 2, value);
}

struct RangeOptions {
  std::string_view range_end = {};
  int64_t limit = 0;
  bool serializable = false;
};
inline void RangeRequest(std::string* out, std::string_view key, const RangeOptions& options = {}) {
  AddBytes(out, 1, key);
  if (!options.range_end.empty()) AddBytes(out, 2, options.range_end);
  AddVarint(out, 3, static_cast<uint64_t>(options.limit));
  AddVarint(out, 7, options.serializable);
}

// RequestOp{request_put} as an operation of a TxnRequest's `success` (2).
inline void TxnPut(std::string* out, std::string_view key, std::string_view value) {
  std::string put, op;
  PutRequest(&put, key, value);
  AddBytes(&op, 2, put);
  AddBytes(out, 2, op);
}
// Compare{EQUAL, MOD, key, mod_revision = 0}: the key is not there. The oneof's 0 is sent, as Go's client sends it.
inline void TxnIfAbsent(std::string* out, std::string_view key) {
  std::string compare;
  AddVarint(&compare, 2, 2);
  AddBytes(&compare, 3, key);
  compare.append("\x30\x00", 2);
  AddBytes(out, 1, compare);
}

inline void WatchCreateRequest(std::string* out, std::string_view key) {
  std::string create;
  AddBytes(&create, 1, key);
  AddBytes(out, 1, create);
}

// ---- answers ----

inline int64_t HeaderRevision(std::string_view header) {
  int64_t revision = 0;
  ForEachField(
      header, [](uint32_t, std::string_view) {},
      [&](uint32_t field, uint64_t value) {
        if (field == 3) revision = static_cast<int64_t>(value);
      });
  return revision;
}

// The revision in the header (field 1) of any answer.
inline int64_t AnswerRevision(std::string_view answer) {
  int64_t revision = 0;
  ForEachField(
      answer,
      [&](uint32_t field, std::string_view bytes) {
        if (field == 1) revision = HeaderRevision(bytes);
      },
      [](uint32_t, uint64_t) {});
  return revision;
}

struct KeyValue {
  std::string_view key, value;
  int64_t mod_revision = 0;

  explicit KeyValue(std::string_view message) {
    ForEachField(
        message,
        [&](uint32_t field, std::string_view bytes) {
          if (field == 1) key = bytes;
          if (field == 5) value = bytes;
        },
        [&](uint32_t field, uint64_t number) {
          if (field == 3) mod_revision = static_cast<int64_t>(number);
        });
  }
};

}  // namespace fastkv::load
