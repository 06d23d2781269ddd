#include "front/keep_alive.h"

#include <utility>

#include "front/proposer.h"
#include "front/requests.h"

namespace fastkv::front {
namespace {

constexpr size_t kAskedMax = 100'000;

double Now() { return static_cast<double>(NowNs()) * 1e-9; }

}  // namespace

void KeepAliveThread::LeaseEnded(const std::vector<uint64_t>& call_ids) {
  for (const uint64_t id : call_ids) {
    const auto found = streams_.find(id);
    if (found == streams_.end()) continue;
    KeepAliveStream* const stream = found->second;
    if (!std::exchange(stream->waiting_, false)) continue;
    const int64_t lease = stream->asked_.front();
    stream->asked_.pop_front();
    stream->Write(lease, 0);
    stream->AnswerAll();
  }
}

void KeepAliveThread::Stop() {
  std::vector<Call*> calls;
  for (const auto& [id, stream] : streams_) calls.push_back(stream->call_);
  for (Call* const call : calls) call->Finish(GrpcCode::kUnavailable, kStoppedText);
}

KeepAliveStream::KeepAliveStream(KeepAliveThread* owner, Call* call) : owner_(owner), call_(call) {
  owner_->streams_[call->id()] = this;
}

void KeepAliveStream::OnEnd() {
  ended_ = true;
  owner_->streams_.erase(call_->id());
}

void KeepAliveStream::OnMessage(std::string_view message) {
  if (ended_) return;
  LeaseIdRequest request;
  if (!request.Parse(message)) {
    ended_ = true;
    owner_->parts_->errors->RefuseStream(call_, Code::kMalformed);
    return;
  }
  if (asked_.size() >= kAskedMax) {
    ended_ = true;
    call_->Finish(GrpcCode::kResourceExhausted, kTooManyRequestsText);
    return;
  }
  asked_.push_back(request.id);
  AnswerAll();
}

void KeepAliveStream::OnHalfClose() {
  half_closed_ = true;
  AnswerAll();
}

void KeepAliveStream::AnswerAll() {
  if (ended_ || waiting_) return;
  const double now = Now();
  while (!asked_.empty() && call_->unsent_bytes() + out_.size() < kUnsentHighBytes && AnswerFirst(now)) {
  }
  if (!out_.empty()) call_->SendFramed(std::exchange(out_, {}));
  if (!half_closed_ || !asked_.empty()) return;
  ended_ = true;
  call_->Finish(GrpcCode::kOk, "");
}

bool KeepAliveStream::AnswerFirst(double now) {
  const int64_t id = asked_.front();
  const int64_t ttl = owner_->parts_->leases->Renew(id, now, {owner_->thread_, call_->id()});
  if (ttl < 0) {
    waiting_ = true;
    return false;
  }
  asked_.pop_front();
  Write(id, ttl);
  return true;
}

void KeepAliveStream::Write(int64_t id, int64_t ttl) {
  const Backend& backend = *owner_->parts_->backend;
  const size_t begin = BeginFrame(&out_);
  backend.AppendHeader(&out_, backend.revision());
  AppendNumber(&out_, 2, id);
  AppendNumber(&out_, 3, ttl);
  EndFrame(&out_, begin);
}

}  // namespace fastkv::front
