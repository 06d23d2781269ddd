// A client's end of a connection over a real socket, plain or TLS, for tests of whole servers.
//
// Thread safety: a Socket belongs to one thread.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <string_view>

#include "tests/front_tls_files.h"

namespace fastkv::front {

constexpr int kPatienceMs = 20'000;  // for what must happen

inline int64_t NowMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// A bound socket on 127.0.0.1; the kernel chooses the port.
inline int Bind(int* port) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  EXPECT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), size), 0);
  EXPECT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  *port = ntohs(address.sin_port);
  return fd;
}

// A client's end of a connection, plain or TLS.
class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  ~Socket() {
    if (ssl_ != nullptr) SSL_free(ssl_);
    if (context_ != nullptr) SSL_CTX_free(context_);
    if (fd_ >= 0) close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  static int Connect(int port) {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    return fd;
  }

  // "" when it worked, else why not. alpn: as on the wire.
  std::string StartTls(const std::string& alpn, const TestCertificate* own = nullptr) {
    context_ = SSL_CTX_new(TLS_client_method());
    if (own != nullptr) {
      SSL_CTX_use_certificate(context_, own->certificate());
      SSL_CTX_use_PrivateKey(context_, own->key());
    }
    ssl_ = SSL_new(context_);
    SSL_set_fd(ssl_, fd_);
    if (!alpn.empty()) {
      SSL_set_alpn_protos(ssl_, reinterpret_cast<const unsigned char*>(alpn.data()),
                          static_cast<unsigned>(alpn.size()));
    }
    if (SSL_connect(ssl_) == 1) return {};
    const char* reason = ERR_reason_error_string(ERR_get_error());
    return reason == nullptr ? "closed" : reason;
  }
  std::string alpn() const {
    const unsigned char* protocol;
    unsigned size;
    SSL_get0_alpn_selected(ssl_, &protocol, &size);
    return std::string(reinterpret_cast<const char*>(protocol), size);
  }
  X509* server_certificate() const { return SSL_get0_peer_certificate(ssl_); }

  void Write(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ssl_ != nullptr ? SSL_write(ssl_, bytes.data(), static_cast<int>(bytes.size()))
                                           : send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
  }
  // What has come, "" at the end of the connection or when the time is up (*ended tells).
  std::string Read(int timeout_ms = kPatienceMs, bool* ended = nullptr) {
    if (ended != nullptr) *ended = false;
    if (ssl_ == nullptr || SSL_pending(ssl_) == 0) {
      pollfd readable{fd_, POLLIN, 0};
      if (poll(&readable, 1, timeout_ms) == 0) return {};
    }
    char bytes[65536];
    const ssize_t got = ssl_ != nullptr ? SSL_read(ssl_, bytes, sizeof bytes) : recv(fd_, bytes, sizeof bytes, 0);
    if (got <= 0) {
      if (ended != nullptr) *ended = true;
      return {};
    }
    return std::string(bytes, static_cast<size_t>(got));
  }
  std::string ReadAll() {
    std::string all;
    for (std::string part = Read(); !part.empty(); part = Read()) all += part;
    return all;
  }
  bool EndsWithin(int timeout_ms) {
    const int64_t end_ms = NowMs() + timeout_ms;
    for (;;) {
      bool ended = false;
      Read(static_cast<int>(std::max<int64_t>(0, end_ms - NowMs())), &ended);
      if (ended) return true;
      if (NowMs() >= end_ms) return false;
    }
  }
  void HalfClose() { shutdown(fd_, SHUT_WR); }
  int fd() const { return fd_; }

 private:
  int fd_;
  SSL_CTX* context_ = nullptr;
  SSL* ssl_ = nullptr;
};

}  // namespace fastkv::front
