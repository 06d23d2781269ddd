#include "front/proposer.h"

#include <time.h>

#include <utility>

namespace fastkv::front {

int64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

void DirectProposer::Propose(std::unique_ptr<Batch> batch, BatchSink* sink) {
  const int64_t began_ns = NowNs();
  batch->results.resize(batch->commands.size());
  batch->status = backend_->Commit(batch->commands, batch->results);
  batch->took_ns = NowNs() - began_ns;
  sink->Done(std::move(batch));
}

}  // namespace fastkv::front
