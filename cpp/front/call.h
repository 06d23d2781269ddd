// What a gRPC service sees of the transport, and the transport of the service. Neither knows more of the other.
//
//   socket -> Connection (HTTP/2) -> Call --Unary, Open, OnMessage--> Service
//                                    Call <--Reply, Send, Finish----- Service, at once or later
//   any other thread --IoThread::Post({call id, answer}...)--> Call
//
// A turn: an IoThread reads what its sockets have, hands every whole message to the service, calls TurnEnd once, and
// only then writes. What a thousand streams sent meanwhile is gathered in one TurnEnd, and what answers them leaves in
// one write a connection.
//
// Invariants:
// - a call ends exactly once: by Reply, by Finish, or because the client, its connection, its deadline or the server's
//   end took it away. Afterwards its id is unknown, and answers to it are dropped without a word.
// - ids are never used again within an IoThread.
// - what a call has queued is bounded by whoever writes: produce when OnWritable says so, stop at kUnsentHighBytes.
// Thread safety: a Call is touched by its IoThread only; IoThread::Post from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fastkv::front {

// https://grpc.github.io/grpc/core/md_doc_statuscodes.html
enum class GrpcCode : uint8_t {
  kOk = 0,
  kCanceled = 1,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kDataLoss = 15,
  kUnauthenticated = 16,
};

// A streaming call wants more (OnWritable) below the low mark and should not be given more above the high mark.
constexpr size_t kUnsentLowBytes = 64 << 10;
constexpr size_t kUnsentHighBytes = 1 << 20;

class IoThread;

// What the client's connection says about itself.
struct Peer {
  std::string address;      // "127.0.0.1:4711", or the path of a unix socket
  std::string common_name;  // of the verified client certificate; "" without one
  bool tls = false;
};

using Metadata = std::vector<std::pair<std::string, std::string>>;  // lower-case names; "-bin" values are decoded

// What a streaming call does with what it receives. Owned by its call; every method on the call's IoThread.
class CallHandler {
 public:
  virtual ~CallHandler() = default;
  virtual void OnMessage(std::string_view message) = 0;  // one whole message; the bytes live until it returns
  virtual void OnHalfClose() {}                          // the client will send no more
  virtual void OnWritable() {}                           // what was unsent has fallen below kUnsentLowBytes
  // The call is over, whoever ended it; the last method called, the handler is destroyed right after.
  virtual void OnEnd() {}
};

class Call {
 public:
  virtual ~Call() = default;

  virtual uint64_t id() const = 0;
  virtual IoThread* thread() const = 0;
  virtual const Peer& peer() const = 0;
  // All of the client's metadata but the transport's own (":path", "te", "content-type", "grpc-timeout" ...).
  virtual const Metadata& metadata() const = 0;
  virtual int64_t deadline_ns() const = 0;  // CLOCK_MONOTONIC; INT64_MAX: none. The transport enforces it.

  // Sends the message, then the OK trailers.
  virtual void Reply(std::string message) = 0;
  // Queues one message of a stream; the headers go out before the first one.
  virtual void Send(std::string message) = 0;
  // Queues bytes that hold whole messages, each with its five-byte prefix already before it.
  virtual void SendFramed(std::string frames) = 0;
  // Empty, with the memory of messages that have left, perhaps: for those who frame much and often.
  virtual std::string TakeBuffer() { return {}; }
  // Headers now, without waiting for a first message.
  virtual void SendHeaders() = 0;
  // Ends the call after what is queued.
  virtual void Finish(GrpcCode code, std::string_view text) = 0;
  virtual size_t unsent_bytes() const = 0;
};

// A method that the service answers.
struct Method {
  enum Kind : uint8_t { kUnary, kStreaming };
  Kind kind = kUnary;
  uint32_t number = 0;  // the service's own
};

class Service {
 public:
  virtual ~Service() = default;

  // "/package.Service/Method". Null: the transport answers UNIMPLEMENTED with a Go server's text: "unknown method M for
  // service S" where HasService says yes, else "unknown service S".
  virtual const Method* Find(std::string_view path) = 0;
  virtual bool HasService(std::string_view name) = 0;

  // The one message of a unary call (Method::kUnary) and its end have arrived. Answers now or later, with the call's
  // id.
  virtual void Unary(const Method& method, Call* call, std::string_view message) = 0;
  // A Method::kStreaming call begins; null: it was finished at once.
  virtual std::unique_ptr<CallHandler> Open(const Method& method, Call* call) = 0;
  // A unary call that has not been answered is gone.
  virtual void Gone(const Method& method, uint64_t call_id, IoThread* thread) = 0;
  // Everything that has arrived is handed over; called before anything is written.
  virtual void TurnEnd(IoThread* thread) = 0;
  // A client spoke HTTP/1.1 (or no protocol we know): one end of a socket pair that carries its plain bytes, from the
  // first one on. The service owns it.
  virtual void Http1(int socket, const Peer& peer) = 0;
};

// The late answer to a unary call: Reply(body) if code is kOk, else Finish(code, body).
struct Answer {
  uint64_t call_id = 0;
  GrpcCode code = GrpcCode::kOk;
  std::string body;
};

// One event loop and its thread.
class IoThread {
 public:
  virtual ~IoThread() = default;
  virtual size_t index() const = 0;
  virtual bool IsCurrent() const = 0;  // called from the loop's own thread
  // Answers all, in one wake-up.
  virtual void Post(std::vector<Answer> answers) = 0;
  // Runs in the loop's thread.
  virtual void Post(std::function<void()> function) = 0;
  // The call of that id, null if it is over. REQUIRES: IsCurrent().
  virtual Call* Find(uint64_t call_id) = 0;
};

}  // namespace fastkv::front
