// What the files that make changes share.
#pragma once

#include "mvcc/store.h"

namespace fastkv {

constexpr int kTxnDepthMax = 128;  // nesting, where max_txn_ops sets no lower limit

// One command's changes: they all get the main revision begin + 1, and sub revisions from 0.
struct Store::Change {
  int64_t begin;      // the revision before
  uint32_t subs = 0;  // changes so far
  int64_t revision() const { return subs > 0 ? begin + 1 : begin; }
};

}  // namespace fastkv
