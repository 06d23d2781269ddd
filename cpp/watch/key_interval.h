// The keys that a watcher wants: a (key, range_end) pair that owns its bytes, by etcd's rule (mvcc/key_range.h).
//
//   kNothing    key >= range_end
//   kSingle     begin
//   kBounded    [begin, end)
//   kUnbounded  [begin, every key)
//
// Thread safety: a value.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "mvcc/key_range.h"

namespace fastkv {

struct KeyInterval {
  enum class Kind : uint8_t { kNothing, kSingle, kBounded, kUnbounded };

  static KeyInterval Of(std::string key, std::string range_end) {
    const KeyRange range(key, range_end);
    if (range.single) return {std::move(key), {}, Kind::kSingle};
    if (range.unbounded) return {std::move(key), {}, Kind::kUnbounded};
    if (key >= range_end) return {{}, {}, Kind::kNothing};
    return {std::move(key), std::move(range_end), Kind::kBounded};
  }

  bool Contains(std::string_view key) const {
    switch (kind) {
      case Kind::kNothing:
        return false;
      case Kind::kSingle:
        return key == begin;
      case Kind::kBounded:
        return key >= begin && key < end;
      case Kind::kUnbounded:
        return key >= begin;
    }
    return false;
  }

  bool operator==(const KeyInterval&) const = default;

  std::string begin, end;  // end counts only if kBounded
  Kind kind = Kind::kNothing;
};

}  // namespace fastkv
