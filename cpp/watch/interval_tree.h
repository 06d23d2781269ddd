// Half-open key intervals, and which of them hold a given key.
//
//                     [d,m) last=[b,z)             Stab("k"):
//                    /                \              [d,m) holds k, and below it
//      [b,z) last=[b,z)                [p,*)         [b,z) holds k; [a,c) is not entered: its last end is c;
//      /                                             nothing on the right begins at or before k.
//   [a,c)
//
// An AVL tree ordered by (begin, end); each node knows which interval of its subtree ends last, so that a subtree whose
// intervals all end at or before the key is not entered.
//
// Costs, n intervals, k of them matching: Insert and Erase O(log n); Stab O(log n + k log(n/k)), because every node
// entered off the search path has a match below it.
//
// Invariants:
// - one node for equal intervals; a node never moves: a Node* stays good until it is erased.
// - the heights of siblings differ by at most one.
// - node.last is the node of its subtree with the greatest end; unbounded is greater than every end.
// Thread safety: none.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <utility>

#include "watch/key_interval.h"

namespace fastkv {

template <typename T>
class IntervalTree {
 public:
  class Node {
   public:
    T value{};
    const KeyInterval& interval() const { return interval_; }

   private:
    friend class IntervalTree;
    explicit Node(KeyInterval interval) : interval_(std::move(interval)), last_(this) {}

    KeyInterval interval_;
    Node* left_ = nullptr;
    Node* right_ = nullptr;
    const Node* last_;
    int height_ = 1;
  };

  IntervalTree() = default;
  IntervalTree(const IntervalTree&) = delete;
  IntervalTree& operator=(const IntervalTree&) = delete;
  ~IntervalTree() { Free(root_); }

  // The node of this interval, made if there is none. REQUIRES: interval is kBounded or kUnbounded.
  Node* Insert(const KeyInterval& interval) {
    for (Node* node = root_; node != nullptr;) {
      const int order = Compare(interval, node->interval_);
      if (order == 0) return node;
      node = order < 0 ? node->left_ : node->right_;
    }
    Node* fresh = new Node(interval);
    root_ = InsertBelow(root_, fresh);
    ++size_;
    return fresh;
  }

  void Erase(Node* node) {
    root_ = EraseBelow(root_, node);
    --size_;
    delete node;
  }

  // Calls visit(value) for each interval that holds the key, in order of (begin, end).
  template <typename Visit>
  void Stab(std::string_view key, Visit&& visit) {
    StabBelow(root_, key, visit);
  }

  size_t size() const { return size_; }

  // Walks everything: are the invariants true? For tests.
  bool Check() const {
    size_t count = 0;
    return CheckBelow(root_, nullptr, nullptr, &count) && count == size_;
  }

 private:
  static int CompareEnd(const KeyInterval& a, const KeyInterval& b) {
    const bool a_unbounded = a.kind == KeyInterval::Kind::kUnbounded,
               b_unbounded = b.kind == KeyInterval::Kind::kUnbounded;
    if (a_unbounded || b_unbounded) return static_cast<int>(a_unbounded) - static_cast<int>(b_unbounded);
    return a.end.compare(b.end);
  }

  static int Compare(const KeyInterval& a, const KeyInterval& b) {
    const int order = a.begin.compare(b.begin);
    return order != 0 ? order : CompareEnd(a, b);
  }

  static bool EndsAfter(const KeyInterval& interval, std::string_view key) {
    return interval.kind == KeyInterval::Kind::kUnbounded || key < interval.end;
  }

  static int Height(const Node* node) { return node == nullptr ? 0 : node->height_; }

  static void Update(Node* node) {
    node->height_ = 1 + std::max(Height(node->left_), Height(node->right_));
    node->last_ = node;
    for (const Node* child : {node->left_, node->right_}) {
      if (child != nullptr && CompareEnd(child->last_->interval_, node->last_->interval_) > 0)
        node->last_ = child->last_;
    }
  }

  static Node* RotateRight(Node* node) {
    Node* top = node->left_;
    node->left_ = std::exchange(top->right_, node);
    Update(node);
    Update(top);
    return top;
  }

  static Node* RotateLeft(Node* node) {
    Node* top = node->right_;
    node->right_ = std::exchange(top->left_, node);
    Update(node);
    Update(top);
    return top;
  }

  // Restores the invariants of a node whose children meet them and differ in height by at most two; returns the new
  // top.
  static Node* Balance(Node* node) {
    const int lean = Height(node->left_) - Height(node->right_);
    if (lean > 1) {
      if (Height(node->left_->left_) < Height(node->left_->right_)) node->left_ = RotateLeft(node->left_);
      return RotateRight(node);
    }
    if (lean < -1) {
      if (Height(node->right_->right_) < Height(node->right_->left_)) node->right_ = RotateRight(node->right_);
      return RotateLeft(node);
    }
    Update(node);
    return node;
  }

  static Node* InsertBelow(Node* node, Node* fresh) {
    if (node == nullptr) return fresh;
    Node*& child = Compare(fresh->interval_, node->interval_) < 0 ? node->left_ : node->right_;
    child = InsertBelow(child, fresh);
    return Balance(node);
  }

  static Node* EraseBelow(Node* node, const Node* target) {
    if (node == target) {
      if (node->left_ == nullptr) return node->right_;
      if (node->right_ == nullptr) return node->left_;
      Node* successor = nullptr;
      Node* right = DetachFirst(node->right_, &successor);
      successor->left_ = node->left_;
      successor->right_ = right;
      return Balance(successor);
    }
    Node*& child = Compare(target->interval_, node->interval_) < 0 ? node->left_ : node->right_;
    child = EraseBelow(child, target);
    return Balance(node);
  }

  static Node* DetachFirst(Node* node, Node** first) {
    if (node->left_ == nullptr) {
      *first = node;
      return node->right_;
    }
    node->left_ = DetachFirst(node->left_, first);
    return Balance(node);
  }

  template <typename Visit>
  static void StabBelow(Node* node, std::string_view key, Visit& visit) {
    while (node != nullptr && EndsAfter(node->last_->interval_, key)) {
      StabBelow(node->left_, key, visit);
      if (key < node->interval_.begin) return;
      if (EndsAfter(node->interval_, key)) visit(node->value);
      node = node->right_;
    }
  }

  static bool CheckBelow(const Node* node, const Node* above, const Node* below, size_t* count) {
    if (node == nullptr) return true;
    ++*count;
    if (above != nullptr && Compare(above->interval_, node->interval_) >= 0) return false;
    if (below != nullptr && Compare(node->interval_, below->interval_) >= 0) return false;
    const Node* last = node;
    for (const Node* child : {node->left_, node->right_}) {
      if (child != nullptr && CompareEnd(child->last_->interval_, last->interval_) > 0) last = child->last_;
    }
    const int lean = Height(node->left_) - Height(node->right_);
    if (lean < -1 || lean > 1 || node->height_ != 1 + std::max(Height(node->left_), Height(node->right_))) return false;
    return CompareEnd(last->interval_, node->last_->interval_) == 0 && CheckBelow(node->left_, above, node, count) &&
           CheckBelow(node->right_, node, below, count);
  }

  static void Free(Node* node) {
    if (node == nullptr) return;
    Free(node->left_);
    Free(node->right_);
    delete node;
  }

  Node* root_ = nullptr;
  size_t size_ = 0;
};

}  // namespace fastkv
