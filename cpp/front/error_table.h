// How each of fastkv's errors looks to a gRPC client: one row each, handed over by Python, which owns the texts
// (src/fastkv/errors.py, src/fastkv/rpc/status.py).
//
// Thread safety: immutable once made.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "front/call.h"

namespace fastkv::front {

struct ErrorRow {
  uint8_t code = 0;  // Code
  uint8_t grpc_code = 0;
  std::string text;
};

// What only a server has to say.
inline constexpr std::string_view kStoppedText = "etcdserver: server stopped";             // kUnavailable
inline constexpr std::string_view kTimedOutText = "etcdserver: request timed out";         // kUnavailable
inline constexpr std::string_view kTooManyRequestsText = "etcdserver: too many requests";  // kUnknown, as etcd sends it

class ErrorTable {
 public:
  explicit ErrorTable(const std::vector<ErrorRow>& rows);

  // A code without a row is kUnknown.
  GrpcCode grpc_code(Code code) const { return rows_[static_cast<uint8_t>(code)].code; }
  // Of a unary method; a stream words a message that cannot be read differently.
  const std::string& text(Code code) const { return rows_[static_cast<uint8_t>(code)].text; }

  // Ends a unary call, or a stream, with the error.
  void Refuse(Call* call, Code code) const { call->Finish(grpc_code(code), text(code)); }
  void RefuseStream(Call* call, Code code) const;

 private:
  struct Row {
    GrpcCode code = GrpcCode::kUnknown;
    std::string text;
  };
  std::array<Row, 256> rows_;
};

}  // namespace fastkv::front
