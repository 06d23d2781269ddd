// Hostile bytes as gRPC frames: however they are cut, the same messages come out, and what is kept is never more than
// what has come.

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "front/grpc_frame.h"
#include "front/grpc_text.h"

namespace fastkv::front {
namespace {

constexpr size_t kLimit = 300;

struct Outcome {
  bool operator==(const Outcome&) const = default;
  std::vector<std::pair<uint8_t, std::string>> messages;
  bool ok = true;
  uint32_t refused = 0;
};

// cuts: the lengths of the pieces, over and over; empty: one piece.
Outcome Read(std::string_view bytes, std::string_view cuts) {
  Outcome outcome;
  MessageReader reader;
  size_t taken = 0;
  for (size_t i = 0; outcome.ok && taken < bytes.size(); ++i) {
    const size_t piece = cuts.empty() ? bytes.size() : static_cast<uint8_t>(cuts[i % cuts.size()]) % 16 + 1;
    const std::string part(bytes.substr(taken, piece));
    taken += part.size();
    outcome.ok = reader.Feed(part, kLimit, &outcome.refused, [&](uint8_t flag, std::string_view body) {
      if (body.size() > kLimit) abort();
      outcome.messages.emplace_back(flag, body);
      return true;
    });
    if (reader.kept_bytes() > kLimit + kPrefixBytes || reader.kept_bytes() > taken) abort();
  }
  return outcome;
}

}  // namespace
}  // namespace fastkv::front

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fastkv::front;
  if (size == 0) return 0;
  const std::string_view all(reinterpret_cast<const char*>(data), size);
  const size_t cuts_size = std::min<size_t>(data[0] % 8, size - 1);
  const std::string_view cuts = all.substr(1, cuts_size), bytes = all.substr(1 + cuts_size);
  if (!(Read(bytes, cuts) == Read(bytes, {}))) abort();

  std::string decoded, error;
  if (DecodeBase64(bytes, &decoded) && decoded.size() > bytes.size()) abort();
  if (!DecodeBase64(EncodeBase64(bytes), &decoded)) {
    if (bytes.size() % 3 == 0) abort();  // no padding needed: nothing to refuse
  } else if (decoded != bytes) {
    abort();
  }
  int64_t timeout_ns = 0;
  if (ParseTimeout(bytes, &timeout_ns, &error) && timeout_ns < 0) abort();
  for (const char c : PercentEncode(bytes)) {
    if (c < 0x20 || c > 0x7e) abort();
  }
  Quoted(bytes);
  return 0;
}
