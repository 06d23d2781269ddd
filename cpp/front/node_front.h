// The native front end as a whole, in the form that Cython holds: a service and, once there are listeners, its server.
//
// Invariants: the two end in the order that their threads need, whatever was called before.
// Thread safety: Serve, Drain, Stop and the destructor from one thread; the service as it says.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/status.h"
#include "front/server.h"
#include "front/service.h"

namespace fastkv::front {

class NodeFront {
 public:
  NodeFront(Backend* backend, ServiceOptions options)
      : service_(std::make_unique<NodeService>(backend, std::move(options))) {}
  ~NodeFront() {
    Stop();
    service_.reset();  // the committer's thread posts to the server's until here
  }
  NodeFront(const NodeFront&) = delete;
  NodeFront& operator=(const NodeFront&) = delete;

  NodeService* service() { return service_.get(); }

  // From now on clients are answered. The listening sockets are the front's from the call on.
  Status Serve(ServerOptions options, std::vector<Listener> listeners) {
    const auto threads = static_cast<size_t>(options.io_threads);
    options.log = [events = service_->events()](const std::string& line) {
      Event event;
      event.text = line;
      events->Push(std::move(event));
    };
    options.rejected = [events = service_->events()](const std::string& address, const std::string& why) {
      Event event;
      event.kind = Event::kRejected;
      event.text = address;
      event.body = why;
      events->Push(std::move(event));
    };
    FASTKV_RETURN_IF_ERROR(Server::Create(std::move(options), std::move(listeners), service_.get(), &server_));
    for (size_t i = 0; i < threads; ++i) threads_.push_back(server_->thread(i));
    service_->SetThreads(threads_);
    server_->Start();
    return {};
  }
  // Streams are ended, nothing new is taken; returns when no call is open or the time is up.
  void Drain(int64_t timeout_ms) {
    if (server_ == nullptr) return;
    service_->StopCalls(threads_);
    server_->Drain(timeout_ms);
  }
  // Closes what is left. Answers that come later are dropped.
  void Stop() {
    if (server_ != nullptr) server_->Stop();
    service_->StopThreads();
  }
  // By the number of the method; empty before Serve.
  std::vector<MethodTotals> method_totals() const {
    return server_ == nullptr ? std::vector<MethodTotals>() : server_->method_totals(service_->method_count());
  }
  ServerStats server_stats() const { return server_ == nullptr ? ServerStats{} : server_->stats(); }

 private:
  std::unique_ptr<Server> server_;
  std::vector<IoThread*> threads_;
  std::unique_ptr<NodeService> service_;
};

}  // namespace fastkv::front
