// Which keys a (key, range_end) pair means: etcd's key interval rule.
//
//   range_end ""      the single key
//   range_end "\0"    every key >= key                [key, unbounded)
//   otherwise         every key in [key, range_end);  nothing if key >= range_end
//
// Thread safety: a value.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace fastkv {

struct KeyInterval {
  enum class Kind : uint8_t { kNothing, kSingle, kBounded, kUnbounded };

  static KeyInterval Of(std::string key, std::string range_end) {
    if (range_end.empty()) return {std::move(key), {}, Kind::kSingle};
    if (range_end.size() == 1 && range_end[0] == '\0') return {std::move(key), {}, Kind::kUnbounded};
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

  std::string begin, end;  // end counts only if kBounded
  Kind kind = Kind::kNothing;
};

}  // namespace fastkv
