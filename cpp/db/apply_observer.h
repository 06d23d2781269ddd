// Who is told what entries mean for others, once they are applied: the asker of a batch, and who follows the node's
// state.
//
//   Replica::Apply --> ApplyFollower: compactions, leases, alarms of every member, in the order of the log
//                  --> ApplyObserver: all results of one batch that this member has proposed
//
// Both are called from the thread that applies, with the watchers matched: they should hand over and return. They may
// call Expect and Forget, but not apply.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "db/command_result.h"

namespace fastkv {

class ApplyObserver {
 public:
  virtual ~ApplyObserver() = default;
  // The batch `sequence` has been applied; results[i] answers its i-th command. Called once.
  virtual void Applied(uint64_t sequence, std::vector<CommandResult> results) = 0;
};

// An applied command that changes more than keys: its tag is that of a compaction or above.
struct FollowedCommand {
  size_t place = 0;  // in its batch
  uint64_t tag = 0;
  std::string_view payload;
  Code code = Code::kOk;
  std::string_view response;
};

class ApplyFollower {
 public:
  virtual ~ApplyFollower() = default;
  // Of one batch of any member, before its observer is told. sequence: of this member's own batch; 0: another's.
  virtual void Followed(uint64_t sequence, std::span<const FollowedCommand> commands) = 0;
};

}  // namespace fastkv
