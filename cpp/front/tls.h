// TLS of a listener: certificates and what is asked of the client's, reloaded when the files change.
//
// Invariants: the certificate and key files are looked at for each new session and read again if they have changed; a
// pair that cannot be read is logged once and the one before it stays. The CA and CRL files likewise. No passphrase is
// ever asked for: an encrypted key is refused.
// Thread safety: Open from any thread; a session belongs to one.
#pragma once

#include <openssl/ssl.h>

#include <functional>
#include <memory>
#include <string>

#include "base/status.h"
#include "front/server.h"

namespace fastkv::front {

struct SslFree {
  void operator()(SSL* ssl) const { SSL_free(ssl); }
};
using SslPtr = std::unique_ptr<SSL, SslFree>;

class Tls {
 public:
  virtual ~Tls() = default;
  // Reads every file: an error names it and says what is wrong with it.
  static Status Create(const TlsOptions& options, std::function<void(const std::string&)> log,
                       std::unique_ptr<Tls>* tls);

  // A server's session on the socket.
  virtual SslPtr Open(int socket) = 0;
  // After the handshake, with the checks that OpenSSL does not do: CRL, allowed name. False: *error says why not.
  virtual bool Admit(SSL* ssl, std::string* common_name, std::string* error) = 0;
};

// The newest error of this thread's OpenSSL queue, in words; empties the queue.
std::string SslError();
// ": what is wrong with the peer's certificate", "" if nothing is or there is none.
std::string VerifyError(SSL* ssl);

}  // namespace fastkv::front
