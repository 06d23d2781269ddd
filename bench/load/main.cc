// loadgen: a load generator for servers of the etcd v3 API that leaves the machine's CPU to the server.
//
//   loadgen put --target 127.0.0.1:2379 --connections 100 --streams 10 --seconds 5
//
// Prints one JSON object: the measurement (exit 0), or {"failure": ...} (exit 1) as soon as an answer is wrong.
// options.h lists the options, workloads.h the workloads.
#include <sys/resource.h>

#include <cstdio>
#include <cstring>
#include <exception>
#include <string>

#include "workloads.h"

namespace {

struct Workload {
  const char* name;
  void (*run)(const fastkv::load::Options&);
};

constexpr Workload kWorkloads[] = {
    {"put", fastkv::load::PutKeys},
    {"range", fastkv::load::RangeKeys},
    {"txn-create", fastkv::load::CreateKeys},
    {"load", fastkv::load::LoadKeys},
    {"first-get", fastkv::load::FirstGet},
    {"list", fastkv::load::ListKeys},
    {"range-stream", fastkv::load::StreamKeys},
    {"put-during-list", fastkv::load::PutDuringList},
    {"put-during-compaction", fastkv::load::PutDuringCompaction},
    {"watch", fastkv::load::WatchOneKey},
    {"keepalive", fastkv::load::KeepLeasesAlive},
    {"idle", fastkv::load::StayIdle},
};

int Fail(const std::string& why) {
  std::string quoted;
  for (char c : why) {
    if (c == '"' || c == '\\') quoted.push_back('\\');
    quoted.push_back(static_cast<unsigned char>(c) < 0x20 ? ' ' : c);
  }
  printf("{\"failure\": \"%s\"}\n", quoted.c_str());
  return 1;
}

}  // namespace

int main(int count, char** words) {
  rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  for (const Workload& one : kWorkloads) {
    if (count < 2 || strcmp(words[1], one.name) != 0) continue;
    try {
      one.run(fastkv::load::Options::Parse(count - 2, words + 2));
      return 0;
    } catch (const std::exception& failure) {
      return Fail(failure.what());
    }
  }
  std::string names;
  for (const Workload& one : kWorkloads) names += std::string(" ") + one.name;
  return Fail("the workloads are:" + names);
}
