// etcd's rule for what [key, range_end) means, in one place.
#pragma once

#include <string_view>

namespace fastkv {

// "" = the single key; "\0" = everything from key on; otherwise half-open. key "\0" with end "\0" is everything.
struct KeyRange {
  std::string_view begin, end;
  bool single = false, unbounded = false;

  KeyRange(std::string_view key, std::string_view range_end)
      : begin(key),
        end(range_end),
        single(range_end.empty()),
        unbounded(range_end.size() == 1 && range_end[0] == '\0') {}

  bool Contains(std::string_view key) const {
    if (single) return key == begin;
    return key >= begin && (unbounded || key < end);
  }
  bool Beyond(std::string_view key) const {  // key lies behind the range; REQUIRES: key >= begin
    return single ? key != begin : !unbounded && key >= end;
  }
};

}  // namespace fastkv
