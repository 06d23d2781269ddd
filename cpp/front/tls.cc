#include "front/tls.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

namespace fastkv::front {
namespace {

struct ContextFree {
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};
using ContextPtr = std::unique_ptr<SSL_CTX, ContextFree>;
struct CrlFree {
  void operator()(X509_CRL* crl) const { X509_CRL_free(crl); }
};
using CrlPtr = std::unique_ptr<X509_CRL, CrlFree>;

// What tells two versions of a file apart.
struct Stamp {
  bool operator==(const Stamp&) const = default;
  int64_t seconds = 0, nanoseconds = 0, bytes = 0;
  uint64_t inode = 0;
};

Stamp StampOf(const std::string& path) {
  struct stat found {};
  if (path.empty() || stat(path.c_str(), &found) != 0) return {};
#ifdef __APPLE__
  const timespec& modified = found.st_mtimespec;
#else
  const timespec& modified = found.st_mtim;
#endif
  return {modified.tv_sec, modified.tv_nsec, found.st_size, found.st_ino};
}

Status FileError(const char* what, const std::string& path) {
  struct stat found {};
  if (stat(path.c_str(), &found) != 0) return Status(Code::kIoError, "open " + path + ": " + strerror(errno));
  return Status(Code::kIoError, std::string(what) + " " + path + ": " + SslError());
}

int VersionOf(const std::string& name) {
  if (name == "TLS1.2") return TLS1_2_VERSION;
  if (name == "TLS1.3") return TLS1_3_VERSION;
  return 0;
}

// Who can speak HTTP/1.1 is no gRPC client (those offer h2 alone) but a browser or curl, and gets it: what is not gRPC
// is served there.
int SelectProtocol(SSL*, const unsigned char** out, unsigned char* out_size, const unsigned char* in, unsigned in_size,
                   void*) {
  static const unsigned char kProtocols[] = "\x08http/1.1\x02h2";
  unsigned char* selected = nullptr;
  if (SSL_select_next_proto(&selected, out_size, kProtocols, sizeof kProtocols - 1, in, in_size) !=
      OPENSSL_NPN_NEGOTIATED) {
    return SSL_TLSEXT_ERR_NOACK;
  }
  *out = selected;
  return SSL_TLSEXT_ERR_OK;
}

Status ReadCrl(const std::string& path, CrlPtr* crl) {
  std::unique_ptr<BIO, int (*)(BIO*)> file(BIO_new_file(path.c_str(), "rb"), BIO_free);
  if (file == nullptr) return FileError("read the CRL", path);
  crl->reset(d2i_X509_CRL_bio(file.get(), nullptr));
  if (*crl != nullptr) return {};
  ERR_clear_error();
  if (BIO_seek(file.get(), 0) == 0) crl->reset(PEM_read_bio_X509_CRL(file.get(), nullptr, nullptr, nullptr));
  return *crl != nullptr ? Status() : FileError("read the CRL", path);
}

class TlsImpl final : public Tls {
 public:
  TlsImpl(TlsOptions options, std::function<void(const std::string&)> log)
      : options_(std::move(options)), log_(std::move(log)) {}

  Status Load() {
    stamps_ = Stamps();
    return Read(&context_, &crl_);
  }

  SslPtr Open(int socket) override {
    std::shared_ptr<SSL_CTX> context;
    {
      const std::lock_guard lock(mutex_);
      Refresh();
      context = context_;
    }
    SslPtr ssl(SSL_new(context.get()));
    if (ssl == nullptr || SSL_set_fd(ssl.get(), socket) != 1) return nullptr;
    SSL_set_accept_state(ssl.get());
    return ssl;
  }

  bool Admit(SSL* ssl, std::string* common_name, std::string* error) override {
    X509* certificate = SSL_get0_peer_certificate(ssl);
    if (certificate == nullptr) return true;  // OpenSSL asked for one if one is required
    std::shared_ptr<X509_CRL> crl;
    {
      const std::lock_guard lock(mutex_);
      crl = crl_;
    }
    if (crl != nullptr && IsRevoked(crl.get(), certificate, SSL_get_peer_cert_chain(ssl))) {
      *error = "the client's certificate is revoked";
      return false;
    }
    *common_name = CommonName(certificate);
    if (!options_.allowed_cn.empty() && *common_name != options_.allowed_cn) {
      *error = "client certificate authentication failed: CommonName \"" + *common_name + "\" is not allowed";
      return false;
    }
    const auto valid_for = [certificate](const std::string& host) { return IsValidFor(certificate, host); };
    const std::vector<std::string>& hosts = options_.allowed_hostnames;
    if (!hosts.empty() && std::none_of(hosts.begin(), hosts.end(), valid_for)) {
      *error = "client certificate authentication failed: it is not valid for " + hosts[0];
      for (size_t i = 1; i < hosts.size(); ++i) *error += ", " + hosts[i];
      return false;
    }
    return true;
  }

 private:
  std::vector<Stamp> Stamps() const {
    return {StampOf(options_.cert_file), StampOf(options_.key_file), StampOf(options_.ca_file),
            StampOf(options_.crl_file)};
  }

  void Refresh() {
    std::vector<Stamp> stamps = Stamps();
    if (stamps == stamps_) return;
    stamps_ = std::move(stamps);
    std::shared_ptr<SSL_CTX> context;
    std::shared_ptr<X509_CRL> crl;
    if (const Status status = Read(&context, &crl); !status.ok()) {
      if (log_) log_("TLS files have changed and cannot be used; the ones before stay: " + status.message());
      return;
    }
    context_ = std::move(context);
    crl_ = std::move(crl);
  }

  Status Read(std::shared_ptr<SSL_CTX>* context, std::shared_ptr<X509_CRL>* crl) const {
    ERR_clear_error();
    ContextPtr made(SSL_CTX_new(TLS_server_method()));
    if (made == nullptr) return Status(Code::kIoError, "OpenSSL: " + SslError());
    SSL_CTX* c = made.get();
    const int min_version = VersionOf(options_.min_version), max_version = VersionOf(options_.max_version);
    if (min_version == 0 && !options_.min_version.empty()) {
      return Status(Code::kFormat, "unexpected TLS version \"" + options_.min_version + "\"");
    }
    if (max_version == 0 && !options_.max_version.empty()) {
      return Status(Code::kFormat, "unexpected TLS version \"" + options_.max_version + "\"");
    }
    SSL_CTX_set_min_proto_version(c, min_version == 0 ? TLS1_2_VERSION : min_version);
    SSL_CTX_set_max_proto_version(c, max_version);
    SSL_CTX_set_options(c, SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_mode(c, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_alpn_select_cb(c, SelectProtocol, nullptr);
    SSL_CTX_set_default_passwd_cb(c, [](char*, int, int, void*) { return -1; });
    static const unsigned char kSessionContext[] = "fastkv";
    SSL_CTX_set_session_id_context(c, kSessionContext, sizeof kSessionContext - 1);
    FASTKV_RETURN_IF_ERROR(SetCiphers(c));
    if (SSL_CTX_use_certificate_chain_file(c, options_.cert_file.c_str()) != 1) {
      return FileError("read the certificate", options_.cert_file);
    }
    if (SSL_CTX_use_PrivateKey_file(c, options_.key_file.c_str(), SSL_FILETYPE_PEM) != 1) {
      return FileError("read the private key", options_.key_file);
    }
    if (SSL_CTX_check_private_key(c) != 1)
      return FileError("the private key does not fit the certificate:", options_.key_file);
    if (options_.client_cert_auth || !options_.ca_file.empty()) {
      if (options_.ca_file.empty()) {
        if (SSL_CTX_set_default_verify_paths(c) != 1) return Status(Code::kIoError, "the system's CAs: " + SslError());
      } else if (SSL_CTX_load_verify_locations(c, options_.ca_file.c_str(), nullptr) != 1) {
        return FileError("read the CA certificates", options_.ca_file);
      } else {
        SSL_CTX_set_client_CA_list(c, SSL_load_client_CA_file(options_.ca_file.c_str()));
      }
      SSL_CTX_set_verify(c, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
    }
    if (!options_.crl_file.empty()) {
      CrlPtr read;
      FASTKV_RETURN_IF_ERROR(ReadCrl(options_.crl_file, &read));
      *crl = std::shared_ptr<X509_CRL>(read.release(), X509_CRL_free);
    }
    *context = std::shared_ptr<SSL_CTX>(made.release(), SSL_CTX_free);
    return {};
  }

  Status SetCiphers(SSL_CTX* context) const {
    if (options_.cipher_suites.empty()) return {};
    std::string tls12, tls13;
    for (const std::string& name : options_.cipher_suites) {
      std::string standard = name;  // Go's names are IANA's, but for two older ones
      if (name.ends_with("_CHACHA20_POLY1305")) standard += "_SHA256";
      const char* known = OPENSSL_cipher_name(standard.c_str());
      if (known == nullptr || strcmp(known, "(NONE)") == 0) {
        return Status(Code::kFormat, "unexpected TLS cipher suite \"" + name + "\"");
      }
      std::string& list = strncmp(known, "TLS_", 4) == 0 ? tls13 : tls12;
      list += (list.empty() ? "" : ":") + std::string(known);
    }
    if (!tls12.empty() && SSL_CTX_set_cipher_list(context, tls12.c_str()) != 1) {
      return Status(Code::kFormat, "cipher suites " + tls12 + ": " + SslError());
    }
    if (!tls13.empty() && SSL_CTX_set_ciphersuites(context, tls13.c_str()) != 1) {
      return Status(Code::kFormat, "cipher suites " + tls13 + ": " + SslError());
    }
    return {};
  }

  // By serial number, as etcd looks for it; of the chain that the client sent any certificate counts.
  static bool IsRevoked(X509_CRL* crl, X509* certificate, const STACK_OF(X509) * chain) {
    X509_REVOKED* found = nullptr;
    if (X509_CRL_get0_by_serial(crl, &found, X509_get_serialNumber(certificate)) == 1) return true;
    for (int i = 0; i < sk_X509_num(chain); ++i) {
      if (X509_CRL_get0_by_serial(crl, &found, X509_get_serialNumber(sk_X509_value(chain, i))) == 1) return true;
    }
    return false;
  }

  // As Go's VerifyHostname: the CommonName never counts.
  static bool IsValidFor(X509* certificate, const std::string& host) {
    return X509_check_host(certificate, host.data(), host.size(), X509_CHECK_FLAG_NEVER_CHECK_SUBJECT, nullptr) == 1 ||
           X509_check_ip_asc(certificate, host.c_str(), 0) == 1;
  }

  static std::string CommonName(X509* certificate) {
    const X509_NAME* subject = X509_get_subject_name(certificate);
    const int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
    if (at < 0) return {};
    unsigned char* text = nullptr;
    const int size = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
    if (size < 0) return {};
    std::string name(reinterpret_cast<char*>(text), static_cast<size_t>(size));
    OPENSSL_free(text);
    return name;
  }

  const TlsOptions options_;
  const std::function<void(const std::string&)> log_;
  std::mutex mutex_;  // guards what follows
  std::vector<Stamp> stamps_;
  std::shared_ptr<SSL_CTX> context_;
  std::shared_ptr<X509_CRL> crl_;
};

}  // namespace

Status Tls::Create(const TlsOptions& options, std::function<void(const std::string&)> log, std::unique_ptr<Tls>* tls) {
  auto made = std::make_unique<TlsImpl>(options, std::move(log));
  FASTKV_RETURN_IF_ERROR(made->Load());
  *tls = std::move(made);
  return {};
}

std::string SslError() {
  const unsigned long newest = ERR_peek_last_error();
  ERR_clear_error();
  if (newest == 0) return "unknown error";
  const char* reason = ERR_reason_error_string(newest);
  return reason != nullptr ? reason : "error " + std::to_string(newest);
}

std::string VerifyError(SSL* ssl) {
  const long result = SSL_get_verify_result(ssl);
  return result == X509_V_OK ? "" : std::string(": ") + X509_verify_cert_error_string(result);
}

}  // namespace fastkv::front
