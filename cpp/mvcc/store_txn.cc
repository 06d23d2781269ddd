// Transactions: If compares Then ops Else ops, nested, all in one revision.
//
//   Validate   no state: empty keys, limits, duplicate keys in both branches        before the log (store_validate.cc)
//   compares   all of them, nested ones too, against the state before the txn       in Apply
//   checks     of the branches taken, op by op; nothing is changed yet
//   execute    in order; ranges see the txn's own writes
//
// Left out: etcd's panic on {delete from-key, put ignore_value of a key so deleted}; here it is kKeyNotFound.
#include <algorithm>
#include <optional>

#include "base/check.h"
#include "mvcc/store_apply.h"

namespace fastkv {

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
    if (depth > kTxnDepthMax) return Code::kTooManyOps;
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
      const Record* record = store_->contents().tree.Find(compare.key);
      if (record != nullptr) record = record->VisibleAt(at_);
      if (record != nullptr && !record->tombstone()) return HoldsFor(compare, record->Decode());
    } else {
      for (BTree::Cursor cursor = store_->contents().tree.LowerBound(range.begin); cursor.valid(); cursor.Next()) {
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

  // In the order of execution. Remembers the from-key deletes passed, for puts that need the old value or lease: a key
  // that any other delete covers is not put behind it (Validate).
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
          if (KeyRange(request.key, request.range_end).unbounded && (!deleted_from_ || request.key < *deleted_from_)) {
            deleted_from_ = request.key;
          }
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
    const bool deleted = deleted_from_ && put.key >= *deleted_from_;
    return deleted || store_->Newest(put.key) == nullptr ? Code::kKeyNotFound : Code::kOk;
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
  std::optional<std::string_view> deleted_from_;  // the lowest start of the from-key deletes checked so far
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
