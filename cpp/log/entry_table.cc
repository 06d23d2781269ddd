#include "log/entry_table.h"

#include <algorithm>

#include "base/check.h"

namespace fastkv {

void EntryTable::Reset(uint64_t next_index) {
  first_index_ = next_index_ = next_index;
  runs_.clear();
  terms_.clear();
}

void EntryTable::Reserve(uint64_t sequence) {
  if (terms_.size() == terms_.capacity()) terms_.reserve(terms_.size() * 2 + 8);
  if (runs_.empty() || runs_.back().sequence != sequence) {
    if (!runs_.empty() && runs_.back().offsets.empty()) runs_.pop_back();
    runs_.push_back({sequence, next_index_, {}});
  }
  auto& offsets = runs_.back().offsets;
  if (offsets.size() == offsets.capacity()) offsets.reserve(offsets.size() * 2 + 64);
}

void EntryTable::Add(uint64_t sequence, uint64_t offset, uint64_t index, uint64_t term) {
  FASTKV_CHECK(index == next_index_);
  FASTKV_CHECK(offset % 8 == 0 && offset / 8 <= UINT32_MAX);
  Reserve(sequence);
  Run& run = runs_.back();
  if (run.offsets.empty()) run.first_index = index;
  run.offsets.push_back(static_cast<uint32_t>(offset / 8));
  if (terms_.empty() || terms_.back().term != term) terms_.push_back({index, term});
  ++next_index_;
}

void EntryTable::CutFrom(uint64_t index) {
  if (index >= next_index_) return;
  next_index_ = index;
  first_index_ = std::min(first_index_, index);
  while (!runs_.empty() && runs_.back().first_index >= index) runs_.pop_back();
  if (!runs_.empty()) runs_.back().offsets.resize(index - runs_.back().first_index);
  while (!terms_.empty() && terms_.back().first_index >= index) terms_.pop_back();
}

void EntryTable::GoOnAfter(uint64_t index, uint64_t term) {
  if (Holds(index) && Term(index) == term) return CutFrom(index + 1);
  Reset(index + 1);
}

void EntryTable::DropSegment(uint64_t sequence) {
  if (runs_.empty() || runs_.front().sequence != sequence) return;
  runs_.pop_front();
  first_index_ = runs_.empty() ? next_index_ : runs_.front().first_index;
}

EntryTable::Place EntryTable::Find(uint64_t index) const {
  FASTKV_CHECK(Holds(index));
  auto run =
      std::upper_bound(runs_.begin(), runs_.end(), index, [](uint64_t i, const Run& r) { return i < r.first_index; });
  FASTKV_CHECK(run != runs_.begin());
  --run;
  const size_t at = index - run->first_index;
  FASTKV_CHECK(at < run->offsets.size());
  Place place{run->sequence, uint64_t{run->offsets[at]} * 8, 0};
  if (at + 1 < run->offsets.size()) place.next_offset = uint64_t{run->offsets[at + 1]} * 8;
  return place;
}

uint64_t EntryTable::Term(uint64_t index) const {
  FASTKV_CHECK(Holds(index));
  auto run = std::upper_bound(terms_.begin(), terms_.end(), index,
                              [](uint64_t i, const TermRun& r) { return i < r.first_index; });
  FASTKV_CHECK(run != terms_.begin());
  return (run - 1)->term;
}

uint64_t EntryTable::LastIndexIn(uint64_t sequence) const {
  for (const Run& run : runs_) {
    if (run.sequence == sequence && !run.offsets.empty()) return run.first_index + run.offsets.size() - 1;
  }
  return 0;
}

}  // namespace fastkv
