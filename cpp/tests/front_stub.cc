// A server whose service does nothing but copy: what the transport alone can do. For bench/ and by hand.
//
//   front_stub [--port N] [--threads N] [--reply BYTES] [--cert FILE --key FILE] [--seconds N]
//
//   /stub.Stub/Unary    any message in, BYTES out
//   /stub.Stub/Echo     the message itself
//   /stub.Stub/Stream   the message is a decimal number: so many bytes come back, in messages of 64 KiB
//
// Prints its port, then runs until its standard input ends.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>

#include "front/call.h"
#include "front/server.h"

namespace {

using namespace fastkv::front;

constexpr size_t kStreamMessageBytes = 64 << 10;

class StreamOut final : public CallHandler {
 public:
  explicit StreamOut(Call* call) : call_(call) {}
  void OnMessage(std::string_view message) override {
    left_ = strtoull(std::string(message).c_str(), nullptr, 10);
    OnWritable();
  }
  void OnWritable() override {
    while (left_ > 0 && call_->unsent_bytes() < kUnsentHighBytes) {
      const size_t size = std::min<uint64_t>(left_, kStreamMessageBytes);
      call_->Send(std::string(size, 'x'));
      left_ -= size;
      if (left_ == 0) return call_->Finish(GrpcCode::kOk, {});
    }
  }

 private:
  Call* const call_;
  uint64_t left_ = 0;
};

class Stub final : public Service {
 public:
  explicit Stub(size_t reply_bytes) : reply_(reply_bytes, 'r') {}
  const Method* Find(std::string_view path) override {
    for (const auto& [name, method] : kMethods) {
      if (path == name) return &method;
    }
    return nullptr;
  }
  bool HasService(std::string_view name) override { return name == "stub.Stub"; }
  void Unary(const Method& method, Call* call, std::string_view message) override {
    call->Reply(method.number == 0 ? reply_ : std::string(message));
  }
  std::unique_ptr<CallHandler> Open(const Method&, Call* call) override { return std::make_unique<StreamOut>(call); }
  void Gone(const Method&, uint64_t, IoThread*) override {}
  void TurnEnd(IoThread*) override {}
  void Http1(int socket, const Peer&) override {
    static constexpr char kAnswer[] = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";
    (void)!write(socket, kAnswer, sizeof kAnswer - 1);
    close(socket);
  }

 private:
  static constexpr std::pair<std::string_view, Method> kMethods[] = {
      {"/stub.Stub/Unary", {Method::kUnary, 0}},
      {"/stub.Stub/Echo", {Method::kUnary, 1}},
      {"/stub.Stub/Stream", {Method::kStreaming, 2}},
  };
  const std::string reply_;
};

}  // namespace

int main(int argc, char** argv) {
  ServerOptions options;
  int port = 0;
  size_t reply_bytes = 32;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view name = argv[i];
    if (name == "--port") port = atoi(argv[i + 1]);
    if (name == "--threads") options.io_threads = atoi(argv[i + 1]);
    if (name == "--reply") reply_bytes = strtoull(argv[i + 1], nullptr, 10);
    if (name == "--cert") options.tls.cert_file = argv[i + 1];
    if (name == "--key") options.tls.key_file = argv[i + 1];
  }
  const bool tls = !options.tls.cert_file.empty();
  options.log = [](const std::string& line) { fprintf(stderr, "%s\n", line.c_str()); };

  const int listening = socket(AF_INET, SOCK_STREAM, 0);
  const int on = 1;
  setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (bind(listening, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      getsockname(listening, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    perror("bind");
    return 1;
  }
  Stub stub(reply_bytes);
  std::unique_ptr<Server> server;
  const fastkv::Status status = Server::Create(std::move(options), {{listening, true, tls}}, &stub, &server);
  if (!status.ok()) {
    fprintf(stderr, "%s\n", status.message().c_str());
    return 1;
  }
  server->Start();
  printf("%d\n", ntohs(address.sin_port));
  fflush(stdout);
  for (char c; read(0, &c, 1) > 0;) {
  }
  const ServerStats stats = server->stats();
  fprintf(stderr, "calls %llu turns %llu\n", static_cast<unsigned long long>(stats.calls_total),
          static_cast<unsigned long long>(stats.turns));
  server->Drain(1000);
  server->Stop();
  return 0;
}
