#include "front/io_thread.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "front/limits.h"
#include "front/socket.h"

namespace fastkv::front {
namespace {

constexpr int kAcceptsMax = 64;        // in one turn
constexpr int kAcceptRetryMs = 100;    // when the process has no descriptor left
constexpr size_t kTurnFlushesMax = 4;  // rounds of flushing and asking streams for more; the rest is the next turn's

}  // namespace

struct Loop::Acceptor {
  Acceptor(asio::io_context* context, const Listener& listener, std::function<void(int, const Listener&, Peer)> adopt)
      : socket(*context, listener.socket), retry(*context), listener(listener), adopt(std::move(adopt)) {}

  asio::posix::stream_descriptor socket;
  asio::steady_timer retry;
  const Listener listener;
  const std::function<void(int, const Listener&, Peer)> adopt;
};

Loop::Loop(size_t index, const ServerOptions& options, Service* service, Tls* tls)
    : index_(index),
      options_(options),
      service_(service),
      tls_(tls),
      state_(options, service, this),
      read_buffer_(new char[kReadBytesMax]) {}

Loop::~Loop() { Stop(); }

void Loop::Start() {
  // Signals are for the threads that expect them, and a broken TLS socket shall not end the process.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] {
#ifdef __linux__
    pthread_setname_np(pthread_self(), ("front-io-" + std::to_string(index_)).c_str());
#endif
    Run();
  });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Loop::Run() {
  thread_id_.store(std::this_thread::get_id(), std::memory_order_release);
  ArmTimer();
  context_.run();
  CloseAll();
}

void Loop::Wake() {
  if (std::exchange(turn_begun_, true)) return;
  state_.now_ns = MonotonicNs();
  asio::post(context_, [this] { EndTurn(); });
}

void Loop::EndTurn() {
  turn_begun_ = false;
  state_.now_ns = MonotonicNs();
  state_.timers.Advance(state_.now_ns / 1'000'000);
  state_.TellEnded();
  service_->TurnEnd(this);
  FlushAll();
  state_.counters.turns.Add(1);
  if (draining_ && !drained_.load(std::memory_order_relaxed) && state_.calls.size() == 0 &&
      std::all_of(connections_.begin(), connections_.end(), [](const auto& entry) { return entry.second->quiet(); })) {
    drained_.store(true, std::memory_order_release);
  }
  if (stopping_) return context_.stop();
  if (!dirty_.empty() || !state_.ended.empty() || !state_.writable.empty()) Wake();
  ArmTimer();
}

void Loop::FlushAll() {
  for (size_t round = 0; round < kTurnFlushesMax; ++round) {
    std::vector<Connection*> flushed;
    flushed.swap(dirty_);
    for (Connection* connection : flushed) connection->Flush();
    if (dirty_.empty()) {
      flushed.clear();
      dirty_.swap(flushed);  // its memory
    }
    if (!state_.ended.empty()) state_.TellEnded();
    if (!state_.AskForMore()) break;
    if (!state_.ended.empty()) state_.TellEnded();
  }
  closed_.clear();
}

void Loop::ArmTimer() {
  const int64_t next_ms = state_.timers.NextMs();
  if (next_ms >= timer_ms_) return;
  timer_ms_ = next_ms;
  timer_.expires_at(asio::steady_timer::time_point(std::chrono::milliseconds(next_ms)));
  timer_.async_wait([this](const asio::error_code& error) {
    if (error) return;
    timer_ms_ = INT64_MAX;
    Wake();
  });
}

void Loop::Post(std::vector<Answer> answers) {
  {
    const std::lock_guard lock(mutex_);
    posted_.push_back(std::move(answers));
    if (std::exchange(wake_posted_, true)) return;
  }
  asio::post(context_, [this] { TakePosted(); });
}

void Loop::Post(std::function<void()> function) {
  {
    const std::lock_guard lock(mutex_);
    functions_.push_back(std::move(function));
    if (std::exchange(wake_posted_, true)) return;
  }
  asio::post(context_, [this] { TakePosted(); });
}

void Loop::TakePosted() {
  std::vector<std::vector<Answer>> posted;
  std::vector<std::function<void()>> functions;
  {
    const std::lock_guard lock(mutex_);
    posted.swap(posted_);
    functions.swap(functions_);
    wake_posted_ = false;
  }
  Wake();
  for (auto& answers : posted) {
    for (Answer& answer : answers) {
      GrpcCall* call = state_.calls.Find(answer.call_id);
      if (call == nullptr) continue;
      if (answer.code == GrpcCode::kOk) {
        call->Reply(std::move(answer.body));
      } else {
        call->Finish(answer.code, answer.body);
      }
    }
  }
  for (const auto& function : functions) function();
}

void Loop::Listen(const Listener& listener, std::function<void(int, const Listener&, Peer)> adopt) {
  SetNonBlocking(listener.socket);
  if (::listen(listener.socket, SOMAXCONN) != 0) {
    Log(std::string("listen: ") + strerror(errno));
  }
  acceptors_.push_back(std::make_unique<Acceptor>(&context_, listener, std::move(adopt)));
  WaitToAccept(acceptors_.back().get());
}

void Loop::WaitToAccept(Acceptor* acceptor) {
  acceptor->socket.async_wait(asio::posix::stream_descriptor::wait_read,
                              [this, acceptor](const asio::error_code& error) {
                                if (!error) Accept(acceptor);
                              });
}

void Loop::Accept(Acceptor* acceptor) {
  Wake();
  for (int i = 0; i < kAcceptsMax; ++i) {
    Peer peer;
    const int socket = AcceptSocket(acceptor->socket.native_handle(), &peer);
    if (socket >= 0) {
      acceptor->adopt(socket, acceptor->listener, std::move(peer));
      continue;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) break;
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
      Log(std::string("cannot accept a connection: ") + strerror(errno));
      acceptor->retry.expires_after(std::chrono::milliseconds(kAcceptRetryMs));
      acceptor->retry.async_wait([this, acceptor](const asio::error_code& error) {
        if (!error) Accept(acceptor);
      });
      return;
    }
  }
  WaitToAccept(acceptor);
}

void Loop::Adopt(int socket, const Listener& listener, Peer peer) {
  if (!IsCurrent()) {
    return Post([this, socket, listener, peer = std::move(peer)] { Adopt(socket, listener, peer); });
  }
  if (draining_) {
    ::close(socket);
    return;
  }
  auto connection = std::make_shared<Connection>(this, socket, listener, std::move(peer));
  connections_[connection.get()] = connection;
  state_.counters.connections.Add(1);
  state_.counters.connections_total.Add(1);
  connection->Start();
}

void Loop::Forget(Connection* connection) {
  const auto at = connections_.find(connection);
  if (at == connections_.end()) return;
  closed_.push_back(std::move(at->second));
  connections_.erase(at);
  state_.counters.connections.Subtract(1);
}

void Loop::Drain() {
  Post([this] {
    if (std::exchange(draining_, true)) return;
    for (const auto& acceptor : acceptors_) {
      acceptor->socket.close();
      acceptor->retry.cancel();
    }
    std::vector<std::shared_ptr<Connection>> all;
    for (const auto& [_, connection] : connections_) all.push_back(connection);
    for (const auto& connection : all) connection->Drain();
  });
}

void Loop::Stop() {
  if (!thread_.joinable()) return;
  Post([this] { stopping_ = true; });
  thread_.join();
}

void Loop::CloseAll() {
  stopping_ = false;  // what is still to run ends no loop
  context_.restart();
  draining_ = true;
  acceptors_.clear();
  while (!connections_.empty()) connections_.begin()->second->Close();
  state_.TellEnded();
  dirty_.clear();
  closed_.clear();
  timer_.cancel();
  while (context_.poll() > 0) {  // the waits of what was closed
  }
}

void Loop::AddTo(ServerStats* stats) const {
  const auto& counters = state_.counters;
  stats->connections += counters.connections.value();
  stats->connections_total += counters.connections_total.value();
  stats->calls += counters.calls.value();
  stats->calls_total += counters.calls_total.value();
  stats->received_bytes += counters.received_bytes.value();
  stats->sent_bytes += counters.sent_bytes.value();
  stats->turns += counters.turns.value();
}

void Loop::Log(const std::string& line) const {
  if (options_.log) options_.log(line);
}

void Loop::LogRejected(const Peer& peer, const std::string& why) const {
  if (options_.rejected) options_.rejected(peer.address, why);
}

}  // namespace fastkv::front
