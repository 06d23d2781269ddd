// Work that is cut in pieces, done by this thread and as many others as the machine has processors for it.
//
//   RunParallel(Workers(2), pieces, [&](size_t i) { Check(i); });
//
// Invariants: when RunParallel returns every piece is done, or an exception of one of them is thrown; with one worker
// no thread is made, and the pieces run in order. Thread safety: pieces run side by side and in any order.
#pragma once

#include <cstddef>
#include <functional>

namespace fastkv {

// How many threads may work side by side here, `wanted` at most. At least 1.
size_t Workers(size_t wanted);

// work(i) for each i in [0, count).
void RunParallel(size_t workers, size_t count, const std::function<void(size_t)>& work);

}  // namespace fastkv
