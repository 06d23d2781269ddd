// Hostile bytes as a batch, and as the batch of a log entry whose checksums are right: opening gives a Status, and what
// opens is whole.

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/fault_env.h"
#include "db/batch.h"
#include "db/db.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fastkv;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  // What is a batch is the bytes that AppendCommand writes for its commands, but for varints longer than they need.
  std::string again;
  AppendBatchHeader(&again, size >= 8 ? LoadU64(input.data()) : 0, size >= 16 ? LoadU64(input.data() + 8) : 0);
  const bool is_batch = ForEachCommand(input, [&again](const Command& command) {
    AppendCommand(&again, command);
    return true;
  });
  if (is_batch && (again.size() > input.size() || (again.size() == input.size() && again != input))) abort();

  FaultEnv env(1);
  DbOptions options;
  options.env = &env;
  options.segment_bytes_first = 4096;
  options.segment_bytes_max = 4096;
  std::unique_ptr<Db> db;
  if (!Db::Open("/data", options, &db).ok()) abort();
  db.reset();
  env.KillProcess();
  {
    LogOptions small;
    small.segment_bytes_first = small.segment_bytes_max = 4096;
    LogRecovered recovered;
    std::unique_ptr<Log> log;
    const auto ignore = [](const LogEntry&) { return Status(); };
    if (!Log::Open(&env, "/data/log", small, {}, ignore, &recovered, &log).ok()) abort();
    if (!log->Append(1, 1, input).ok() || !log->Sync().ok()) abort();
  }
  env.KillProcess();
  const Status status = Db::Open("/data", options, &db);
  if (!status.ok()) {
    if (status.code() != Code::kCorrupt) abort();
    return 0;
  }
  if (!is_batch) abort();
  std::vector<std::string> problems;
  db->Check(&problems);
  if (!problems.empty()) abort();
  const uint32_t hash = db->store().Hash();
  uint64_t index = 0;
  if (!db->Checkpoint(&index).ok() || index != 1) abort();
  db.reset();
  env.Crash();
  if (!Db::Open("/data", options, &db).ok() || db->store().Hash() != hash) abort();
  return 0;
}
