// How often something took how long, in the buckets that etcd counts syncs in: up to 1 ms, 2 ms, 4 ms ... 8.192 s,
// longer.
//
// Thread safety: none.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace fastkv {

struct TimeHistogram {
  static constexpr size_t kBounds = 14;
  static constexpr int64_t kFirstBoundNs = 1'000'000;

  void Add(int64_t ns) {
    size_t bucket = 0;
    for (int64_t bound = kFirstBoundNs; bucket < kBounds && ns > bound; bound *= 2) ++bucket;
    ++counts[bucket];
    sum_ns += static_cast<uint64_t>(ns);
  }

  uint64_t count(size_t bucket) const { return counts[bucket]; }

  std::array<uint64_t, kBounds + 1> counts{};
  uint64_t sum_ns = 0;
};

}  // namespace fastkv
