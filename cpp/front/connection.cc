#include "front/connection.h"

#include <openssl/err.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "front/io_thread.h"
#include "front/limits.h"
#include "front/socket.h"

namespace fastkv::front {
namespace {

constexpr uint8_t kTlsHandshake = 0x16;
constexpr std::string_view kPrefaceStart = "PRI * HTTP/2.0\r\n";
constexpr size_t kGreetingBytes = 24 + 9;  // the preface and the head of a SETTINGS frame
constexpr int kPiecesMax = 256;            // of one sendmsg
constexpr int kTlsWriteBytesMax = 64 << 10;

}  // namespace

Connection::Connection(Loop* loop, int socket, const Listener& listener, Peer peer)
    : loop_(loop),
      state_(&loop->state()),
      socket_(loop->context(), socket),
      listener_(listener),
      peer_(std::move(peer)),
      timer_([](void* self) { static_cast<Connection*>(self)->OnTimer(); }, this),
      keepalive_([](void* self) { static_cast<Connection*>(self)->OnKeepalive(); }, this) {}

Connection::~Connection() = default;

void Connection::Start() {
  state_->ArmAfter(&timer_, state_->options.first_bytes_timeout_ms);
  if (!listener_.tls) phase_ = kSniffing;
  WaitReadable();
}

void Connection::WaitReadable() {
  if (reading_ || phase_ == kClosed) return;
  reading_ = true;
  socket_.async_wait(asio::posix::stream_descriptor::wait_read,
                     [self = shared_from_this()](const asio::error_code& error) {
                       self->reading_ = false;
                       if (!error && self->phase_ != kClosed) self->OnReadable();
                     });
}

void Connection::WaitWritable() {
  if (writing_ || phase_ == kClosed) return;
  writing_ = true;
  socket_.async_wait(asio::posix::stream_descriptor::wait_write,
                     [self = shared_from_this()](const asio::error_code& error) {
                       self->writing_ = false;
                       if (!error && self->phase_ != kClosed) self->OnWritable();
                     });
}

void Connection::OnReadable() {
  loop_->Wake();
  switch (phase_) {
    case kSniffing:
      if (ssl_ == nullptr && listener_.tls && !SniffTls()) return;
      if (phase_ == kHandshake) return Handshake();
      return Sniff();
    case kHandshake:
      return Handshake();
    case kHttp2:
      return ReadHttp2();
    case kRelay:
      return relay_->Pump();
    case kLinger:
      return ReadLinger();
    case kClosed:
      return;
  }
}

void Connection::OnWritable() {
  loop_->Wake();
  if (phase_ == kHandshake) return Handshake();
  if (phase_ == kRelay) return relay_->Pump();
  SessionHasOutput();
}

// False: not decided, or refused.
bool Connection::SniffTls() {
  uint8_t first = 0;
  const ssize_t got = ::recv(socket_.native_handle(), &first, 1, MSG_PEEK);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return WaitReadable(), false;
  if (got <= 0) return Close(), false;
  if (first == kTlsHandshake) {
    ERR_clear_error();
    ssl_ = loop_->tls()->Open(socket_.native_handle());
    if (ssl_ == nullptr) return Reject("no TLS session: " + SslError()), false;
    peer_.tls = true;
    phase_ = kHandshake;
    state_->ArmAfter(&timer_, state_->options.handshake_timeout_ms);
    return true;
  }
  if (listener_.plain) return true;
  Reject("the client does not speak TLS (its first byte is " + std::to_string(first) + "), this listener does only");
  return false;
}

void Connection::Handshake() {
  ERR_clear_error();
  const int result = SSL_accept(ssl_.get());
  if (result != 1) {
    switch (SSL_get_error(ssl_.get(), result)) {
      case SSL_ERROR_WANT_READ:
        return WaitReadable();
      case SSL_ERROR_WANT_WRITE:
        return WaitWritable();
      case SSL_ERROR_SYSCALL:
      case SSL_ERROR_ZERO_RETURN:
        return Reject("the client closed the connection in the TLS handshake");
      default:
        return Reject("TLS handshake: " + SslError() + VerifyError(ssl_.get()));
    }
  }
  if (std::string error; !loop_->tls()->Admit(ssl_.get(), &peer_.common_name, &error)) return Reject(error);
  phase_ = kSniffing;
  state_->ArmAfter(&timer_, state_->options.first_bytes_timeout_ms);
  const unsigned char* protocol = nullptr;
  unsigned protocol_bytes = 0;
  SSL_get0_alpn_selected(ssl_.get(), &protocol, &protocol_bytes);
  if (std::string_view(reinterpret_cast<const char*>(protocol), protocol_bytes) == "h2") return StartHttp2({});
  Sniff();  // the first bytes may have come with the handshake's last
}

void Connection::Sniff() {
  char bytes[4096];
  const ssize_t got = Receive(bytes, sizeof bytes);
  if (got == -1) return WaitReadable();
  if (got <= 0) return Close();
  first_.append(bytes, static_cast<size_t>(got));
  if (first_.size() < kPrefaceStart.size() && kPrefaceStart.starts_with(first_)) return WaitReadable();
  if (first_.starts_with(kPrefaceStart)) return StartHttp2(std::exchange(first_, {}));
  int ends[2];
  if (!MakeSocketPair(ends)) return Reject(std::string("no socket pair for HTTP/1.1: ") + strerror(errno));
  timer_.Cancel();
  phase_ = kRelay;
  relay_ = std::make_unique<Http1Relay>(this, &loop_->context(), ends[0], std::exchange(first_, {}));
  state_->service->Http1(ends[1], peer_);
  relay_->Pump();
}

void Connection::StartHttp2(std::string_view first) {
  phase_ = kHttp2;
  session_ = std::make_unique<Session>(state_, this, peer_);
  SessionHasOutput();  // our SETTINGS
  ArmKeepalive();
  if (!first.empty()) {
    greeting_bytes_ = first.size();
    state_->counters.received_bytes.Add(first.size());
    if (!session_->Feed(first)) return Fed(false);
  }
  ReadHttp2();  // what has come meanwhile
}

void Connection::ReadHttp2() {
  const ssize_t got = Receive(loop_->read_buffer(), kReadBytesMax);
  if (got == -1) return WaitReadable();
  if (got <= 0) return Close();
  heard_ = true;
  state_->counters.received_bytes.Add(static_cast<uint64_t>(got));
  if (!greeted_) {
    greeting_bytes_ += static_cast<size_t>(got);
    if (greeting_bytes_ >= kGreetingBytes) {
      greeted_ = true;
      timer_.Cancel();
    }
  }
  const bool more = session_->Feed({loop_->read_buffer(), static_cast<size_t>(got)});
  Fed(more);
}

void Connection::Fed(bool more) {
  if (session_->HasOutput() || !more) SessionHasOutput();
  if (!more) return;  // Flush sends what there is and closes
  if (greeted_ && !session_->draining()) {
    if (!session_->in_headers()) {
      timer_.Cancel();
    } else if (!timer_.armed()) {
      state_->ArmAfter(&timer_, kHeaderBlockTimeoutMs);
    }
  }
  if (unsent_ != nullptr && session_->queued_bytes() > kPauseReadBytes) {
    paused_ = true;
    return;
  }
  if (ssl_ != nullptr && SSL_has_pending(ssl_.get()) == 1 && SSL_pending(ssl_.get()) > 0) {
    // OpenSSL holds bytes that the socket will not announce again.
    reading_ = true;
    asio::post(loop_->context(), [self = shared_from_this()] {
      self->reading_ = false;
      if (self->phase_ != kClosed) self->OnReadable();
    });
    return;
  }
  WaitReadable();
}

void Connection::SessionHasOutput() {
  if (dirty_ || phase_ == kClosed) return;
  dirty_ = true;
  loop_->FlushLater(this);
}

void Connection::Flush() {
  dirty_ = false;
  if (phase_ != kHttp2) return;
  if (unsent_ != nullptr) {
    if (!Write(unsent_.get())) return;
    unsent_.reset();
    if (std::exchange(paused_, false)) WaitReadable();
  }
  Output& output = loop_->output();
  output.set_copy_all(ssl_ != nullptr);
  for (size_t written = 0; written < kTurnBytesMax;) {
    session_->Gather(&output, kGatherBytes);
    if (output.empty()) break;
    written += output.size();
    if (!Write(&output)) {
      if (phase_ != kClosed) unsent_ = output.Detach();
      output.Clear();
      return;
    }
    output.Clear();
    if (written >= kTurnBytesMax) return SessionHasOutput();
  }
  if (!session_->ended()) return;
  if (!session_->fault().empty()) loop_->Log("closed the connection of " + peer_.address + ": " + session_->fault());
  FinishSending();
}

bool Connection::Write(Output* output) {
  while (!output->empty()) {
    iovec pieces[kPiecesMax];
    const int count = output->Pieces(pieces, ssl_ != nullptr ? 1 : kPiecesMax);
    ssize_t sent;
    if (ssl_ != nullptr) {
      sent = Send(static_cast<const char*>(pieces[0].iov_base), pieces[0].iov_len);
    } else {
      msghdr message{};
      message.msg_iov = pieces;
      message.msg_iovlen = static_cast<decltype(message.msg_iovlen)>(count);
      sent = ::sendmsg(socket_.native_handle(), &message, MSG_NOSIGNAL);
      if (sent < 0) sent = errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? -1 : -2;
    }
    if (sent == -1) return WaitWritable(), false;
    if (sent < 0) return Close(), false;
    state_->counters.sent_bytes.Add(static_cast<uint64_t>(sent));
    output->Advance(static_cast<size_t>(sent));
  }
  return true;
}

ssize_t Connection::Receive(char* bytes, size_t size) {
  if (ssl_ == nullptr) {
    const ssize_t got = ::recv(socket_.native_handle(), bytes, size, 0);
    if (got >= 0) return got;
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? -1 : -2;
  }
  size_t total = 0;
  while (total < size) {
    ERR_clear_error();
    const int got = SSL_read(ssl_.get(), bytes + total, static_cast<int>(size - total));
    if (got > 0) {
      total += static_cast<size_t>(got);
      continue;
    }
    if (total > 0) break;  // what ended it will be met again
    const int error = SSL_get_error(ssl_.get(), got);
    if (error == SSL_ERROR_ZERO_RETURN) return 0;
    return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? -1 : -2;
  }
  return static_cast<ssize_t>(total);
}

ssize_t Connection::Send(const char* bytes, size_t size) {
  if (ssl_ == nullptr) {
    const ssize_t sent = ::send(socket_.native_handle(), bytes, size, MSG_NOSIGNAL);
    if (sent >= 0) return sent;
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? -1 : -2;
  }
  ERR_clear_error();
  const int sent = SSL_write(ssl_.get(), bytes, static_cast<int>(std::min<size_t>(size, kTlsWriteBytesMax)));
  if (sent > 0) return sent;
  const int error = SSL_get_error(ssl_.get(), sent);
  return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? -1 : -2;
}

void Connection::FinishSending() {
  if (phase_ == kClosed || phase_ == kLinger) return;
  if (session_ != nullptr) session_->Abort();
  if (relay_ != nullptr) relay_->Close();
  keepalive_.Cancel();
  phase_ = kLinger;
  if (ssl_ != nullptr) SSL_shutdown(ssl_.get());
  ::shutdown(socket_.native_handle(), SHUT_WR);
  state_->ArmAfter(&timer_, kLingerMs);
  ReadLinger();
}

void Connection::ReadLinger() {
  // Closing with bytes unread would take our last ones away from the client.
  const ssize_t got = ::recv(socket_.native_handle(), loop_->read_buffer(), kReadBytesMax, 0);
  if (got > 0 || (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))) return WaitReadable();
  Close();
}

void Connection::Reject(const std::string& why) {
  loop_->LogRejected(peer_, why);
  Close();
}

void Connection::OnTimer() {
  if (phase_ == kHttp2 && greeted_) {
    if (session_->draining()) return session_->FinishDrain();
    loop_->Log("closed the connection of " + peer_.address + ": a header block took too long");
    return Close();
  }
  if (phase_ == kHandshake) return Reject("TLS handshake: it took too long");
  if (phase_ != kLinger) loop_->Log("closed the connection of " + peer_.address + ": it said too little for too long");
  Close();
}

void Connection::ArmKeepalive() {
  const ServerOptions& options = state_->options;
  if (options.keepalive_interval_ms > 0 && options.keepalive_timeout_ms > 0) {
    state_->ArmAfter(&keepalive_, options.keepalive_interval_ms);
  }
}

void Connection::OnKeepalive() {
  if (std::exchange(heard_, false)) {
    ping_sent_ = false;
    return ArmKeepalive();
  }
  if (ping_sent_) {
    loop_->Log("closed the connection of " + peer_.address + ": no answer to a keepalive ping");
    return Close();
  }
  ping_sent_ = true;
  session_->Ping();
  state_->ArmAfter(&keepalive_, state_->options.keepalive_timeout_ms);
}

void Connection::Drain() {
  if (phase_ == kHttp2) {
    session_->Drain();
    return state_->ArmAfter(&timer_, kDrainPingTimeoutMs);
  }
  if (phase_ == kSniffing || phase_ == kHandshake) Close();
}

bool Connection::quiet() const {
  return phase_ != kHttp2 || (session_->streams() == 0 && unsent_ == nullptr && !dirty_);
}

void Connection::Close() {
  if (phase_ == kClosed) return;
  phase_ = kClosed;
  timer_.Cancel();
  keepalive_.Cancel();
  if (session_ != nullptr) session_->Abort();
  if (relay_ != nullptr) relay_->Close();
  ssl_.reset();
  socket_.close();
  loop_->Forget(this);
}

}  // namespace fastkv::front
