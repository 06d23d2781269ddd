// A gRPC call on its HTTP/2 stream, and the calls of an IoThread.
//
//   HEADERS -> Unary or Open ... Reply/Finish -> the service's part is over (open() is false, the id unknown)
//                                             -> the stream closes -> the memory serves the next call
//
// Invariants:
// - a call is in use until the service's part is over, its stream is closed and it has no turn pending in `ended`.
// - unsent_ is the sum of what `queue` still holds, and part of its session's.
// Thread safety: none; one IoThread owns it.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "front/call.h"
#include "front/grpc_frame.h"
#include "front/output.h"
#include "front/request_headers.h"
#include "front/timer_wheel.h"

namespace fastkv::front {

class Session;
struct ThreadState;

class GrpcCall final : public Call {
 public:
  explicit GrpcCall(ThreadState* state) : state_(state), deadline_(&GrpcCall::OnDeadline, this) {}

  uint64_t id() const override { return id_; }
  IoThread* thread() const override;
  const Peer& peer() const override;
  const Metadata& metadata() const override { return headers_.metadata(); }
  int64_t deadline_ns() const override { return deadline_ns_; }
  void Reply(std::string message) override;
  void Send(std::string message) override;
  void SendFramed(std::string frames) override;
  std::string TakeBuffer() override;
  void SendHeaders() override;
  void Finish(GrpcCode code, std::string_view text) override;
  size_t unsent_bytes() const override { return unsent_; }

  bool open() const { return open_; }

 private:
  friend class Session;
  friend class CallTable;
  friend struct ThreadState;

  static void OnDeadline(void* owner);
  void Queue(Body* body);
  void DropQueue();
  void CountSent(uint64_t messages);
  // The service's part is over. told: by the service itself, so that a unary one need not hear of it.
  void Close(bool told);
  // Its memory serves the next call, if nobody needs it any more.
  void ReleaseIfDone();

  ThreadState* const state_;
  Timer deadline_;
  uint64_t id_ = 0;
  Session* session_ = nullptr;  // null once the stream is closed
  const Method* method_ = nullptr;
  int64_t deadline_ns_ = INT64_MAX;
  int64_t began_ns_ = 0;
  int32_t stream_id_ = 0;
  int http_status_ = 200;

  bool open_ = false;
  bool listed_ = false;         // in ThreadState::ended
  bool gone_ = false;           // what the service must be told there
  bool delivered_ = false;      // Unary was called
  bool has_message_ = false;    // the one of a unary call is in message_
  bool remote_closed_ = false;  // the client has sent all it will
  bool submitted_ = false;      // nghttp2 has our headers
  bool deferred_ = false;       // nghttp2 waits for us to have more
  bool finishing_ = false;      // trailers follow the queue
  bool progressed_ = false;     // some of the queue has left since the last OnWritable
  bool fair_ = false;           // takes turns with the other streams of its connection

  GrpcCode code_ = GrpcCode::kOk;
  std::string text_;

  Body* first_ = nullptr;  // the queue
  Body* last_ = nullptr;
  size_t first_sent_ = 0;  // of first_
  size_t unsent_ = 0;

  RequestHeaders headers_;
  MessageReader reader_;
  std::string message_;
  std::unique_ptr<CallHandler> handler_;

  GrpcCall* previous_ = nullptr;  // in its session
  GrpcCall* next_ = nullptr;
};

// Every call of an IoThread by its id: slot in the low bits, how often the slot was used above.
class CallTable {
 public:
  explicit CallTable(ThreadState* state) : state_(state) {}
  ~CallTable();
  CallTable(const CallTable&) = delete;
  CallTable& operator=(const CallTable&) = delete;

  GrpcCall* Make();  // null: there are 16 million
  GrpcCall* Find(uint64_t id) const;
  void Release(GrpcCall* call);
  size_t size() const { return slots_.size() - free_.size(); }

 private:
  static constexpr int kSlotBits = 24;
  static constexpr size_t kSpareMax = 8192;  // calls whose memory is kept
  struct Slot {
    std::unique_ptr<GrpcCall> call;
    uint64_t uses = 0;
  };

  ThreadState* const state_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;
};

}  // namespace fastkv::front
