#include "base/fork.h"

#include <pthread.h>

namespace fastkv {

uint64_t g_fork_generation = 0;

void WatchForks() {
  [[maybe_unused]] static const int registered = pthread_atfork(nullptr, nullptr, [] { ++g_fork_generation; });
}

}  // namespace fastkv
