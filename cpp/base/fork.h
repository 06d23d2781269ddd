// Has this process been forked since? Threads and locks do not survive a fork: a store opened before it must not be
// touched after it.
#pragma once

#include <cstdint>

namespace fastkv {

extern uint64_t g_fork_generation;

// Counts the forks between the first process that called WatchForks and this one.
inline uint64_t ForkGeneration() { return g_fork_generation; }

// Before the first ForkGeneration that shall be compared with a later one; any number of times.
void WatchForks();

}  // namespace fastkv
