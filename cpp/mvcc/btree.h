// The key index: a B-tree from key to the newest record of that key's history.
//
//                       inner [ m | t ]                 heads: 8 bytes of each key behind the node's common prefix, as
//                       a
//                      /      |      \                  big-endian number, so that a search touches one array and
//                      derefs
//               leaf [a d g] [m p] [t x z]              a key only to break ties
//                     |           `-> Record (newest) -> older -> ...
//
// Copy-on-write without path copying: a node's keys never change once it is published. A new key makes a new leaf,
// which takes the old one's place in its parent by one pointer store; only a split makes a new parent. A new version of
// a known key is one pointer store into the leaf's slot. Readers therefore never wait; what they miss is newer than
// their revision.
//
// Invariants:
// - keys ascend strictly within and across leaves; a leaf is never empty (the root leaf may be absent).
// - every record reachable here is the newest of its key.
// - leaf.max_main >= main of every record in its slots; leaf.live = slots whose record is no tombstone. The writer
// raises max_main
//   before it changes a slot or live, so a reader that loads live and then finds max_main <= R has live as of R.
// Thread safety: one writer; readers under an EpochGuard. What the writer unlinks goes to the Retired list it brings.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/slab.h"
#include "mvcc/epoch.h"
#include "mvcc/record.h"

namespace fastkv {

class BTree {
 public:
  static constexpr int kLeafMax = 32;  // small: a new key copies its leaf
  static constexpr int kChildrenMax = 128;
  static constexpr int kHeightMax = 16;

  struct Node;
  struct Leaf;
  struct Inner;

  // A place in the tree. Readers walk with it under one EpochGuard; the writer finds a slot with it.
  class Cursor {
   public:
    bool valid() const { return leaf_ != nullptr; }
    const Record* record() const;
    void Next();  // to the next key, within the tree as it stood when each node was entered
    void Prev();
    // Leaf by leaf: for counting without touching records, and for prefetching.
    const Leaf* leaf() const { return leaf_; }
    int position() const { return position_; }
    void NextLeaf();

   private:
    friend class BTree;
    struct Step {
      Inner* node;
      int child;
    };
    std::array<Step, kHeightMax> path_;
    int height_ = 0;
    Leaf* leaf_ = nullptr;
    int position_ = 0;
    void DescendTo(Node* node, bool leftmost);
  };

  // Both outlive the tree. Its nodes and separators go with the pool, without a walk.
  BTree(Retired* retired, SlabPool* pool) : retired_(retired), pool_(pool) {}
  BTree(const BTree&) = delete;
  BTree& operator=(const BTree&) = delete;

  const Record* Find(std::string_view key) const;
  Cursor LowerBound(std::string_view key) const;  // the first key >= key
  Cursor Last() const;                            // the last key of all
  Cursor Before(std::string_view key) const;      // the last key < key

  // -- the writer's
  // Where a key is or would go. Valid until the next change of the tree.
  struct Place {
    Cursor cursor;
    Record* newest = nullptr;  // null: no such key
  };
  Place Locate(std::string_view key) const;
  void Install(const Place& place,
               Record* newest);    // REQUIRES: place = Locate(newest->key()), newest->older() is its newest
  void Erase(const Place& place);  // REQUIRES: place.newest; the record itself is the caller's to retire
  // REQUIRES: the tree is empty; newest records of distinct keys, ascending.
  void BulkLoad(const std::vector<Record*>& newest);

  uint64_t keys() const {
    return keys_.load(std::memory_order_relaxed);
  }  // with deleted ones that compaction has not removed
  uint64_t memory_bytes() const { return memory_bytes_.load(std::memory_order_relaxed); }

  // Walks everything; appends what is wrong.
  void Check(std::vector<std::string>* problems) const;

 private:
  struct Separator;

  Leaf* NewLeaf(int count, uint32_t prefix_length);
  Inner* NewInner(int children, uint32_t prefix_length);
  void RetireNode(Node* node);
  void RetireSeparator(Separator* separator);
  void ReplaceChild(const Cursor& path, int level, Node* with);
  void InsertChild(const Cursor& path, int level, Node* left, Separator* separator, Node* right);
  void RemoveChild(const Cursor& path, int level);
  static uint32_t LeafPrefix(const Leaf* leaf);
  static void FillHeads(Leaf* leaf);
  static uint32_t InnerPrefix(const Inner* inner);
  static void FillHeads(Inner* inner);
  static int ChildFor(const Inner* inner, std::string_view key);
  void CheckNode(const Node* node, std::string_view low, const Record** previous,
                 std::vector<std::string>* problems) const;

  Retired* retired_;
  SlabPool* const pool_;
  std::atomic<Node*> root_{nullptr};
  std::atomic<uint64_t> keys_{0}, memory_bytes_{0};

 public:
  struct Node {
    uint16_t count;  // a leaf's slots, an inner node's separators (children - 1)
    bool is_leaf;
    uint32_t prefix_length;  // bytes that all keys below share, as far as known
  };
  // count heads, then count slots, in one allocation.
  struct Leaf : Node {
    std::atomic<int32_t> live;
    std::atomic<int64_t> max_main;
    static constexpr size_t Bytes(int count) {
      return sizeof(Leaf) + static_cast<size_t>(count) * (sizeof(uint64_t) + sizeof(std::atomic<Record*>));
    }
    uint64_t* heads() { return reinterpret_cast<uint64_t*>(this + 1); }
    const uint64_t* heads() const { return reinterpret_cast<const uint64_t*>(this + 1); }
    std::atomic<Record*>* slots() { return reinterpret_cast<std::atomic<Record*>*>(heads() + count); }
    const std::atomic<Record*>* slots() const { return reinterpret_cast<const std::atomic<Record*>*>(heads() + count); }
    const Record* at(int i) const { return slots()[i].load(std::memory_order_acquire); }
  };
};

}  // namespace fastkv
