// The headers of one request: what the transport needs of them, the rest as the client's metadata, and the first thing
// wrong with them in the order and the words of grpc-go.
//
// Invariants: after Complete(), metadata holds the headers of this request only. The memory of the last request is used
// again: a client that always sends the same headers costs no allocation.
// Thread safety: none; one call owns it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "front/call.h"

namespace fastkv::front {

class RequestHeaders {
 public:
  // What the client gets instead of an answer.
  struct Refusal {
    bool refused = false, reset = false;  // reset: PROTOCOL_ERROR and no more
    int http_status = 200;
    GrpcCode code = GrpcCode::kOk;
    std::string text;
  };

  void Add(std::string_view name, std::string_view value);
  // All headers are there: what is wrong with them?
  Refusal Complete();
  void Reset();

  const std::string& path() const { return path_; }
  const Metadata& metadata() const { return metadata_; }
  const std::string& encoding() const { return encoding_; }  // "" and "identity": none
  int64_t timeout_ns() const { return timeout_ns_; }         // INT64_MAX: none
  size_t bytes() const { return bytes_; }                    // as SETTINGS_MAX_HEADER_LIST_SIZE counts them

 private:
  void AddMetadata(std::string_view name, std::string_view value);

  std::string path_, encoding_;
  Metadata metadata_;
  size_t metadata_used_ = 0, bytes_ = 0;
  int64_t timeout_ns_ = INT64_MAX;
  bool post_ = false, grpc_ = false, connection_ = false;
  std::string method_, content_type_, error_;  // only of what is refused
};

}  // namespace fastkv::front
