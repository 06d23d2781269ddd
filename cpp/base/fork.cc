#include "base/fork.h"

#include <pthread.h>

namespace fastkv {
namespace {

uint64_t g_generation = 0;

}  // namespace

uint64_t ForkGeneration() {
  [[maybe_unused]] static const int registered = pthread_atfork(nullptr, nullptr, [] { ++g_generation; });
  return g_generation;
}

}  // namespace fastkv
