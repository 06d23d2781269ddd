#include "meter.h"

#include <sys/resource.h>

#include <cstdio>
#include <ctime>
#include <fstream>

namespace fastkv::load {

Usage Usage::Own() {
  rusage own;
  getrusage(RUSAGE_SELF, &own);
  const auto seconds = [](const timeval& at) {
    return static_cast<double>(at.tv_sec) + 1e-6 * static_cast<double>(at.tv_usec);
  };
  return {seconds(own.ru_utime) + seconds(own.ru_stime), 0};
}

Usage Usage::Of(int64_t pid) {
  Usage usage;
  if (pid == 0) return usage;
  clockid_t clock;
  timespec cpu;
  if (clock_getcpuclockid(static_cast<pid_t>(pid), &clock) != 0 || clock_gettime(clock, &cpu) != 0) {
    throw Failure("there is no process " + std::to_string(pid));
  }
  usage.cpu_s = static_cast<double>(cpu.tv_sec) + 1e-9 * static_cast<double>(cpu.tv_nsec);
  std::string line;
  std::ifstream io("/proc/" + std::to_string(pid) + "/io");
  while (std::getline(io, line)) {
    if (line.starts_with("write_bytes: ")) usage.written_bytes = std::stoull(line.substr(13));
  }
  return usage;
}

void Meter::Start(uint64_t now) {
  begin_ = now + static_cast<uint64_t>(options_.warmup) * kSecond;
  end_ = begin_ + static_cast<uint64_t>(options_.seconds) * kSecond;
  Tick(now);
}

uint64_t Meter::Tick(uint64_t now) {
  if (!begun_) {
    if (now < begin_) return begin_;
    begun_ = true;
    end_ += now - begin_;
    begin_ = now;
    own_ = Usage::Own();
    server_ = Usage::Of(options_.server_pid);
  }
  if (!ended_ && now >= end_) Stop(now);
  return ended_ ? kNever : end_;
}

void Meter::Stop(uint64_t now) {
  ended_ = true;
  end_ = now;
  const Usage own = Usage::Own(), server = Usage::Of(options_.server_pid);
  own_.cpu_s = own.cpu_s - own_.cpu_s;
  server_.cpu_s = server.cpu_s - server_.cpu_s;
  server_.written_bytes = server.written_bytes - server_.written_bytes;
}

void Meter::AddLatency(const std::string& prefix, const Histogram& latency) {
  Add(prefix + "count", static_cast<double>(latency.count()));
  for (const auto& [name, fraction] : {std::pair{"p50_us", 0.5}, {"p90_us", 0.9}, {"p99_us", 0.99}}) {
    Add(prefix + name, static_cast<double>(latency.Percentile(fraction)) / 1e3);
  }
  Add(prefix + "max_us", static_cast<double>(latency.max()) / 1e3);
}

void Meter::Print(const std::string& workload) {
  const double seconds = static_cast<double>(end_ - begin_) / static_cast<double>(kSecond);
  std::vector<std::pair<std::string, double>> extra;
  extra.swap(extra_);
  Add("seconds", seconds);
  Add("rate", static_cast<double>(latency_.count()) / seconds);
  Add("bytes", static_cast<double>(bytes_));
  Add("bytes_rate", static_cast<double>(bytes_) / seconds);
  AddLatency("", latency_);
  Add("generator_cpu_s", own_.cpu_s);
  if (options_.server_pid != 0) {
    Add("server_cpu_s", server_.cpu_s);
    Add("server_written_bytes", static_cast<double>(server_.written_bytes));
  }
  extra_.insert(extra_.end(), extra.begin(), extra.end());
  printf("{\"workload\": \"%s\"", workload.c_str());
  for (const auto& [name, value] : extra_) printf(", \"%s\": %.15g", name.c_str(), value);
  printf("}\n");
}

}  // namespace fastkv::load
