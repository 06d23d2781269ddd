// How often which latency was seen, in nanoseconds, to 1.6 %: a bucket a power of two and 64th part of it.
//
//   0 1 2 .. 63 | 64 65 .. 127 | 128 130 .. 254 | 256 260 .. | ...       first values of the buckets
//
// Invariants: recording takes no memory and no branch but one; percentile() is the upper edge of the bucket in which
// the value lies, never more than the largest value recorded. Thread safety: none.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

namespace fastkv::load {

class Histogram {
 public:
  void Record(uint64_t ns) {
    counts_[Index(ns)]++;
    count_++;
    max_ = std::max(max_, ns);
  }

  uint64_t count() const { return count_; }
  uint64_t max() const { return max_; }

  // The smallest recorded value that `fraction` of all values do not exceed; 0 if there is none.
  uint64_t Percentile(double fraction) const {
    uint64_t rank = static_cast<uint64_t>(fraction * static_cast<double>(count_));
    uint64_t seen = 0;
    for (size_t i = 0; i < counts_.size(); i++) {
      seen += counts_[i];
      if (seen > rank || (seen == count_ && seen > 0)) return std::min(UpperEdge(i), max_);
    }
    return 0;
  }

 private:
  static constexpr int kSubBits = 6;

  static size_t Index(uint64_t v) {
    if (v < (1u << kSubBits)) return v;
    const int shift = static_cast<int>(std::bit_width(v)) - kSubBits - 1;
    return (static_cast<size_t>(shift + 1) << kSubBits) + (v >> shift) - (1u << kSubBits);
  }
  static uint64_t UpperEdge(size_t index) {
    if (index < (1u << kSubBits)) return index;
    const int shift = static_cast<int>(index >> kSubBits) - 1;
    return (((index & ((1u << kSubBits) - 1)) + (1u << kSubBits) + 1) << shift) - 1;
  }

  std::array<uint64_t, (64 - kSubBits + 1) << kSubBits> counts_{};
  uint64_t count_ = 0;
  uint64_t max_ = 0;
};

}  // namespace fastkv::load
