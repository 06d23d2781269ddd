// A DbOptions::log from a plain function and its context, for callers that have no C++ closures.
#pragma once

#include <functional>
#include <string>

namespace fastkv {

using LogLineFunction = void (*)(void* context, const std::string& line);

inline std::function<void(const std::string&)> MakeLogLine(LogLineFunction function, void* context) {
  return [function, context](const std::string& line) { function(context, line); };
}

}  // namespace fastkv
