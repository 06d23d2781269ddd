// Who is told what became of a batch that this member has proposed, once it is applied.
#pragma once

#include <cstdint>
#include <vector>

#include "db/command_result.h"

namespace fastkv {

class ApplyObserver {
 public:
  virtual ~ApplyObserver() = default;
  // The batch `sequence` has been applied and the watchers have been matched; results[i] answers its i-th command.
  // Called once, from the thread that applies: it should hand over and return. It may Expect and Forget, but not apply.
  virtual void Applied(uint64_t sequence, std::vector<CommandResult> results) = 0;
};

}  // namespace fastkv
