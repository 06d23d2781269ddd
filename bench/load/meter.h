// What a run measured: requests and latencies between the end of the warm-up and the end of the measured seconds, and
// the CPU time that the generator and the server took meanwhile; printed as one JSON object.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "histogram.h"
#include "loop.h"
#include "options.h"

namespace fastkv::load {

// CPU seconds since the process began, all threads; bytes that it had written to storage.
struct Usage {
  double cpu_s = 0;
  uint64_t written_bytes = 0;

  static Usage Own();
  static Usage Of(int64_t pid);
};

class Meter {
 public:
  explicit Meter(const Options& options) : options_(options) {}

  // The warm-up begins; without one, the measurement.
  void Start(uint64_t now);
  // Takes the usage at the borders. To be called each turn; returns the next border.
  uint64_t Tick(uint64_t now);
  bool begun() const { return begun_; }
  bool over() const { return ended_; }
  // Ends the measurement before its time.
  void Stop(uint64_t now);

  void Record(uint64_t sent, uint64_t now, uint64_t bytes = 0) {
    if (!begun_ || ended_) return;
    latency_.Record(now - sent);
    bytes_ += bytes;
  }
  uint64_t count() const { return latency_.count(); }

  void Add(const std::string& name, double value) { extra_.emplace_back(name, value); }
  void AddLatency(const std::string& prefix, const Histogram& latency);
  void Print(const std::string& workload);

 private:
  const Options& options_;
  Histogram latency_;
  uint64_t bytes_ = 0;
  uint64_t begin_ = 0, end_ = 0;
  bool begun_ = false, ended_ = false;
  Usage own_, server_;
  std::vector<std::pair<std::string, double>> extra_;
};

}  // namespace fastkv::load
