#include "front/http1_relay.h"

#include <sys/socket.h>

#include <cerrno>

#include "front/connection.h"
#include "front/io_thread.h"
#include "front/limits.h"

namespace fastkv::front {
namespace {

constexpr int kStepsMax = 64;  // then the other connections have their turn

// >0 bytes, 0 the end, -1 not now, -2 broken.
ssize_t Outcome(ssize_t result) {
  if (result >= 0) return result;
  return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? -1 : -2;
}

}  // namespace

Http1Relay::Http1Relay(Connection* connection, asio::io_context* context, int inner, std::string_view first)
    : connection_(connection), inner_(*context, inner), to_service_(first) {}

Http1Relay::~Http1Relay() { Close(); }

void Http1Relay::Close() {
  if (inner_.is_open()) inner_.close();
}

void Http1Relay::Pump() {
  bool moved = true;
  for (int step = 0; moved; ++step) {
    if (step == kStepsMax) {
      asio::post(inner_.get_executor(), [self = connection_->shared_from_this(), this] {
        connection_->loop()->Wake();
        if (inner_.is_open()) Pump();
      });
      return;
    }
    moved = false;
    if (!Step(&moved)) return;
  }
  if (!client_ended_ && to_service_.size() < kRelayBytesMax) connection_->WaitReadable();
  if (!to_client_.empty()) connection_->WaitWritable();
  if (!service_ended_ && to_client_.size() < kRelayBytesMax) WaitInner(false);
  if (!to_service_.empty()) WaitInner(true);
}

bool Http1Relay::Step(bool* moved) {
  char bytes[16 << 10];
  const auto room = [](const std::string& buffer) {
    return std::min(sizeof bytes, kRelayBytesMax - std::min(buffer.size(), kRelayBytesMax));
  };
  const int inner = inner_.native_handle();
  if (const size_t size = room(to_service_); !client_ended_ && size > 0) {
    const ssize_t got = connection_->Receive(bytes, size);
    if (got == -2) return connection_->Close(), false;
    if (got == 0) client_ended_ = true;
    if (got > 0 && !service_deaf_) to_service_.append(bytes, static_cast<size_t>(got));
    *moved |= got >= 0;
  }
  if (!to_service_.empty()) {
    const ssize_t sent = Outcome(::send(inner, to_service_.data(), to_service_.size(), MSG_NOSIGNAL));
    if (sent == -2) {  // it answers without listening, as a server that refuses a body does
      service_deaf_ = true;
      to_service_.clear();
    }
    if (sent > 0) to_service_.erase(0, static_cast<size_t>(sent));
    *moved |= sent > 0;
  }
  if (client_ended_ && to_service_.empty() && !told_service_) {
    told_service_ = true;
    ::shutdown(inner, SHUT_WR);
  }
  if (const size_t size = room(to_client_); !service_ended_ && size > 0) {
    const ssize_t got = Outcome(::recv(inner, bytes, size, 0));
    if (got == 0 || got == -2) service_ended_ = true;
    if (got > 0) to_client_.append(bytes, static_cast<size_t>(got));
    *moved |= got >= 0;
  }
  if (!to_client_.empty()) {
    const ssize_t sent = connection_->Send(to_client_.data(), to_client_.size());
    if (sent == -2) return connection_->Close(), false;
    if (sent > 0) to_client_.erase(0, static_cast<size_t>(sent));
    *moved |= sent > 0;
  }
  if (service_ended_ && to_client_.empty()) return connection_->FinishSending(), false;
  return true;
}

void Http1Relay::WaitInner(bool writable) {
  if (waiting_[writable]) return;
  waiting_[writable] = true;
  inner_.async_wait(writable ? asio::posix::stream_descriptor::wait_write : asio::posix::stream_descriptor::wait_read,
                    [self = connection_->shared_from_this(), this, writable](const asio::error_code& error) {
                      if (error || !inner_.is_open()) return;
                      waiting_[writable] = false;
                      connection_->loop()->Wake();
                      Pump();
                    });
}

}  // namespace fastkv::front
