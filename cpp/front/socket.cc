#include "front/socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <string>

namespace fastkv::front {
namespace {

void Prepare(int socket) {
  SetNonBlocking(socket);
  fcntl(socket, F_SETFD, FD_CLOEXEC);
#ifdef SO_NOSIGPIPE
  const int on = 1;
  setsockopt(socket, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
}

std::string AddressOf(int listening, const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET) {
    const auto& in = reinterpret_cast<const sockaddr_in&>(address);
    inet_ntop(AF_INET, &in.sin_addr, text, sizeof text);
    return std::string(text) + ":" + std::to_string(ntohs(in.sin_port));
  }
  if (address.ss_family == AF_INET6) {
    const auto& in = reinterpret_cast<const sockaddr_in6&>(address);
    inet_ntop(AF_INET6, &in.sin6_addr, text, sizeof text);
    return "[" + std::string(text) + "]:" + std::to_string(ntohs(in.sin6_port));
  }
  // The client of a unix socket has no name; the listener's is its address.
  sockaddr_un own{};
  socklen_t size = sizeof own;
  if (getsockname(listening, reinterpret_cast<sockaddr*>(&own), &size) != 0) return "unix";
  const size_t offset = offsetof(sockaddr_un, sun_path);
  return size <= offset ? "unix" : std::string(own.sun_path, strnlen(own.sun_path, size - offset));
}

}  // namespace

void SetNonBlocking(int socket) { fcntl(socket, F_SETFL, fcntl(socket, F_GETFL) | O_NONBLOCK); }

int AcceptSocket(int listening, Peer* peer) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
#ifdef __linux__
  const int socket = accept4(listening, reinterpret_cast<sockaddr*>(&address), &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (socket < 0) return -1;
#else
  const int socket = accept(listening, reinterpret_cast<sockaddr*>(&address), &size);
  if (socket < 0) return -1;
  Prepare(socket);
#endif
  if (address.ss_family == AF_INET || address.ss_family == AF_INET6) {
    const int on = 1;
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  peer->address = AddressOf(listening, address);
  return socket;
}

bool MakeSocketPair(int ends[2]) {
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) return false;
  Prepare(ends[0]);
  Prepare(ends[1]);
  return true;
}

}  // namespace fastkv::front
