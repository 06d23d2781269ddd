// Transactions: If compares Then ops Else ops, nested, all in one revision.
//
//   Validate   no state: empty keys, limits, duplicate keys in both branches        before the log
//   compares   all of them, nested ones too, against the state before the txn       in Apply
//   checks     of the branches taken, op by op; nothing is changed yet
//   execute    in order; ranges see the txn's own writes
//
// Quirks kept from etcd: a delete's raw range_end decides about duplicates, so a from-key delete ("\0") never counts; a
// nested txn's deletes do not count against the puts of an earlier sibling. Left out: etcd's panic on {delete from-key,
// put ignore_value of a key so deleted}; here it is kKeyNotFound.
#include <algorithm>
#include <unordered_set>

#include "base/check.h"
#include "mvcc/store_apply.h"

namespace fastkv {
namespace {

constexpr int kDepthMax = 128;  // nesting, where max_txn_ops sets no lower limit

// -- Validate

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
  if ((limited && ops > ops_max) || depth > kDepthMax) return Code::kTooManyOps;
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

// Keys put and ranges deleted by one branch.
struct Touched {
  std::unordered_set<std::string_view> puts;
  std::unordered_set<std::string_view> deleted_keys;
  std::vector<std::pair<std::string_view, std::string_view>> deleted_ranges;  // raw [key, range_end)

  bool Deletes(std::string_view key) const {
    if (deleted_keys.contains(key)) return true;
    for (const auto& [begin, end] : deleted_ranges) {
      if (key >= begin && key < end) return true;
    }
    return false;
  }
  void AddDeletes(const Touched& other) {
    deleted_keys.insert(other.deleted_keys.begin(), other.deleted_keys.end());
    deleted_ranges.insert(deleted_ranges.end(), other.deleted_ranges.begin(), other.deleted_ranges.end());
  }
};

// Are all ops puts, of different keys? The usual batch, without a node of memory for each key. REQUIRES: the ops have
// been validated.
bool DistinctPuts(const std::vector<RequestOp>& ops) {
  size_t slots = 16;
  while (slots < 2 * ops.size()) slots *= 2;
  std::vector<std::string_view> table(slots);  // open addressing; no key is empty
  for (const RequestOp& op : ops) {
    PutRequest request;
    if (op.kind != RequestOp::kPut) return false;
    FASTKV_CHECK(request.Parse(op.body));
    size_t slot = std::hash<std::string_view>()(request.key) & (slots - 1);
    for (; !table[slot].empty(); slot = (slot + 1) & (slots - 1)) {
      if (table[slot] == request.key) return false;
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
      touched->deleted_ranges.emplace_back(request.key, request.range_end);
    }
  }
  for (const RequestOp& op : ops) {
    if (op.kind != RequestOp::kTxn) continue;
    TxnRequest nested;
    FASTKV_CHECK(nested.Parse(op.body));
    Touched then_branch, else_branch;
    if (!CollectTouched(nested.success, &then_branch) || !CollectTouched(nested.failure, &else_branch)) return false;
    for (const std::string_view key : then_branch.puts) {
      if (touched->puts.contains(key) || touched->Deletes(key)) return false;
    }
    for (const std::string_view key : else_branch.puts) {
      if (then_branch.puts.contains(key)) continue;  // only one of the two branches runs
      if (touched->puts.contains(key) || touched->Deletes(key)) return false;
    }
    touched->puts.insert(then_branch.puts.begin(), then_branch.puts.end());
    touched->puts.insert(else_branch.puts.begin(), else_branch.puts.end());
    touched->AddDeletes(then_branch);
    touched->AddDeletes(else_branch);
  }
  const bool has_deletes = !touched->deleted_keys.empty() || !touched->deleted_ranges.empty();
  for (const RequestOp& op : ops) {
    if (op.kind != RequestOp::kPut) continue;
    PutRequest request;
    FASTKV_CHECK(request.Parse(op.body));
    if (!touched->puts.insert(request.key).second || (has_deletes && touched->Deletes(request.key))) return false;
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
    touched.puts.reserve(branch->size());
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
  // A record counts its bytes in 32 bits: what a put may weigh, whatever the limits say.
  if (payload.size() > INT32_MAX) return Code::kRequestTooLarge;
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
  if (!txn.Parse(payload) || depth > kDepthMax) return false;
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

// -- Apply

// One txn on its way through compares, checks and execution. REQUIRES: the store's write lock.
class Transaction {
 public:
  explicit Transaction(Store* store) : store_(store), at_(INT64_MAX), change_{store->revision()} {}
  // One that only reads, as of `at`. REQUIRES: an EpochGuard instead of the lock.
  Transaction(Store* store, int64_t at) : store_(store), at_(at), change_{at} {}

  Code Run(std::string_view payload, std::string* response) {
    Branch root;
    if (Code code = Plan(payload, 0, &root); code != Code::kOk) return code;
    if (Code code = Check(root); code != Code::kOk) return code;
    std::string body;
    Execute(root, &body);
    if (at_ == INT64_MAX) store_->Publish(change_);
    store_->AppendHeader(response, change_.revision());
    response->append(body);
    return Code::kOk;
  }

 private:
  // A txn whose compares have been decided: the ops of the branch taken, nested txns planned likewise.
  struct Branch {
    bool succeeded = true;
    std::vector<RequestOp> ops;
    std::vector<Branch> nested;  // of the ops of kind kTxn, in order
  };

  Code Plan(std::string_view payload, int depth, Branch* branch) {
    TxnRequest txn;
    if (!txn.Parse(payload)) return Code::kMalformed;
    if (depth > kDepthMax) return Code::kTooManyOps;
    for (const std::string_view bytes : txn.compare) {
      Compare compare;
      if (!compare.Parse(bytes)) return Code::kMalformed;
      if (branch->succeeded && !Holds(compare)) branch->succeeded = false;
    }
    branch->ops = std::move(branch->succeeded ? txn.success : txn.failure);
    for (const RequestOp& op : branch->ops) {
      if (op.kind != RequestOp::kTxn) continue;
      if (Code code = Plan(op.body, depth + 1, &branch->nested.emplace_back()); code != Code::kOk) return code;
    }
    return Code::kOk;
  }

  bool Holds(const Compare& compare) const {
    const KeyRange range(compare.key, compare.range_end);
    bool any = false;
    if (range.single) {
      const Record* record = store_->tree_.Find(compare.key);
      if (record != nullptr) record = record->VisibleAt(at_);
      if (record != nullptr && !record->tombstone()) return HoldsFor(compare, record->Decode());
    } else {
      for (BTree::Cursor cursor = store_->tree_.LowerBound(range.begin); cursor.valid(); cursor.Next()) {
        if (range.Beyond(cursor.record()->key())) break;
        const Record* record = cursor.record()->VisibleAt(at_);
        if (record == nullptr || record->tombstone()) continue;
        any = true;
        if (!HoldsFor(compare, record->Decode())) return false;
      }
    }
    if (any) return true;
    // No such key: its value compares with nothing, its numbers are zero.
    return compare.target != Compare::kValue && HoldsFor(compare, {});
  }

  static bool HoldsFor(const Compare& compare, const Record::KeyValue& kv) {
    int order = 0;
    auto number = [&compare](Compare::Target target) { return compare.union_target == target ? compare.number : 0; };
    auto three_way = [](int64_t a, int64_t b) { return a < b ? -1 : a > b ? 1 : 0; };
    switch (compare.target) {
      case Compare::kVersion:
        order = three_way(kv.version, number(Compare::kVersion));
        break;
      case Compare::kCreate:
        order = three_way(kv.create_revision, number(Compare::kCreate));
        break;
      case Compare::kMod:
        order = three_way(kv.mod_revision, number(Compare::kMod));
        break;
      case Compare::kLease:
        order = three_way(kv.lease, number(Compare::kLease));
        break;
      case Compare::kValue: {
        const int raw = kv.value.compare(compare.union_target == Compare::kValue ? compare.value : std::string_view());
        order = raw < 0 ? -1 : raw > 0 ? 1 : 0;
        break;
      }
      default:
        break;
    }
    switch (compare.result) {
      case Compare::kEqual:
        return order == 0;
      case Compare::kNotEqual:
        return order != 0;
      case Compare::kGreater:
        return order > 0;
      case Compare::kLess:
        return order < 0;
      default:
        return true;
    }
  }

  // In the order of execution; remembers the deletes passed, for puts that need the old value or lease.
  Code Check(const Branch& branch) {
    size_t nested = 0;
    for (const RequestOp& op : branch.ops) {
      Code code = Code::kOk;
      switch (op.kind) {
        case RequestOp::kRange:
          code = CheckRange(op.body);
          break;
        case RequestOp::kPut:
          code = CheckPut(op.body);
          break;
        case RequestOp::kDeleteRange: {
          DeleteRangeRequest request;
          if (!request.Parse(op.body)) return Code::kMalformed;
          if (request.key.empty()) return Code::kEmptyKey;
          deletes_.emplace_back(request.key, request.range_end);
          break;
        }
        case RequestOp::kTxn:
          code = Check(branch.nested[nested++]);
          break;
        case RequestOp::kEmpty:
          return Code::kKeyNotFound;
      }
      if (code != Code::kOk) return code;
    }
    return Code::kOk;
  }

  Code CheckPut(std::string_view body) const {
    PutRequest put;
    if (!put.Parse(body)) return Code::kMalformed;
    if (put.key.empty()) return Code::kEmptyKey;
    if (put.lease != 0 && store_->lessor_.Find(put.lease) == nullptr) return Code::kLeaseNotFound;
    if (!put.ignore_value && !put.ignore_lease) return Code::kOk;
    if (store_->Newest(put.key) == nullptr) return Code::kKeyNotFound;
    const bool deleted = std::any_of(deletes_.begin(), deletes_.end(),
                                     [&put](const KeyRange& range) { return range.Contains(put.key); });
    return deleted ? Code::kKeyNotFound : Code::kOk;
  }

  Code CheckRange(std::string_view body) const {
    RangeRequest range;
    if (!range.Parse(body)) return Code::kMalformed;
    if (range.key.empty()) return Code::kEmptyKey;
    if (range.revision == 0) return Code::kOk;
    if (range.revision > change_.begin) return Code::kFutureRevision;
    return range.revision < store_->compact_revision() ? Code::kCompacted : Code::kOk;
  }

  // Appends the fields succeeded and responses of the TxnResponse.
  void Execute(const Branch& branch, std::string* to) {
    AppendBool(to, 2, branch.succeeded);
    size_t nested = 0;
    for (const RequestOp& op : branch.ops) {
      const size_t response = BeginMessage(to, 3);
      const size_t member = BeginMessage(to, op.kind);
      switch (op.kind) {
        case RequestOp::kRange:
          ExecuteRange(op.body, to);
          break;
        case RequestOp::kPut:
          ExecutePut(op.body, to);
          break;
        case RequestOp::kDeleteRange:
          ExecuteDelete(op.body, to);
          break;
        case RequestOp::kTxn:
          AppendBytesAlways(to, 1, {});  // a nested txn's header is there, and empty
          Execute(branch.nested[nested++], to);
          break;
        case RequestOp::kEmpty:
          FASTKV_CHECK(false);
      }
      EndMessage(to, member);
      EndMessage(to, response);
    }
  }

  void AppendOpHeader(std::string* to) const {  // of an op inside a txn: only the revision
    const size_t header = BeginMessage(to, 1);
    AppendNumber(to, 3, change_.revision());
    EndMessage(to, header);
  }

  void ExecuteRange(std::string_view body, std::string* to) const {
    RangeRequest range;
    FASTKV_CHECK(range.Parse(body));
    AppendOpHeader(to);
    store_->RangeFields(range, range.revision > 0 ? range.revision : std::min(change_.begin + 1, at_), to);
  }

  void ExecutePut(std::string_view body, std::string* to) {
    PutRequest put;
    FASTKV_CHECK(put.Parse(body));
    std::string prev_kv;
    if (put.prev_kv || put.ignore_value || put.ignore_lease) {
      if (const Record* old = store_->Newest(put.key); old != nullptr) {
        if (put.prev_kv) AppendBytesAlways(&prev_kv, 2, old->encoded());
        if (put.ignore_value) put.value = old->value();
        if (put.ignore_lease) put.lease = old->Decode().lease;
      }
    }
    store_->PutKey(&change_, put.key, put.value, put.lease);
    AppendOpHeader(to);
    to->append(prev_kv);
  }

  void ExecuteDelete(std::string_view body, std::string* to) {
    DeleteRangeRequest request;
    FASTKV_CHECK(request.Parse(body));
    std::string prev_kvs;
    const int64_t deleted =
        store_->DeleteKeys(&change_, KeyRange(request.key, request.range_end), request.prev_kv ? &prev_kvs : nullptr);
    AppendOpHeader(to);
    AppendNumber(to, 2, deleted);
    to->append(prev_kvs);
  }

  Store* store_;
  const int64_t at_;  // what compares see: everything (the writer's view), or the revision of a txn that only reads
  Store::Change change_;
  std::vector<KeyRange> deletes_;
};

Code Store::ReadTxn(std::string_view request, const Limits& limits, bool* reads_only, std::string* response) {
  TxnRequest txn;
  if (!txn.Parse(request)) return Code::kMalformed;
  *reads_only = true;
  for (const auto* branch : {&txn.success, &txn.failure}) {
    for (const RequestOp& op : *branch) *reads_only = *reads_only && op.kind == RequestOp::kRange;
  }
  if (!*reads_only) return Code::kOk;
  if (Code code = Validate(kTagTxn, request, limits); code != Code::kOk) return code;
  EpochGuard guard;
  for (;;) {
    int64_t at = 0;
    const int64_t compacted = compact_revision();
    if (Code code = Resolve(0, &at); code != Code::kOk) return code;
    response->clear();
    const Code code = Transaction(this, at).Run(request, response);
    if (compact_revision() == compacted) return code;  // else a range may have lost what it read meanwhile
  }
}

Code Store::ApplyTxn(std::string_view payload, std::string* response) {
  return Transaction(this).Run(payload, response);
}

}  // namespace fastkv
