#include "front/session.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "base/check.h"
#include "front/grpc_text.h"
#include "front/limits.h"

namespace fastkv::front {
namespace {

constexpr uint8_t kDrainPing[8] = {'d', 'r', 'a', 'i', 'n', 'i', 'n', 'g'};
constexpr uint8_t kKeepalivePing[8] = {'a', 'l', 'i', 'v', 'e', '?', 0, 0};
// A session may hold this many streams, whatever it announces (etcd announces no limit).
constexpr size_t kStreamsMax = 100'000;

std::string_view View(const uint8_t* bytes, size_t size) { return {reinterpret_cast<const char*>(bytes), size}; }

// A header whose bytes outlive every session.
template <size_t NameSize, size_t ValueSize>
nghttp2_nv Fixed(const char (&name)[NameSize], const char (&value)[ValueSize]) {
  return {const_cast<uint8_t*>(reinterpret_cast<const uint8_t*>(name)),
          const_cast<uint8_t*>(reinterpret_cast<const uint8_t*>(value)), NameSize - 1, ValueSize - 1,
          NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE};
}

// One whose value nghttp2 copies, and whose value is different every time.
template <size_t NameSize>
nghttp2_nv Copied(const char (&name)[NameSize], std::string_view value) {
  return {const_cast<uint8_t*>(reinterpret_cast<const uint8_t*>(name)),
          const_cast<uint8_t*>(reinterpret_cast<const uint8_t*>(value.data())), NameSize - 1, value.size(),
          NGHTTP2_NV_FLAG_NO_COPY_NAME};
}

nghttp2_nv StatusHeader(int http_status) {
  switch (http_status) {
    case 400:
      return Fixed(":status", "400");
    case 405:
      return Fixed(":status", "405");
    case 415:
      return Fixed(":status", "415");
    default:
      return Fixed(":status", "200");
  }
}

nghttp2_nv GrpcStatusHeader(GrpcCode code) {
  static constexpr char kDigits[17][3] = {"0", "1",  "2",  "3",  "4",  "5",  "6",  "7", "8",
                                          "9", "10", "11", "12", "13", "14", "15", "16"};
  const char* digits = kDigits[static_cast<size_t>(code) % 17];
  nghttp2_nv header = Copied("grpc-status", digits);
  header.flags |= NGHTTP2_NV_FLAG_NO_COPY_VALUE;
  return header;
}

std::string UnknownMethod(Service* service, std::string_view path) {
  std::string_view name = path;
  if (name.starts_with('/')) name.remove_prefix(1);
  const size_t slash = name.rfind('/');
  if (slash == std::string_view::npos) return "malformed method name: " + Quoted(path);
  const std::string service_name(name.substr(0, slash));
  if (!service->HasService(service_name)) return "unknown service " + service_name;
  return "unknown method " + std::string(name.substr(slash + 1)) + " for service " + service_name;
}

}  // namespace

struct Session::Callbacks {
  Callbacks() {
    FASTKV_CHECK(nghttp2_session_callbacks_new(&callbacks) == 0);
    nghttp2_session_callbacks_set_on_begin_frame_callback(
        callbacks, [](nghttp2_session*, const nghttp2_frame_hd* head, void* self) -> int {
          auto* session = static_cast<Session*>(self);
          // nghttp2 passes over these without another word.
          if (head->type == NGHTTP2_PRIORITY || head->type > NGHTTP2_CONTINUATION) session->ControlFrame();
          // After a cut nothing more is looked at.
          return session->cut_ ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
        });
    nghttp2_session_callbacks_set_on_begin_headers_callback(
        callbacks, [](nghttp2_session*, const nghttp2_frame* frame, void* self) -> int {
          static_cast<Session*>(self)->in_headers_ = true;
          if (frame->headers.cat == NGHTTP2_HCAT_REQUEST)
            static_cast<Session*>(self)->BeginHeaders(frame->hd.stream_id);
          return 0;
        });
    nghttp2_session_callbacks_set_on_header_callback(
        callbacks,
        [](nghttp2_session*, const nghttp2_frame*, const uint8_t* name, size_t name_size, const uint8_t* value,
           size_t value_size, uint8_t, void* self) -> int {
          auto* session = static_cast<Session*>(self);
          if (session->current_ != nullptr) session->AddHeader(View(name, name_size), View(value, value_size));
          return 0;
        });
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
        callbacks,
        [](nghttp2_session*, uint8_t, int32_t stream_id, const uint8_t* data, size_t size, void* self) -> int {
          static_cast<Session*>(self)->DataChunk(stream_id, View(data, size));
          return 0;
        });
    nghttp2_session_callbacks_set_on_frame_recv_callback(
        callbacks, [](nghttp2_session*, const nghttp2_frame* frame, void* self) -> int {
          static_cast<Session*>(self)->FrameReceived(*frame);
          return 0;
        });
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(
        callbacks, [](nghttp2_session*, const nghttp2_frame*, int, void* self) -> int {
          auto* session = static_cast<Session*>(self);
          if (!session->guard_.BadHeaders(session->state_->now_ns)) {
            session->CutOff(NGHTTP2_ENHANCE_YOUR_CALM, "too_many_invalid_frames");
          }
          return 0;
        });
    nghttp2_session_callbacks_set_on_frame_send_callback(
        callbacks, [](nghttp2_session*, const nghttp2_frame* frame, void* self) -> int {
          static_cast<Session*>(self)->FrameSent(*frame);
          return 0;
        });
    nghttp2_session_callbacks_set_on_stream_close_callback(
        callbacks, [](nghttp2_session* session, int32_t stream_id, uint32_t, void* self) -> int {
          auto* call = static_cast<GrpcCall*>(nghttp2_session_get_stream_user_data(session, stream_id));
          if (call != nullptr) static_cast<Session*>(self)->StreamClosed(call);
          return 0;
        });
    nghttp2_session_callbacks_set_send_data_callback(callbacks,
                                                     [](nghttp2_session*, nghttp2_frame*, const uint8_t* head,
                                                        size_t length, nghttp2_data_source* source, void* self) -> int {
                                                       static_cast<Session*>(self)->SendData(
                                                           static_cast<GrpcCall*>(source->ptr), head, length);
                                                       return 0;
                                                     });
    nghttp2_session_callbacks_set_data_source_read_length_callback(
        callbacks,
        [](nghttp2_session*, uint8_t, int32_t, int32_t session_window, int32_t stream_window, uint32_t frame_max,
           void*) -> ssize_t {
          // nghttp2 makes a buffer of this size, though nothing is copied into it: not larger than it pays.
          const auto window = static_cast<size_t>(std::max(1, std::min(session_window, stream_window)));
          return static_cast<ssize_t>(std::min({window, size_t{frame_max}, kFrameBytesMax}));
        });
    FASTKV_CHECK(nghttp2_option_new(&option) == 0);
    nghttp2_option_set_no_closed_streams(option, 1);
    nghttp2_option_set_max_send_header_block_length(option, 1 << 20);
    // Ours come first: they say why.
    nghttp2_option_set_stream_reset_rate_limit(option, 4 * kResetsBurst, 4 * kResetsPerSecond);
  }

  static const Callbacks& Get() {
    static const Callbacks instance;
    return instance;
  }

  nghttp2_session_callbacks* callbacks = nullptr;
  nghttp2_option* option = nullptr;
};

Session::Session(ThreadState* state, SessionOwner* owner, const Peer& peer)
    : state_(state),
      owner_(owner),
      peer_(peer),
      guard_(state->options.keepalive_min_time_ms, !peer.tls, state->now_ns) {
  const Callbacks& shared = Callbacks::Get();
  FASTKV_CHECK(
      nghttp2_session_server_new3(&session_, shared.callbacks, this, shared.option, state->memory.functions()) == 0);
  nghttp2_settings_entry settings[4] = {
      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kStreamWindowBytes},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, state->options.header_bytes_max},
      {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
      {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, state->options.max_concurrent_streams},
  };
  const size_t count = state->options.max_concurrent_streams == UINT32_MAX ? 3 : 4;
  FASTKV_CHECK(nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings, count) == 0);
  FASTKV_CHECK(nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, kConnectionWindowBytes) == 0);
}

Session::~Session() {
  Abort();
  nghttp2_session_del(session_);
}

bool Session::ended() const {
  return cut_ || (nghttp2_session_want_read(session_) == 0 && nghttp2_session_want_write(session_) == 0);
}

bool Session::Feed(std::string_view bytes) {
  if (cut_) return false;
  const ssize_t taken =
      nghttp2_session_mem_recv(session_, reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  if (view_call_ != nullptr) {
    Receive(view_call_, view_, false);
    view_call_ = nullptr;
  }
  if (taken < 0 && !cut_) {
    cut_ = true;
    fault_ = nghttp2_strerror(static_cast<int>(taken));
  }
  return !cut_;
}

// ---- The way in.

void Session::BeginHeaders(int32_t stream_id) {
  current_ = nullptr;
  const ServerOptions& options = state_->options;
  GrpcCall* call = nullptr;
  if (streams_ < std::min<size_t>(options.max_concurrent_streams, kStreamsMax) && queued_bytes_ < kQueuedBytesMax) {
    call = state_->calls.Make();
  }
  if (call == nullptr) return ResetStream(stream_id, NGHTTP2_REFUSED_STREAM);
  call->session_ = this;
  call->stream_id_ = stream_id;
  call->next_ = calls_;
  call->previous_ = nullptr;
  if (calls_ != nullptr) calls_->previous_ = call;
  calls_ = call;
  ++streams_;
  state_->counters.calls.Add(1);
  state_->counters.calls_total.Add(1);
  nghttp2_session_set_stream_user_data(session_, stream_id, call);
  current_ = call;
}

void Session::AddHeader(std::string_view name, std::string_view value) {
  GrpcCall* call = current_;
  call->headers_.Add(name, value);
  if (call->headers_.bytes() <= state_->options.header_bytes_max) return;
  current_ = nullptr;
  ResetStream(call->stream_id_, NGHTTP2_FRAME_SIZE_ERROR);  // as grpc-go
  call->Close(false);
  if (!guard_.BadHeaders(state_->now_ns)) CutOff(NGHTTP2_ENHANCE_YOUR_CALM, "too_large_headers");
}

void Session::Dispatch(GrpcCall* call, bool end_stream) {
  if (end_stream) call->remote_closed_ = true;
  const RequestHeaders::Refusal refusal = call->headers_.Complete();
  if (refusal.refused) {
    if (!refusal.reset) return Refuse(call, refusal.code, refusal.text, refusal.http_status);
    ResetStream(call->stream_id_, NGHTTP2_PROTOCOL_ERROR);
    return call->Close(false);
  }
  const std::string& path = call->headers_.path();
  if (last_method_ == nullptr || path != last_path_) {
    last_method_ = state_->service->Find(path);
    last_path_ = path;
  }
  if (last_method_ == nullptr) return Refuse(call, GrpcCode::kUnimplemented, UnknownMethod(state_->service, path));
  const std::string& encoding = call->headers_.encoding();
  if (!encoding.empty() && encoding != "identity") {
    return Refuse(call, GrpcCode::kUnimplemented,
                  "grpc: Decompressor is not installed for grpc-encoding " + Quoted(encoding));
  }
  call->method_ = last_method_;
  call->began_ns_ = state_->now_ns;
  FASTKV_CHECK(last_method_->number < CallMetrics::kMethodsMax);
  state_->metrics[*last_method_].started.Add(1);
  if (const int64_t timeout_ns = call->headers_.timeout_ns(); timeout_ns != INT64_MAX) {
    if (timeout_ns == 0) return Refuse(call, GrpcCode::kDeadlineExceeded, "context deadline exceeded");
    if (timeout_ns < INT64_MAX - state_->now_ns) {
      call->deadline_ns_ = state_->now_ns + timeout_ns;
      state_->timers.Arm(&call->deadline_, (call->deadline_ns_ + 999'999) / 1'000'000);
    }
  }
  if (call->method_->kind == Method::kStreaming) {
    call->fair_ = true;
    const nghttp2_extpri priority = {NGHTTP2_EXTPRI_DEFAULT_URGENCY, 1};
    nghttp2_session_change_extpri_stream_priority(session_, call->stream_id_, &priority, 1);
    call->handler_ = state_->service->Open(*call->method_, call);
    if (!call->open_) {
      if (call->handler_ != nullptr) call->Close(true);  // finished inside Open: OnEnd is due
    } else if (call->handler_ == nullptr) {
      Refuse(call, GrpcCode::kInternal, "the service opened no handler");
    }
  }
  if (end_stream) HalfClose(call);
}

void Session::DataChunk(int32_t stream_id, std::string_view bytes) {
  if (view_call_ != nullptr) {
    if (view_call_->stream_id_ == stream_id && view_.data() + view_.size() == bytes.data()) {
      view_ = {view_.data(), view_.size() + bytes.size()};
      return;
    }
    Receive(view_call_, view_, false);
    view_call_ = nullptr;
  }
  GrpcCall* call = CallOf(stream_id);
  if (call == nullptr || !call->open_) return;
  view_call_ = call;
  view_ = bytes;
}

void Session::DataEnd(int32_t stream_id, bool end_stream) {
  GrpcCall* call = view_call_ != nullptr ? view_call_ : CallOf(stream_id);
  if (call == nullptr) return;
  const std::string_view bytes = view_call_ != nullptr ? view_ : std::string_view();
  view_call_ = nullptr;
  if (end_stream) call->remote_closed_ = true;
  if (!call->open_) return;
  if (!bytes.empty()) Receive(call, bytes, end_stream);
  if (end_stream) HalfClose(call);
}

void Session::Receive(GrpcCall* call, std::string_view bytes, bool end_stream) {
  if (!call->open_) return;
  const size_t before = call->reader_.kept_bytes();
  uint32_t refused = 0;
  const size_t limit = state_->options.receive_bytes_max == 0 ? UINT32_MAX : state_->options.receive_bytes_max;
  const char* end = bytes.data() + bytes.size();
  const bool whole = call->reader_.Feed(bytes, limit, &refused, [&](uint8_t flag, std::string_view body) {
    return Message(call, flag, body, end_stream && body.data() + body.size() == end);
  });
  const size_t kept = call->reader_.kept_bytes() - before;  // may wrap below zero, as the sums do
  partial_bytes_ += kept;
  state_->partial_bytes += kept;
  if (!call->open_) return;
  if (whole) {
    if (kept > 0 && (partial_bytes_ > kPartialBytesMax || state_->partial_bytes > kThreadPartialBytesMax)) {
      Refuse(call, GrpcCode::kResourceExhausted, "too many bytes of unfinished messages");
    }
    return;
  }
  if (refused > 0) {
    Refuse(
        call, GrpcCode::kResourceExhausted,
        "grpc: received message larger than max (" + std::to_string(refused) + " vs. " + std::to_string(limit) + ")");
  }
}

// True: the next message may follow.
bool Session::Message(GrpcCall* call, uint8_t flag, std::string_view body, bool last) {
  if (flag != 0) {
    if (flag == 1) {
      Refuse(call, GrpcCode::kInternal, "grpc: compressed flag set with identity or empty encoding");
    } else {
      Refuse(call, GrpcCode::kInternal, "grpc: received unexpected payload format " + std::to_string(flag));
    }
    return false;
  }
  state_->metrics[*call->method_].messages_received.Add(1);
  if (call->method_->kind == Method::kStreaming) {
    call->handler_->OnMessage(body);
    return call->open_;
  }
  if (call->has_message_) {
    Refuse(call, GrpcCode::kInternal,
           "cardinality violation: received multiple request messages for non-client-streaming RPC");
    return false;
  }
  call->has_message_ = true;
  if (last) {
    Deliver(call, body);
  } else {
    call->message_.assign(body);
  }
  return call->open_;
}

void Session::Deliver(GrpcCall* call, std::string_view body) {
  call->delivered_ = true;
  state_->service->Unary(*call->method_, call, body);
}

void Session::HalfClose(GrpcCall* call) {
  if (!call->open_ || call->method_ == nullptr) return;
  const bool streaming = call->method_->kind == Method::kStreaming;
  if (call->reader_.kept_bytes() > 0) {
    return Refuse(call, streaming ? GrpcCode::kInternal : GrpcCode::kUnknown, "unexpected EOF");
  }
  if (streaming) return call->handler_->OnHalfClose();
  if (call->delivered_) return;
  if (!call->has_message_) return Refuse(call, GrpcCode::kUnknown, "EOF");
  const std::string message = std::move(call->message_);
  Deliver(call, message);
}

void Session::FrameReceived(const nghttp2_frame& frame) {
  const int64_t now_ns = state_->now_ns;
  const bool end_stream = (frame.hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
  switch (frame.hd.type) {
    case NGHTTP2_HEADERS:
      in_headers_ = false;
      if (frame.headers.cat == NGHTTP2_HCAT_REQUEST) {
        if (GrpcCall* call = std::exchange(current_, nullptr); call != nullptr) Dispatch(call, end_stream);
      } else {
        DataEnd(frame.hd.stream_id, end_stream);  // trailers, which mean nothing in a request
      }
      return;
    case NGHTTP2_DATA:
      if (frame.hd.length == 0 && !end_stream) ControlFrame();
      return DataEnd(frame.hd.stream_id, end_stream);
    case NGHTTP2_PING:
      if ((frame.hd.flags & NGHTTP2_FLAG_ACK) != 0) {
        ++pings_answered_;
        if (drain_ == kNoticed && memcmp(frame.ping.opaque_data, kDrainPing, sizeof kDrainPing) == 0) FinishDrain();
        return;
      }
      if (!guard_.Ping(streams_ > 0, now_ns)) CutOff(NGHTTP2_ENHANCE_YOUR_CALM, "too_many_pings");
      return;
    case NGHTTP2_RST_STREAM:
      if (!guard_.ClientReset(now_ns)) CutOff(NGHTTP2_ENHANCE_YOUR_CALM, "too_many_resets");
      return;
    case NGHTTP2_SETTINGS:
    case NGHTTP2_WINDOW_UPDATE:
      return ControlFrame();
    default:
      return;
  }
}

void Session::ControlFrame() {
  if (!guard_.Control(state_->now_ns)) CutOff(NGHTTP2_ENHANCE_YOUR_CALM, "too_many_control_frames");
}

// ---- Ends.

void Session::Refuse(GrpcCall* call, GrpcCode code, std::string_view text, int http_status) {
  if (!call->open_) return;
  call->http_status_ = http_status;
  call->code_ = code;
  call->text_ = text;
  call->finishing_ = true;
  Submit(call);
  call->Close(false);
}

void Session::ResetStream(int32_t stream_id, uint32_t error_code) {
  FASTKV_CHECK(nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, stream_id, error_code) == 0);
  owner_->SessionHasOutput();
}

void Session::DeadlineExceeded(GrpcCall* call) {
  if (call->unsent_ == 0) return Refuse(call, GrpcCode::kDeadlineExceeded, "context deadline exceeded");
  // A message may be cut in two, and no trailers could make sense of that. Nor does a client that left its answer lie
  // until now still wait for it.
  call->DropQueue();
  call->code_ = GrpcCode::kDeadlineExceeded;
  ResetStream(call->stream_id_, NGHTTP2_CANCEL);
  if (call->open_) call->Close(false);
}

void Session::StreamClosed(GrpcCall* call) {
  if (view_call_ == call) view_call_ = nullptr;
  if (current_ == call) current_ = nullptr;
  nghttp2_session_set_stream_user_data(session_, call->stream_id_, nullptr);
  if (call->previous_ != nullptr) {
    call->previous_->next_ = call->next_;
  } else {
    calls_ = call->next_;
  }
  if (call->next_ != nullptr) call->next_->previous_ = call->previous_;
  --streams_;
  state_->counters.calls.Subtract(1);
  partial_bytes_ -= call->reader_.kept_bytes();
  state_->partial_bytes -= call->reader_.kept_bytes();
  call->reader_.Reset();
  call->DropQueue();
  call->deadline_.Cancel();
  call->session_ = nullptr;
  if (call->open_) call->Close(false);
  call->ReleaseIfDone();
}

void Session::Abort() {
  while (calls_ != nullptr) StreamClosed(calls_);
}

void Session::CutOff(uint32_t error_code, std::string_view reason) {
  if (cut_) return;
  cut_ = true;
  fault_ = reason;
  FASTKV_CHECK(nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(session_),
                                     error_code, reinterpret_cast<const uint8_t*>(reason.data()), reason.size()) == 0);
  owner_->SessionHasOutput();
}

void Session::Drain() {
  if (drain_ != kServing || cut_) return;
  drain_ = kNoticed;
  FASTKV_CHECK(nghttp2_submit_shutdown_notice(session_) == 0);
  FASTKV_CHECK(nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, kDrainPing) == 0);
  owner_->SessionHasOutput();
}

void Session::FinishDrain() {
  if (drain_ == kFinal || cut_) return;
  drain_ = kFinal;
  FASTKV_CHECK(nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(session_),
                                     NGHTTP2_NO_ERROR, nullptr, 0) == 0);
  owner_->SessionHasOutput();
}

void Session::Ping() {
  FASTKV_CHECK(nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, kKeepalivePing) == 0);
  owner_->SessionHasOutput();
}

// ---- The way out.

void Session::Submit(GrpcCall* call) {
  owner_->SessionHasOutput();
  if (!call->submitted_) return SubmitResponse(call);
  if (!call->deferred_) return;
  call->deferred_ = false;
  FASTKV_CHECK(nghttp2_session_resume_data(session_, call->stream_id_) == 0);
}

void Session::SubmitResponse(GrpcCall* call) {
  call->submitted_ = true;
  if (call->finishing_ && call->first_ == nullptr) {
    std::string message;  // of the client's making perhaps, and as long as that
    if (!call->text_.empty()) message = PercentEncode(call->text_);
    const nghttp2_nv headers[4] = {StatusHeader(call->http_status_), Fixed("content-type", "application/grpc"),
                                   GrpcStatusHeader(call->code_), Copied("grpc-message", message)};
    if (!call->remote_closed_) ++early_ends_;
    FASTKV_CHECK(nghttp2_submit_response(session_, call->stream_id_, headers, 4, nullptr) == 0);
    return;
  }
  static const nghttp2_nv kHeaders[2] = {Fixed(":status", "200"), Fixed("content-type", "application/grpc")};
  nghttp2_data_provider provider;
  provider.source.ptr = call;
  provider.read_callback = [](nghttp2_session*, int32_t, uint8_t*, size_t length, uint32_t* flags,
                              nghttp2_data_source* source, void* self) -> ssize_t {
    return static_cast<Session*>(self)->Read(static_cast<GrpcCall*>(source->ptr), length, flags);
  };
  if (!call->fair_ && call->unsent_ > kFrameBytesMax) {
    call->fair_ = true;
    const nghttp2_extpri priority = {NGHTTP2_EXTPRI_DEFAULT_URGENCY, 1};
    nghttp2_session_change_extpri_stream_priority(session_, call->stream_id_, &priority, 1);
  }
  FASTKV_CHECK(nghttp2_submit_response(session_, call->stream_id_, kHeaders, 2, &provider) == 0);
}

void Session::SubmitTrailers(GrpcCall* call) {
  if (!call->remote_closed_) ++early_ends_;
  static const nghttp2_nv kOk[2] = {Fixed("grpc-status", "0"), Fixed("grpc-message", "")};
  if (call->code_ == GrpcCode::kOk) {
    FASTKV_CHECK(nghttp2_submit_trailer(session_, call->stream_id_, kOk, 2) == 0);
    return;
  }
  const std::string message = PercentEncode(call->text_);
  const nghttp2_nv trailers[2] = {GrpcStatusHeader(call->code_), Copied("grpc-message", message)};
  FASTKV_CHECK(nghttp2_submit_trailer(session_, call->stream_id_, trailers, 2) == 0);
}

void Session::Gather(Output* output, size_t bytes_max) {
  output_ = output;
  while (output->size() < bytes_max) {
    const uint8_t* bytes = nullptr;
    const ssize_t size = nghttp2_session_mem_send(session_, &bytes);
    if (size < 0) {
      cut_ = true;
      fault_ = nghttp2_strerror(static_cast<int>(size));
      break;
    }
    if (size == 0) break;
    output->Append(View(bytes, static_cast<size_t>(size)));
  }
  output_ = nullptr;
}

ssize_t Session::Read(GrpcCall* call, size_t length, uint32_t* flags) {
  const size_t size = std::min(length, call->unsent_);
  if (size == call->unsent_) {
    if (call->finishing_) {
      *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
      SubmitTrailers(call);
    } else if (size == 0) {
      call->deferred_ = true;
      return NGHTTP2_ERR_DEFERRED;
    }
  }
  if (size > 0) *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
  return static_cast<ssize_t>(size);
}

void Session::SendData(GrpcCall* call, const uint8_t* head, size_t length) {
  output_->Append(View(head, 9));
  call->unsent_ -= length;
  queued_bytes_ -= length;
  while (length > 0) {
    Body* body = call->first_;
    size_t step;
    if (call->first_sent_ < body->prefix_bytes) {
      step = std::min(length, body->prefix_bytes - call->first_sent_);
      output_->Append(std::string_view(body->prefix + call->first_sent_, step));
    } else {
      step = std::min(length, body->size() - call->first_sent_);
      output_->Append(body, call->first_sent_ - body->prefix_bytes, step);
    }
    call->first_sent_ += step;
    length -= step;
    if (call->first_sent_ < body->size()) continue;
    call->first_ = body->next;
    call->first_sent_ = 0;
    state_->bodies.Release(body);
  }
  if (call->first_ == nullptr) call->last_ = nullptr;
  if (call->open_ && call->handler_ != nullptr && !call->progressed_ && call->unsent_ < kUnsentLowBytes) {
    call->progressed_ = true;
    state_->writable.push_back(call->id_);
  }
}

void Session::FrameSent(const nghttp2_frame& frame) {
  if (frame.hd.type != NGHTTP2_HEADERS && frame.hd.type != NGHTTP2_DATA) return;
  guard_.FrameSent();
  if (early_ends_ == 0 || frame.hd.type != NGHTTP2_HEADERS || (frame.hd.flags & NGHTTP2_FLAG_END_STREAM) == 0) return;
  const GrpcCall* call = CallOf(frame.hd.stream_id);
  if (call == nullptr || call->remote_closed_) return;
  // All is said, and the client still talks: it may stop.
  --early_ends_;
  ResetStream(frame.hd.stream_id, NGHTTP2_NO_ERROR);
}

}  // namespace fastkv::front
