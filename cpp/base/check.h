// CHECK: an invariant of ours, always on (Python's build flags carry -DNDEBUG, so assert() would vanish).
//
// A failed CHECK throws InvariantBroken; the Db that owns the call poisons itself and the error reaches the user as an
// exception. It never takes the user's interpreter along.
#pragma once

#include <stdexcept>
#include <string>

namespace fastkv {

struct InvariantBroken : std::logic_error {
  using std::logic_error::logic_error;
};

[[noreturn]] inline void CheckFailed(const char* expr, const char* file, int line) {
  throw InvariantBroken(std::string("fastkv invariant broken: ") + expr + " at " + file + ":" + std::to_string(line));
}

}  // namespace fastkv

#define FASTKV_CHECK(expr) (__builtin_expect(!!(expr), 1) ? (void)0 : ::fastkv::CheckFailed(#expr, __FILE__, __LINE__))
