// A client that speaks HTTP/1.1, handed to the service: bytes both ways between its connection and a socket pair.
//
// Invariants: at most kRelayBytesMax wait in each direction, then the writing side is not read any more; the end of one
// direction (half-close) is passed on after its last byte.
// Thread safety: none; its connection's IoThread owns it.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "front/asio.h"

namespace fastkv::front {

class Connection;

class Http1Relay {
 public:
  // inner: our end of the pair, non-blocking. first: what has been read already.
  Http1Relay(Connection* connection, asio::io_context* context, int inner, std::string_view first);
  ~Http1Relay();

  // Moves what can be moved, then waits for what cannot. Any readiness of either side calls it.
  void Pump();
  void Close();

 private:
  bool Step(bool* moved);  // false: the connection is done or broken
  void WaitInner(bool writable);

  Connection* const connection_;
  asio::posix::stream_descriptor inner_;
  std::string to_service_, to_client_;
  bool client_ended_ = false, service_ended_ = false, service_deaf_ = false, told_service_ = false;
  bool waiting_[2] = {false, false};  // for the inner socket to be readable, writable
};

}  // namespace fastkv::front
