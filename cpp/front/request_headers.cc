#include "front/request_headers.h"

#include <utility>

#include "front/grpc_text.h"

namespace fastkv::front {
namespace {

constexpr size_t kKeptBytesMax = 1024;  // of memory, from one request to the next

}  // namespace

void RequestHeaders::Add(std::string_view name, std::string_view value) {
  bytes_ += name.size() + value.size() + 32;  // RFC 9113, 6.5.2
  switch (name.size()) {
    case 2:
      if (name == "te") return;
      break;
    case 4:
      if (name == "host") return;
      break;
    case 5:
      if (name == ":path") {
        path_.assign(value);
        return;
      }
      break;
    case 7:
      if (name == ":scheme") return;
      if (name == ":method") {
        post_ = value == "POST";
        if (!post_) method_.assign(value);
        return;
      }
      break;
    case 10:
      if (name == ":authority" || name == "user-agent") return;
      if (name == "connection") {
        connection_ = true;
        return;
      }
      break;
    case 11:
      if (name == "grpc-status") return;
      break;
    case 12:
      if (name == "content-type") {
        grpc_ = IsGrpcContentType(value);
        if (!grpc_) content_type_.assign(value);
        return;
      }
      if (name == "grpc-timeout") {
        if (std::string error; !ParseTimeout(value, &timeout_ns_, &error)) error_ = "malformed grpc-timeout: " + error;
        return;
      }
      if (name == "grpc-message") return;
      break;
    case 13:
      if (name == "grpc-encoding") {
        encoding_.assign(value);
        return;
      }
      break;
    case 14:
      if (name == "content-length") return;
      break;
    case 17:
      if (name == "grpc-message-type") return;
      break;
    case 20:
      if (name == "grpc-accept-encoding") return;
      break;
  }
  AddMetadata(name, value);
}

void RequestHeaders::AddMetadata(std::string_view name, std::string_view value) {
  if (metadata_used_ == metadata_.size()) metadata_.emplace_back();
  auto& [kept_name, kept_value] = metadata_[metadata_used_];
  if (name.ends_with("-bin")) {
    if (!DecodeBase64(value, &kept_value)) {
      error_ = "malformed binary metadata " + Quoted(value) + " in header " + Quoted(name) +
               ": illegal base64 data";  // Go adds the offset
      return;
    }
  } else {
    kept_value.assign(value);
  }
  kept_name.assign(name);
  ++metadata_used_;
}

RequestHeaders::Refusal RequestHeaders::Complete() {
  metadata_.resize(metadata_used_);
  if (__builtin_expect(grpc_ && post_ && !connection_ && error_.empty(), 1)) return {};
  if (connection_) return {.refused = true, .reset = true, .text = {}};
  if (!grpc_) {
    return {.refused = true,
            .http_status = 415,
            .code = GrpcCode::kInvalidArgument,
            .text = "invalid gRPC request content-type " + Quoted(content_type_)};
  }
  if (!error_.empty()) {
    return {.refused = true, .http_status = 400, .code = GrpcCode::kInternal, .text = std::move(error_)};
  }
  return {.refused = true,
          .http_status = 405,
          .code = GrpcCode::kInternal,
          .text = "Received a HEADERS frame with :method " + Quoted(method_) + " which should be POST"};
}

void RequestHeaders::Reset() {
  if (bytes_ > kKeptBytesMax) {
    *this = RequestHeaders();
    return;
  }
  path_.clear();
  encoding_.clear();
  method_.clear();
  content_type_.clear();
  error_.clear();
  metadata_used_ = bytes_ = 0;
  timeout_ns_ = INT64_MAX;
  post_ = grpc_ = connection_ = false;
}

}  // namespace fastkv::front
