// The whole transport over real sockets: protocols told apart, TLS, threads, timeouts, the end. One behaviour a test.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "front/server.h"
#include "tests/front_client.h"
#include "tests/front_socket.h"
#include "tests/front_tls_files.h"

namespace fastkv::front {
namespace {

using Log = std::vector<std::string>;
// Called by the IoThreads, looked at by the test.
class SharedService final : public StubService {
 public:
  const Method* Find(std::string_view path) override { return StubService::Find(path); }
  void Unary(const Method& method, Call* call, std::string_view message) override {
    const std::lock_guard lock(mutex_);
    threads.push_back(call->thread());
    peers.push_back(call->peer());
    StubService::Unary(method, call, message);
    changed_.notify_all();
  }
  std::unique_ptr<CallHandler> Open(const Method& method, Call* call) override {
    const std::lock_guard lock(mutex_);
    return StubService::Open(method, call);
  }
  void Gone(const Method& method, uint64_t call_id, IoThread* thread) override {
    const std::lock_guard lock(mutex_);
    StubService::Gone(method, call_id, thread);
    changed_.notify_all();
  }
  void TurnEnd(IoThread*) override {}
  void Http1(int socket, const Peer& peer) override {
    const std::lock_guard lock(mutex_);
    StubService::Http1(socket, peer);
    changed_.notify_all();
  }
  void Note(const std::string& line) {
    const std::lock_guard lock(mutex_);
    lines.push_back(line);
    changed_.notify_all();
  }
  template <typename Condition>
  bool Wait(Condition condition) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::milliseconds(kPatienceMs), condition);
  }

  std::vector<IoThread*> threads;
  std::vector<Peer> peers;
  Log lines;  // of the server's log

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
};

class FrontServer : public testing::Test {
 protected:
  FrontServer() {
    signal(SIGPIPE, SIG_IGN);  // of the test's own SSL_write
    directory_ = std::filesystem::temp_directory_path() / ("fastkv_front_" + std::to_string(getpid()));
    std::filesystem::create_directories(directory_);
  }
  ~FrontServer() override {
    if (server != nullptr) server->Stop();
    for (const int fd : service.http1) close(fd);
    std::filesystem::remove_all(directory_);
  }

  std::string File(const std::string& name) const { return directory_ / name; }

  void Start(ServerOptions options = {}, bool plain = true, bool tls = false) {
    options.log = [this](const std::string& line) { service.Note(line); };
    options.rejected = [this](const std::string& address, const std::string& why) {
      service.Note("rejected connection from " + address + ": " + why);
    };
    const Listener listener{Bind(&port), plain, tls};
    const Status status = Server::Create(std::move(options), {listener}, &service, &server);
    ASSERT_TRUE(status.ok()) << status.message();
    server->Start();
  }
  void StartTls(TlsOptions tls = {}, bool plain = false, int64_t handshake_timeout_ms = 10'000) {
    ca.Write(File("ca.pem"));
    TestCertificate("server", &ca).Write(File("cert.pem"), File("key.pem"));
    tls.cert_file = File("cert.pem");
    tls.key_file = File("key.pem");
    Start({.tls = tls, .handshake_timeout_ms = handshake_timeout_ms}, plain, true);
  }

  // Until the condition holds for what the client has heard.
  static bool Exchange(Client* client, Socket* socket, const std::function<bool()>& condition) {
    const int64_t end_ms = NowMs() + kPatienceMs;
    socket->Write(client->Take());
    while (!condition()) {
      bool ended = false;
      const std::string bytes = socket->Read(static_cast<int>(std::max<int64_t>(0, end_ms - NowMs())), &ended);
      if (bytes.empty()) return condition();
      client->Feed(bytes);
      socket->Write(client->Take());
    }
    return true;
  }
  static bool Finished(Client* client, Socket* socket, int32_t id) {
    return Exchange(client, socket, [&] { return client->answers[id].closed; });
  }

  SharedService service;
  std::unique_ptr<Server> server;
  int port = 0;
  const TestCertificate ca{"test CA", nullptr, true};
  std::string answered_;

 private:
  std::filesystem::path directory_;
};

TEST_F(FrontServer, ManyConnectionsOnTwoThreadsGetTheirAnswers) {
  Start({.io_threads = 2});
  struct One {
    explicit One(int port) : socket(Socket::Connect(port)) {}
    Client client;
    Socket socket;
    std::vector<int32_t> ids;
  };
  std::vector<std::unique_ptr<One>> all;
  for (int i = 0; i < 20; ++i) {
    all.push_back(std::make_unique<One>(port));
    for (int k = 0; k < 10; ++k) {
      all[static_cast<size_t>(i)]->ids.push_back(
          all[static_cast<size_t>(i)]->client.Call("/stub.Stub/Echo", Framed(std::to_string(i * 100 + k))));
    }
    all[static_cast<size_t>(i)]->socket.Write(all[static_cast<size_t>(i)]->client.Take());
  }
  for (int i = 0; i < 20; ++i) {
    One& one = *all[static_cast<size_t>(i)];
    for (int k = 0; k < 10; ++k) {
      const int32_t id = one.ids[static_cast<size_t>(k)];
      ASSERT_TRUE(Finished(&one.client, &one.socket, id));
      EXPECT_EQ(one.client.answers[id].messages(), Log{std::to_string(i * 100 + k)});
    }
  }
  const ServerStats stats = server->stats();
  EXPECT_EQ(stats.connections, 20u);
  EXPECT_EQ(stats.calls_total, 200u);
  EXPECT_GT(stats.received_bytes, 0u);
  EXPECT_GT(stats.sent_bytes, 0u);
  server->Stop();
  EXPECT_NE(std::count(service.threads.begin(), service.threads.end(), server->thread(0)), 0);
  EXPECT_NE(std::count(service.threads.begin(), service.threads.end(), server->thread(1)), 0);
}

TEST_F(FrontServer, AnswersPostedFromAnotherThreadArrive) {
  Start();
  Client client;
  Socket socket(Socket::Connect(port));
  const int32_t first = client.Call("/stub.Stub/Later", Framed("1"));
  const int32_t second = client.Call("/stub.Stub/Later", Framed("2"));
  socket.Write(client.Take());
  ASSERT_TRUE(service.Wait([&] { return service.waiting.size() == 2; }));
  std::vector<Answer> answers(2);
  answers[0] = {service.waiting[0], GrpcCode::kOk, "one"};
  answers[1] = {service.waiting[1], GrpcCode::kUnavailable, "two"};
  service.threads[0]->Post(std::move(answers));
  ASSERT_TRUE(Finished(&client, &socket, first));
  ASSERT_TRUE(Finished(&client, &socket, second));
  EXPECT_EQ(client.answers[first].messages(), Log{"one"});
  EXPECT_EQ(client.answers[second].status(), 14);
}

TEST_F(FrontServer, MessageOfFiftyMegabytesComesAndGoes) {
  Start();
  Client client;
  Socket socket(Socket::Connect(port));
  std::string message(50'000'000, '\0');
  for (size_t i = 0; i < message.size(); ++i) message[i] = static_cast<char>(i * 2654435761u >> 13);
  // Written by a thread of its own, as a client that does not stop to read would.
  const int32_t id = client.Call("/stub.Stub/Later", Framed("x"));
  socket.Write(client.Take());
  ASSERT_TRUE(service.Wait([&] { return service.waiting.size() == 1; }));
  std::vector<Answer> answers(1);
  answers[0] = {service.waiting[0], GrpcCode::kOk, message};
  service.threads[0]->Post(std::move(answers));
  ASSERT_TRUE(Finished(&client, &socket, id));
  EXPECT_TRUE(client.answers[id].data == Framed(message));
}

TEST_F(FrontServer, DeadlineIsKeptByAnIdleServer) {
  Start();
  Client client;
  Socket socket(Socket::Connect(port));
  const int64_t start_ms = NowMs();
  const int32_t id = client.Call("/stub.Stub/Later", Framed("1"), {{"grpc-timeout", "100m"}});
  ASSERT_TRUE(Finished(&client, &socket, id));
  EXPECT_EQ(client.answers[id].status(), 4);
  EXPECT_GE(NowMs() - start_ms, 100);
}

TEST_F(FrontServer, Http1GoesToTheServiceWithEveryByteAndBothEnds) {
  Start();
  Socket socket(Socket::Connect(port));
  const std::string body(300'000, 'b');
  std::thread writer([&] {
    socket.Write("POST /x HTTP/1.1\r\n\r\n" + body);
    socket.HalfClose();
  });
  ASSERT_TRUE(service.Wait([&] { return service.http1.size() == 1; }));
  EXPECT_EQ(service.http1_peers[0].address.substr(0, 10), "127.0.0.1:");
  {
    Socket inner(service.http1[0]);
    service.http1.clear();
    EXPECT_EQ(inner.ReadAll(), "POST /x HTTP/1.1\r\n\r\n" + body);
    writer.join();
    // Non-blocking: what does not fit is written as the relay takes it.
    std::string_view answer(body);
    while (!answer.empty()) {
      const ssize_t sent = send(inner.fd(), answer.data(), answer.size(), MSG_NOSIGNAL);
      if (sent > 0) answer.remove_prefix(static_cast<size_t>(sent));
      if (sent > 0) continue;
      const std::string part = socket.Read();
      ASSERT_FALSE(part.empty());
      answered_ += part;
    }
  }
  EXPECT_EQ(answered_ + socket.ReadAll(), body);
}

TEST_F(FrontServer, SilentClientIsClosedAndNewOnesHaveTheirFullTime) {
  Start({.first_bytes_timeout_ms = 300});
  Client client;
  Socket established(Socket::Connect(port));
  const int32_t id = client.Call("/stub.Stub/Echo", Framed("x"));
  ASSERT_TRUE(Finished(&client, &established, id));
  // An idle connection hears nothing, and the server's clock does not stand still meanwhile.
  bool ended = false;
  EXPECT_EQ(established.Read(400, &ended), "");
  EXPECT_FALSE(ended);
  for (const char* said : {"", "P", "PRI * HTTP/2.0\r\n"}) {
    Socket silent(Socket::Connect(port));
    const int64_t start_ms = NowMs();
    silent.Write(said);
    EXPECT_TRUE(silent.EndsWithin(kPatienceMs)) << said;
    EXPECT_GE(NowMs() - start_ms, 290) << said;
  }
  const int32_t again = client.Call("/stub.Stub/Echo", Framed("y"));
  EXPECT_TRUE(Finished(&client, &established, again));
}

TEST_F(FrontServer, KeepaliveKeepsThoseWhoAnswer) {
  Start({.keepalive_interval_ms = 100, .keepalive_timeout_ms = 100});
  Client client;
  Socket alive(Socket::Connect(port)), dead(Socket::Connect(port));
  Client other;
  other.Call("/stub.Stub/Later", Framed("x"));
  dead.Write(other.Take());
  ASSERT_TRUE(Exchange(&client, &alive, [&] { return client.pings >= 5; }));
  EXPECT_TRUE(dead.EndsWithin(kPatienceMs));
  EXPECT_TRUE(service.Wait([&] { return service.gone.size() == 1; }));
}

TEST_F(FrontServer, DrainWaitsForTheCallsAndStopEndsTheRest) {
  Start();
  Client client;
  Socket socket(Socket::Connect(port));
  const int32_t id = client.Call("/stub.Stub/Later", Framed("1"));
  socket.Write(client.Take());
  ASSERT_TRUE(service.Wait([&] { return service.waiting.size() == 1; }));
  bool drained = false;
  std::thread drain([&] {
    server->Drain(kPatienceMs);
    drained = true;
  });
  ASSERT_TRUE(Exchange(&client, &socket, [&] { return client.goaways.size() == 2; }));
  std::vector<Answer> answers(1);
  answers[0] = {service.waiting[0], GrpcCode::kOk, "one"};
  service.threads[0]->Post(std::move(answers));
  ASSERT_TRUE(Finished(&client, &socket, id));
  drain.join();
  EXPECT_TRUE(drained);
  EXPECT_EQ(client.answers[id].messages(), Log{"one"});
  EXPECT_TRUE(socket.EndsWithin(kPatienceMs));
}

TEST_F(FrontServer, StopTellsTheServiceOfEveryCall) {
  Start();
  Client client;
  Socket socket(Socket::Connect(port));
  client.Call("/stub.Stub/Later", Framed("1"));
  client.Call("/stub.Stub/Stream", Framed("2"), {}, false);
  ASSERT_TRUE(Exchange(&client, &socket, [&] { return !client.answers[3].data.empty(); }));
  server->Stop();
  EXPECT_EQ(service.gone, service.waiting);
  EXPECT_EQ(std::count(service.log.begin(), service.log.end(), "end"), 1);
  EXPECT_TRUE(socket.EndsWithin(kPatienceMs));
  EXPECT_EQ(server->stats().connections, 0u);
}

TEST_F(FrontServer, UnixSocketWorksAndItsPathIsThePeer) {
  const std::string path = File("front.sock");
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_TRUE(Server::Create({}, {{fd, true, false}}, &service, &server).ok());
  server->Start();
  Socket client_socket(socket(AF_UNIX, SOCK_STREAM, 0));
  ASSERT_EQ(connect(client_socket.fd(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  Client client;
  const int32_t id = client.Call("/stub.Stub/Echo", Framed("x"));
  ASSERT_TRUE(Finished(&client, &client_socket, id));
  EXPECT_EQ(service.peers[0].address, path);
}

TEST_F(FrontServer, TlsWithH2AndPlainShareAListener) {
  StartTls({}, true);
  Client plain, secure;
  Socket plain_socket(Socket::Connect(port)), secure_socket(Socket::Connect(port));
  ASSERT_EQ(secure_socket.StartTls("\x02h2"), "");
  EXPECT_EQ(secure_socket.alpn(), "h2");
  const std::string message(1'000'000, 'm');
  const int32_t first = plain.Call("/stub.Stub/Echo", Framed("x"));
  const int32_t second = secure.Call("/stub.Stub/Echo", Framed(message));
  ASSERT_TRUE(Finished(&plain, &plain_socket, first));
  ASSERT_TRUE(Finished(&secure, &secure_socket, second));
  EXPECT_EQ(secure.answers[second].messages(), Log{message});
  EXPECT_FALSE(service.peers[0].tls);
  EXPECT_TRUE(service.peers[1].tls);
}

TEST_F(FrontServer, TlsClientThatOffersHttp1GetsIt) {
  StartTls();
  Socket socket(Socket::Connect(port));
  ASSERT_EQ(socket.StartTls("\x02h2\x08http/1.1"), "");
  EXPECT_EQ(socket.alpn(), "http/1.1");
  socket.Write("GET / HTTP/1.1\r\n\r\n");
  ASSERT_TRUE(service.Wait([&] { return service.http1.size() == 1; }));
  Socket inner(std::exchange(service.http1, {})[0]);
  EXPECT_EQ(inner.Read(), "GET / HTTP/1.1\r\n\r\n");
  inner.Write("HTTP/1.1 200 OK\r\n\r\n");
  EXPECT_EQ(socket.Read(), "HTTP/1.1 200 OK\r\n\r\n");
  EXPECT_TRUE(service.http1_peers[0].tls);
}

TEST_F(FrontServer, PlainTextOnATlsListenerIsRefusedWithAWord) {
  StartTls();
  for (const char* said : {"GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"}) {
    Socket socket(Socket::Connect(port));
    socket.Write(said);
    EXPECT_TRUE(socket.EndsWithin(kPatienceMs));
  }
  ASSERT_TRUE(service.Wait([&] { return service.lines.size() == 2; }));
  EXPECT_NE(service.lines[0].find("rejected connection from 127.0.0.1:"), std::string::npos) << service.lines[0];
  EXPECT_NE(service.lines[0].find("does not speak TLS"), std::string::npos) << service.lines[0];
  EXPECT_TRUE(service.http1.empty());
}

TEST_F(FrontServer, ClientCertificateIsAskedForAndItsNameIsThePeers) {
  ca.Write(File("ca.pem"));
  StartTls({.ca_file = File("ca.pem"), .client_cert_auth = true});
  {
    const TestCertificate alice("alice", &ca);
    Client client;
    Socket socket(Socket::Connect(port));
    ASSERT_EQ(socket.StartTls("\x02h2", &alice), "");
    const int32_t id = client.Call("/stub.Stub/Echo", Framed("x"));
    ASSERT_TRUE(Finished(&client, &socket, id));
    EXPECT_EQ(service.peers[0].common_name, "alice");
  }
  // TLS 1.3: the client learns of it with its first read.
  const TestCertificate stranger("alice");
  for (const TestCertificate* own : {static_cast<const TestCertificate*>(nullptr), &stranger}) {
    Socket socket(Socket::Connect(port));
    socket.StartTls("\x02h2", own);
    EXPECT_TRUE(socket.EndsWithin(kPatienceMs));
  }
  ASSERT_TRUE(service.Wait([&] { return service.lines.size() == 2; }));
  EXPECT_NE(service.lines[0].find("peer did not return a certificate"), std::string::npos) << service.lines[0];
  EXPECT_NE(service.lines[1].find("self-signed certificate"), std::string::npos) << service.lines[1];
}

TEST_F(FrontServer, RevokedCertificateAndWrongNameAreRefused) {
  const TestCertificate good("alice", &ca), revoked("alice", &ca), other("bob", &ca);
  ca.Write(File("ca.pem"));
  ca.WriteCrl(File("crl.der"), revoked);
  StartTls({.ca_file = File("ca.pem"), .crl_file = File("crl.der"), .client_cert_auth = true, .allowed_cn = "alice"});
  for (const TestCertificate* own : {&revoked, &other}) {
    Socket socket(Socket::Connect(port));
    socket.StartTls("\x02h2", own);
    EXPECT_TRUE(socket.EndsWithin(kPatienceMs));
  }
  ASSERT_TRUE(service.Wait([&] { return service.lines.size() == 2; }));
  EXPECT_NE(service.lines[0].find("revoked"), std::string::npos) << service.lines[0];
  EXPECT_NE(service.lines[1].find("CommonName \"bob\""), std::string::npos) << service.lines[1];
  Client client;
  Socket socket(Socket::Connect(port));
  ASSERT_EQ(socket.StartTls("\x02h2", &good), "");
  const int32_t id = client.Call("/stub.Stub/Echo", Framed("x"));
  EXPECT_TRUE(Finished(&client, &socket, id));
}

TEST_F(FrontServer, ChangedCertificateServesNewConnectionsAndABrokenOneDoesNot) {
  StartTls();
  const auto serial = [&] {
    Socket socket(Socket::Connect(port));
    EXPECT_EQ(socket.StartTls("\x02h2"), "");
    return ASN1_INTEGER_get(X509_get_serialNumber(socket.server_certificate()));
  };
  const long before = serial();
  TestCertificate("renewed", &ca).Write(File("cert.pem"), File("key.pem"));
  const long after = serial();
  EXPECT_NE(after, before);
  std::filesystem::resize_file(File("cert.pem"), 100);
  EXPECT_EQ(serial(), after);
  ASSERT_TRUE(service.Wait([&] { return !service.lines.empty(); }));
  EXPECT_NE(service.lines[0].find(File("cert.pem")), std::string::npos) << service.lines[0];
}

TEST_F(FrontServer, UnfinishedHandshakeEndsAndAFinishedOneHasItsOwnTime) {
  StartTls({}, false, 100);
  Socket silent(Socket::Connect(port)), good(Socket::Connect(port));
  silent.Write(std::string("\x16\x03\x01\x02\x00\x01", 6));
  ASSERT_EQ(good.StartTls("\x02h2"), "");
  EXPECT_TRUE(silent.EndsWithin(kPatienceMs));
  ASSERT_TRUE(service.Wait([&] { return service.lines.size() == 1; }));
  EXPECT_NE(service.lines[0].find("TLS handshake: it took too long"), std::string::npos) << service.lines[0];
  Client client;
  const int32_t id = client.Call("/stub.Stub/Echo", Framed("x"));
  EXPECT_TRUE(Finished(&client, &good, id));
}

TEST_F(FrontServer, ErrorsOfTlsFilesNameThem) {
  ca.Write(File("ca.pem"), File("ca.key"));
  TestCertificate("server", &ca).Write(File("cert.pem"), File("key.pem"));
  const auto error = [&](TlsOptions tls) {
    int unused;
    const int fd = Bind(&unused);
    const Status status = Server::Create({.tls = tls}, {{fd, false, true}}, &service, &server);
    close(fd);
    EXPECT_FALSE(status.ok());
    return status.message();
  };
  const std::string cert = File("cert.pem"), key = File("key.pem");
  EXPECT_NE(error({.cert_file = File("no.pem"), .key_file = key}).find(File("no.pem")), std::string::npos);
  EXPECT_NE(error({.cert_file = cert, .key_file = File("no.key")}).find(File("no.key")), std::string::npos);
  EXPECT_NE(error({.cert_file = cert, .key_file = File("ca.key")}).find(File("ca.key")), std::string::npos);
  EXPECT_NE(error({.cert_file = cert, .key_file = key, .ca_file = key}).find(key), std::string::npos);
  EXPECT_NE(error({.cert_file = cert, .key_file = key, .crl_file = cert}).find(cert), std::string::npos);
  EXPECT_EQ(error({.cert_file = cert, .key_file = key, .cipher_suites = {"TLS_NO"}}),
            "unexpected TLS cipher suite \"TLS_NO\"");
}

TEST_F(FrontServer, GoNamesOfCipherSuitesAreKnown) {
  StartTls({.max_version = "TLS1.2",
            .cipher_suites = {"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305"}});
  Socket socket(Socket::Connect(port));
  EXPECT_EQ(socket.StartTls("\x02h2"), "");
}

TEST_F(FrontServer, HostileConnectionIsClosedAndLogged) {
  Start();
  Client client;
  Socket socket(Socket::Connect(port));
  for (int i = 0; i < 5; ++i) client.Ping();
  ASSERT_TRUE(Exchange(&client, &socket, [&] { return !client.goaways.empty(); }));
  EXPECT_EQ(client.goaways[0].text, "too_many_pings");
  EXPECT_TRUE(socket.EndsWithin(kPatienceMs));
  ASSERT_TRUE(service.Wait([&] { return !service.lines.empty(); }));
  EXPECT_NE(service.lines[0].find("too_many_pings"), std::string::npos);
}

TEST_F(FrontServer, AThousandConnectionsComeAndGoUnderLoad) {
  Start({.io_threads = 2});
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  std::vector<std::pair<std::unique_ptr<Client>, std::unique_ptr<Socket>>> open;
  for (int i = 0; i < 1000; ++i) {
    auto client = std::make_unique<Client>();
    auto socket = std::make_unique<Socket>(Socket::Connect(port));
    for (int k = 0; k < 5; ++k) {
      client->Call(k % 2 == 0 ? "/stub.Stub/Later" : "/stub.Stub/Echo", Framed(std::string(random() % 20'000, 'x')));
    }
    const std::string bytes = client->Take();
    socket->Write(std::string_view(bytes).substr(0, random() % (bytes.size() + 1)));
    open.emplace_back(std::move(client), std::move(socket));
    if (random() % 8 != 0 || open.size() > 100) open.erase(open.begin() + random() % open.size());
  }
  open.clear();
  Client client;
  Socket socket(Socket::Connect(port));
  const int32_t id = client.Call("/stub.Stub/Echo", Framed("alive"));
  ASSERT_TRUE(Finished(&client, &socket, id));
  EXPECT_TRUE(service.Wait([&] { return service.gone.size() == service.waiting.size(); }));
  EXPECT_EQ(server->stats().connections_total, 1001u);
}

}  // namespace
}  // namespace fastkv::front
