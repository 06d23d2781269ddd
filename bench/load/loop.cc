#include "loop.h"

#include <arpa/inet.h>
#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace fastkv::load {

Loop::Loop(const std::string& target, uint32_t window)
    : authority_(target), window_(window), epoll_(epoll_create1(EPOLL_CLOEXEC)) {
  const size_t colon = target.rfind(':');
  address_.sin_family = AF_INET;
  if (colon == std::string::npos || inet_pton(AF_INET, target.substr(0, colon).c_str(), &address_.sin_addr) != 1) {
    throw Failure("the target must be IPv4:port, not " + target);
  }
  address_.sin_port = htons(static_cast<uint16_t>(atoi(target.c_str() + colon + 1)));
}

Loop::~Loop() { close(epoll_); }

void Loop::Connect(size_t count) {
  const size_t first = connections_.size();
  for (size_t i = 0; i < count; i++) {
    connections_.push_back(std::make_unique<Connection>(address_, authority_, window_));
    Connection* added = connections_.back().get();
    epoll_event event{.events = EPOLLIN, .data = {.ptr = added}};
    epoll_ctl(epoll_, EPOLL_CTL_ADD, added->fd(), &event);
    Flush(added);
  }
  Run([&] {
    return std::all_of(connections_.begin() + static_cast<ptrdiff_t>(first), connections_.end(),
                       [](const auto& one) { return one->ready(); });
  });
}

void Loop::Flush(Connection* connection) {
  connection->Flush();
  if (connection->wants_write() == connection->armed_write) return;
  connection->armed_write = connection->wants_write();
  epoll_event event{.events = EPOLLIN | (connection->armed_write ? EPOLLOUT : 0u), .data = {.ptr = connection}};
  epoll_ctl(epoll_, EPOLL_CTL_MOD, connection->fd(), &event);
}

void Loop::Run(const std::function<bool()>& done, const std::function<uint64_t(uint64_t)>& tick) {
  std::array<epoll_event, 256> events;
  uint64_t heard = now_ = NowNs();
  for (;;) {
    const uint64_t due = tick ? tick(now_) : kNever;
    for (size_t i = 0; i < dirty_.size(); i++) {
      dirty_[i]->dirty = false;
      Flush(dirty_[i]);
    }
    dirty_.clear();
    if (done()) return;

    now_ = NowNs();
    const uint64_t wait = due > now_ ? std::min(due - now_, kSecond) : 0;
    const timespec timeout{static_cast<time_t>(wait / kSecond), static_cast<long>(wait % kSecond)};
    const int ready = epoll_pwait2(epoll_, events.data(), events.size(), &timeout, nullptr);
    if (ready < 0 && errno != EINTR) throw Failure(std::string("epoll: ") + strerror(errno));
    now_ = NowNs();
    if (ready > 0) heard = now_;
    if (now_ - heard > kSilenceS * kSecond) throw Failure("nothing came from the server for too long");
    for (int i = 0; i < ready; i++) {
      auto* connection = static_cast<Connection*>(events[static_cast<size_t>(i)].data.ptr);
      if (events[static_cast<size_t>(i)].events & ~static_cast<uint32_t>(EPOLLOUT)) {
        if (i > 0) now_ = NowNs();
        connection->OnReadable();
      }
      Flush(connection);
    }
  }
}

uint64_t Loop::bytes_received() const {
  uint64_t sum = 0;
  for (const auto& one : connections_) sum += one->bytes_received();
  return sum;
}

}  // namespace fastkv::load
