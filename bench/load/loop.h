// The connections of a run, one epoll, one thread.
//
//   Loop loop(options.target, options.window);  loop.Connect(100);
//   loop.Run([&] { return acknowledged == wanted; });
//
// Invariants: what a turn's callbacks sent is flushed before the loop waits again; a run in which nothing arrives for
// kSilenceS ends with Failure, so that no benchmark hangs. Thread safety: none.
#pragma once

#include <netinet/in.h>

#include <cstdint>
#include <ctime>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "http2.h"

namespace fastkv::load {

inline constexpr uint64_t kNever = UINT64_MAX;
inline constexpr uint64_t kSecond = 1'000'000'000;

inline uint64_t NowNs() {
  timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return static_cast<uint64_t>(at.tv_sec) * kSecond + static_cast<uint64_t>(at.tv_nsec);
}

class Loop {
 public:
  static constexpr uint64_t kSilenceS = 120;

  Loop(const std::string& target, uint32_t window);
  ~Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  // `count` more connections; returns when the server's SETTINGS of all of them are there.
  void Connect(size_t count);
  Connection& connection(size_t i) { return *connections_[i % connections_.size()]; }
  size_t size() const { return connections_.size(); }

  uint32_t Open(size_t i, const char* path, Stream* stream) {
    Touch(&connection(i));
    return connection(i).Open(path, stream);
  }
  void Send(size_t i, uint32_t id, std::string_view message, bool last) {
    Touch(&connection(i));
    connection(i).Send(id, message, last);
  }

  // Until done(). tick(now), called each turn, does what is due and returns when it wants to be called again.
  void Run(const std::function<bool()>& done, const std::function<uint64_t(uint64_t)>& tick = nullptr);

  // When the bytes being handled were received.
  uint64_t now() const { return now_; }
  uint64_t bytes_received() const;

 private:
  void Touch(Connection* connection) {
    if (connection->dirty) return;
    connection->dirty = true;
    dirty_.push_back(connection);
  }
  void Flush(Connection* connection);

  sockaddr_in address_{};
  std::string authority_;
  uint32_t window_;
  int epoll_;
  std::vector<std::unique_ptr<Connection>> connections_;
  std::vector<Connection*> dirty_;
  uint64_t now_ = 0;
};

}  // namespace fastkv::load
