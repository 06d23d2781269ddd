// Hostile bytes as a whole HTTP/2 connection: whatever comes, the session lives or ends, tells the service of every
// call's end exactly once, and keeps nothing.
//
//   input = options:u8 chunk*      chunk = length:u8 what:u8 bytes     what: 0-3 wait, answer, write, drain; else only
//   feed

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#include "tests/front_harness.h"

namespace fastkv::front {
namespace {

void Act(Harness* h, uint8_t what) {
  switch (what) {
    case 0:
      return h->Pass(20'000);
    case 1:
      for (const uint64_t id : h->service.waiting) h->Answer(id, GrpcCode::kOk, "late");
      return h->service.waiting.clear();
    case 2:
      h->client.Feed(h->Write(1000));
      h->state.AskForMore();
      return;
    case 3:
      return h->session->Drain();
    default:
      return;
  }
}

}  // namespace
}  // namespace fastkv::front

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fastkv::front;
  if (size == 0) return 0;
  std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
  Harness h({.max_concurrent_streams = 8, .receive_bytes_max = 1000, .header_bytes_max = 1000}, 0, (data[0] & 1) != 0);
  // Half of the inputs begin with what a real client says, so that they get further.
  if ((data[0] & 2) != 0) {
    h.client.Call("/stub.Stub/Later", Framed("x"), {{"grpc-timeout", "30S"}});
    h.client.Call("/stub.Stub/Stream", Framed("send:5000"), {}, false);
    h.Receive(h.client.Take());
  } else if ((data[0] & 4) != 0) {
    h.Receive("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  }
  while (input.size() >= 2) {
    const size_t length = std::min<size_t>(static_cast<uint8_t>(input[0]), input.size() - 2);
    Act(&h, static_cast<uint8_t>(input[1]));
    h.Receive(input.substr(2, length));
    input.remove_prefix(2 + length);
  }
  h.Write();
  h.session.reset();
  h.Turn();
  if (h.state.calls.size() != 0 || h.state.partial_bytes != 0 || !h.state.ended.empty()) abort();
  if (h.state.timers.NextMs() != INT64_MAX) abort();
  size_t opened = 0, ended = 0;
  for (const std::string& line : h.service.log) {
    opened += line == "open";
    ended += line == "end";
  }
  if (opened != ended) abort();
  return 0;
}
