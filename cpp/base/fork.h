// Has this process been forked since? Threads and locks do not survive a fork: a store opened before it must not be
// touched after it.
#pragma once

#include <cstdint>

namespace fastkv {

// Counts the forks between the first process that called it and this one.
uint64_t ForkGeneration();

}  // namespace fastkv
