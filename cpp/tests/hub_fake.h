// A revision index for the tests of the watch hub: real Records, as little around them as possible.
//
// Invariants:
// - a revision is visible to readers only when it is whole; compact_revision rises before anything is unlinked.
// - a revision at or above the compact revision keeps all its records.
// Thread safety: as the store's. Put, Delete, Commit, Compact and RemoveCompacted from one thread; the EventSource
// methods from any.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "mvcc/epoch.h"
#include "mvcc/record.h"
#include "watch/hub.h"

namespace fastkv {

class FakeSource : public EventSource {
 public:
  explicit FakeSource(size_t records_max)
      : records_max_(records_max),
        slots_(std::make_unique<std::atomic<Record*>[]>(records_max)),
        first_slot_(std::make_unique<size_t[]>(records_max + 3)) {}

  ~FakeSource() override {
    for (size_t slot = 0; slot < used_; ++slot) {
      if (Record* record = slots_[slot].load()) Record::Delete(record);
    }
  }

  // The record's main revision is the one that the next Commit makes visible.
  const Record* Put(const std::string& key, std::string_view value) {
    std::vector<Record*>& history = histories_[key];
    Record* older = history.empty() ? nullptr : history.back();
    Record::KeyValue kv{key, value, writing(), writing(), 1, 0};
    if (older != nullptr && !older->tombstone()) {
      const Record::KeyValue last = older->Decode();
      kv.create_revision = last.create_revision;
      kv.version = last.version + 1;
    }
    return Append(&history, Record::NewPut(kv, sub_, older, compact_revision()));
  }

  const Record* Delete(const std::string& key) {
    std::vector<Record*>& history = histories_.at(key);
    return Append(&history, Record::NewTombstone(key, writing(), sub_, history.back(), compact_revision()));
  }

  bool Exists(const std::string& key) const {
    auto found = histories_.find(key);
    return found != histories_.end() && !found->second.empty() && !found->second.back()->tombstone();
  }

  int64_t Commit() {
    FASTKV_CHECK(sub_ > 0);
    sub_ = 0;
    first_slot_[static_cast<size_t>(writing()) + 1] = used_;
    revision_.store(writing(), std::memory_order_release);
    return revision();
  }

  // What a compaction command does; RemoveCompacted does the work that may come any time later.
  void Compact(int64_t to) { compact_revision_.store(to, std::memory_order_release); }

  void RemoveCompacted() {
    const int64_t to = compact_revision();
    for (auto& [key, history] : histories_) {
      size_t keep = 0;  // the first that stays: the newest at or below `to`, unless it is an old tombstone
      while (keep + 1 < history.size() && history[keep]->main() < to && history[keep + 1]->main() <= to) ++keep;
      if (keep < history.size() && history[keep]->tombstone() && history[keep]->main() < to) ++keep;
      if (keep == 0) continue;
      if (keep < history.size()) history[keep]->CutOlder();
      for (size_t i = 0; i < keep; ++i) Unlink(history[i]);
      history.erase(history.begin(), history.begin() + static_cast<ptrdiff_t>(keep));
    }
    retired_.Reclaim();
  }

  int64_t Events(int64_t from, int64_t to, size_t limit, std::vector<const Record*>* out) const override {
    to = std::min(to, revision());
    size_t added = 0;
    for (int64_t main = std::max<int64_t>(from, 2); main <= to; ++main) {
      const size_t end = first_slot_[static_cast<size_t>(main) + 1];
      for (size_t slot = first_slot_[static_cast<size_t>(main)]; slot < end; ++slot) {
        const Record* record = slots_[slot].load(std::memory_order_acquire);
        if (record == nullptr) continue;
        out->push_back(record);
        ++added;
      }
      if (added >= limit) return main;
    }
    return to;
  }
  int64_t revision() const override { return revision_.load(std::memory_order_acquire); }
  int64_t compact_revision() const override { return compact_revision_.load(std::memory_order_acquire); }

 private:
  int64_t writing() const { return revision() + 1; }

  const Record* Append(std::vector<Record*>* history, Record* record) {
    FASTKV_CHECK(used_ < records_max_);
    slot_of_[record] = used_;
    slots_[used_++].store(record, std::memory_order_release);
    history->push_back(record);
    ++sub_;
    return record;
  }

  void Unlink(Record* record) {
    slots_[slot_of_.at(record)].store(nullptr, std::memory_order_release);
    slot_of_.erase(record);
    retired_.Add(record, [](void* memory, void*) { Record::Delete(static_cast<Record*>(memory)); });
  }

  const size_t records_max_;
  std::unique_ptr<std::atomic<Record*>[]> slots_;
  std::unique_ptr<size_t[]> first_slot_;  // by main revision, from 2; the entry behind the last is where it ends
  size_t used_ = 0;
  uint32_t sub_ = 0;
  std::map<std::string, std::vector<Record*>> histories_;  // oldest first
  std::map<const Record*, size_t> slot_of_;
  Retired retired_;
  std::atomic<int64_t> revision_{1};
  std::atomic<int64_t> compact_revision_{-1};
};

}  // namespace fastkv
