// A gRPC client and a stub service for the tests of the front end: nghttp2's client session, without a socket of its
// own.
//
//   Client client;  const int32_t id = client.Call("/stub.Stub/Echo", Framed("hi"));
//   bytes = client.Take();  ...  client.Feed(answer);  client.answers[id].status == 0
//
// Thread safety: none.
#pragma once

#include <nghttp2/nghttp2.h>

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "front/call.h"
#include "front/grpc_frame.h"

namespace fastkv::front {

inline std::string Framed(std::string_view message) {
  std::string framed(kPrefixBytes, '\0');
  StorePrefix(framed.data(), message.size());
  return framed.append(message);
}

// What the client knows of a call.
struct ClientAnswer {
  std::vector<std::pair<std::string, std::string>> headers;  // of both blocks, in order
  std::string data;
  bool closed = false;
  uint32_t error_code = 0;  // of RST_STREAM

  std::string Header(std::string_view name) const {
    for (const auto& [key, value] : headers) {
      if (key == name) return value;
    }
    return {};
  }
  int status() const { return Header("grpc-status").empty() ? -1 : std::stoi(Header("grpc-status")); }
  std::string text() const { return Header("grpc-message"); }
  // The messages in data, "..." at the end if it stops within one.
  std::vector<std::string> messages() const {
    std::vector<std::string> messages;
    MessageReader reader;
    uint32_t refused;
    reader.Feed(data, SIZE_MAX, &refused, [&](uint8_t, std::string_view body) {
      messages.emplace_back(body);
      return true;
    });
    if (reader.kept_bytes() > 0) messages.emplace_back("...");
    return messages;
  }
};

using Headers = std::vector<std::pair<std::string, std::string>>;

class Client {
 public:
  // window_bytes: of each stream; 0: the connection's own of 64 KiB are widened as data comes.
  explicit Client(uint32_t window_bytes = 0) {
    nghttp2_session_callbacks* callbacks = nullptr;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_header_callback(
        callbacks, [](nghttp2_session*, const nghttp2_frame* frame, const uint8_t* name, size_t name_size,
                      const uint8_t* value, size_t value_size, uint8_t, void* self) {
          static_cast<Client*>(self)->answers[frame->hd.stream_id].headers.emplace_back(
              std::string(reinterpret_cast<const char*>(name), name_size),
              std::string(reinterpret_cast<const char*>(value), value_size));
          return 0;
        });
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
        callbacks, [](nghttp2_session*, uint8_t, int32_t id, const uint8_t* data, size_t size, void* self) {
          static_cast<Client*>(self)->answers[id].data.append(reinterpret_cast<const char*>(data), size);
          return 0;
        });
    nghttp2_session_callbacks_set_on_frame_recv_callback(
        callbacks, [](nghttp2_session*, const nghttp2_frame* frame, void* self) {
          auto* client = static_cast<Client*>(self);
          if (frame->hd.type == NGHTTP2_GOAWAY) {
            client->goaways.push_back(
                {frame->goaway.last_stream_id, frame->goaway.error_code,
                 std::string(reinterpret_cast<const char*>(frame->goaway.opaque_data), frame->goaway.opaque_data_len)});
          }
          if (frame->hd.type == NGHTTP2_PING && (frame->hd.flags & NGHTTP2_FLAG_ACK) != 0) ++client->pongs;
          if (frame->hd.type == NGHTTP2_PING && (frame->hd.flags & NGHTTP2_FLAG_ACK) == 0) ++client->pings;
          if (frame->hd.type == NGHTTP2_RST_STREAM) {
            client->answers[frame->hd.stream_id].error_code = frame->rst_stream.error_code;
          }
          return 0;
        });
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks,
                                                           [](nghttp2_session*, int32_t id, uint32_t, void* self) {
                                                             static_cast<Client*>(self)->answers[id].closed = true;
                                                             return 0;
                                                           });
    nghttp2_option* option = nullptr;
    nghttp2_option_new(&option);
    if (window_bytes != 0) nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_session_client_new2(&session, callbacks, this, option);
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(callbacks);
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, window_bytes == 0 ? 1 << 20 : window_bytes},
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
    };
    nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, settings, 2);
  }
  ~Client() { nghttp2_session_del(session); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  static Headers Usual(std::string_view path) {
    return {{":method", "POST"},         {":scheme", "http"}, {":path", std::string(path)},
            {":authority", "localhost"}, {"te", "trailers"},  {"content-type", "application/grpc"}};
  }

  // A call with those bytes; end: and no more will come.
  int32_t Call(std::string_view path, std::string bytes, Headers more = {}, bool end = true) {
    Headers headers = Usual(path);
    headers.insert(headers.end(), more.begin(), more.end());
    return Request(headers, std::move(bytes), end);
  }

  int32_t Request(const Headers& headers, std::string bytes, bool end = true) {
    std::vector<nghttp2_nv> fields;
    for (const auto& [name, value] : headers) {
      fields.push_back({const_cast<uint8_t*>(reinterpret_cast<const uint8_t*>(name.data())),
                        const_cast<uint8_t*>(reinterpret_cast<const uint8_t*>(value.data())), name.size(), value.size(),
                        NGHTTP2_NV_FLAG_NONE});
    }
    auto upload = std::make_unique<Upload>();
    upload->bytes = std::move(bytes);
    upload->end = end;
    nghttp2_data_provider provider;
    provider.source.ptr = upload.get();
    provider.read_callback = [](nghttp2_session*, int32_t, uint8_t* buffer, size_t size, uint32_t* flags,
                                nghttp2_data_source* source, void*) -> ssize_t {
      auto* from = static_cast<Upload*>(source->ptr);
      const size_t step = std::min(size, from->bytes.size() - from->sent);
      memcpy(buffer, from->bytes.data() + from->sent, step);
      from->sent += step;
      if (from->sent == from->bytes.size() && from->end) *flags |= NGHTTP2_DATA_FLAG_EOF;
      if (step == 0 && !from->end) return NGHTTP2_ERR_DEFERRED;
      return static_cast<ssize_t>(step);
    };
    const int32_t id = nghttp2_submit_request(session, nullptr, fields.data(), fields.size(), &provider, nullptr);
    uploads_[id] = std::move(upload);
    return id;
  }
  // More of a call that has not ended.
  void Send(int32_t id, std::string_view bytes, bool end = false) {
    uploads_[id]->bytes.append(bytes);
    uploads_[id]->end = end;
    nghttp2_session_resume_data(session, id);
  }
  void Reset(int32_t id, uint32_t error_code = NGHTTP2_CANCEL) {
    nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, id, error_code);
  }
  void Ping() { nghttp2_submit_ping(session, NGHTTP2_FLAG_NONE, nullptr); }

  // What the client has to say.
  std::string Take() {
    std::string bytes;
    for (;;) {
      const uint8_t* data = nullptr;
      const ssize_t size = nghttp2_session_mem_send(session, &data);
      if (size <= 0) return bytes;
      bytes.append(reinterpret_cast<const char*>(data), static_cast<size_t>(size));
    }
  }
  bool Feed(std::string_view bytes) {
    return nghttp2_session_mem_recv(session, reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()) ==
           static_cast<ssize_t>(bytes.size());
  }

  struct Goaway {
    int32_t last_stream_id;
    uint32_t error_code;
    std::string text;
  };

  nghttp2_session* session = nullptr;
  std::map<int32_t, ClientAnswer> answers;
  std::vector<Goaway> goaways;
  int pongs = 0, pings = 0;

 private:
  struct Upload {
    std::string bytes;
    size_t sent = 0;
    bool end = true;
  };
  std::map<int32_t, std::unique_ptr<Upload>> uploads_;
};

// The methods of /stub.Stub:
//   Echo    unary: the message, after "error:" a status: "error:9:text"
//   Later   unary: nothing until Answer
//   Stream  streaming: each message comes back, then OK at the half-close; "send:N" gives N bytes in messages of 1,000
//           as the client takes them, "fail" ends with FAILED_PRECONDITION
class StubService : public Service {
 public:
  const Method* Find(std::string_view path) override {
    if (path == "/stub.Stub/Echo") return &echo_;
    if (path == "/stub.Stub/Later") return &later_;
    if (path == "/stub.Stub/Stream") return &stream_;
    return nullptr;
  }
  bool HasService(std::string_view name) override { return name == "stub.Stub"; }
  void Unary(const Method& method, Call* call, std::string_view message) override {
    log.push_back("unary " + Short(message));
    metadata = call->metadata();
    if (method.number == later_.number) {
      waiting.push_back(call->id());
    } else if (message.starts_with("error:")) {
      call->Finish(static_cast<GrpcCode>(std::stoi(std::string(message.substr(6)))), message.substr(8));
    } else {
      call->Reply(std::string(message));
    }
  }
  std::unique_ptr<CallHandler> Open(const Method&, Call* call) override {
    log.push_back("open");
    metadata = call->metadata();
    return std::make_unique<Echo>(this, call);
  }
  void Gone(const Method&, uint64_t call_id, IoThread*) override {
    log.push_back("gone");
    gone.push_back(call_id);
  }
  void TurnEnd(IoThread*) override { ++turns; }
  void Http1(int socket, const Peer& peer) override {
    http1.push_back(socket);
    http1_peers.push_back(peer);
  }

  static std::string Short(std::string_view message) {
    return message.size() <= 40 ? std::string(message) : std::to_string(message.size()) + " bytes";
  }

  std::vector<std::string> log;
  std::vector<uint64_t> waiting, gone;
  std::vector<int> http1;
  std::vector<Peer> http1_peers;
  Metadata metadata;  // of the last call
  int turns = 0;
  size_t unsent_max = 0;

 private:
  class Echo final : public CallHandler {
   public:
    Echo(StubService* service, front::Call* call) : service_(service), call_(call) {}
    void OnMessage(std::string_view message) override {
      service_->log.push_back("message " + Short(message));
      if (message == "fail") {
        call_->Finish(GrpcCode::kFailedPrecondition, "as told");
      } else if (message.starts_with("send:")) {
        left_ = std::stoull(std::string(message.substr(5)));
        OnWritable();
      } else {
        call_->Send(std::string(message));
      }
    }
    void OnHalfClose() override {
      service_->log.push_back("half-close");
      half_closed_ = true;
      if (left_ == 0) call_->Finish(GrpcCode::kOk, {});
    }
    void OnWritable() override {
      const bool had = left_ > 0;
      while (left_ > 0 && call_->unsent_bytes() < kUnsentHighBytes) {
        const size_t size = std::min<size_t>(left_, 1000);
        call_->Send(std::string(size, 's'));
        left_ -= size;
        service_->unsent_max = std::max(service_->unsent_max, call_->unsent_bytes());
      }
      if (had && left_ == 0 && half_closed_) call_->Finish(GrpcCode::kOk, {});
    }
    void OnEnd() override { service_->log.push_back("end"); }

   private:
    StubService* const service_;
    front::Call* const call_;
    size_t left_ = 0;
    bool half_closed_ = false;
  };

  const Method echo_{Method::kUnary, 1}, later_{Method::kUnary, 2}, stream_{Method::kStreaming, 3};
};

}  // namespace fastkv::front
