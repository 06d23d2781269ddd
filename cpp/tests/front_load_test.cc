// The native front end as a node has it (server, services, store) under clients that come and go at random.
//
// Goal: nothing is used after it was freed, raced for or lost, whatever a client leaves half said. Method: a thousand
// connections, a third of them over TLS, each with puts, ranges, txns, leases and watches under way, cut or closed at a
// random byte; a put that was answered must be in the store. It is worth most under the sanitizers (`make asan tsan`).
#include <gtest/gtest.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/coding.h"
#include "db/backend.h"
#include "db/db.h"
#include "front/node_front.h"
#include "tests/front_client.h"
#include "tests/front_fakes.h"
#include "tests/front_socket.h"

namespace fastkv::front {
namespace {

constexpr int kClients = 3, kConnections = 1000, kOpenMax = 20;

std::string Field(uint32_t number, std::string_view bytes) {
  std::string field(1, static_cast<char>(number << 3 | 2));
  PutVarint(&field, bytes.size());
  return field.append(bytes);
}
std::string Number(uint32_t number, uint64_t value) {
  std::string field(1, static_cast<char>(number << 3));
  PutVarint(&field, value);
  return field;
}

class FrontLoad : public testing::Test {
 protected:
  FrontLoad() {
    signal(SIGPIPE, SIG_IGN);
    directory_ = std::filesystem::temp_directory_path() / ("fastkv_front_load_" + std::to_string(getpid()));
    std::filesystem::create_directories(directory_);
    EXPECT_TRUE(Db::Open("", {}, &db_).ok());
    backend_ = MakeBackend(db_.get());
    ServiceOptions options = TestOptions();
    options.io_threads = 2;
    front_ = std::make_unique<NodeFront>(backend_.get(), options);
    front_->service()->Start();
    const TestCertificate ca("ca", nullptr, true);
    TestCertificate("server", &ca).Write(directory_ / "cert.pem", directory_ / "key.pem");
    ServerOptions server;
    server.io_threads = 2;
    server.tls.cert_file = directory_ / "cert.pem";
    server.tls.key_file = directory_ / "key.pem";
    const Listener listener{Bind(&port_), true, true};
    const Status status = front_->Serve(std::move(server), {listener});
    EXPECT_TRUE(status.ok()) << status.message();
  }
  ~FrontLoad() override {
    front_->Drain(1'000);
    EXPECT_TRUE(front_->service()->StopWrites(20'000));
    front_->Stop();
    front_.reset();
    std::filesystem::remove_all(directory_);
  }

  struct Open {
    std::unique_ptr<Client> client = std::make_unique<Client>();
    std::unique_ptr<Socket> socket;
    std::map<int32_t, std::string> puts;  // stream -> key
  };

  // Calls of every kind, of which no answer is awaited yet.
  void Begin(Open* open, std::mt19937* random, const std::string& prefix) {
    for (int k = 0; k < 6; ++k) {
      const std::string key = prefix + "/" + std::to_string(k);
      switch ((*random)() % 7) {
        case 0:
        case 1:
          open->puts[open->client->Call("/etcdserverpb.KV/Put", Framed(Field(1, key) + Field(2, Value(key))))] = key;
          break;
        case 2:
          open->client->Call("/etcdserverpb.KV/Range",
                             Framed(Field(1, std::string(1, '\0')) + Field(2, std::string(1, '\0')) + Number(3, 100)));
          break;
        case 3:
          open->client->Call("/etcdserverpb.KV/Txn", Framed(Field(3, Field(2, Field(1, key) + Field(2, "txn")))));
          break;
        case 4:
          open->client->Call("/etcdserverpb.Lease/LeaseGrant", Framed(Number(1, 60)));
          break;
        case 5:
          open->client->Call("/etcdserverpb.Watch/Watch", Framed(Field(1, Field(1, prefix))), {}, false);
          break;
        case 6:
          open->client->Call("/etcdserverpb.KV/RangeStream", Framed(Field(1, "a") + Field(2, std::string(1, '\0'))));
          break;
      }
    }
  }

  static std::string Value(const std::string& key) { return key + std::string(key.size() * 37 % 3000, 'v'); }

  // What has been answered of the connection's puts goes into `acknowledged`.
  static void Collect(Open* open, std::vector<std::string>* acknowledged) {
    for (const auto& [id, key] : open->puts) {
      const auto at = open->client->answers.find(id);
      if (at != open->client->answers.end() && at->second.closed && at->second.status() == 0) {
        acknowledged->push_back(key);
      }
    }
  }

  void Drive(int number, unsigned seed) {
    std::mt19937 random(seed + static_cast<unsigned>(number));
    std::vector<std::string> acknowledged;
    std::vector<Open> open;
    for (int i = number; i < kConnections; i += kClients) {
      Open made;
      made.socket = std::make_unique<Socket>(Socket::Connect(port_));
      if (i % 3 == 0) {
        ASSERT_EQ(made.socket->StartTls("\x02h2"), "");
      }
      Begin(&made, &random, "k" + std::to_string(i));
      const std::string bytes = made.client->Take();
      const bool whole = random() % 2 == 0;
      made.socket->Write(std::string_view(bytes).substr(0, whole ? bytes.size() : random() % (bytes.size() + 1)));
      if (whole) {
        for (int reads = random() % 4; reads > 0; --reads) {
          made.client->Feed(made.socket->Read(20));
          made.socket->Write(made.client->Take());
        }
      }
      open.push_back(std::move(made));
      while (open.size() > kOpenMax || (!open.empty() && random() % 3 == 0)) {
        const size_t victim = random() % open.size();
        Collect(&open[victim], &acknowledged);
        open.erase(open.begin() + static_cast<std::ptrdiff_t>(victim));
      }
    }
    for (Open& left : open) Collect(&left, &acknowledged);
    const std::lock_guard lock(mutex_);
    acknowledged_.insert(acknowledged_.end(), acknowledged.begin(), acknowledged.end());
  }

  std::filesystem::path directory_;
  std::unique_ptr<Db> db_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<NodeFront> front_;
  int port_ = 0;
  std::mutex mutex_;
  std::vector<std::string> acknowledged_;
};

TEST_F(FrontLoad, AThousandClientsThatComeAndGoLoseNothingThatWasAnswered) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::vector<std::thread> clients;
  for (int i = 0; i < kClients; ++i) clients.emplace_back([this, i, seed] { Drive(i, seed); });
  for (std::thread& client : clients) client.join();
  EXPECT_GT(acknowledged_.size(), 100u);
  for (const std::string& key : acknowledged_) {
    std::string response;
    ASSERT_EQ(backend_->Range(Field(1, key), &response), Code::kOk);
    const Fields found(response);
    ASSERT_EQ(found.count(2), 1u) << key;
    ASSERT_EQ(Fields(found.bytes(2)).bytes(5), Value(key));
  }
  // The last connections are accepted and seen to have ended, with their calls.
  const auto over = [](const ServerStats& stats) {
    return stats.connections_total == uint64_t{kConnections} && stats.connections == 0 && stats.calls == 0;
  };
  const int64_t end_ms = NowMs() + kPatienceMs;
  while (!over(front_->server_stats()) && NowMs() < end_ms) std::this_thread::yield();
  const ServerStats stats = front_->server_stats();
  EXPECT_TRUE(over(stats)) << stats.connections_total << " came, " << stats.connections << " stayed, with "
                           << stats.calls << " calls";
  uint64_t started = 0, handled = 0;
  for (const MethodTotals& totals : front_->method_totals()) {
    started += totals.started;
    for (const uint64_t count : totals.handled) handled += count;
  }
  EXPECT_GT(started, 1000u);
  EXPECT_EQ(started, handled) << "each call is counted once, however it ended";
  std::vector<std::string> problems;
  db_->Check(&problems);
  EXPECT_TRUE(problems.empty()) << problems[0];
}

}  // namespace
}  // namespace fastkv::front
