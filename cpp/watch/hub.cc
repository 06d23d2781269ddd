#include "watch/hub.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <list>
#include <mutex>
#include <span>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "base/check.h"
#include "mvcc/epoch.h"
#include "mvcc/record.h"
#include "watch/event_reader.h"
#include "watch/matcher.h"

namespace fastkv {
namespace {

constexpr size_t kSharedMax = 4;
constexpr size_t kSharedBytesMax = 256 << 10;  // of one; larger ones are what a catch-up reads

enum class ReadyState : uint8_t { kIdle, kListed, kHandedOut };

struct Watcher {
  Watcher(uint64_t id, EventFilter filter) : id(id), filter(std::move(filter)) {}

  bool HasSomething() const { return !synced || !pending.empty(); }

  const uint64_t id;
  const EventFilter filter;
  int64_t progress_min = 0;  // no progress below this; set once, in Add

  // Guarded by Impl::match_mutex.
  Matcher<Watcher>::Place place;
  int64_t matched_revision = 0;  // the last one that Sweep has seen a match in

  std::mutex take_mutex;  // held by a Take from start to end: one taker at a time

  std::mutex mutex;  // guards what follows; never held while the source is read
  std::condition_variable wake;
  bool gone = false;
  bool synced = false;
  int64_t next_revision = 0;  // everything below it is taken (synced: or pending)
  std::vector<int64_t> pending;

  // Guarded by Impl::ready_mutex.
  ReadyState ready_state = ReadyState::kIdle;
  std::list<Watcher*>::iterator ready_place;
};

// What was pending for a watcher, and what came of it. A watcher has pending all the revisions that its filter matches
// between the first and the last, so two of equal filters have the same if the ends and the number agree.
struct Asked {
  int64_t first = 0, last = 0;
  size_t count = 0, bytes_max = 0;
  int64_t compact_revision = 0;  // beyond it there is no prev_kv; at an older one the events may be gone

  bool operator==(const Asked&) const = default;
};
struct Shared {
  Asked asked;
  EventFilter filter;
  int64_t done = 0;
  WatchNews news;
};

}  // namespace

// Locks are taken in this order: watcher.take_mutex, match_turn, match_mutex, table_mutex, watcher.mutex, ready_mutex
// or shared_mutex.
struct WatchHub::Impl {
  // A mutex that is let go and taken again at once, as Sweep does between slices, starves who else waits for it: so who
  // wants match_mutex queues at match_turn.
  class MatchLock {
   public:
    explicit MatchLock(Impl* hub) : turn_(hub->match_turn), match_(hub->match_mutex) { turn_.unlock(); }

   private:
    std::unique_lock<std::mutex> turn_;
    std::lock_guard<std::mutex> match_;
  };

  Impl(const EventSource* source, WatchLimits limits) : source(source), limits(limits) {}

  uint64_t Add(WatchSpec spec);
  void Cancel(uint64_t id);
  void Sweep(int64_t to);
  void Resync(int64_t to);
  std::vector<WatchBatch> Take(uint64_t id, size_t bytes_max, bool* more);
  WatchNews TakeJoined(uint64_t id, size_t bytes_max, bool* more);
  bool FindShared(const Watcher& watcher, const Asked& asked, WatchNews* news, int64_t* done);
  void Share(const Watcher& watcher, const Asked& asked, const WatchNews& news, int64_t done);
  bool Wait(uint64_t id, double timeout_s);
  std::vector<uint64_t> Ready();
  int64_t Progress(uint64_t id);
  void CloseAll();

  std::shared_ptr<Watcher> Find(uint64_t id);
  void Notify(Watcher* watcher, std::span<const Record* const> records);
  bool Settle(Watcher* watcher, int64_t done);
  void MarkReady(Watcher* watcher);
  void MarkIdle(Watcher* watcher);

  const EventSource* const source;
  const WatchLimits limits;

  std::mutex match_turn, match_mutex;
  Matcher<Watcher> matcher;               // guarded by match_mutex
  uint64_t last_id = 0;                   // guarded by match_mutex
  bool closed = false;                    // guarded by match_mutex
  std::vector<const Record*> slice;       // Sweep's
  std::atomic<int64_t> announced{0};      // written under match_mutex: Sweep may have matched up to here
  std::atomic<int64_t> swept{0};          // written under match_mutex: Sweep has matched up to here
  std::atomic<size_t> watchers_count{0};  // written under match_mutex

  std::mutex table_mutex;
  std::unordered_map<uint64_t, std::shared_ptr<Watcher>> table;

  std::mutex ready_mutex;
  std::list<Watcher*> ready;  // exactly those in state kListed

  std::mutex shared_mutex;
  std::array<Shared, kSharedMax> shared;
  size_t shared_next = 0;
};

std::shared_ptr<Watcher> WatchHub::Impl::Find(uint64_t id) {
  std::lock_guard lock(table_mutex);
  auto found = table.find(id);
  return found == table.end() ? nullptr : found->second;
}

// REQUIRES: watcher->mutex is held and the watcher is not gone: a gone one must not be listed.
void WatchHub::Impl::MarkReady(Watcher* watcher) {
  std::lock_guard lock(ready_mutex);
  if (watcher->ready_state == ReadyState::kListed) return;
  watcher->ready_state = ReadyState::kListed;
  watcher->ready_place = ready.insert(ready.end(), watcher);
}

void WatchHub::Impl::MarkIdle(Watcher* watcher) {
  std::lock_guard lock(ready_mutex);
  if (watcher->ready_state == ReadyState::kListed) ready.erase(watcher->ready_place);
  watcher->ready_state = ReadyState::kIdle;
}

uint64_t WatchHub::Impl::Add(WatchSpec spec) {
  FASTKV_CHECK(spec.start_revision >= 0);
  EventFilter filter{KeyInterval::Of(std::move(spec.key), std::move(spec.range_end)), spec.prev_kv, spec.no_put,
                     spec.no_delete};
  MatchLock lock(this);
  const uint64_t id = ++last_id;
  if (closed) return id;
  // Either a concurrent Sweep sees this count and waits for the lock, or the revision read below has reached what it
  // swept.
  const bool first = watchers_count.fetch_add(1, std::memory_order_seq_cst) == 0;
  const int64_t revision = source->revision();
  if (first) {  // nobody was there to keep these up to date for
    announced.store(revision, std::memory_order_relaxed);
    swept.store(revision, std::memory_order_release);
  }
  auto watcher = std::make_shared<Watcher>(id, std::move(filter));
  watcher->progress_min = spec.start_revision;
  watcher->next_revision = spec.start_revision == 0 ? revision + 1 : spec.start_revision;
  const bool synced = watcher->next_revision > swept.load(std::memory_order_relaxed);  // exact: no slice is running
  watcher->synced = synced;
  {
    std::lock_guard table_lock(table_mutex);
    table.emplace(id, watcher);
  }
  matcher.Insert(watcher->filter.interval, watcher.get());
  if (!synced) MarkReady(watcher.get());  // watcher->mutex is not needed: nobody knows the id yet
  return id;
}

void WatchHub::Impl::Cancel(uint64_t id) {
  std::shared_ptr<Watcher> watcher;
  {
    MatchLock lock(this);
    {
      std::lock_guard table_lock(table_mutex);
      auto found = table.find(id);
      if (found == table.end()) return;
      watcher = std::move(found->second);
      table.erase(found);
    }
    matcher.Erase(watcher->filter.interval, watcher.get());
    watchers_count.fetch_sub(1, std::memory_order_seq_cst);
  }
  std::lock_guard lock(watcher->mutex);
  watcher->gone = true;
  MarkIdle(watcher.get());
  watcher->wake.notify_all();
}

// The watcher's interval holds the key of these records. REQUIRES: match_mutex is held.
void WatchHub::Impl::Notify(Watcher* watcher, std::span<const Record* const> records) {
  std::lock_guard lock(watcher->mutex);
  if (!watcher->synced) return;
  std::vector<int64_t>& pending = watcher->pending;
  const bool ready_already = !pending.empty();
  for (const Record* record : records) {
    const int64_t revision = record->main();
    if (!watcher->filter.WantsType(record->tombstone()) || watcher->matched_revision == revision) continue;
    watcher->matched_revision = revision;
    if (revision < watcher->next_revision) continue;
    if (pending.size() >= limits.pending_max) {
      watcher->synced = false;
      watcher->next_revision = pending.front();
      std::vector<int64_t>().swap(pending);
      break;
    }
    pending.push_back(revision);
  }
  if (ready_already || !watcher->HasSomething()) return;
  MarkReady(watcher);
  watcher->wake.notify_all();
}

void WatchHub::Impl::Sweep(int64_t to) {
  // A read-modify-write, not a load: see the pair of it in Add.
  if (watchers_count.fetch_add(0, std::memory_order_seq_cst) == 0) return;
  for (;;) {
    MatchLock lock(this);
    const int64_t from = swept.load(std::memory_order_relaxed) + 1;
    if (from > to || watchers_count.load(std::memory_order_relaxed) == 0) return;
    announced.store(std::max(to, announced.load(std::memory_order_relaxed)), std::memory_order_relaxed);
    const EpochGuard guard;
    slice.clear();
    const int64_t covered = std::min(to, source->Events(from, to, limits.slice_records, &slice));
    FASTKV_CHECK(covered >= from);
    for (size_t begin = 0, end = 0; begin < slice.size(); begin = end) {
      const std::string_view key = slice[begin]->key();
      // A key that is written again and again finds its watchers once.
      for (end = begin + 1; end < slice.size() && slice[end]->key() == key; ++end) {
      }
      const std::span<const Record* const> run(slice.data() + begin, end - begin);
      matcher.Match(key, [this, run](Watcher* watcher) { Notify(watcher, run); });
    }
    swept.store(covered, std::memory_order_release);
  }
}

void WatchHub::Impl::Resync(int64_t to) {
  MatchLock lock(this);
  const int64_t from = swept.load(std::memory_order_relaxed) + 1;
  if (from > to) return;
  announced.store(to, std::memory_order_relaxed);
  swept.store(to, std::memory_order_release);
  std::lock_guard table_lock(table_mutex);
  for (const auto& [id, watcher] : table) {
    std::lock_guard watcher_lock(watcher->mutex);
    if (!watcher->synced) continue;  // it reads on from next_revision by itself
    if (watcher->pending.empty()) {
      watcher->next_revision = std::max(watcher->next_revision, from);
      if (watcher->next_revision > to) continue;
    } else {
      watcher->next_revision = watcher->pending.front();
      std::vector<int64_t>().swap(watcher->pending);
    }
    watcher->synced = false;
    MarkReady(watcher.get());
    watcher->wake.notify_all();
  }
}

// After a Take has delivered everything up to `done`: is something left?
bool WatchHub::Impl::Settle(Watcher* watcher, int64_t done) {
  std::lock_guard lock(watcher->mutex);
  if (watcher->gone) return false;
  std::vector<int64_t>& pending = watcher->pending;
  pending.erase(pending.begin(), std::upper_bound(pending.begin(), pending.end(), done));
  constexpr size_t kKeepCapacity = 64;
  if (pending.empty() && pending.capacity() > kKeepCapacity) std::vector<int64_t>().swap(pending);
  watcher->next_revision = std::max(watcher->next_revision, done + 1);
  // A sweep in progress may have passed this watcher by up to `announced`; what it pushes from now on is above that.
  if (watcher->next_revision > announced.load(std::memory_order_relaxed)) watcher->synced = true;
  const bool more = watcher->HasSomething();
  if (more) {
    MarkReady(watcher);
  } else {
    MarkIdle(watcher);
  }
  return more;
}

std::vector<WatchBatch> WatchHub::Impl::Take(uint64_t id, size_t bytes_max, bool* more) {
  if (more != nullptr) *more = false;
  const std::shared_ptr<Watcher> watcher = Find(id);
  if (watcher == nullptr) return {};
  std::lock_guard taking(watcher->take_mutex);
  bool synced = false;
  int64_t next_revision = 0;
  std::vector<int64_t> pending;
  {
    std::lock_guard lock(watcher->mutex);
    if (watcher->gone) return {};
    synced = watcher->synced;
    next_revision = watcher->next_revision;
    pending = watcher->pending;
  }
  EventReader reader(source, watcher->filter, limits, bytes_max);
  if (synced) {
    reader.ReadLive(pending);
  } else {
    reader.CatchUp(next_revision);
  }
  if (reader.compacted && reader.batches.empty()) {
    Cancel(id);
    return {WatchBatch{0, {}, source->compact_revision()}};
  }
  const bool left = Settle(watcher.get(), reader.done);
  if (more != nullptr) *more = left;
  return std::move(reader.batches);
}

bool WatchHub::Impl::FindShared(const Watcher& watcher, const Asked& asked, WatchNews* news, int64_t* done) {
  const std::lock_guard lock(shared_mutex);
  for (const Shared& one : shared) {
    if (one.asked != asked || one.filter != watcher.filter) continue;
    *news = one.news;
    *done = one.done;
    return true;
  }
  return false;
}

void WatchHub::Impl::Share(const Watcher& watcher, const Asked& asked, const WatchNews& news, int64_t done) {
  if (news.events == nullptr || news.events->size() > kSharedBytesMax) return;
  const std::lock_guard lock(shared_mutex);
  shared[shared_next] = {asked, watcher.filter, done, news};
  shared_next = (shared_next + 1) % kSharedMax;
}

WatchNews WatchHub::Impl::TakeJoined(uint64_t id, size_t bytes_max, bool* more) {
  if (more != nullptr) *more = false;
  const std::shared_ptr<Watcher> watcher = Find(id);
  if (watcher == nullptr) return {};
  std::lock_guard taking(watcher->take_mutex);
  int64_t next_revision = 0;
  std::vector<int64_t> pending;
  const int64_t compact_revision = source->compact_revision();
  Asked asked;
  WatchNews news;
  int64_t done = 0;
  bool synced = false, found = false;
  {
    std::lock_guard lock(watcher->mutex);
    if (watcher->gone) return {};
    synced = watcher->synced;
    next_revision = watcher->next_revision;
    if (!watcher->pending.empty()) {
      asked = {watcher->pending.front(), watcher->pending.back(), watcher->pending.size(), bytes_max, compact_revision};
      found = FindShared(*watcher, asked, &news, &done);
      if (!found) pending = watcher->pending;
    }
  }
  if (!found) {
    EventReader reader(source, watcher->filter, limits, bytes_max);
    if (synced) {
      reader.ReadLive(pending, /*joined=*/true);
    } else {
      reader.CatchUp(next_revision);
    }
    if (reader.compacted && reader.batches.empty()) {
      Cancel(id);
      return {0, nullptr, source->compact_revision()};
    }
    done = reader.done;
    if (!reader.batches.empty()) {
      news.revision = reader.batches[0].revision;
      news.events = std::make_shared<const std::string>(std::move(reader.batches[0].events));
      if (synced && !reader.compacted && source->compact_revision() == compact_revision) {
        Share(*watcher, asked, news, done);
      }
    }
  }
  const bool left = Settle(watcher.get(), done);
  if (more != nullptr) *more = left;
  return news;
}

bool WatchHub::Impl::Wait(uint64_t id, double timeout_s) {
  const std::shared_ptr<Watcher> watcher = Find(id);
  if (watcher == nullptr) return true;
  constexpr double kForever = 1e7;  // seconds; what the clock can add without overflow
  const std::chrono::duration<double> timeout(timeout_s > 0 ? std::min(timeout_s, kForever) : 0.0);
  std::unique_lock lock(watcher->mutex);
  return watcher->wake.wait_for(lock, timeout, [&watcher] { return watcher->gone || watcher->HasSomething(); });
}

std::vector<uint64_t> WatchHub::Impl::Ready() {
  std::vector<uint64_t> ids;
  std::lock_guard lock(ready_mutex);
  ids.reserve(ready.size());
  for (Watcher* watcher : ready) {
    watcher->ready_state = ReadyState::kHandedOut;
    ids.push_back(watcher->id);
  }
  ready.clear();
  return ids;
}

int64_t WatchHub::Impl::Progress(uint64_t id) {
  const std::shared_ptr<Watcher> watcher = Find(id);
  if (watcher == nullptr) return -1;
  // Before the lock: what was swept by now is pending, or taken, when the lock is held.
  const int64_t swept_revision = swept.load(std::memory_order_acquire);
  std::lock_guard lock(watcher->mutex);
  if (watcher->gone || watcher->HasSomething()) return -1;
  const int64_t taken = std::max(swept_revision, watcher->next_revision - 1);
  return taken >= watcher->progress_min ? taken : -1;
}

void WatchHub::Impl::CloseAll() {
  std::vector<std::shared_ptr<Watcher>> all;
  {
    MatchLock lock(this);
    closed = true;
    std::lock_guard table_lock(table_mutex);
    all.reserve(table.size());
    for (const auto& [id, watcher] : table) all.push_back(watcher);
  }
  for (const auto& watcher : all) Cancel(watcher->id);
  for (const auto& watcher : all) std::lock_guard wait_for_its_taker(watcher->take_mutex);
}

WatchHub::WatchHub(const EventSource* source, WatchLimits limits) : impl_(std::make_unique<Impl>(source, limits)) {}
WatchHub::~WatchHub() = default;
uint64_t WatchHub::Add(WatchSpec spec) { return impl_->Add(std::move(spec)); }
void WatchHub::Cancel(uint64_t id) { impl_->Cancel(id); }
void WatchHub::Sweep(int64_t to) { impl_->Sweep(to); }
void WatchHub::Resync(int64_t to) { impl_->Resync(to); }
std::vector<WatchBatch> WatchHub::Take(uint64_t id, size_t bytes_max, bool* more) {
  return impl_->Take(id, bytes_max, more);
}
WatchNews WatchHub::TakeJoined(uint64_t id, size_t bytes_max, bool* more) {
  return impl_->TakeJoined(id, bytes_max, more);
}
bool WatchHub::Wait(uint64_t id, double timeout_s) { return impl_->Wait(id, timeout_s); }
std::vector<uint64_t> WatchHub::Ready() { return impl_->Ready(); }
int64_t WatchHub::Progress(uint64_t id) { return impl_->Progress(id); }
size_t WatchHub::size() const { return impl_->watchers_count.load(std::memory_order_relaxed); }
void WatchHub::CloseAll() { impl_->CloseAll(); }

}  // namespace fastkv
