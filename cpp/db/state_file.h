// A store's state and what goes with it, as the blocks of a checkpoint (docs/format.md, "Checkpoint"); and back.
//
// What belongs to one member alone (meta, hard state) is left out of a checkpoint that may be sent to another.
// Thread safety: none; a store that is loaded is nobody else's yet, one that is written is read through its picture.
#pragma once

#include <string>

#include "base/status.h"
#include "log/checkpoint.h"
#include "mvcc/store.h"

namespace fastkv {

struct StateExtras {
  std::string meta;        // the node's own bytes
  std::string membership;  // replicated: who is a member as of the checkpoint's index; opaque
};

// Fills an empty store. kCorrupt names file and offset; the store is then good for nothing.
Status LoadState(const CheckpointReader& reader, Store* store, StateExtras* extras);

// Everything between head and footer. REQUIRES: a PictureGuard.
Status WriteState(const Store& store, const Store::Picture& picture, const StateExtras& extras,
                  CheckpointWriter* writer);

}  // namespace fastkv
