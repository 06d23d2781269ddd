// What the tests of store and db share: requests as a client would encode them, answers taken apart, seeds.
//
// A random test reads FASTKV_SEED (run that one alone) and FASTKV_RUNS (how many times the usual amount, default 1),
// and a failure prints the line that replays it. Thread safety: free functions without state.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/coding.h"
#include "mvcc/store.h"
#include "proto/messages.h"

namespace fastkv::testing {

inline uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = getenv(name);
  return text == nullptr ? otherwise : strtoull(text, nullptr, 10);
}

struct Seeds {
  uint64_t first, count;
};
// `usual` runs times FASTKV_RUNS, or the one of FASTKV_SEED.
inline Seeds SeedsFor(uint64_t usual) {
  if (getenv("FASTKV_SEED") != nullptr) return {FromEnvironment("FASTKV_SEED", 1), 1};
  return {1, usual * FromEnvironment("FASTKV_RUNS", 1)};
}
inline std::string Replay(const char* program, const char* filter, uint64_t seed) {
  return std::string("\n    replay: FASTKV_SEED=") + std::to_string(seed) + " " + program + " --gtest_filter=" + filter;
}

inline const std::string kAll("\0", 1);  // as range_end: no upper bound; as key with it: every key

inline std::string PutBytes(std::string_view key, std::string_view value, int64_t lease = 0, bool prev_kv = false) {
  std::string bytes;
  AppendBytes(&bytes, 1, key);
  AppendBytes(&bytes, 2, value);
  AppendNumber(&bytes, 3, lease);
  AppendBool(&bytes, 4, prev_kv);
  return bytes;
}
inline std::string DeleteBytes(std::string_view key, std::string_view range_end = {}, bool prev_kv = false) {
  std::string bytes;
  AppendBytes(&bytes, 1, key);
  AppendBytes(&bytes, 2, range_end);
  AppendBool(&bytes, 3, prev_kv);
  return bytes;
}
inline std::string CompactionBytes(int64_t revision) {
  std::string bytes;
  AppendNumber(&bytes, 1, revision);
  return bytes;
}
inline std::string GrantBytes(int64_t id, int64_t ttl) {
  std::string bytes;
  AppendNumber(&bytes, 1, ttl);
  AppendNumber(&bytes, 2, id);
  return bytes;
}
inline std::string RevokeBytes(int64_t id) {
  std::string bytes;
  AppendNumber(&bytes, 1, id);
  return bytes;
}
inline std::string LeaseCheckpointBytes(int64_t id, int64_t remaining_ttl) {
  std::string bytes;
  const size_t begin = BeginMessage(&bytes, 1);
  AppendNumber(&bytes, 1, id);
  AppendNumber(&bytes, 2, remaining_ttl);
  EndMessage(&bytes, begin);
  return bytes;
}
inline std::string AlarmBytes(int32_t action, uint64_t member, int32_t alarm) {
  std::string bytes;
  AppendNumber(&bytes, 1, action);
  AppendNumber(&bytes, 2, static_cast<int64_t>(member));
  AppendNumber(&bytes, 3, alarm);
  return bytes;
}
// An op as field `branch` (2 success, 3 failure) of a TxnRequest.
inline void AppendOp(std::string* txn, uint32_t branch, RequestOp::Kind kind, std::string_view body) {
  const size_t op = BeginMessage(txn, branch);
  AppendBytesAlways(txn, kind, body);
  EndMessage(txn, op);
}

struct RangeOptions {
  int64_t revision = 0, limit = 0;
  int32_t sort_order = 0, sort_target = 0;
  bool keys_only = false, count_only = false;
  int64_t min_mod_revision = 0, max_mod_revision = 0;
  bool serializable = false;
};
inline std::string RangeBytes(std::string_view key, std::string_view range_end = {}, const RangeOptions& options = {}) {
  std::string bytes;
  AppendBytes(&bytes, 1, key);
  AppendBytes(&bytes, 2, range_end);
  AppendNumber(&bytes, 3, options.limit);
  AppendNumber(&bytes, 4, options.revision);
  AppendNumber(&bytes, 5, options.sort_order);
  AppendNumber(&bytes, 6, options.sort_target);
  AppendBool(&bytes, 7, options.serializable);
  AppendBool(&bytes, 8, options.keys_only);
  AppendBool(&bytes, 9, options.count_only);
  AppendNumber(&bytes, 10, options.min_mod_revision);
  AppendNumber(&bytes, 11, options.max_mod_revision);
  return bytes;
}

// A RangeResponse (or the concatenation of several), taken apart.
struct RangeAnswer {
  int64_t revision = 0, count = 0;
  bool more = false;
  std::vector<KeyValueMessage> kvs;  // views into the response
};
inline RangeAnswer ParseRangeAnswer(std::string_view response) {
  RangeAnswer answer;
  ByteReader in(response);
  while (!in.done()) {
    uint64_t tag = 0, number = 0;
    std::string_view bytes;
    FASTKV_CHECK(in.Varint(&tag));
    FASTKV_CHECK((tag & 7) == 2 ? in.LengthPrefixed(&bytes) : in.Varint(&number));
    if (tag >> 3 == 1) {
      ByteReader header(bytes);
      while (!header.done()) {
        FASTKV_CHECK(header.Varint(&tag) && header.Varint(&number));
        if (tag >> 3 == 3) answer.revision = static_cast<int64_t>(number);
      }
    } else if (tag >> 3 == 2) {
      FASTKV_CHECK(answer.kvs.emplace_back().Parse(bytes));
    } else if (tag >> 3 == 3) {
      answer.more = number != 0;
    } else if (tag >> 3 == 4) {
      answer.count = static_cast<int64_t>(number);
    }
  }
  return answer;
}

// For stores without a Db. Returns the code; *response may be null.
inline Code Apply(Store* store, uint64_t tag, std::string_view payload, std::string* response = nullptr) {
  std::string ignored;
  const auto lock = store->WriteLock();
  return store->Apply(tag, payload, response != nullptr ? response : &ignored);
}
inline bool CompactFully(Store* store, size_t slice = SIZE_MAX) {
  const auto lock = store->WriteLock();
  for (int i = 0; i < 1'000'000; ++i) {
    if (store->CompactStep(slice)) return true;
  }
  return false;
}
inline std::string Problems(const Store& store) {
  std::vector<std::string> problems;
  store.Check(&problems);
  std::string all;
  for (const std::string& problem : problems) all += problem + "; ";
  return all;
}

// Writes the store out as a checkpoint's records, in blocks of about block_bytes, and loads them into `copy`.
inline bool CopyByCheckpoint(Store* store, Store* copy, size_t block_bytes = kRecordsBlockBytes) {
  Store::Picture picture;
  {
    const auto lock = store->WriteLock();
    picture = store->TakePicture();
  }
  store->CountPicture(&picture);
  Store::Loader loader(copy);
  bool loaded = true;
  const Status status = store->WriteChains(
      picture,
      [&](std::string_view payload) -> Status {
        loaded = loaded && loader.AddChains(payload);
        return {};
      },
      block_bytes);
  store->ReleasePicture();
  return status.ok() && loaded && loader.Finish(picture);
}

}  // namespace fastkv::testing
