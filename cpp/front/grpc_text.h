// The small texts of gRPC over HTTP/2: what stands in headers and trailers, and the words of a Go server.
//
//   grpc-message: percent-encoded      grpc-timeout: 100m      key-bin: base64, padded or not
//   content-type: application/grpc[+subtype|;...]
//
// Thread safety: none needed, no state. Every reader takes hostile bytes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fastkv::front {

// Bytes outside of 0x20..0x7e, and '%', as %XX.
std::string PercentEncode(std::string_view text);
// As Go's %q, for texts that name what the client sent.
std::string Quoted(std::string_view text);

// "1S", "20m"... false: *error is the text of a Go server. A timeout beyond int64 nanoseconds is INT64_MAX.
bool ParseTimeout(std::string_view text, int64_t* timeout_ns, std::string* error);

// Standard alphabet; padding as Go asks for it: needed if the length is a multiple of four, else forbidden.
bool DecodeBase64(std::string_view text, std::string* bytes);
std::string EncodeBase64(std::string_view bytes);  // unpadded, as gRPC sends it

bool IsGrpcContentType(std::string_view content_type);

}  // namespace fastkv::front
