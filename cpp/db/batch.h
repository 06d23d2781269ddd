// A batch: one log entry, any number of commands (docs/format.md, "Commands and batches").
//
//   batch := origin:u64 sequence:u64 (tag:varint length:varint payload)*
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/coding.h"

namespace fastkv {

struct Command {
  uint64_t tag = 0;
  std::string_view payload;
};

inline void AppendBatchHeader(std::string* to, uint64_t origin, uint64_t sequence) {
  PutU64(to, origin);
  PutU64(to, sequence);
}

inline void AppendCommand(std::string* to, const Command& command) {
  PutVarint(to, command.tag);
  PutVarint(to, command.payload.size());
  to->append(command.payload);
}

// Walks hostile bytes; false if they are not a batch. visit(command) may return false to stop (then ForEachCommand does
// too).
template <typename Visit>
bool ForEachCommand(std::string_view batch, Visit&& visit) {
  ByteReader in(batch);
  uint64_t origin = 0, sequence = 0;
  if (!in.U64(&origin) || !in.U64(&sequence)) return false;
  while (!in.done()) {
    Command command;
    if (!in.Varint(&command.tag) || !in.LengthPrefixed(&command.payload)) return false;
    if (!visit(command)) return false;
  }
  return true;
}

}  // namespace fastkv
