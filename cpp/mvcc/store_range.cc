// Reads: range with all its options, chunks of it for RangeStream, scans and counts for the embedded API, events for
// watchers.
#include <algorithm>
#include <unordered_set>

#include "mvcc/store.h"

namespace fastkv {
namespace {

constexpr size_t kLookAhead = 12;

void Prefetch(const Record* record) {
  __builtin_prefetch(record);
  __builtin_prefetch(reinterpret_cast<const char*>(record) + 64);
  __builtin_prefetch(reinterpret_cast<const char*>(record) + 128);
}

// Calls visit(record) for what is visible at `revision`, in key order, until it returns false or the range ends.
// Returns the cursor at the first key not visited.
template <typename Visit>
BTree::Cursor VisitVisible(const BTree& tree, const KeyRange& range, int64_t revision, Visit&& visit) {
  BTree::Cursor cursor = tree.LowerBound(range.begin);
  const BTree::Leaf* leaf = nullptr;
  int fetched = 0;
  for (; cursor.valid(); cursor.Next()) {
    if (!range.single) {
      if (cursor.leaf() != leaf) {
        leaf = cursor.leaf();
        fetched = cursor.position();
      }
      const int ahead = std::min<int>(leaf->count, cursor.position() + static_cast<int>(kLookAhead));
      for (; fetched < ahead; ++fetched) Prefetch(leaf->at(fetched));
    }
    const Record* newest = cursor.record();
    if (range.Beyond(newest->key())) break;
    const Record* record = newest->VisibleAt(revision);
    if (record == nullptr || record->tombstone()) continue;
    if (!visit(record)) break;
  }
  return cursor;
}

// etcd filters in this order, each a pass; the order cannot be told from outside.
bool PassesFilters(const RangeRequest& request, const Record* record) {
  if (!request.has_filter()) return true;
  const Record::KeyValue kv = record->Decode();
  return (request.max_mod_revision == 0 || kv.mod_revision <= request.max_mod_revision) &&
         (request.min_mod_revision == 0 || kv.mod_revision >= request.min_mod_revision) &&
         (request.max_create_revision == 0 || kv.create_revision <= request.max_create_revision) &&
         (request.min_create_revision == 0 || kv.create_revision >= request.min_create_revision);
}

void Sort(int32_t target, bool descend, std::vector<const Record*>* records) {
  auto sort_by = [records, descend](auto&& key) {
    std::stable_sort(records->begin(), records->end(), [&key, descend](const Record* a, const Record* b) {
      return descend ? key(b) < key(a) : key(a) < key(b);
    });
  };
  switch (target) {
    case RangeRequest::kVersion:
      return sort_by([](const Record* r) { return r->Decode().version; });
    case RangeRequest::kCreate:
      return sort_by([](const Record* r) { return r->Decode().create_revision; });
    case RangeRequest::kMod:
      return sort_by([](const Record* r) { return r->main(); });
    case RangeRequest::kValue:
      return sort_by([](const Record* r) { return r->value(); });
    default:
      return sort_by([](const Record* r) { return r->key(); });
  }
}

void AppendKv(std::string* to, const RangeRequest& request, const Record* record) {
  if (!request.keys_only) {
    AppendBytesAlways(to, 2, record->encoded());
  } else if (request.sort_target != RangeRequest::kValue || !record->leased()) {
    AppendBytesAlways(to, 2, record->encoded_key_only());
  } else {  // etcd had to fetch the values and strips only them
    const size_t begin = BeginMessage(to, 2);
    to->append(record->encoded_key_only());
    AppendNumber(to, 6, record->Decode().lease);
    EndMessage(to, begin);
  }
}

}  // namespace

Code Store::Resolve(int64_t asked, int64_t* revision) const {
  if (asked <= 0) {
    // A write and a compaction of it may fall between the two loads: the latest is never compacted.
    do {
      *revision = this->revision();
    } while (*revision < compact_revision());
    return Code::kOk;
  }
  if (asked > this->revision()) return Code::kFutureRevision;
  *revision = asked;
  return asked < compact_revision() ? Code::kCompacted : Code::kOk;
}

// Who asks for the latest is told the revision that was read, or a watch from there on would miss something; who asks
// for a revision is told the current one.
int64_t Store::HeaderRevision(const RangeRequest& request, int64_t at) const {
  return request.revision > 0 ? revision() : at;
}

void Store::RangeFields(const RangeRequest& request, int64_t revision, std::string* to) const {
  const KeyRange range(request.key, request.range_end);
  const BTree& tree = contents().tree;
  if (request.count_only) {
    AppendNumber(to, 4, CountAt(tree.LowerBound(range.begin), range, revision));
    return;
  }
  const bool sorted = request.sort_order != RangeRequest::kNone || request.sort_target != RangeRequest::kKey;
  const bool fetch_all = request.sort_order != RangeRequest::kNone || request.has_filter();
  if (!sorted && !fetch_all) {
    // The common case: straight from the tree into the answer.
    const int64_t limit = request.limit > 0 ? request.limit : INT64_MAX;
    int64_t kvs = 0;
    bool more = false;
    const BTree::Cursor rest = VisitVisible(tree, range, revision, [&](const Record* record) {
      if (kvs == limit) {
        more = true;
        return false;
      }
      AppendKv(to, request, record);
      ++kvs;
      return true;
    });
    AppendBool(to, 3, more);
    AppendNumber(to, 4, kvs + (more ? CountAt(rest, range, revision) : 0));
    return;
  }
  std::vector<const Record*> records;
  int64_t count = 0;
  // etcd's quirk: without an explicit order only limit + 1 keys are fetched, in key order, and those are sorted.
  const int64_t fetch_max =
      !fetch_all && request.limit > 0 && request.limit < INT64_MAX ? request.limit + 1 : INT64_MAX;
  VisitVisible(tree, range, revision, [&](const Record* record) {
    if (count++ < fetch_max && PassesFilters(request, record)) records.push_back(record);
    return true;
  });
  if (sorted) Sort(request.sort_target, request.sort_order == RangeRequest::kDescend, &records);
  const bool more = request.limit > 0 && records.size() > static_cast<uint64_t>(request.limit);
  if (more) records.resize(static_cast<size_t>(request.limit));
  for (const Record* record : records) AppendKv(to, request, record);
  AppendBool(to, 3, more);
  AppendNumber(to, 4, count);
}

// Keys visible at `revision` from the cursor to the end of the range. Leaves without anything newer are counted, not
// walked.
int64_t Store::CountAt(BTree::Cursor cursor, const KeyRange& range, int64_t revision) const {
  int64_t count = 0;
  while (cursor.valid()) {
    const BTree::Leaf* leaf = cursor.leaf();
    if (cursor.position() == 0 && !range.single && !range.Beyond(leaf->at(leaf->count - 1)->key())) {
      const int32_t live = leaf->live.load(std::memory_order_acquire);
      if (leaf->max_main.load(std::memory_order_acquire) <= revision) {
        count += live;
        cursor.NextLeaf();
        continue;
      }
    }
    for (int i = cursor.position(); i < leaf->count; ++i) Prefetch(leaf->at(i));
    while (cursor.valid() && cursor.leaf() == leaf) {
      const Record* newest = cursor.record();
      if (range.Beyond(newest->key())) return count;
      const Record* record = newest->VisibleAt(revision);
      if (record != nullptr && !record->tombstone()) ++count;
      cursor.Next();
    }
  }
  return count;
}

Code Store::Range(std::string_view bytes, std::string* response) const {
  if (Code code = ValidateRangeRequest(bytes); code != Code::kOk) return code;
  RangeRequest request;
  request.Parse(bytes);
  EpochGuard guard;
  for (;;) {
    int64_t at = 0;
    if (Code code = Resolve(request.revision, &at); code != Code::kOk) return code;
    response->clear();
    AppendHeader(response, HeaderRevision(request, at));
    RangeFields(request, at, response);
    if (compact_revision() <= at) return Code::kOk;  // else what we read may have been removed while we read it
  }
}

Code Store::RangeChunk(std::string_view bytes, size_t bytes_max, std::string* response, std::string* next) const {
  if (Code code = ValidateRangeRequest(bytes); code != Code::kOk) return code;
  RangeRequest request;
  request.Parse(bytes);
  const bool by_key = request.sort_target == RangeRequest::kKey && request.sort_order != RangeRequest::kDescend;
  if (!by_key) return Code::kStreamSort;
  if (request.has_filter()) return Code::kStreamFilter;
  const KeyRange range(request.key, request.range_end);
  const int64_t sent = std::clamp<int64_t>(request.chunk_sent, 0, INT64_MAX / 2);  // a client can send the field, too
  EpochGuard guard;
  for (;;) {
    int64_t at = 0;
    if (Code code = Resolve(request.revision, &at); code != Code::kOk) return code;
    response->clear();
    next->clear();
    const int64_t header_revision = request.chunk_header > 0 ? request.chunk_header : HeaderRevision(request, at);
    if (request.count_only || range.single) {
      AppendHeader(response, header_revision);
      RangeFields(request, at, response);
    } else {
      const int64_t limit = request.limit > 0 ? request.limit : INT64_MAX;
      int64_t kvs = 0;
      bool full = false, more = false;
      std::string_view resume;
      const BTree::Cursor rest = VisitVisible(contents().tree, range, at, [&](const Record* record) {
        more = kvs == limit;
        full = kvs > 0 && response->size() + record->encoded().size() > bytes_max;
        if (more || full) {
          resume = record->key();
          return false;
        }
        AppendKv(response, request, record);
        ++kvs;
        return true;
      });
      if (full && !more) {
        // header, more and count come with the last chunk: what they need travels in the request for the next one.
        AppendBytes(next, 1, resume);
        AppendBytes(next, 2, request.range_end);
        if (request.limit > 0) AppendNumber(next, 3, request.limit - kvs);
        AppendNumber(next, 4, at);
        AppendBool(next, 7, request.serializable);
        AppendBool(next, 8, request.keys_only);
        AppendNumber(next, RangeRequest::kChunkHeader, header_revision);
        AppendNumber(next, RangeRequest::kChunkSent, sent + kvs);
      } else {
        std::string header;
        AppendHeader(&header, header_revision);
        response->insert(0, header);
        AppendBool(response, 3, more);
        AppendNumber(response, 4, sent + kvs + (more ? CountAt(rest, range, at) : 0));
      }
    }
    if (compact_revision() <= at) return Code::kOk;
    if (request.revision > 0) return Code::kCompacted;
  }
}

Code Store::Scan(const KeyRange& range, int64_t revision, size_t limit, bool reverse,
                 std::vector<const Record*>* out) const {
  for (;;) {
    int64_t at = 0;
    if (Code code = Resolve(revision, &at); code != Code::kOk) return code;
    out->clear();
    const BTree& tree = contents().tree;
    if (!reverse) {
      VisitVisible(tree, range, at, [&](const Record* record) {
        if (limit > 0 && out->size() == limit) return false;
        out->push_back(record);
        return true;
      });
    } else {
      BTree::Cursor cursor = range.unbounded ? tree.Last()
                             : range.single  ? tree.LowerBound(range.begin)
                                             : tree.Before(range.end);
      for (; cursor.valid() && (limit == 0 || out->size() < limit); cursor.Prev()) {
        const Record* newest = cursor.record();
        if (newest->key() < range.begin) break;
        if (range.Beyond(newest->key())) continue;  // inserted where the walk began, after it had begun
        const Record* record = newest->VisibleAt(at);
        if (record != nullptr && !record->tombstone()) out->push_back(record);
        if (range.single) break;
      }
    }
    if (compact_revision() <= at) return Code::kOk;
  }
}

Code Store::Count(const KeyRange& range, int64_t revision, int64_t* count) const {
  EpochGuard guard;
  for (;;) {
    int64_t at = 0;
    if (Code code = Resolve(revision, &at); code != Code::kOk) return code;
    *count = CountAt(contents().tree.LowerBound(range.begin), range, at);
    if (compact_revision() <= at) return Code::kOk;
  }
}

void Store::History(std::string_view key, std::vector<const Record*>* out) const {
  const int64_t compacted = compact_revision();
  out->clear();
  const int64_t current = revision();
  const Record* record = contents().tree.Find(key);
  if (record != nullptr) record = record->VisibleAt(current);
  for (; record != nullptr; record = record->older()) {
    if (record->main() <= compacted) {  // the one still readable, unless it says that there was nothing
      if (!record->tombstone() || record->main() == compacted) out->push_back(record);
      break;
    }
    out->push_back(record);
  }
  std::reverse(out->begin(), out->end());
}

int64_t Store::Events(int64_t from, int64_t to, size_t limit, std::vector<const Record*>* out) const {
  const RevisionIndex& index = contents().index;
  const uint64_t end = index.end();
  uint64_t position = index.LowerBound(from);
  const size_t first = out->size();
  int64_t covered = to;
  for (; position < end; ++position) {
    const Record* record = index.at(position);
    if (record == nullptr) continue;  // trimmed: the caller will find that compaction has passed `from`
    if (record->main() > to) break;
    if (out->size() - first >= limit && record->main() != out->back()->main()) {
      covered = out->back()->main();
      break;
    }
    out->push_back(record);
  }
  // Of the compact revision itself only the last change of a key is left, as in etcd.
  if (const int64_t compacted = compact_revision(); out->size() > first + 1 && (*out)[first]->main() == compacted) {
    size_t n = first;
    while (n < out->size() && (*out)[n]->main() == compacted) ++n;
    std::unordered_set<std::string_view> later;
    for (size_t i = n; i-- > first;) {
      if (!later.insert((*out)[i]->key()).second) (*out)[i] = nullptr;
    }
    out->erase(std::remove(out->begin() + static_cast<std::ptrdiff_t>(first), out->end(), nullptr), out->end());
  }
  return covered;
}

}  // namespace fastkv
