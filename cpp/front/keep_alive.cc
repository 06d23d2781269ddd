#include "front/keep_alive.h"

#include <algorithm>
#include <utility>

#include "front/requests.h"

namespace fastkv::front {
namespace {

constexpr size_t kAskedMax = 100'000;

}  // namespace

void KeepAliveThread::LeaseEnded(const std::vector<uint64_t>& call_ids) {
  for (const uint64_t id : call_ids) {
    const auto found = streams_.find(id);
    if (found == streams_.end()) continue;
    KeepAliveStream* const stream = found->second;
    if (!std::exchange(stream->waiting_, false)) continue;
    const int64_t lease = stream->asked_.front().lease;
    stream->asked_.pop_front();
    stream->Write(lease, 0);
    stream->AnswerAll();
  }
}

std::vector<KeepAliveStream*> KeepAliveThread::Streams() const {
  std::vector<KeepAliveStream*> streams;
  streams.reserve(streams_.size());
  for (const auto& [id, stream] : streams_) streams.push_back(stream);
  return streams;
}

void KeepAliveThread::Renewed(const std::unordered_map<int64_t, int64_t>& ttls) {
  const std::vector<uint64_t> calls(forwarding_.begin(), forwarding_.end());
  const int64_t now_ns = NowNs();
  for (const uint64_t call : calls) {
    KeepAliveStream* const stream = streams_.at(call);
    for (size_t i = 0; i < stream->forwarded_; ++i) {
      KeepAliveStream::Asked& asked = stream->asked_[i];
      if (const auto found = ttls.find(asked.lease); asked.ttl < 0 && found != ttls.end()) asked.ttl = found->second;
    }
    stream->AnswerAll(now_ns);
    if (stream->forwarded_ == 0) forwarding_.erase(call);
  }
}

uint64_t KeepAliveThread::TakeRound() { return std::exchange(round_begun_, false) ? round_++ : 0; }

void KeepAliveThread::Confirmed(uint64_t round, Code code) {
  if (code == Code::kOk) confirmed_ = std::max(confirmed_, round);
  const std::vector<uint64_t> calls(confirming_.begin(), confirming_.end());
  const int64_t now_ns = NowNs();
  for (const uint64_t call : calls) {
    KeepAliveStream* const stream = streams_.at(call);
    if (code == Code::kOk) {
      stream->AnswerAll(now_ns);
    } else if (!stream->ended_ && !stream->waiting_ && !stream->asked_.empty() &&
               stream->asked_.front().round <= round) {
      stream->ended_ = true;
      parts_->errors->RefuseStream(stream->call_, code);
    }
    if (stream->asked_.empty()) confirming_.erase(call);
  }
}

void KeepAliveThread::LeaderChanged() {
  forwarding_.clear();
  to_renew_.clear();
  confirming_.clear();
  const int64_t now_ns = NowNs();
  for (KeepAliveStream* const stream : Streams()) {
    stream->waiting_ = false;
    stream->forwarded_ = 0;
    for (KeepAliveStream::Asked& asked : stream->asked_) asked.round = round_;
    stream->AwaitRound();
    stream->AnswerAll(now_ns);
  }
}

void KeepAliveThread::RefuseOverdue(int64_t before_ns, Code code) {
  if (*parts_->timer == LeaseTimer::kAlone) return;
  for (KeepAliveStream* const stream : Streams()) {
    if (stream->ended_ || stream->waiting_ || stream->asked_.empty()) continue;
    const KeepAliveStream::Asked& first = stream->asked_.front();
    const bool client_is_slow = stream->call_->unsent_bytes() >= kUnsentHighBytes;
    if (first.ttl >= 0 || first.began_ns >= before_ns || client_is_slow) continue;
    stream->ended_ = true;
    parts_->errors->RefuseStream(stream->call_, code);
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
  owner_->forwarding_.erase(call_->id());
  owner_->confirming_.erase(call_->id());
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
    call_->Finish(GrpcCode::kUnknown, kTooManyRequestsText);
    return;
  }
  const int64_t now_ns = NowNs();
  asked_.push_back({request.id, now_ns, -1, owner_->round_});
  AwaitRound();
  AnswerAll(now_ns);
}

void KeepAliveStream::OnHalfClose() {
  half_closed_ = true;
  AnswerAll();
}

void KeepAliveStream::AnswerAll(int64_t now_ns) {
  if (ended_ || waiting_) return;
  while (!asked_.empty() && call_->unsent_bytes() + out_.size() < kUnsentHighBytes && AnswerFirst(now_ns)) {
  }
  if (!out_.empty()) call_->SendFramed(std::exchange(out_, {}));
  if (!half_closed_ || !asked_.empty()) return;
  ended_ = true;
  call_->Finish(GrpcCode::kOk, "");
}

bool KeepAliveStream::AnswerFirst(int64_t now_ns) {
  const Asked first = asked_.front();
  int64_t ttl = first.ttl;
  if (ttl < 0) {
    const LeaseTimer timer = owner_->parts_->Timer();
    if (timer == LeaseTimer::kElsewhere) Forward();
    const bool mine =
        timer == LeaseTimer::kAlone || (timer == LeaseTimer::kLeader && first.round <= owner_->confirmed_);
    if (!mine) return false;
    const double now = static_cast<double>(now_ns) * 1e-9;
    ttl = owner_->parts_->leases->Renew(first.lease, now, {owner_->thread_, call_->id()});
    waiting_ = ttl < 0;
    if (waiting_) return false;
  }
  asked_.pop_front();
  if (forwarded_ > 0) --forwarded_;
  Write(first.lease, ttl);
  return true;
}

void KeepAliveStream::AwaitRound() {
  if (asked_.empty() || owner_->parts_->Timer() != LeaseTimer::kLeader) return;
  owner_->round_begun_ = true;
  owner_->confirming_.insert(call_->id());
}

void KeepAliveStream::Forward() {
  for (; forwarded_ < asked_.size(); ++forwarded_) {
    if (asked_[forwarded_].ttl < 0) owner_->to_renew_.push_back(asked_[forwarded_].lease);
  }
  owner_->forwarding_.insert(call_->id());
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
