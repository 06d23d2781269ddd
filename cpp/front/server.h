// The listeners, the IoThreads and every connection of the native front end.
//
//   Server(options, service) --Start--> accepts --Drain--> GOAWAY, waits --Stop--> nothing is left
//
// Invariants:
// - between Start and the end of Stop the service is called from the IoThreads only.
// - after Stop no thread of the server runs and every socket is closed.
// Thread safety: Start, Drain and Stop from one thread; stats from any.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "front/call.h"
#include "front/call_metrics.h"

namespace fastkv::front {

struct TlsOptions {
  std::string cert_file = {}, key_file = {};  // PEM; looked at again for each new connection when they have changed
  std::string ca_file = {}, crl_file = {};    // "": the system's / none; looked at again likewise
  bool client_cert_auth = false;              // a verified client certificate is required
  std::string allowed_cn = {};
  std::vector<std::string> allowed_hostnames = {};  // a client's certificate is valid for one of them
  std::string min_version = {}, max_version = {};   // "TLS1.2", "TLS1.3" or ""
  std::vector<std::string> cipher_suites = {};      // names as Go spells them
};

struct Listener {
  int socket = -1;                 // bound; the server listens on it and owns it
  bool plain = true, tls = false;  // both: told apart by the first byte
};

struct ServerOptions {
  int io_threads = 1;
  TlsOptions tls = {};
  uint32_t max_concurrent_streams = UINT32_MAX;
  size_t receive_bytes_max = 0;  // of one message; beyond: RESOURCE_EXHAUSTED with grpc-go's text
  uint32_t header_bytes_max = 16 << 10;
  int64_t keepalive_min_time_ms = 5'000;  // a client that pings more often gets GOAWAY too_many_pings
  int64_t keepalive_interval_ms = 0;      // 0: none
  int64_t keepalive_timeout_ms = 20'000;
  int64_t handshake_timeout_ms = 10'000;    // from the first byte of a TLS session to the end of its handshake
  int64_t first_bytes_timeout_ms = 30'000;  // to the first byte; then to the end of the HTTP/2 preface
  // From any thread. log: one line, why a connection was closed. rejected: a client's address, and why it was not let
  // in.
  std::function<void(const std::string&)> log = {};
  std::function<void(const std::string&, const std::string&)> rejected = {};
};

struct ServerStats {
  uint64_t connections, connections_total, calls, calls_total, received_bytes, sent_bytes, turns;
};

class Server {
 public:
  virtual ~Server() = default;
  // service: outlives the server. The files of `tls` are read here: an error names the file and what is wrong with it.
  static Status Create(ServerOptions options, std::vector<Listener> listeners, Service* service,
                       std::unique_ptr<Server>* server);
  virtual void Start() = 0;
  // No new connection, GOAWAY on the others; returns when no call is open or the time is up (streams that never end are
  // the service's to finish).
  virtual void Drain(int64_t timeout_ms) = 0;
  virtual void Stop() = 0;
  virtual IoThread* thread(size_t index) = 0;
  virtual ServerStats stats() const = 0;
  // Of the service's methods 0 to count - 1.
  virtual std::vector<MethodTotals> method_totals(size_t count) const = 0;
};

}  // namespace fastkv::front
