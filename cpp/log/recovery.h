// Reading a log directory: which records are good, where it ends, and whether what lies behind the end was torn or
// damaged.
//
// Implements docs/format.md, "Recovery", steps 2 and 3. Reads only: Repair carries out what a scan has found.
// Thread safety: none; nobody else writes the directory (a readonly scan beside a living writer sees a prefix).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/env.h"
#include "base/status.h"
#include "log/format.h"

namespace fastkv {

struct SegmentFile {
  uint64_t sequence = 0;
  std::string path;
  uint64_t file_bytes = 0;
  uint64_t used_bytes = 0;  // up to the end of the last good record; 0: the file is to be removed
  SegmentHeader header;
};

struct LogScan {
  std::vector<SegmentFile> segments;  // the good ones, in order
  uint64_t last_number = 0;
  uint32_t last_crc = 0;
  uint64_t durable_number = 0;  // the highest that a good record claims
  // The torn tail, if any: the rest of the last good segment holds bytes to zero, and these files are to be removed.
  uint64_t torn_bytes = 0;
  uint64_t zero_until = 0;  // in the last good segment: [used_bytes, zero_until)
  std::vector<std::string> remove;
};

struct RecordPlace {
  size_t segment = 0;  // position in LogScan::segments
  uint64_t offset = 0;
};

using RecordVisitor = std::function<Status(const RecordView&, const RecordPlace&)>;

// Walks every good record in order (entries that are cut away later included).
Status ScanLog(Env* env, const std::string& dir, const RecordVisitor& visit, LogScan* scan);
// Zeroes and removes what the scan found torn, durably. Safe to repeat after a crash in the middle.
Status RepairLog(Env* env, const std::string& dir, const LogScan& scan);

}  // namespace fastkv
