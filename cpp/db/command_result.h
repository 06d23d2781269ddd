// What a committed command came to.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

namespace fastkv {

struct CommandResult {
  Code code = Code::kOk;
  int64_t revision = 0;  // of the store, after the command
  std::string response;
};

}  // namespace fastkv
