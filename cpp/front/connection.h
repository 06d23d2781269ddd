// One accepted socket: tells the protocol by its first bytes, then moves bytes between the socket and who speaks it.
//
//   first byte 0x16 -> TLS handshake -> ALPN, or the first plain bytes -> "PRI" -> Session (HTTP/2)
//   anything else, where plain is allowed -------^                     \-> Http1Relay
//
//   kSniffing -> [kHandshake] -> kHttp2 | kRelay -> [kLinger] -> kClosed
//
// Invariants:
// - nothing is read while the socket takes no more of what a client has asked for (kPauseReadBytes).
// - what a full socket has left over is written before anything more is gathered.
// Thread safety: none; one IoThread owns it.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "front/asio.h"
#include "front/http1_relay.h"
#include "front/output.h"
#include "front/session.h"
#include "front/timer_wheel.h"
#include "front/tls.h"

namespace fastkv::front {

class Loop;

class Connection final : public SessionOwner, public std::enable_shared_from_this<Connection> {
 public:
  Connection(Loop* loop, int socket, const Listener& listener, Peer peer);
  ~Connection() override;

  void Start();
  // Writes what the session has to say; asked for by SessionHasOutput, called once a turn.
  void Flush();
  void Drain();
  void Close();
  bool closed() const { return phase_ == kClosed; }
  // No call is open and nothing is left to write.
  bool quiet() const;

  void SessionHasOutput() override;

  Loop* loop() const { return loop_; }

  // For the relay: >0 bytes, 0 the end, -1 not now, -2 broken.
  ssize_t Receive(char* bytes, size_t size);
  ssize_t Send(const char* bytes, size_t size);
  void WaitReadable();
  void WaitWritable();
  void FinishSending();  // the client is told that this was all; closes when it has done the same

 private:
  enum Phase : uint8_t { kSniffing, kHandshake, kHttp2, kRelay, kLinger, kClosed };

  void OnReadable();
  void OnWritable();
  bool SniffTls();
  void Handshake();
  void Sniff();
  void StartHttp2(std::string_view first);
  void ReadHttp2();
  void Fed(bool more);
  bool Write(Output* output);  // false: the socket is full or broken
  void ReadLinger();
  void Reject(const std::string& why);
  void OnTimer();
  void OnKeepalive();
  void ArmKeepalive();

  Loop* const loop_;
  ThreadState* const state_;
  asio::posix::stream_descriptor socket_;
  const Listener listener_;
  Peer peer_;
  SslPtr ssl_;
  Phase phase_ = kSniffing;
  bool reading_ = false, writing_ = false;  // a wait is under way
  bool dirty_ = false;                      // Flush is due
  bool greeted_ = false;                    // the preface is here
  bool paused_ = false;                     // reading waits for the client to read
  bool ping_sent_ = false;
  bool heard_ = false;  // something was received since keepalive looked
  std::string first_;   // before the protocol is known
  size_t greeting_bytes_ = 0;
  std::unique_ptr<Session> session_;
  std::unique_ptr<Http1Relay> relay_;
  std::unique_ptr<Output> unsent_;  // what a full socket did not take
  Timer timer_;                     // of the phase
  Timer keepalive_;
};

}  // namespace fastkv::front
