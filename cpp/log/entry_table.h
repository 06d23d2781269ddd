// Where every entry of the log stands: index -> segment, offset, term.
//
//   segment 7: [100 101 102 103]   segment 8: [104 105]        CutFrom(103) -> 7: [100 101 102]  8: []
//
// Invariants: indexes are contiguous from first_index to last_index, across segments in order. Four bytes an entry.
// Thread safety: none; the Log locks.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

namespace fastkv {

class EntryTable {
 public:
  struct Place {
    uint64_t sequence = 0;
    uint64_t offset = 0;
    uint64_t next_offset = 0;  // of the next entry in the same segment; 0: it is the segment's last
  };

  // Holds nothing; the next entry is `next_index`.
  void Reset(uint64_t next_index);
  // Makes room, so that the Add that follows cannot fail.
  void Reserve(uint64_t sequence);
  // REQUIRES: index == last_index() + 1; sequence is not below that of earlier entries; offset is a multiple of 8.
  void Add(uint64_t sequence, uint64_t offset, uint64_t index, uint64_t term);
  void CutFrom(uint64_t index);  // forgets index and all above
  // The next entry is index + 1. What is held up to index stays only if it ends with this term: else it is another
  // history's.
  void GoOnAfter(uint64_t index, uint64_t term);
  void DropSegment(uint64_t sequence);  // REQUIRES: it is the oldest with entries, or has none

  uint64_t first_index() const { return first_index_; }
  uint64_t last_index() const { return next_index_ - 1; }
  bool Holds(uint64_t index) const { return index >= first_index_ && index < next_index_; }
  Place Find(uint64_t index) const;     // REQUIRES: Holds(index)
  uint64_t Term(uint64_t index) const;  // REQUIRES: Holds(index)
  // The highest index in the segment that was not cut; 0: none.
  uint64_t LastIndexIn(uint64_t sequence) const;

 private:
  struct Run {
    uint64_t sequence = 0;
    uint64_t first_index = 0;
    std::vector<uint32_t> offsets;  // in units of 8 bytes: segments up to 32 GiB
  };
  struct TermRun {
    uint64_t first_index = 0;
    uint64_t term = 0;
  };

  uint64_t first_index_ = 1, next_index_ = 1;
  std::deque<Run> runs_;  // ascending; none is empty but perhaps the last
  std::vector<TermRun> terms_;
};

}  // namespace fastkv
