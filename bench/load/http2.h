// One HTTP/2 connection to a gRPC server, made for low cost per request.
//
//   Connection connection(address, window);
//   uint32_t id = connection.Open(kPut, &call);  connection.Send(id, message, true);  connection.Flush();
//   ... epoll says readable:  connection.OnReadable();    -> call.OnData(bytes), call.OnEnd(status, text)
//
// A request is 15 bytes of HEADERS frame (six indexed fields, once the connection has sent each name and path in full)
// and a DATA frame, appended to one buffer and written with one call; an answer is parsed where it was received. Header
// blocks go through nghttp2's HPACK decoder; a block of indexed fields only, which changes no table, is remembered by
// its bytes until the table changes, so that the usual answer costs a comparison.
//
// Invariants: never sends more than the server's windows and max_concurrent_streams allow (what does not fit waits);
// answers PING and SETTINGS; whatever breaks the protocol throws Failure. Left out: push, priorities, TLS.
// Thread safety: none.
#pragma once

#include <netinet/in.h>
#include <nghttp2/nghttp2.h>

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "messages.h"

namespace fastkv::load {

// What a connection tells about one stream.
class Stream {
 public:
  virtual ~Stream() = default;
  virtual void OnData(std::string_view bytes) = 0;
  // grpc_status is -1 for an end without one. The stream's id is free from now on.
  virtual void OnEnd(int grpc_status, const std::string& text) = 0;
};

class Connection {
 public:
  Connection(const sockaddr_in& address, const std::string& authority, uint32_t window);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  int fd() const { return fd_; }
  bool ready() const { return settings_seen_; }
  bool wants_write() const { return written_ < out_.size(); }
  bool dirty = false;        // on the loop's list of connections to flush
  bool armed_write = false;  // the loop's epoll waits for writability

  // `path` must outlive the connection. REQUIRES: ready().
  uint32_t Open(const char* path, Stream* stream);
  // One gRPC message; `last` half-closes the stream.
  void Send(uint32_t id, std::string_view message, bool last);

  void OnReadable();
  // Writes what it can.
  void Flush();

  uint64_t bytes_received() const { return bytes_received_; }

 private:
  struct Entry {
    uint32_t id = 0;  // 0: free
    uint32_t unacknowledged = 0;
    int64_t send_window = 0;
    Stream* stream = nullptr;
  };
  struct Waiting {
    uint32_t id;
    std::string bytes;  // framed as gRPC, not yet as HTTP/2
    bool last;
  };
  struct Answer {
    int http_status = 0;
    int grpc_status = -1;
    bool grpc_content = false;
    std::string text;
  };
  struct Remembered {
    uint64_t block = 0;
    Answer answer;
  };

  Entry* Find(uint32_t id);
  void Insert(const Entry& entry);
  void Erase(Entry* entry);
  bool SendNow(uint32_t id, std::string_view framed, bool last);
  void SendWaiting();
  void Frame(uint8_t type, uint8_t flags, uint32_t id, std::string_view payload);
  size_t Consume(std::string_view bytes);
  void OnFrame(uint8_t type, uint8_t flags, uint32_t id, std::string_view payload);
  void OnDataFrame(uint8_t flags, uint32_t id, std::string_view payload);
  void OnHeaderBlock(std::string_view block);
  void OnSettings(std::string_view payload);
  void OnWindowUpdate(uint32_t id, std::string_view payload);
  void End(uint32_t id, int grpc_status, const std::string& text);
  const Answer& Decode(std::string_view block);
  void WindowUpdate(uint32_t id, uint32_t bytes);
  // Header fields of a request.
  void AppendLiteral(std::string* block, std::string_view name, std::string_view value);
  void AppendRequestHeaders(std::string* block, const char* path);

  int fd_ = -1;
  std::string authority_;
  uint32_t window_;

  std::string out_;
  size_t written_ = 0;
  std::string in_;  // the beginning of a frame whose rest is not there yet
  uint64_t bytes_received_ = 0;
  uint32_t unacknowledged_ = 0;

  std::vector<Entry> table_;  // by id, open addressing
  size_t streams_ = 0;
  uint32_t next_id_ = 1;
  int64_t send_window_ = 65535;
  int64_t initial_window_ = 65535;
  uint64_t max_streams_ = UINT32_MAX;
  bool settings_seen_ = false;
  std::deque<Waiting> waiting_;

  // Fields sent so far, oldest first; our dynamic table as the server has it.
  bool index_fields_ = true;
  std::vector<const char*> paths_;
  std::string common_;  // authority, content-type, te: inserted before the first path

  nghttp2_hd_inflater* inflater_ = nullptr;
  std::array<Remembered, 4> remembered_{};
  size_t next_remembered_ = 0;
  Answer answer_;
  std::string block_;  // of a HEADERS frame that CONTINUATION goes on with
  uint32_t block_stream_ = 0;
  bool block_ends_ = false;
};

}  // namespace fastkv::load
