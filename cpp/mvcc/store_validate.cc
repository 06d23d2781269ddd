// What needs no state to be refused: asked before a command is logged.
//
//   shape      well-formed messages, no empty key, limits, nesting       op by op, in etcd's order
//   touched    no key put twice, or put and deleted, in one branch       CollectTouched
//
// Quirks kept from etcd: a delete's raw range_end decides about duplicates, so a from-key delete ("\0") never counts; a
// nested txn's deletes do not count against the puts of an earlier sibling. Work: O(n log^2 n) for n ops, whatever a
// hostile message nests in what; the stack holds at most kTxnDepthMax levels.
// Thread safety: pure functions.
#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <utility>

#include "base/check.h"
#include "mvcc/store_apply.h"

namespace fastkv {
namespace {

Code ValidatePut(const PutRequest& request) {
  if (request.key.empty()) return Code::kEmptyKey;
  if (request.ignore_value && !request.value.empty()) return Code::kValueProvided;
  if (request.ignore_lease && request.lease != 0) return Code::kLeaseProvided;
  return Code::kOk;
}

Code ValidatePut(std::string_view payload) {
  PutRequest request;
  return request.Parse(payload) ? ValidatePut(request) : Code::kMalformed;
}

Code ValidateDeleteRange(std::string_view payload) {
  DeleteRangeRequest request;
  if (!request.Parse(payload)) return Code::kMalformed;
  return request.key.empty() ? Code::kEmptyKey : Code::kOk;
}

Code ValidateOps(const TxnRequest& txn, bool limited, int64_t ops_max, int depth);

Code ValidateOp(const RequestOp& op, bool limited, int64_t ops_max, int depth) {
  switch (op.kind) {
    case RequestOp::kRange:
      return ValidateRangeRequest(op.body);
    case RequestOp::kPut:
      return ValidatePut(op.body);
    case RequestOp::kDeleteRange:
      return ValidateDeleteRange(op.body);
    case RequestOp::kTxn: {
      TxnRequest nested;
      if (!nested.Parse(op.body)) return Code::kMalformed;
      return ValidateOps(nested, limited, ops_max, depth + 1);
    }
    case RequestOp::kEmpty:
      break;
  }
  return Code::kKeyNotFound;
}

Code ValidateOps(const TxnRequest& txn, bool limited, int64_t ops_max, int depth) {
  const auto ops = static_cast<int64_t>(std::max({txn.compare.size(), txn.success.size(), txn.failure.size()}));
  if ((limited && ops > ops_max) || depth > kTxnDepthMax) return Code::kTooManyOps;
  for (const std::string_view bytes : txn.compare) {
    Compare compare;
    if (!compare.Parse(bytes)) return Code::kMalformed;
    if (compare.key.empty()) return Code::kEmptyKey;
  }
  for (const auto* branch : {&txn.success, &txn.failure}) {
    for (const RequestOp& op : *branch) {
      if (Code code = ValidateOp(op, limited, ops_max - ops, depth); code != Code::kOk) return code;
    }
  }
  return Code::kOk;
}

// Non-empty intervals [begin, end) of keys, kept as their union.
class Intervals {
 public:
  bool empty() const { return ends_.empty(); }
  size_t size() const { return ends_.size(); }
  auto begin() const { return ends_.begin(); }
  auto end() const { return ends_.end(); }
  void Add(std::string_view begin, std::string_view end) {
    if (begin >= end) return;  // no key lies in it
    auto after = ends_.upper_bound(begin);
    if (after != ends_.begin() && std::prev(after)->second >= begin) {
      --after;
      begin = after->first;
    }
    while (after != ends_.end() && after->first <= end) {
      end = std::max(end, after->second);
      after = ends_.erase(after);
    }
    ends_.emplace_hint(after, begin, end);
  }
  bool Contains(std::string_view key) const {
    const auto after = ends_.upper_bound(key);
    return after != ends_.begin() && key < std::prev(after)->second;
  }

 private:
  std::map<std::string_view, std::string_view> ends_;  // by begin; disjoint
};

using Keys = std::set<std::string_view>;

// All of these look up the smaller side in the larger one, and move the smaller one: a key is moved to a set at least
// twice as large each time, so O(log n) times, however the txns are nested.
bool Overlap(const Keys& a, const Keys& b) {
  const bool a_smaller = a.size() <= b.size();
  const Keys& larger = a_smaller ? b : a;
  return std::ranges::any_of(a_smaller ? a : b, [&larger](std::string_view key) { return larger.contains(key); });
}

bool Overlap(const Keys& keys, const Intervals& intervals) {
  if (keys.size() <= intervals.size()) {
    return std::ranges::any_of(keys, [&intervals](std::string_view key) { return intervals.Contains(key); });
  }
  return std::ranges::any_of(intervals, [&keys](const auto& interval) {
    const auto found = keys.lower_bound(interval.first);
    return found != keys.end() && *found < interval.second;
  });
}

void Unite(Keys* into, Keys* from) {
  if (into->size() < from->size()) into->swap(*from);
  into->merge(*from);
}

void Unite(Intervals* into, Intervals* from) {
  if (into->size() < from->size()) std::swap(*into, *from);
  for (const auto& [begin, end] : *from) into->Add(begin, end);
}

// Keys put and keys deleted by one branch.
struct Touched {
  Keys puts, deleted_keys;
  Intervals deleted_ranges;  // by their raw range_end

  bool Deletes(std::string_view key) const { return deleted_keys.contains(key) || deleted_ranges.Contains(key); }
  bool OverlapsPutsOf(const Touched& other) const {
    return Overlap(other.puts, puts) || Overlap(other.puts, deleted_keys) || Overlap(other.puts, deleted_ranges);
  }
  void Take(Touched* other) {
    Unite(&puts, &other->puts);
    Unite(&deleted_keys, &other->deleted_keys);
    Unite(&deleted_ranges, &other->deleted_ranges);
  }
};

// Are all ops puts, of different keys? The usual batch, without a node of memory for each key. False also when keys
// collide in the table as only chosen ones do: CollectTouched has the last word. REQUIRES: the ops have been validated.
bool DistinctPuts(const std::vector<RequestOp>& ops) {
  constexpr int kProbesMax = 256;
  size_t slots = 16;
  while (slots < 2 * ops.size()) slots *= 2;
  std::vector<std::string_view> table(slots);  // open addressing; no key is empty
  for (const RequestOp& op : ops) {
    PutRequest request;
    if (op.kind != RequestOp::kPut) return false;
    FASTKV_CHECK(request.Parse(op.body));
    size_t slot = std::hash<std::string_view>()(request.key) & (slots - 1);
    for (int probes = 0; !table[slot].empty(); slot = (slot + 1) & (slots - 1)) {
      if (++probes > kProbesMax || table[slot] == request.key) return false;
    }
    table[slot] = request.key;
  }
  return true;
}

// REQUIRES: the ops have been validated. False: a duplicate key.
bool CollectTouched(const std::vector<RequestOp>& ops, Touched* touched) {
  for (const RequestOp& op : ops) {
    if (op.kind != RequestOp::kDeleteRange) continue;
    DeleteRangeRequest request;
    FASTKV_CHECK(request.Parse(op.body));
    if (request.range_end.empty()) {
      touched->deleted_keys.insert(request.key);
    } else {
      touched->deleted_ranges.Add(request.key, request.range_end);
    }
  }
  for (const RequestOp& op : ops) {
    if (op.kind != RequestOp::kTxn) continue;
    TxnRequest nested;
    FASTKV_CHECK(nested.Parse(op.body));
    Touched then_branch, else_branch;
    if (!CollectTouched(nested.success, &then_branch) || !CollectTouched(nested.failure, &else_branch)) return false;
    then_branch.Take(&else_branch);  // only one of them runs, so they need not be different from each other
    if (touched->OverlapsPutsOf(then_branch)) return false;
    touched->Take(&then_branch);
  }
  for (const RequestOp& op : ops) {
    if (op.kind != RequestOp::kPut) continue;
    PutRequest request;
    FASTKV_CHECK(request.Parse(op.body));
    if (!touched->puts.insert(request.key).second || touched->Deletes(request.key)) return false;
  }
  return true;
}

Code ValidateTxn(std::string_view payload, const Limits& limits) {
  TxnRequest txn;
  if (!txn.Parse(payload)) return Code::kMalformed;
  if (Code code = ValidateOps(txn, limits.max_txn_ops > 0, limits.max_txn_ops, 0); code != Code::kOk) return code;
  for (const auto* branch : {&txn.success, &txn.failure}) {
    if (DistinctPuts(*branch)) continue;
    Touched touched;
    if (!CollectTouched(*branch, &touched)) return Code::kDuplicateKey;
  }
  return Code::kOk;
}

}  // namespace

Code ValidateRangeRequest(std::string_view payload) {
  RangeRequest request;
  if (!request.Parse(payload)) return Code::kMalformed;
  if (request.key.empty()) return Code::kEmptyKey;
  if (request.sort_order < RangeRequest::kNone || request.sort_order > RangeRequest::kDescend ||
      request.sort_target < RangeRequest::kKey || request.sort_target > RangeRequest::kValue) {
    return Code::kInvalidSort;
  }
  return Code::kOk;
}

Code Validate(uint64_t tag, std::string_view payload, const Limits& limits) {
  if (payload.size() > kPayloadBytesMax) return Code::kRequestTooLarge;  // whatever the limits say
  if (limits.max_request_bytes > 0 && payload.size() > static_cast<uint64_t>(limits.max_request_bytes)) {
    return Code::kRequestTooLarge;
  }
  switch (tag) {
    case kTagPut:
      return ValidatePut(payload);
    case kTagDeleteRange:
      return ValidateDeleteRange(payload);
    case kTagTxn:
      return ValidateTxn(payload, limits);
    case kTagCompaction:
      return CompactionRequest().Parse(payload) ? Code::kOk : Code::kMalformed;
    case kTagLeaseGrant: {
      LeaseGrantRequest request;
      if (!request.Parse(payload) || request.id == 0) return Code::kMalformed;
      return request.ttl > kLeaseTtlMax ? Code::kLeaseTtlTooLarge : Code::kOk;
    }
    case kTagLeaseRevoke:
      return LeaseRevokeRequest().Parse(payload) ? Code::kOk : Code::kMalformed;
    case kTagAlarm:
      return AlarmRequest().Parse(payload) ? Code::kOk : Code::kMalformed;
    case kTagLeaseCheckpoint:
      return LeaseCheckpointRequest().Parse(payload) ? Code::kOk : Code::kMalformed;
    default:
      return Code::kMalformed;
  }
}

// Does it put anything, in whatever branch? (etcd: has it a quota cost?)
bool TxnPuts(std::string_view payload, int depth) {
  TxnRequest txn;
  if (!txn.Parse(payload) || depth > kTxnDepthMax) return false;
  for (const auto* branch : {&txn.success, &txn.failure}) {
    for (const RequestOp& op : *branch) {
      if (op.kind == RequestOp::kPut || (op.kind == RequestOp::kTxn && TxnPuts(op.body, depth + 1))) return true;
    }
  }
  return false;
}

bool Grows(uint64_t tag, std::string_view payload) {
  return tag == kTagPut || tag == kTagLeaseGrant || (tag == kTagTxn && TxnPuts(payload, 0));
}

}  // namespace fastkv
