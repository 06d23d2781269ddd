#include "front/error_table.h"

namespace fastkv::front {
namespace {

// grpc-go's words, and protobuf-go's behind the colon.
constexpr std::string_view kMalformedUnary =
    "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data";
constexpr std::string_view kMalformedStream =
    "grpc: failed to unmarshal the received message: proto: cannot parse invalid wire-format data";

}  // namespace

ErrorTable::ErrorTable(const std::vector<ErrorRow>& rows) {
  for (Row& row : rows_) row.text = "fastkv: an unknown error";
  for (const ErrorRow& row : rows) rows_[row.code] = {static_cast<GrpcCode>(row.grpc_code), row.text};
  rows_[static_cast<uint8_t>(Code::kMalformed)] = {GrpcCode::kInternal, std::string(kMalformedUnary)};
}

void ErrorTable::RefuseStream(Call* call, Code code) const {
  call->Finish(grpc_code(code), code == Code::kMalformed ? kMalformedStream : std::string_view(text(code)));
}

}  // namespace fastkv::front
