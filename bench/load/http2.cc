#include "http2.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace fastkv::load {
namespace {

constexpr uint8_t kData = 0, kHeaders = 1, kPriority = 2, kReset = 3, kSettings = 4, kPushPromise = 5, kPing = 6,
                  kGoaway = 7, kWindowUpdate = 8, kContinuation = 9;
constexpr uint8_t kEndStream = 1, kAck = 1, kEndHeaders = 4, kPadded = 8, kHasPriority = 0x20;
constexpr size_t kFrameHeader = 9, kFrameMax = 16384, kReadBytes = 1 << 18;
constexpr uint8_t kFirstDynamic = 62;  // the newest entry of the dynamic table (RFC 7541, 2.3.3)
constexpr size_t kCommonFields = 3;

uint32_t Load32(const char* at) {
  uint32_t v;
  memcpy(&v, at, 4);
  return __builtin_bswap32(v);
}
void Append32(std::string* out, uint32_t v) {
  v = __builtin_bswap32(v);
  out->append(reinterpret_cast<const char*>(&v), 4);
}
void AppendFrameHeader(std::string* out, size_t length, uint8_t type, uint8_t flags, uint32_t id) {
  const char head[5] = {static_cast<char>(length >> 16), static_cast<char>(length >> 8), static_cast<char>(length),
                        static_cast<char>(type), static_cast<char>(flags)};
  out->append(head, sizeof head);
  Append32(out, id);
}

}  // namespace

Connection::Connection(const sockaddr_in& address, const std::string& authority, uint32_t window)
    : authority_(authority), window_(window), table_(64) {
  fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd_ < 0 || connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    if (fd_ >= 0) close(fd_);
    throw Failure(std::string("cannot connect: ") + strerror(errno));
  }
  int one = 1;
  setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  fcntl(fd_, F_SETFL, O_NONBLOCK);
  if (nghttp2_hd_inflate_new(&inflater_) != 0) throw std::bad_alloc();

  out_ = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  std::string settings("\0\x02\0\0\0\0\0\x04", 8);  // no push; initial window
  Append32(&settings, window);
  Frame(kSettings, 0, 0, settings);
  WindowUpdate(0, window - 65535);
}

Connection::~Connection() {
  nghttp2_hd_inflate_del(inflater_);
  close(fd_);
}

// ---- streams by id ----

Connection::Entry* Connection::Find(uint32_t id) {
  const size_t mask = table_.size() - 1;
  for (size_t i = id >> 1 & mask;; i = (i + 1) & mask) {
    if (table_[i].id == id) return &table_[i];
    if (table_[i].id == 0) return nullptr;
  }
}

void Connection::Insert(const Entry& entry) {
  if (++streams_ * 2 > table_.size()) {
    std::vector<Entry> old(table_.size() * 2);
    old.swap(table_);
    streams_ = 1;
    for (const Entry& one : old) {
      if (one.id != 0) Insert(one);
    }
  }
  const size_t mask = table_.size() - 1;
  size_t i = entry.id >> 1 & mask;
  while (table_[i].id != 0) i = (i + 1) & mask;
  table_[i] = entry;
}

// Closes the gap, so that probing never needs tombstones.
void Connection::Erase(Entry* entry) {
  const size_t mask = table_.size() - 1;
  size_t hole = static_cast<size_t>(entry - table_.data());
  for (size_t i = (hole + 1) & mask; table_[i].id != 0; i = (i + 1) & mask) {
    const size_t home = table_[i].id >> 1 & mask;
    if (((i - home) & mask) >= ((i - hole) & mask)) {
      table_[hole] = table_[i];
      hole = i;
    }
  }
  table_[hole] = Entry{};
  streams_--;
}

// ---- sending ----

void Connection::Frame(uint8_t type, uint8_t flags, uint32_t id, std::string_view payload) {
  AppendFrameHeader(&out_, payload.size(), type, flags, id);
  out_.append(payload);
}

void Connection::WindowUpdate(uint32_t id, uint32_t bytes) {
  AppendFrameHeader(&out_, 4, kWindowUpdate, 0, id);
  Append32(&out_, bytes);
}

void Connection::AppendLiteral(std::string* block, std::string_view name, std::string_view value) {
  block->push_back(index_fields_ ? '\x40' : '\0');
  for (std::string_view text : {name, value}) {  // lengths below 127, no Huffman
    block->push_back(static_cast<char>(text.size()));
    block->append(text);
  }
}

// :method POST and :scheme http from the static table; the rest in full once, then by its place in the dynamic table.
void Connection::AppendRequestHeaders(std::string* block, const char* path) {
  block->append("\x83\x86", 2);
  const auto seen = std::find(paths_.begin(), paths_.end(), path);
  if (!index_fields_) {
    AppendLiteral(block, ":path", path);
    AppendLiteral(block, ":authority", authority_);
    AppendLiteral(block, "content-type", "application/grpc");
    AppendLiteral(block, "te", "trailers");
    return;
  }
  const size_t newest = paths_.size();
  // Pseudo-header fields come first, so a new path is inserted before the common fields can be referred to.
  if (seen == paths_.end()) {
    AppendLiteral(block, ":path", path);
    paths_.push_back(path);
  } else {
    block->push_back(static_cast<char>(0x80 + kFirstDynamic + (paths_.end() - seen - 1) +
                                       (seen == paths_.begin() ? kCommonFields : 0)));
  }
  if (newest == 0) {
    AppendLiteral(block, ":authority", authority_);
    AppendLiteral(block, "content-type", "application/grpc");
    AppendLiteral(block, "te", "trailers");
    return;
  }
  // Table, oldest first: path 0, authority, content-type, te, path 1, path 2 ...
  for (size_t field = kCommonFields; field-- > 0;) {
    block->push_back(static_cast<char>(0x80 + kFirstDynamic + paths_.size() - 1 + field));
  }
}

uint32_t Connection::Open(const char* path, Stream* stream) {
  if (streams_ >= max_streams_) throw Failure("the server allows only " + std::to_string(max_streams_) + " streams");
  const uint32_t id = next_id_;
  next_id_ += 2;
  std::string block;
  if (!index_fields_ && id == 1) block.push_back('\x20');  // dynamic table size update: 0
  AppendRequestHeaders(&block, path);
  Frame(kHeaders, kEndHeaders, id, block);
  Insert({id, 0, initial_window_, stream});
  return id;
}

void Connection::Send(uint32_t id, std::string_view message, bool last) {
  char prefix[5] = {0};
  const uint32_t length = __builtin_bswap32(static_cast<uint32_t>(message.size()));
  memcpy(prefix + 1, &length, 4);
  const size_t framed_bytes = sizeof prefix + message.size();
  Entry* entry = Find(id);
  const int64_t room = std::min(send_window_, entry->send_window);
  if (waiting_.empty() && framed_bytes <= kFrameMax && static_cast<int64_t>(framed_bytes) <= room) {
    AppendFrameHeader(&out_, framed_bytes, kData, last ? kEndStream : 0, id);
    out_.append(prefix, sizeof prefix);
    out_.append(message);
    send_window_ -= static_cast<int64_t>(framed_bytes);
    entry->send_window -= static_cast<int64_t>(framed_bytes);
    return;
  }
  waiting_.push_back({id, std::string(prefix, sizeof prefix).append(message), last});
  SendWaiting();
}

void Connection::SendWaiting() {
  while (!waiting_.empty()) {
    Waiting& next = waiting_.front();
    Entry* entry = Find(next.id);
    size_t sent = 0;
    while (entry != nullptr && sent < next.bytes.size()) {
      const int64_t room = std::min({send_window_, entry->send_window, static_cast<int64_t>(kFrameMax)});
      if (room <= 0) {
        next.bytes.erase(0, sent);
        return;
      }
      const size_t bytes = std::min(next.bytes.size() - sent, static_cast<size_t>(room));
      const bool ends = next.last && sent + bytes == next.bytes.size();
      Frame(kData, ends ? kEndStream : 0, next.id, std::string_view(next.bytes).substr(sent, bytes));
      send_window_ -= static_cast<int64_t>(bytes);
      entry->send_window -= static_cast<int64_t>(bytes);
      sent += bytes;
    }
    waiting_.pop_front();
  }
}

void Connection::Flush() {
  while (written_ < out_.size()) {
    const ssize_t n = send(fd_, out_.data() + written_, out_.size() - written_, MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN) return;
      throw Failure(std::string("cannot send: ") + strerror(errno));
    }
    written_ += static_cast<size_t>(n);
  }
  out_.clear();
  written_ = 0;
}

// ---- receiving ----

void Connection::OnReadable() {
  static char buffer[kReadBytes];  // one thread, and nothing of it is kept
  const ssize_t n = recv(fd_, buffer, sizeof buffer, 0);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) throw Failure(n == 0 ? "the server closed the connection" : strerror(errno));
  bytes_received_ += static_cast<uint64_t>(n);
  std::string_view bytes(buffer, static_cast<size_t>(n));
  if (!in_.empty()) {
    // Only the frame that is cut is joined; what follows it is parsed in place.
    while (!in_.empty() && !bytes.empty()) {
      const size_t want =
          in_.size() < kFrameHeader ? kFrameHeader - in_.size() : kFrameHeader + (Load32(in_.data()) >> 8) - in_.size();
      const size_t taken = std::min(want, bytes.size());
      in_.append(bytes.substr(0, taken));
      bytes.remove_prefix(taken);
      if (Consume(in_) > 0) in_.clear();
    }
  }
  bytes.remove_prefix(Consume(bytes));
  in_.append(bytes);
}

// Handles the whole frames at the front; returns their bytes.
size_t Connection::Consume(std::string_view bytes) {
  size_t done = 0;
  while (bytes.size() - done >= kFrameHeader) {
    const char* at = bytes.data() + done;
    const size_t length = Load32(at) >> 8;
    if (length > kFrameMax) throw Failure("a frame above SETTINGS_MAX_FRAME_SIZE");
    if (bytes.size() - done - kFrameHeader < length) break;
    done += kFrameHeader + length;
    OnFrame(static_cast<uint8_t>(at[3]), static_cast<uint8_t>(at[4]), Load32(at + 5) & 0x7fffffff,
            std::string_view(at + kFrameHeader, length));
  }
  return done;
}

void Connection::OnFrame(uint8_t type, uint8_t flags, uint32_t id, std::string_view payload) {
  if (block_stream_ != 0 && (type != kContinuation || id != block_stream_)) throw Failure("a header block cut short");
  switch (type) {
    case kData:
      return OnDataFrame(flags, id, payload);
    case kHeaders: {
      if (flags & kPadded) {
        const size_t padding = payload.empty() ? 0 : static_cast<uint8_t>(payload[0]);
        if (payload.size() < 1 + padding) throw Failure("padding beyond its frame");
        payload = payload.substr(1, payload.size() - 1 - padding);
      }
      if (flags & kHasPriority) payload.remove_prefix(std::min<size_t>(5, payload.size()));
      block_stream_ = id;
      block_ends_ = flags & kEndStream;
      if (flags & kEndHeaders) return OnHeaderBlock(payload);
      block_ = payload;
      return;
    }
    case kContinuation:
      if (block_stream_ == 0) throw Failure("CONTINUATION out of place");
      block_.append(payload);
      if (flags & kEndHeaders) OnHeaderBlock(block_);
      return;
    case kReset:
      if (Find(id) == nullptr) return;  // sent after the trailers, to free the stream
      return End(id, -1, "RST_STREAM, error " + std::to_string(payload.size() == 4 ? Load32(payload.data()) : 0));
    case kSettings:
      if (!(flags & kAck)) OnSettings(payload);
      return;
    case kPing:
      if (!(flags & kAck)) Frame(kPing, kAck, 0, payload);
      return;
    case kGoaway:
      throw Failure("GOAWAY" + (payload.size() > 8 ? ": " + std::string(payload.substr(8)) : std::string()));
    case kWindowUpdate:
      return OnWindowUpdate(id, payload);
    case kPushPromise:
      throw Failure("PUSH_PROMISE, which was forbidden");
    case kPriority:
    default:
      return;
  }
}

void Connection::OnDataFrame(uint8_t flags, uint32_t id, std::string_view payload) {
  unacknowledged_ += static_cast<uint32_t>(payload.size());
  if (unacknowledged_ >= window_ / 2) {
    WindowUpdate(0, unacknowledged_);
    unacknowledged_ = 0;
  }
  Entry* entry = Find(id);
  if (entry == nullptr) throw Failure("DATA on a stream that is not open");
  if (flags & kEndStream) throw Failure("an answer without trailers");
  entry->unacknowledged += static_cast<uint32_t>(payload.size());
  if (entry->unacknowledged >= window_ / 2) {
    WindowUpdate(id, entry->unacknowledged);
    entry->unacknowledged = 0;
  }
  if (flags & kPadded) {
    const size_t padding = payload.empty() ? 0 : static_cast<uint8_t>(payload[0]);
    if (payload.size() < 1 + padding) throw Failure("padding beyond its frame");
    payload = payload.substr(1, payload.size() - 1 - padding);
  }
  entry->stream->OnData(payload);
}

const Connection::Answer& Connection::Decode(std::string_view block) {
  uint64_t bits = 0;
  bool indexed = !block.empty() && block.size() <= sizeof bits;
  for (size_t i = 0; indexed && i < block.size(); i++) {
    const auto byte = static_cast<uint8_t>(block[i]);
    indexed = byte > 0x80 && byte < 0xff;
    bits = bits << 8 | byte;
  }
  if (indexed) {
    for (const Remembered& one : remembered_) {
      if (one.block == bits) return one.answer;
    }
  } else {
    remembered_ = {};
  }
  answer_ = {};
  const auto* at = reinterpret_cast<const uint8_t*>(block.data());
  size_t left = block.size();
  for (;;) {
    nghttp2_nv field;
    int flags = 0;
    const ssize_t used = nghttp2_hd_inflate_hd2(inflater_, &field, &flags, at, left, 1);
    if (used < 0) throw Failure(std::string("HPACK: ") + nghttp2_strerror(static_cast<int>(used)));
    at += used;
    left -= static_cast<size_t>(used);
    if (flags & NGHTTP2_HD_INFLATE_EMIT) {
      const std::string_view name(reinterpret_cast<char*>(field.name), field.namelen);
      const std::string_view value(reinterpret_cast<char*>(field.value), field.valuelen);
      if (name == ":status") answer_.http_status = atoi(std::string(value).c_str());
      if (name == "grpc-status") answer_.grpc_status = atoi(std::string(value).c_str());
      if (name == "grpc-message") answer_.text = value;
      if (name == "content-type") answer_.grpc_content = value.starts_with("application/grpc");
    }
    if (flags & NGHTTP2_HD_INFLATE_FINAL) break;
  }
  nghttp2_hd_inflate_end_headers(inflater_);
  if (indexed) {
    remembered_[next_remembered_] = {bits, answer_};
    next_remembered_ = (next_remembered_ + 1) % remembered_.size();
  }
  return answer_;
}

void Connection::OnHeaderBlock(std::string_view block) {
  const Answer& answer = Decode(block);
  const uint32_t id = block_stream_;
  block_stream_ = 0;
  if (answer.http_status != 0 && (answer.http_status != 200 || !answer.grpc_content)) {
    throw Failure("HTTP status " + std::to_string(answer.http_status) + " where a gRPC answer was due");
  }
  if (block_ends_) End(id, answer.grpc_status, answer.text);
}

void Connection::End(uint32_t id, int grpc_status, const std::string& text) {
  Entry* entry = Find(id);
  if (entry == nullptr) throw Failure("the end of a stream that is not open");
  Stream* stream = entry->stream;
  Erase(entry);
  stream->OnEnd(grpc_status, text);
}

void Connection::OnSettings(std::string_view payload) {
  for (; payload.size() >= 6; payload.remove_prefix(6)) {
    const uint32_t value = Load32(payload.data() + 2);
    switch (Load32(payload.data()) >> 16) {
      case 1:
        // Nothing is sent before the first SETTINGS, so a server with a small table never sees an indexed field.
        if (value < 4096) index_fields_ = false;
        break;
      case 3:
        max_streams_ = value;
        break;
      case 4:
        for (Entry& entry : table_) {
          if (entry.id != 0) entry.send_window += static_cast<int64_t>(value) - initial_window_;
        }
        initial_window_ = value;
        break;
      default:
        break;
    }
  }
  Frame(kSettings, kAck, 0, {});
  settings_seen_ = true;
  SendWaiting();
}

void Connection::OnWindowUpdate(uint32_t id, std::string_view payload) {
  if (payload.size() != 4) throw Failure("WINDOW_UPDATE of a wrong size");
  const uint32_t more = Load32(payload.data()) & 0x7fffffff;
  if (id == 0) {
    send_window_ += more;
  } else if (Entry* entry = Find(id)) {
    entry->send_window += more;
  }
  SendWaiting();
}

}  // namespace fastkv::load
