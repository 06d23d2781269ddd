// One event loop, its thread and its connections: the turns that call.h speaks of.
//
//   wait -> run what is ready (reads, answers posted, timers) -> TurnEnd -> one write a connection -> wait
//
// The first handler that runs after a wait posts the turn's end, which so comes behind every handler that was ready
// then.
//
// Invariants:
// - nothing is written before TurnEnd; after it every connection that has something to say is flushed.
// - a loop that still has something to flush does not wait.
// Thread safety: Post, Adopt, Drain, Stop, drained and stats from any thread; the rest in the loop's own.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "front/asio.h"
#include "front/connection.h"
#include "front/thread_state.h"
#include "front/tls.h"

namespace fastkv::front {

class Loop final : public IoThread {
 public:
  // tls: null, or outlives the loop like options and service.
  Loop(size_t index, const ServerOptions& options, Service* service, Tls* tls);
  ~Loop() override;

  size_t index() const override { return index_; }
  bool IsCurrent() const override { return std::this_thread::get_id() == thread_id_.load(std::memory_order_acquire); }
  void Post(std::vector<Answer> answers) override;
  void Post(std::function<void()> function) override;
  Call* Find(uint64_t call_id) override { return state_.calls.Find(call_id); }

  void Start();
  // Accepts on the listening socket and gives what comes to `adopt`.
  void Listen(const Listener& listener, std::function<void(int, const Listener&, Peer)> adopt);
  void Adopt(int socket, const Listener& listener, Peer peer);
  void Drain();
  void Stop();  // joins
  bool drained() const { return drained_.load(std::memory_order_acquire); }
  void AddTo(ServerStats* stats) const;
  const CallMetrics& metrics() const { return state_.metrics; }

  // Of the connections.
  // Every handler's first words.
  void Wake();
  ThreadState& state() { return state_; }
  asio::io_context& context() { return context_; }
  Tls* tls() const { return tls_; }
  char* read_buffer() { return read_buffer_.get(); }
  Output& output() { return output_; }
  void FlushLater(Connection* connection) { dirty_.push_back(connection); }
  void Forget(Connection* connection);  // lives on until the turn ends
  void Log(const std::string& line) const;
  void LogRejected(const Peer& peer, const std::string& why) const;

 private:
  struct Acceptor;

  void Run();
  void EndTurn();
  void FlushAll();
  void ArmTimer();
  void TakePosted();
  void Accept(Acceptor* acceptor);
  void WaitToAccept(Acceptor* acceptor);
  void CloseAll();

  const size_t index_;
  const ServerOptions& options_;
  Service* const service_;
  Tls* const tls_;
  asio::io_context context_{1};
  asio::executor_work_guard<asio::io_context::executor_type> work_{context_.get_executor()};
  asio::steady_timer timer_{context_};
  int64_t timer_ms_ = INT64_MAX;  // when timer_ goes off
  ThreadState state_;
  std::unique_ptr<char[]> read_buffer_;
  Output output_{&state_.bodies, false};

  std::unordered_map<Connection*, std::shared_ptr<Connection>> connections_;
  std::vector<Connection*> dirty_;
  std::vector<std::shared_ptr<Connection>> closed_;  // in this turn
  std::vector<std::unique_ptr<Acceptor>> acceptors_;

  std::mutex mutex_;  // guards posted_, functions_, wake_posted_
  std::vector<std::vector<Answer>> posted_;
  std::vector<std::function<void()>> functions_;
  bool wake_posted_ = false;

  bool turn_begun_ = false;
  bool draining_ = false;
  bool stopping_ = false;
  std::atomic<bool> drained_{false};
  std::atomic<std::thread::id> thread_id_{};
  std::thread thread_;
};

}  // namespace fastkv::front
