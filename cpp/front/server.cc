#include "front/server.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "base/check.h"
#include "front/io_thread.h"
#include "front/tls.h"

namespace fastkv::front {
namespace {

class ServerImpl final : public Server {
 public:
  ServerImpl(ServerOptions options, std::vector<Listener> listeners, Service* service, std::unique_ptr<Tls> tls)
      : options_(std::move(options)), listeners_(std::move(listeners)), tls_(std::move(tls)) {
    for (int i = 0; i < std::max(1, options_.io_threads); ++i) {
      loops_.push_back(std::make_unique<Loop>(static_cast<size_t>(i), options_, service, tls_.get()));
    }
  }
  ~ServerImpl() override { Stop(); }

  void Start() override {
    // The first loop accepts for all; connections are dealt out in turn.
    for (const Listener& listener : listeners_) {
      loops_[0]->Listen(listener, [this](int socket, const Listener& from, Peer peer) {
        loops_[next_++ % loops_.size()]->Adopt(socket, from, std::move(peer));
      });
    }
    for (const auto& loop : loops_) loop->Start();
  }

  void Drain(int64_t timeout_ms) override {
    for (const auto& loop : loops_) loop->Drain();
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
    const auto drained = [](const auto& loop) { return loop->drained(); };
    while (!std::all_of(loops_.begin(), loops_.end(), drained) && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  void Stop() override {
    for (const auto& loop : loops_) loop->Stop();
  }

  IoThread* thread(size_t index) override { return loops_[index].get(); }

  ServerStats stats() const override {
    ServerStats stats{};
    for (const auto& loop : loops_) loop->AddTo(&stats);
    return stats;
  }

  std::vector<MethodTotals> method_totals(size_t count) const override {
    std::vector<MethodTotals> totals(count);
    for (const auto& loop : loops_) {
      for (uint32_t number = 0; number < count; ++number) loop->metrics().AddTo(number, &totals[number]);
    }
    return totals;
  }

 private:
  const ServerOptions options_;
  const std::vector<Listener> listeners_;
  const std::unique_ptr<Tls> tls_;
  std::vector<std::unique_ptr<Loop>> loops_;
  size_t next_ = 0;
};

}  // namespace

Status Server::Create(ServerOptions options, std::vector<Listener> listeners, Service* service,
                      std::unique_ptr<Server>* server) {
  std::unique_ptr<Tls> tls;
  const auto speaks_tls = [](const Listener& listener) { return listener.tls; };
  if (std::any_of(listeners.begin(), listeners.end(), speaks_tls)) {
    FASTKV_RETURN_IF_ERROR(Tls::Create(options.tls, options.log, &tls));
  }
  *server = std::make_unique<ServerImpl>(std::move(options), std::move(listeners), service, std::move(tls));
  return {};
}

}  // namespace fastkv::front
