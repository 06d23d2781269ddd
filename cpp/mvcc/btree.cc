#include "mvcc/btree.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "base/check.h"

namespace fastkv {

// The smallest key of the subtree to its right, or anything between it and the largest to its left. Shared by
// successive copies of an inner node; retired when it leaves the tree.
struct BTree::Separator {
  uint32_t length;
  std::string_view key() const { return {reinterpret_cast<const char*>(this + 1), length}; }
  size_t bytes() const { return sizeof(Separator) + length; }
  static Separator* New(std::string_view key, SlabPool* pool) {
    auto* separator = static_cast<Separator*>(pool->Allocate(sizeof(Separator) + key.size()));
    separator->length = static_cast<uint32_t>(key.size());
    std::memcpy(separator + 1, key.data(), key.size());
    return separator;
  }
};

// count separators, count + 1 children.
struct BTree::Inner : Node {
  uint64_t heads[kChildrenMax - 1];
  Separator* separators[kChildrenMax - 1];
  std::atomic<Node*> children[kChildrenMax];
};

namespace {

// A whole leaf, or an inner node's header and heads.
constexpr size_t kNodePrefetchBytes = BTree::Leaf::Bytes(BTree::kLeafMax);

// Below this a common prefix is not cut off the heads: comparing it costs a look at some key, and heads have room for
// it.
constexpr uint32_t kPrefixWorthwhile = 4;

// The cache lines arrive together, instead of one for the header and then one a comparison.
void PrefetchLines(const void* memory, size_t bytes) {
  const char* at = static_cast<const char*>(memory);
  for (size_t line = 0; line < bytes; line += 64) __builtin_prefetch(at + line);
}

uint32_t CommonPrefix(std::string_view a, std::string_view b) {
  const size_t n = std::min(a.size(), b.size());
  size_t i = 0;
  while (i < n && a[i] == b[i]) ++i;
  return static_cast<uint32_t>(i);
}

// 8 bytes of the key behind `skip`, big-endian, zero-filled: orders like the bytes, up to ties.
uint64_t Head(std::string_view key, size_t skip) {
  uint64_t head = 0;
  if (key.size() >= skip + 8) {
    std::memcpy(&head, key.data() + skip, 8);
    return __builtin_bswap64(head);
  }
  if (key.size() > skip) std::memcpy(&head, key.data() + skip, key.size() - skip);
  return __builtin_bswap64(head);
}

// First i in [0, count) with heads[i] >= head; without branches that a predictor could miss.
int LowerHead(const uint64_t* heads, int count, uint64_t head) {
  if (count == 0) return 0;
  const uint64_t* base = heads;
  int n = count;
  while (n > 1) {
    const int half = n / 2;
    base += base[half - 1] < head ? half : 0;
    n -= half;
  }
  return static_cast<int>(base - heads) + (*base < head ? 1 : 0);
}

// Where key stands to the prefix that all keys of a node share: 0 inside, -1 before, 1 behind them all.
int AgainstPrefix(std::string_view key, std::string_view any_key, uint32_t prefix_length) {
  const int order = key.substr(0, prefix_length).compare(any_key.substr(0, prefix_length));
  return order < 0 ? -1 : order > 0 ? 1 : 0;
}

// First i in [0, count) whose key is >= key (greater: > key), for a key that has the node's prefix. Ties of heads are
// broken by key_at.
template <typename KeyAt>
int Search(const uint64_t* heads, int count, uint32_t prefix_length, std::string_view key, bool greater, KeyAt key_at) {
  const uint64_t head = Head(key, prefix_length);
  int low = LowerHead(heads, count, head);
  int high = low;
  while (high < count && heads[high] == head) ++high;
  while (low < high) {
    const int middle = (low + high) / 2;
    const int order = key_at(middle).compare(key);
    if (order < 0 || (greater && order == 0)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// Exact for keys that are in the leaf; for others only if they have its prefix. Touches no other record than the one it
// finds.
int SearchLeafOptimistic(const BTree::Leaf* leaf, std::string_view key) {
  return Search(leaf->heads(), leaf->count, leaf->prefix_length, key, false,
                [leaf](int i) { return leaf->at(i)->key(); });
}

int SearchLeaf(const BTree::Leaf* leaf, std::string_view key) {
  const int position = SearchLeafOptimistic(leaf, key);
  if (leaf->prefix_length == 0 || (position < leaf->count && leaf->at(position)->key() == key)) return position;
  const int order = AgainstPrefix(key, leaf->at(0)->key(), leaf->prefix_length);
  return order < 0 ? 0 : order > 0 ? leaf->count : position;
}

bool Live(const Record* record) { return !record->tombstone(); }

}  // namespace

// -- nodes

BTree::Leaf* BTree::NewLeaf(int count, uint32_t prefix_length) {
  auto* leaf = new (pool_->Allocate(Leaf::Bytes(count))) Leaf;
  leaf->count = static_cast<uint16_t>(count);
  leaf->is_leaf = true;
  leaf->prefix_length = prefix_length;
  leaf->live.store(0, std::memory_order_relaxed);
  leaf->max_main.store(0, std::memory_order_relaxed);
  for (int i = 0; i < count; ++i) new (leaf->slots() + i) std::atomic<Record*>(nullptr);
  memory_bytes_.fetch_add(Leaf::Bytes(count), std::memory_order_relaxed);
  return leaf;
}

BTree::Inner* BTree::NewInner(int children, uint32_t prefix_length) {
  auto* inner = new (pool_->Allocate(sizeof(Inner))) Inner;
  inner->count = static_cast<uint16_t>(children - 1);
  inner->is_leaf = false;
  inner->prefix_length = prefix_length;
  memory_bytes_.fetch_add(sizeof(Inner), std::memory_order_relaxed);
  return inner;
}

void BTree::RetireNode(Node* node) {
  const size_t bytes = node->is_leaf ? Leaf::Bytes(node->count) : sizeof(Inner);
  memory_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
  retired_->Add(
      node,
      [](void* memory, void* pool) {
        const auto* freed = static_cast<Node*>(memory);
        static_cast<SlabPool*>(pool)->Free(memory, freed->is_leaf ? Leaf::Bytes(freed->count) : sizeof(Inner));
      },
      pool_);
}

void BTree::RetireSeparator(Separator* separator) {
  retired_->Add(
      separator,
      [](void* memory, void* pool) {
        static_cast<SlabPool*>(pool)->Free(memory, static_cast<Separator*>(memory)->bytes());
      },
      pool_);
}

uint32_t BTree::LeafPrefix(const Leaf* leaf) {
  return CommonPrefix(leaf->at(0)->key(), leaf->at(leaf->count - 1)->key());
}

void BTree::FillHeads(Leaf* leaf) {
  for (int i = 0; i < leaf->count; ++i) __builtin_prefetch(leaf->at(i));
  for (int i = 0; i < leaf->count; ++i) leaf->heads()[i] = Head(leaf->at(i)->key(), leaf->prefix_length);
}

uint32_t BTree::InnerPrefix(const Inner* inner) {
  if (inner->count == 0) return 0;
  const uint32_t common = CommonPrefix(inner->separators[0]->key(), inner->separators[inner->count - 1]->key());
  return common >= kPrefixWorthwhile ? common : 0;
}

void BTree::FillHeads(Inner* inner) {
  for (int i = 0; i < inner->count; ++i) inner->heads[i] = Head(inner->separators[i]->key(), inner->prefix_length);
}

// -- reading

int BTree::ChildFor(const Inner* inner, std::string_view key) {
  PrefetchLines(inner->children, sizeof inner->children);  // on their way while the heads are searched
  if (inner->prefix_length > 0) {
    const int order = AgainstPrefix(key, inner->separators[0]->key(), inner->prefix_length);
    if (order != 0) return order < 0 ? 0 : inner->count;
  }
  return Search(inner->heads, inner->count, inner->prefix_length, key, true,
                [inner](int i) { return inner->separators[i]->key(); });
}

const Record* BTree::Cursor::record() const { return leaf_->at(position_); }

void BTree::Cursor::DescendTo(Node* node, bool leftmost) {
  while (!node->is_leaf) {
    auto* inner = static_cast<Inner*>(node);
    const int child = leftmost ? 0 : inner->count;
    path_[static_cast<size_t>(height_++)] = {inner, child};
    node = inner->children[child].load(std::memory_order_acquire);
    PrefetchLines(node, kNodePrefetchBytes);
  }
  leaf_ = static_cast<Leaf*>(node);
  position_ = leftmost ? 0 : leaf_->count - 1;
}

void BTree::Cursor::NextLeaf() {
  while (height_ > 0) {
    Step& step = path_[static_cast<size_t>(height_ - 1)];
    if (step.child < step.node->count) {
      ++step.child;
      DescendTo(step.node->children[step.child].load(std::memory_order_acquire), true);
      return;
    }
    --height_;
  }
  leaf_ = nullptr;
}

void BTree::Cursor::Next() {
  if (++position_ >= leaf_->count) NextLeaf();
}

void BTree::Cursor::Prev() {
  if (--position_ >= 0) return;
  while (height_ > 0) {
    Step& step = path_[static_cast<size_t>(height_ - 1)];
    if (step.child > 0) {
      --step.child;
      DescendTo(step.node->children[step.child].load(std::memory_order_acquire), false);
      return;
    }
    --height_;
  }
  leaf_ = nullptr;
}

BTree::Cursor BTree::LowerBound(std::string_view key) const {
  Cursor cursor;
  Node* node = root_.load(std::memory_order_acquire);
  if (node == nullptr) return cursor;
  while (!node->is_leaf) {
    auto* inner = static_cast<Inner*>(node);
    const int child = ChildFor(inner, key);
    cursor.path_[static_cast<size_t>(cursor.height_++)] = {inner, child};
    node = inner->children[child].load(std::memory_order_acquire);
    PrefetchLines(node, kNodePrefetchBytes);
  }
  cursor.leaf_ = static_cast<Leaf*>(node);
  cursor.position_ = SearchLeaf(cursor.leaf_, key);
  if (cursor.position_ >= cursor.leaf_->count) cursor.NextLeaf();
  return cursor;
}

BTree::Cursor BTree::Last() const {
  Cursor cursor;
  if (Node* node = root_.load(std::memory_order_acquire); node != nullptr) cursor.DescendTo(node, false);
  return cursor;
}

BTree::Cursor BTree::Before(std::string_view key) const {
  Cursor cursor = LowerBound(key);
  if (!cursor.valid()) return Last();
  cursor.Prev();
  return cursor;
}

const Record* BTree::Find(std::string_view key) const {
  Node* node = root_.load(std::memory_order_acquire);
  if (node == nullptr) return nullptr;
  while (!node->is_leaf) {
    auto* inner = static_cast<Inner*>(node);
    const int child = ChildFor(inner, key);
    node = inner->children[child].load(std::memory_order_acquire);
    PrefetchLines(node, kNodePrefetchBytes);
  }
  const auto* leaf = static_cast<const Leaf*>(node);
  const uint64_t head = Head(key, leaf->prefix_length);
  for (int i = LowerHead(leaf->heads(), leaf->count, head); i < leaf->count && leaf->heads()[i] == head; ++i) {
    const Record* record = leaf->at(i);
    PrefetchLines(record, 256);  // the value is wanted next: all lines at once, before the key is compared
    if (record->key() == key) return record;
  }
  return nullptr;
}

// -- writing

BTree::Place BTree::Locate(std::string_view key) const {
  Place place;
  Cursor& cursor = place.cursor;
  Node* node = root_.load(std::memory_order_relaxed);
  if (node == nullptr) return place;
  while (!node->is_leaf) {
    auto* inner = static_cast<Inner*>(node);
    const int child = ChildFor(inner, key);
    cursor.path_[static_cast<size_t>(cursor.height_++)] = {inner, child};
    node = inner->children[child].load(std::memory_order_relaxed);
    PrefetchLines(node, kNodePrefetchBytes);
  }
  cursor.leaf_ = static_cast<Leaf*>(node);
  cursor.position_ = SearchLeaf(cursor.leaf_, key);  // here it may be one past the last slot: where the key would go
  if (cursor.position_ < cursor.leaf_->count) {
    Record* record = cursor.leaf_->slots()[cursor.position_].load(std::memory_order_relaxed);
    if (record->key() == key) place.newest = record;
  }
  return place;
}

void BTree::Install(const Place& place, Record* newest) {
  const Cursor& cursor = place.cursor;
  Leaf* leaf = cursor.leaf_;
  const int position = cursor.position_;
  if (place.newest != nullptr) {
    const int delta = static_cast<int>(Live(newest)) - static_cast<int>(Live(place.newest));
    if (newest->main() > leaf->max_main.load(std::memory_order_relaxed)) {
      leaf->max_main.store(newest->main(), std::memory_order_release);
    }
    leaf->slots()[position].store(newest, std::memory_order_release);
    leaf->live.store(leaf->live.load(std::memory_order_relaxed) + delta, std::memory_order_release);
    return;
  }
  keys_.fetch_add(1, std::memory_order_relaxed);
  if (leaf == nullptr) {
    Leaf* root = NewLeaf(1, 0);
    root->slots()[0].store(newest, std::memory_order_relaxed);
    root->live.store(Live(newest), std::memory_order_relaxed);
    root->max_main.store(newest->main(), std::memory_order_relaxed);
    FillHeads(root);
    root_.store(root, std::memory_order_release);
    return;
  }

  const int count = leaf->count;
  // The record that goes to slot i of the old leaf with the new one put in.
  auto merged = [&](int i) {
    return i < position    ? leaf->slots()[i].load(std::memory_order_relaxed)
           : i == position ? newest
                           : leaf->slots()[i - 1].load(std::memory_order_relaxed);
  };
  auto build = [&](int from, int to) {
    Leaf* made = NewLeaf(to - from, leaf->prefix_length);
    int live = 0;
    int64_t max_main = leaf->max_main.load(std::memory_order_relaxed);
    if (newest->main() > max_main) max_main = newest->main();
    for (int i = from; i < to; ++i) {
      Record* record = merged(i);
      made->slots()[i - from].store(record, std::memory_order_relaxed);
      made->heads()[i - from] = i < position    ? leaf->heads()[i]
                                : i == position ? Head(newest->key(), leaf->prefix_length)
                                                : leaf->heads()[i - 1];
    }
    if (to - from == count + 1) {
      live = leaf->live.load(std::memory_order_relaxed) + static_cast<int>(Live(newest));
    } else {
      for (int i = 0; i < made->count; ++i) live += static_cast<int>(Live(made->at(i)));
    }
    made->live.store(live, std::memory_order_relaxed);
    made->max_main.store(max_main, std::memory_order_relaxed);
    // At an end the new key may shorten the common prefix; after a split a longer one pays once it gains half a head.
    const bool at_end = position == 0 || position == count;
    const bool split = to - from != count + 1;
    if (at_end || split) {
      const uint32_t common = LeafPrefix(made);
      if (common < made->prefix_length || common >= made->prefix_length + kPrefixWorthwhile) {
        made->prefix_length = common;
        FillHeads(made);
      }
    }
    return made;
  };

  if (count < kLeafMax) {
    ReplaceChild(cursor, cursor.height_, build(0, count + 1));
  } else {
    // Keys that come in order fill the left leaf instead of leaving it half empty.
    const int middle = position == count ? count : position == 0 ? 1 : (count + 1) / 2;
    Leaf* left = build(0, middle);
    Leaf* right = build(middle, count + 1);
    const std::string_view first = right->at(0)->key();
    const uint32_t shared = CommonPrefix(left->at(left->count - 1)->key(), first);
    InsertChild(cursor, cursor.height_, left, Separator::New(first.substr(0, shared + 1), pool_), right);
  }
  RetireNode(leaf);
}

// Puts `with` where path's node of that level hangs (level 0: the root; height: the leaf).
void BTree::ReplaceChild(const Cursor& path, int level, Node* with) {
  if (level == 0) {
    root_.store(with, std::memory_order_release);
  } else {
    const Cursor::Step& step = path.path_[static_cast<size_t>(level - 1)];
    step.node->children[step.child].store(with, std::memory_order_release);
  }
}

void BTree::InsertChild(const Cursor& path, int level, Node* left, Separator* separator, Node* right) {
  if (level == 0) {
    Inner* root = NewInner(2, 0);
    root->separators[0] = separator;
    root->children[0].store(left, std::memory_order_relaxed);
    root->children[1].store(right, std::memory_order_relaxed);
    root->prefix_length = InnerPrefix(root);
    FillHeads(root);
    root_.store(root, std::memory_order_release);
    return;
  }
  const Cursor::Step& step = path.path_[static_cast<size_t>(level - 1)];
  Inner* old = step.node;
  const int at = step.child;
  const int children = old->count + 2;
  auto separator_at = [&](int i) { return i < at ? old->separators[i] : i == at ? separator : old->separators[i - 1]; };
  auto child_at = [&](int i) -> Node* {
    if (i == at) return left;
    if (i == at + 1) return right;
    return old->children[i < at ? i : i - 1].load(std::memory_order_relaxed);
  };
  auto build = [&](int from, int to) {
    Inner* made = NewInner(to - from, 0);
    for (int i = from; i < to; ++i) {
      made->children[i - from].store(child_at(i), std::memory_order_relaxed);
      if (i + 1 < to) made->separators[i - from] = separator_at(i);
    }
    made->prefix_length = InnerPrefix(made);
    if (made->prefix_length == old->prefix_length) {  // heads are copied: looking at all separators again costs more
      for (int i = from; i + 1 < to; ++i) {
        made->heads[i - from] = i < at    ? old->heads[i]
                                : i == at ? Head(separator->key(), made->prefix_length)
                                          : old->heads[i - 1];
      }
    } else {
      FillHeads(made);
    }
    return made;
  };
  if (children <= kChildrenMax) {
    ReplaceChild(path, level - 1, build(0, children));
  } else {
    const int middle = at == old->count ? children - 2 : children / 2;
    Inner* low = build(0, middle);
    Inner* high = build(middle, children);
    InsertChild(path, level - 1, low, separator_at(middle - 1), high);
  }
  RetireNode(old);
}

void BTree::Erase(const Place& place) {
  FASTKV_CHECK(place.newest != nullptr);
  const Cursor& cursor = place.cursor;
  Leaf* leaf = cursor.leaf_;
  keys_.fetch_sub(1, std::memory_order_relaxed);
  if (leaf->count == 1) {
    RemoveChild(cursor, cursor.height_);
    RetireNode(leaf);
    return;
  }
  Leaf* made = NewLeaf(leaf->count - 1, leaf->prefix_length);
  for (int i = 0; i < made->count; ++i) {
    const int from = i < cursor.position_ ? i : i + 1;
    made->slots()[i].store(leaf->slots()[from].load(std::memory_order_relaxed), std::memory_order_relaxed);
    made->heads()[i] = leaf->heads()[from];
  }
  made->live.store(leaf->live.load(std::memory_order_relaxed) - static_cast<int>(Live(place.newest)),
                   std::memory_order_relaxed);
  made->max_main.store(leaf->max_main.load(std::memory_order_relaxed), std::memory_order_relaxed);
  ReplaceChild(cursor, cursor.height_, made);
  RetireNode(leaf);
}

// The node of that level has lost its last key.
void BTree::RemoveChild(const Cursor& path, int level) {
  if (level == 0) {
    root_.store(nullptr, std::memory_order_release);
    return;
  }
  const Cursor::Step& step = path.path_[static_cast<size_t>(level - 1)];
  Inner* old = step.node;
  if (old->count == 0) {
    RemoveChild(path, level - 1);
    RetireNode(old);
    return;
  }
  // Only the root gives way to an only child. Elsewhere that would let a subtree hang higher than its siblings, and the
  // tree could then grow a level with every few thousand keys that come in order and go again, without end.
  if (old->count == 1 && level == 1) {
    Node* only = old->children[1 - step.child].load(std::memory_order_relaxed);
    RetireSeparator(old->separators[0]);
    RetireNode(old);
    while (!only->is_leaf && only->count == 0) {
      Node* below = static_cast<Inner*>(only)->children[0].load(std::memory_order_relaxed);
      RetireNode(only);
      only = below;
    }
    root_.store(only, std::memory_order_release);
    return;
  }
  const int lost = step.child == 0 ? 0 : step.child - 1;
  Inner* made = NewInner(old->count, 0);
  for (int i = 0; i < old->count; ++i) {
    const int child = i < step.child ? i : i + 1;
    made->children[i].store(old->children[child].load(std::memory_order_relaxed), std::memory_order_relaxed);
    if (i + 1 < old->count) made->separators[i] = old->separators[i < lost ? i : i + 1];
  }
  made->prefix_length = InnerPrefix(made);
  FillHeads(made);
  ReplaceChild(path, level - 1, made);
  RetireSeparator(old->separators[lost]);
  RetireNode(old);
}

void BTree::BulkLoad(const std::vector<Record*>& newest) {
  FASTKV_CHECK(root_.load() == nullptr);
  if (newest.empty()) return;
  keys_.store(newest.size(), std::memory_order_relaxed);
  constexpr size_t kFill = kLeafMax * 7 / 8;  // room for what comes next
  std::vector<Node*> nodes;
  std::vector<std::string_view> lows, highs;  // smallest and largest key below each node
  for (size_t from = 0; from < newest.size();) {
    size_t to = std::min(newest.size(), from + kFill);
    Leaf* leaf = NewLeaf(static_cast<int>(to - from), 0);
    int live = 0;
    int64_t max_main = 0;
    for (size_t i = from; i < to; ++i) {
      leaf->slots()[i - from].store(newest[i], std::memory_order_relaxed);
      live += static_cast<int>(Live(newest[i]));
      max_main = std::max(max_main, newest[i]->main());
    }
    leaf->live.store(live, std::memory_order_relaxed);
    leaf->max_main.store(max_main, std::memory_order_relaxed);
    const uint32_t common = LeafPrefix(leaf);
    leaf->prefix_length = common >= kPrefixWorthwhile ? common : 0;
    FillHeads(leaf);
    nodes.push_back(leaf);
    lows.push_back(newest[from]->key());
    highs.push_back(newest[to - 1]->key());
    from = to;
  }
  while (nodes.size() > 1) {
    std::vector<Node*> parents;
    std::vector<std::string_view> parent_lows, parent_highs;
    constexpr size_t kChildren = kChildrenMax * 7 / 8;
    for (size_t from = 0; from < nodes.size();) {
      size_t to = std::min(nodes.size(), from + kChildren);
      if (nodes.size() - to == 1) --to;  // an inner node has two children at least
      Inner* inner = NewInner(static_cast<int>(to - from), 0);
      for (size_t i = from; i < to; ++i) {
        inner->children[i - from].store(nodes[i], std::memory_order_relaxed);
        if (i > from) {
          const uint32_t shared = CommonPrefix(highs[i - 1], lows[i]);
          inner->separators[i - from - 1] = Separator::New(lows[i].substr(0, shared + 1), pool_);
        }
      }
      inner->prefix_length = InnerPrefix(inner);
      FillHeads(inner);
      parents.push_back(inner);
      parent_lows.push_back(lows[from]);
      parent_highs.push_back(highs[to - 1]);
      from = to;
    }
    nodes = std::move(parents);
    lows = std::move(parent_lows);
    highs = std::move(parent_highs);
  }
  root_.store(nodes[0], std::memory_order_release);
}

// -- checking

void BTree::Check(std::vector<std::string>* problems) const {
  const Record* previous = nullptr;
  if (const Node* root = root_.load(std::memory_order_acquire); root != nullptr)
    CheckNode(root, {}, &previous, problems);
}

void BTree::CheckNode(const Node* node, std::string_view low, const Record** previous,
                      std::vector<std::string>* problems) const {
  if (!node->is_leaf) {
    const auto* inner = static_cast<const Inner*>(node);
    for (int i = 0; i <= inner->count; ++i) {
      if (i > 0) {
        low = inner->separators[i - 1]->key();
        if (*previous != nullptr && (*previous)->key() >= low)
          problems->push_back("key index: a key is right of its separator");
        if (inner->heads[i - 1] != Head(low, inner->prefix_length)) problems->push_back("key index: wrong inner head");
      }
      CheckNode(inner->children[i].load(std::memory_order_acquire), low, previous, problems);
    }
    return;
  }
  const auto* leaf = static_cast<const Leaf*>(node);
  int live = 0;
  for (int i = 0; i < leaf->count; ++i) {
    const Record* record = leaf->at(i);
    const std::string_view key = record->key();
    if (key < low) problems->push_back("key index: a key is left of its separator");
    if (*previous != nullptr && key <= (*previous)->key()) problems->push_back("key index: keys out of order");
    if (leaf->heads()[i] != Head(key, leaf->prefix_length)) problems->push_back("key index: wrong leaf head");
    if (record->main() > leaf->max_main.load(std::memory_order_acquire))
      problems->push_back("key index: max_main too low");
    live += static_cast<int>(Live(record));
    *previous = record;
  }
  if (leaf->count == 0) problems->push_back("key index: an empty leaf");
  if (live != leaf->live.load(std::memory_order_acquire)) problems->push_back("key index: wrong live count");
}

}  // namespace fastkv
