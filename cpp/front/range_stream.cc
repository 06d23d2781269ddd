#include "front/range_stream.h"

#include <utility>

#include "front/requests.h"

namespace fastkv::front {
namespace {

constexpr std::string_view kNoMessage = "EOF";  // as a Go server

// A client can send the fields that the store keeps its state in: of a field given twice the last counts.
constexpr std::string_view kChunkStateCleared("\xc0\x3e\x00\xc8\x3e\x00", 6);

// RangeStreamResponse{range_response}, framed.
std::string Framed(std::string_view response) {
  std::string frame;
  frame.reserve(response.size() + 16);
  const size_t begin = BeginFrame(&frame);
  AppendBytesAlways(&frame, 1, response);
  EndFrame(&frame, begin);
  return frame;
}

}  // namespace

RangeStream::RangeStream(const Parts* parts, Call* call)
    : parts_(parts), call_(call), link_(std::make_shared<Link>(Link{this})) {}

void RangeStream::OnEnd() {
  ended_ = true;
  link_->stream = nullptr;
}

void RangeStream::OnMessage(std::string_view message) {
  if (asked_ || ended_) return;
  asked_ = true;
  request_ = message;
  request_ += kChunkStateCleared;
  parked_ = parts_->park && parts_->park(call_, message, link_);
  ReadNext();
}

void RangeStream::Confirmed(Code code) {
  if (ended_ || !std::exchange(parked_, false)) return;
  if (code == Code::kOk) {
    ReadNext();
  } else {
    Refuse(code);
  }
}

void RangeStream::OnHalfClose() {
  if (asked_ || ended_) return;
  ended_ = true;
  call_->Finish(GrpcCode::kUnknown, kNoMessage);
}

void RangeStream::ReadNext() {
  if (!asked_ || ended_ || parked_ || reading_ || call_->unsent_bytes() >= kUnsentHighBytes) return;
  reading_ = true;
  parts_->readers->Run([parts = parts_, link = link_, thread = call_->thread(), request = std::move(request_)] {
    Chunk chunk;
    std::string response;
    chunk.code = parts->backend->RangeChunk(request, parts->chunk_bytes, &response, &chunk.next);
    if (chunk.code == Code::kOk) chunk.message = Framed(response);
    thread->Post([link, chunk = std::move(chunk)]() mutable {
      if (link->stream != nullptr) link->stream->Take(std::move(chunk));
    });
  });
}

void RangeStream::Refuse(Code code) {
  ended_ = true;
  parts_->errors->RefuseStream(call_, code);
}

void RangeStream::Take(Chunk chunk) {
  reading_ = false;
  if (ended_) return;
  if (chunk.code != Code::kOk) {
    Refuse(chunk.code);
    return;
  }
  const bool last = chunk.next.empty();
  request_ = std::move(chunk.next);
  if (!last) {
    call_->SendFramed(std::move(chunk.message));
    ReadNext();
    return;
  }
  ended_ = true;
  call_->SendFramed(std::move(chunk.message));
  call_->Finish(GrpcCode::kOk, "");
}

}  // namespace fastkv::front
