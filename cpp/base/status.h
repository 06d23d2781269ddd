// The outcome of an operation: OK, a client's error, or the world's.
//
// Client errors (below Code::kIoError) are deterministic: every replica that applies the same batch gives the same
// code, and src/fastkv/errors.py holds one row each (class, gRPC code, exact text). World errors carry a message that
// names what and where. Broken invariants are neither: see check.h.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

namespace fastkv {

// The numbers are shared with src/fastkv/errors.py; never renumber.
enum class Code : uint8_t {
  kOk = 0,
  kEmptyKey = 1,
  kKeyNotFound = 2,
  kValueProvided = 3,
  kLeaseProvided = 4,
  kTooManyOps = 5,
  kDuplicateKey = 6,
  kInvalidSort = 7,
  kCompacted = 8,
  kFutureRevision = 9,
  kNoSpace = 10,  // quota (the NOSPACE alarm) or a full disk
  kLeaseNotFound = 11,
  kLeaseExists = 12,
  kLeaseTtlTooLarge = 13,
  kRequestTooLarge = 14,
  kMalformed = 15,  // not a protobuf message of the expected type
  kStreamSort = 16,
  kStreamFilter = 17,
  kClusterCorrupt = 18,  // the CORRUPT alarm
  // The world's.
  kIoError = 100,
  kCorrupt = 101,
  kLocked = 102,    // another process holds the directory
  kFormat = 103,    // foreign directory, or written by a newer format
  kPoisoned = 104,  // an fsync failed or an invariant broke: no more writes
  kClosed = 105,
  kNotFound = 106,  // a file or directory
  kReadOnly = 107,
  // A server's: what it, or its cluster, could not do in time. The store never says them.
  kStopped = 120,
  kTooManyRequests = 121,
  kTimedOut = 122,
  kTimedOutLeaderFailed = 123,
  kTimedOutDisconnected = 124,
  kDeadlineExceeded = 125,
  kNoLeader = 126,
  kLeaderChanged = 127,
  kNotForLearner = 128,
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message = {}) : code_(code), message_(std::move(message)) {}  // NOLINT: implicit

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

}  // namespace fastkv

#define FASTKV_RETURN_IF_ERROR(expr)                 \
  do {                                               \
    ::fastkv::Status fastkv_status_ = (expr);        \
    if (!fastkv_status_.ok()) return fastkv_status_; \
  } while (0)
