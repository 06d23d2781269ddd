// A server's session and a client's, joined by strings: a whole HTTP/2 connection that takes no time and no thread.
//
// Thread safety: none.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>

#include "front/session.h"
#include "front/thread_state.h"
#include "tests/front_client.h"

namespace fastkv::front {

class Harness : public SessionOwner {
 public:
  explicit Harness(ServerOptions with = {}, uint32_t window_bytes = 0, bool tls = false)
      : options(std::move(with)), peer{.address = "test", .common_name = {}, .tls = tls}, client(window_bytes) {
    session = std::make_unique<Session>(&state, this, peer);
  }
  ~Harness() override {
    session.reset();
    state.TellEnded();
  }
  void SessionHasOutput() override {}

  // The server reads, as from a socket that gives `piece` bytes at a time, and has its turn after each.
  void Receive(std::string_view bytes, size_t piece = SIZE_MAX) {
    while (!bytes.empty() && open) {
      const size_t step = std::min(piece, bytes.size());
      const std::string copy(bytes.substr(0, step));  // so that a view kept too long is seen by ASan
      bytes.remove_prefix(step);
      open = session->Feed(copy);
      Turn();
    }
  }
  void Turn() {
    state.TellEnded();
    service.TurnEnd(nullptr);
  }
  // What the server writes now.
  std::string Write(size_t bytes_max = SIZE_MAX) {
    Output output(&state.bodies, false);
    session->Gather(&output, bytes_max);
    iovec pieces[1024];
    std::string bytes;
    while (!output.empty()) {
      const int count = output.Pieces(pieces, 1024);
      size_t size = 0;
      for (int i = 0; i < count; ++i) {
        bytes.append(static_cast<const char*>(pieces[i].iov_base), pieces[i].iov_len);
        size += pieces[i].iov_len;
      }
      output.Advance(size);
    }
    state.TellEnded();
    return bytes;
  }
  // Until neither side has anything to say.
  void Exchange() {
    for (;;) {
      const std::string up = client.Take();
      Receive(up);
      const std::string down = Write();
      client.Feed(down);
      const bool asked = state.AskForMore();
      if (up.empty() && down.empty() && !asked) return;
    }
  }
  void Pass(int64_t milliseconds) {
    state.now_ns += milliseconds * 1'000'000;
    state.timers.Advance(state.now_ns / 1'000'000);
    Turn();
  }
  void Answer(uint64_t id, GrpcCode code, std::string body) {
    GrpcCall* call = state.calls.Find(id);
    if (call == nullptr) return;
    if (code == GrpcCode::kOk) {
      call->Reply(std::move(body));
    } else {
      call->Finish(code, body);
    }
  }

  const ServerOptions options;
  const Peer peer;
  StubService service;
  ThreadState state{options, &service, nullptr};
  std::unique_ptr<Session> session;
  Client client;
  bool open = true;
};

}  // namespace fastkv::front
