// Puts, deletes, leases, alarms: what one command does. Transactions: store_txn.cc.
#include "mvcc/store_apply.h"

#include <algorithm>

#include "base/coding.h"

namespace fastkv {

namespace {

constexpr size_t kReclaimFrom = 64, kReclaimMax = 1024;

}  // namespace

Store::Store() : current_(std::make_unique<Contents>()), contents_(current_.get()) {}
Store::~Store() = default;

void Store::SetIdentity(uint64_t cluster_id, uint64_t member_id, uint64_t raft_term) {
  cluster_id_.store(cluster_id, std::memory_order_relaxed);
  member_id_.store(member_id, std::memory_order_relaxed);
  raft_term_.store(raft_term, std::memory_order_relaxed);
}

void Store::AppendHeader(std::string* to, int64_t revision) const {
  // Every answer and every event has one: written in place, its length is below 128.
  char bytes[2 + 4 * (1 + kVarintBytesMax)];
  char* at = bytes + 2;
  const auto append = [&at](char tag, uint64_t value) {
    if (value == 0) return;
    *at++ = tag;
    at = StoreVarint(at, value);
  };
  append(0x08, cluster_id_.load(std::memory_order_relaxed));
  append(0x10, member_id_.load(std::memory_order_relaxed));
  append(0x18, static_cast<uint64_t>(revision));
  append(0x20, raft_term_.load(std::memory_order_relaxed));
  bytes[0] = 0x0a;
  bytes[1] = static_cast<char>(at - bytes - 2);
  to->append(bytes, static_cast<size_t>(at - bytes));
}

Code Store::Apply(uint64_t tag, std::string_view payload, std::string* response) {
  // Every few dozen retired pieces, not every command: a scan of the readers costs about as much as a small put. More
  // than a command retires, and not all at once: a long read may have held back what a whole compaction has released.
  if (current_->retired.size() >= kReclaimFrom) current_->retired.Reclaim(kReclaimMax);
  if (replaced_.size() > 0) [[unlikely]]
    replaced_.Reclaim();
  if (!alarms_.empty()) {
    if (const Code refused = Alarmed(tag, payload); refused != Code::kOk) return refused;
  }
  switch (tag) {
    case kTagPut:
      return ApplyPut(payload, response);
    case kTagDeleteRange:
      return ApplyDeleteRange(payload, response);
    case kTagTxn:
      return ApplyTxn(payload, response);
    case kTagCompaction:
      return ApplyCompaction(payload, response);
    case kTagLeaseGrant:
      return ApplyLeaseGrant(payload, response);
    case kTagLeaseRevoke:
      return ApplyLeaseRevoke(payload, response);
    case kTagAlarm:
      return ApplyAlarm(payload, response);
    case kTagLeaseCheckpoint:
      return ApplyLeaseCheckpoint(payload, response);
    default:
      return Code::kMalformed;
  }
}

// Whether an alarm forbids the command, whichever member raised it.
Code Store::Alarmed(uint64_t tag, std::string_view payload) const {
  const auto is_on = [this](uint64_t alarm) {
    return std::any_of(alarms_.begin(), alarms_.end(), [alarm](const auto& active) { return active.second == alarm; });
  };
  if (tag != kTagAlarm && tag != kTagLeaseCheckpoint && is_on(kAlarmCorrupt)) return Code::kClusterCorrupt;
  return is_on(kAlarmNoSpace) && Grows(tag, payload) ? Code::kNoSpace : Code::kOk;
}

const Record* Store::Newest(std::string_view key) const {
  const Record* record = contents().tree.Find(key);
  return record == nullptr || record->tombstone() ? nullptr : record;
}

int64_t Store::PutKey(Change* change, std::string_view key, std::string_view value, int64_t lease) {
  const BTree::Place place = current_->tree.Locate(key);
  const int64_t main = change->begin + 1;
  Record::KeyValue kv{key, value, main, main, 1, lease};
  if (place.newest != nullptr && !place.newest->tombstone()) {
    const Record::KeyValue old = place.newest->Decode();
    kv.create_revision = old.create_revision;
    kv.version = old.version + 1;
    if (old.lease != 0 && old.lease != lease) lessor_.Detach(old.lease, key);
  } else {
    live_keys_.fetch_add(1, std::memory_order_relaxed);
  }
  if (lease != 0) lessor_.Attach(lease, key);
  Record* record = Record::NewPut(kv, change->subs, place.newest, compact_revision(), &current_->pool);
  ++change->subs;
  current_->tree.Install(place, record);
  current_->index.Append(record);
  records_.fetch_add(1, std::memory_order_relaxed);
  record_bytes_.fetch_add(Record::AllocatedBytes(record), std::memory_order_relaxed);
  return main;
}

// Deletes what is there; appends the old KeyValues as field 3 to *prev_kvs if asked. Returns how many.
int64_t Store::DeleteKeys(Change* change, const KeyRange& range, std::string* prev_kvs) {
  int64_t deleted = 0;
  // A tombstone takes the place of a record in its slot: the tree keeps its shape and the cursor stays valid.
  for (BTree::Cursor cursor = current_->tree.LowerBound(range.begin); cursor.valid(); cursor.Next()) {
    auto* newest = const_cast<Record*>(cursor.record());
    const std::string_view key = newest->key();
    if (range.Beyond(key)) break;
    if (newest->tombstone()) continue;
    if (prev_kvs != nullptr) AppendBytesAlways(prev_kvs, 3, newest->encoded());
    if (newest->leased()) lessor_.Detach(newest->Decode().lease, key);
    Record* tombstone =
        Record::NewTombstone(key, change->begin + 1, change->subs, newest, compact_revision(), &current_->pool);
    ++change->subs;
    current_->tree.Install({cursor, newest}, tombstone);
    current_->index.Append(tombstone);
    records_.fetch_add(1, std::memory_order_relaxed);
    record_bytes_.fetch_add(Record::AllocatedBytes(tombstone), std::memory_order_relaxed);
    ++deleted;
  }
  live_keys_.fetch_sub(static_cast<uint64_t>(deleted), std::memory_order_relaxed);
  return deleted;
}

void Store::Publish(const Change& change) { revision_.store(change.revision(), std::memory_order_release); }

Code Store::ApplyPut(std::string_view payload, std::string* response) {
  PutRequest put;
  if (!put.Parse(payload)) return Code::kMalformed;
  if (put.key.empty()) return Code::kEmptyKey;
  if (put.lease != 0 && lessor_.Find(put.lease) == nullptr) return Code::kLeaseNotFound;
  std::string old_value;
  std::string prev_kv;
  if (put.prev_kv || put.ignore_value || put.ignore_lease) {
    const Record* old = Newest(put.key);
    if (old == nullptr && (put.ignore_value || put.ignore_lease)) return Code::kKeyNotFound;
    if (old != nullptr) {
      if (put.prev_kv) AppendBytesAlways(&prev_kv, 2, old->encoded());
      if (put.ignore_value) put.value = old->value();
      if (put.ignore_lease) put.lease = old->Decode().lease;
    }
  }
  Change change{revision()};
  PutKey(&change, put.key, put.value, put.lease);
  Publish(change);
  AppendHeader(response, change.revision());
  response->append(prev_kv);
  return Code::kOk;
}

Code Store::ApplyDeleteRange(std::string_view payload, std::string* response) {
  DeleteRangeRequest request;
  if (!request.Parse(payload)) return Code::kMalformed;
  if (request.key.empty()) return Code::kEmptyKey;
  Change change{revision()};
  std::string prev_kvs;
  const int64_t deleted =
      DeleteKeys(&change, KeyRange(request.key, request.range_end), request.prev_kv ? &prev_kvs : nullptr);
  Publish(change);
  AppendHeader(response, change.revision());
  AppendNumber(response, 2, deleted);
  response->append(prev_kvs);
  return Code::kOk;
}

Code Store::ApplyLeaseGrant(std::string_view payload, std::string* response) {
  LeaseGrantRequest request;
  if (!request.Parse(payload) || request.id == 0) return Code::kMalformed;
  if (request.ttl > kLeaseTtlMax) return Code::kLeaseTtlTooLarge;
  if (!lessor_.Grant(request.id, request.ttl)) return Code::kLeaseExists;
  leases_.fetch_add(1, std::memory_order_relaxed);
  AppendHeader(response, revision());
  AppendNumber(response, 2, request.id);
  AppendNumber(response, 3, request.ttl);
  return Code::kOk;
}

Code Store::ApplyLeaseRevoke(std::string_view payload, std::string* response) {
  LeaseRevokeRequest request;
  if (!request.Parse(payload)) return Code::kMalformed;
  Lease* lease = lessor_.Find(request.id);
  if (lease == nullptr) return Code::kLeaseNotFound;
  Change change{revision()};
  const auto keys = std::move(lease->keys);
  lessor_.Erase(request.id);
  leases_.fetch_sub(1, std::memory_order_relaxed);
  for (const std::string& key : keys) DeleteKeys(&change, KeyRange(key, {}), nullptr);
  Publish(change);
  AppendHeader(response, change.revision());
  return Code::kOk;
}

Code Store::ApplyLeaseCheckpoint(std::string_view payload, std::string*) {
  LeaseCheckpointRequest request;
  if (!request.Parse(payload)) return Code::kMalformed;
  for (const auto& checkpoint : request.checkpoints) {
    if (Lease* lease = lessor_.Find(checkpoint.id)) lease->remaining_ttl = checkpoint.remaining_ttl;
  }
  return Code::kOk;
}

Code Store::ApplyAlarm(std::string_view payload, std::string* response) {
  AlarmRequest request;
  if (!request.Parse(payload)) return Code::kMalformed;
  const auto alarm = static_cast<uint64_t>(static_cast<uint32_t>(request.alarm));
  std::vector<std::pair<uint64_t, uint64_t>> answered;
  switch (request.action) {
    case AlarmRequest::kGet:
      for (const auto& active : alarms_) {
        if (alarm == 0 || active.second == alarm) answered.push_back(active);  // whatever the member, as in etcd
      }
      break;
    case AlarmRequest::kActivate:
      if (alarm != 0) {
        alarms_.insert({request.member_id, alarm});
        answered.emplace_back(request.member_id, alarm);
      }
      break;
    case AlarmRequest::kDeactivate:
      if (alarms_.erase({request.member_id, alarm}) > 0) answered.emplace_back(request.member_id, alarm);
      break;
    default:
      break;
  }
  AppendHeader(response, revision());
  for (const auto& [member, active] : answered) {
    const size_t begin = BeginMessage(response, 2);
    AppendNumber(response, 1, static_cast<int64_t>(member));
    AppendNumber(response, 2, static_cast<int64_t>(active));
    EndMessage(response, begin);
  }
  return Code::kOk;
}

std::vector<Store::LeaseInfo> Store::Leases() const {
  const std::lock_guard lock(write_mutex_);
  std::vector<LeaseInfo> leases;
  leases.reserve(lessor_.all().size());
  for (const auto& [id, lease] : lessor_.all()) leases.push_back({id, lease.ttl, lease.remaining_ttl});
  return leases;
}

std::vector<std::string> Store::LeaseKeys(int64_t id) const {
  const std::lock_guard lock(write_mutex_);
  const auto found = lessor_.all().find(id);
  if (found == lessor_.all().end()) return {};
  return {found->second.keys.begin(), found->second.keys.end()};
}

std::vector<std::pair<uint64_t, uint64_t>> Store::Alarms() const {
  const std::lock_guard lock(write_mutex_);
  return {alarms_.begin(), alarms_.end()};
}

Store::Stats Store::GetStats() const {
  const EpochGuard guard;
  const Contents& now = contents();
  return {live_keys_.load(std::memory_order_relaxed), records_.load(std::memory_order_relaxed),
          record_bytes_.load(std::memory_order_relaxed) + now.tree.memory_bytes() + now.index.memory_bytes(),
          leases_.load(std::memory_order_relaxed)};
}

void Store::RetireRecord(Record* record) {
  records_.fetch_sub(1, std::memory_order_relaxed);
  record_bytes_.fetch_sub(Record::AllocatedBytes(record), std::memory_order_relaxed);
  current_->retired.Add(
      record,
      [](void* memory, void* pool) { Record::Delete(static_cast<Record*>(memory), static_cast<SlabPool*>(pool)); },
      &current_->pool);
}

}  // namespace fastkv
