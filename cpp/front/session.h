// One HTTP/2 connection as a server, without its socket: bytes in, calls to the service, bytes out.
//
//   Feed(received) -> nghttp2 -> headers, messages -> Service      Call::Send, Finish -> nghttp2 -> Gather(output)
//
// nghttp2 owns HTTP/2 (frames, HPACK, streams, flow control, priorities); this class owns gRPC on top of it and judges
// what the client does to us (guard.h, limits.h).
//
// Invariants:
// - nothing is written inside Feed, and the service is called inside Feed and by ThreadState only, never by Gather.
// - the calls in its list are those whose stream is open; none outlives the session's end with a pointer to it.
// Thread safety: none; one IoThread owns it.
#pragma once

#include <nghttp2/nghttp2.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "front/call.h"
#include "front/guard.h"
#include "front/thread_state.h"

namespace fastkv::front {

// Who carries a session's bytes.
class SessionOwner {
 public:
  virtual ~SessionOwner() = default;
  virtual void SessionHasOutput() = 0;
};

class Session {
 public:
  Session(ThreadState* state, SessionOwner* owner, const Peer& peer);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // False: no more is read; what Gather gives is the last, then the connection closes.
  bool Feed(std::string_view bytes);
  // Appends what there is to send until the output holds about bytes_max.
  void Gather(Output* output, size_t bytes_max);
  bool HasOutput() const { return nghttp2_session_want_write(session_) != 0; }
  // Nothing will be read or sent any more, or it was cut (Feed's false).
  bool ended() const;

  // Every call ends; the client hears nothing of it.
  void Abort();
  // GOAWAY that refuses nothing yet, then, when the client has heard of it, one that names the last call.
  void Drain();
  void FinishDrain();
  void Ping();

  const Peer& peer() const { return peer_; }
  size_t streams() const { return streams_; }
  size_t queued_bytes() const { return queued_bytes_; }
  bool in_headers() const { return in_headers_; }
  bool draining() const { return drain_ != kServing; }
  const std::string& fault() const { return fault_; }  // why it was cut; "": it was not
  int64_t pings_answered() const { return pings_answered_; }

  // Of GrpcCall.
  void Submit(GrpcCall* call);
  void AddQueued(size_t bytes) { queued_bytes_ += bytes; }
  void SubtractQueued(size_t bytes) { queued_bytes_ -= bytes; }
  void DeadlineExceeded(GrpcCall* call);

 private:
  struct Callbacks;  // nghttp2's, one instance for all sessions
  enum DrainStep : uint8_t { kServing, kNoticed, kFinal };

  void BeginHeaders(int32_t stream_id);
  void AddHeader(std::string_view name, std::string_view value);
  void Dispatch(GrpcCall* call, bool end_stream);
  void Refuse(GrpcCall* call, GrpcCode code, std::string_view text, int http_status = 200);
  void ResetStream(int32_t stream_id, uint32_t error_code);
  void DataChunk(int32_t stream_id, std::string_view bytes);
  void DataEnd(int32_t stream_id, bool end_stream);
  void Receive(GrpcCall* call, std::string_view bytes, bool end_stream);
  bool Message(GrpcCall* call, uint8_t flag, std::string_view body, bool last);
  void HalfClose(GrpcCall* call);
  void Deliver(GrpcCall* call, std::string_view body);
  void FrameReceived(const nghttp2_frame& frame);
  void ControlFrame();
  void FrameSent(const nghttp2_frame& frame);
  void StreamClosed(GrpcCall* call);
  ssize_t Read(GrpcCall* call, size_t length, uint32_t* flags);
  void SendData(GrpcCall* call, const uint8_t* head, size_t length);
  void SubmitResponse(GrpcCall* call);
  void SubmitTrailers(GrpcCall* call);
  void CutOff(uint32_t error_code, std::string_view reason);
  GrpcCall* CallOf(int32_t stream_id) const {
    return static_cast<GrpcCall*>(nghttp2_session_get_stream_user_data(session_, stream_id));
  }

  ThreadState* const state_;
  SessionOwner* const owner_;
  const Peer& peer_;
  nghttp2_session* session_ = nullptr;
  Guard guard_;
  Output* output_ = nullptr;  // during Gather

  GrpcCall* calls_ = nullptr;    // a list, newest first
  GrpcCall* current_ = nullptr;  // whose headers are coming in
  // DATA whose frame has not ended, where it lies in Feed's bytes.
  GrpcCall* view_call_ = nullptr;
  std::string_view view_;

  std::string last_path_;  // and what the service said of it
  const Method* last_method_ = nullptr;

  size_t streams_ = 0, queued_bytes_ = 0, partial_bytes_ = 0;
  size_t early_ends_ = 0;  // calls whose trailers will go out before the client has sent all
  bool in_headers_ = false, cut_ = false;
  DrainStep drain_ = kServing;
  int64_t pings_answered_ = 0;
  std::string fault_;
};

}  // namespace fastkv::front
