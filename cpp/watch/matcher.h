// Which watchers want a key?
//
//   single keys: hash map   key      -> group of watchers
//   ranges: interval tree   interval -> group of watchers
//
// T is the watcher; it has a member `Matcher<T>::Place place`, which says where the matcher keeps it.
//
// Invariants:
// - watchers of equal intervals share one group; a group is never empty.
// - a watcher stands at group[slot] of its place, so that it leaves in O(1) once its group is found.
// Thread safety: none.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "watch/interval_tree.h"
#include "watch/key_interval.h"

namespace fastkv {

template <typename T>
class Matcher {
  using Group = std::vector<T*>;

 public:
  class Place {
    friend class Matcher;
    Group* group = nullptr;
    typename IntervalTree<Group>::Node* node = nullptr;  // of a range
    size_t slot = 0;
  };

  void Insert(const KeyInterval& interval, T* watcher) {
    if (interval.kind == KeyInterval::Kind::kNothing) return;
    Place& place = watcher->place;
    if (interval.kind == KeyInterval::Kind::kSingle) {
      place.group = &singles_[interval.begin];
    } else {
      place.node = ranges_.Insert(interval);
      place.group = &place.node->value;
    }
    place.slot = place.group->size();
    place.group->push_back(watcher);
  }

  void Erase(const KeyInterval& interval, T* watcher) {
    if (interval.kind == KeyInterval::Kind::kNothing) return;
    const Place place = watcher->place;
    T* last = place.group->back();
    (*place.group)[place.slot] = last;
    last->place.slot = place.slot;
    place.group->pop_back();
    watcher->place = Place();
    if (!place.group->empty()) return;
    if (place.node != nullptr) {
      ranges_.Erase(place.node);
    } else {
      singles_.erase(singles_.find(interval.begin));
    }
  }

  // Calls visit(watcher) once for each watcher whose interval holds the key.
  template <typename Visit>
  void Match(std::string_view key, Visit&& visit) {
    if (!singles_.empty()) {
      if (auto found = singles_.find(key); found != singles_.end()) {
        for (T* watcher : found->second) visit(watcher);
      }
    }
    ranges_.Stab(key, [&visit](const Group& group) {
      for (T* watcher : group) visit(watcher);
    });
  }

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view key) const { return std::hash<std::string_view>()(key); }
  };

  std::unordered_map<std::string, Group, Hash, std::equal_to<>> singles_;
  IntervalTree<Group> ranges_;
};

}  // namespace fastkv
