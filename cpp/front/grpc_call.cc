#include "front/grpc_call.h"

#include <algorithm>

#include "front/limits.h"
#include "front/session.h"
#include "front/thread_state.h"

namespace fastkv::front {
namespace {

// Whole messages, each behind its five-byte prefix.
uint64_t CountMessages(std::string_view frames) {
  uint64_t messages = 0;
  while (frames.size() >= kPrefixBytes) {
    uint32_t size = 0;
    for (size_t i = 1; i < kPrefixBytes; ++i) size = size << 8 | static_cast<uint8_t>(frames[i]);
    frames.remove_prefix(std::min(frames.size(), kPrefixBytes + size));
    ++messages;
  }
  return messages;
}

}  // namespace

IoThread* GrpcCall::thread() const { return state_->thread; }

const Peer& GrpcCall::peer() const {
  static const Peer kGone;
  return session_ == nullptr ? kGone : session_->peer();
}

void GrpcCall::Reply(std::string message) {
  if (!open_) return;
  CountSent(1);
  Queue(state_->bodies.Make(std::move(message), false));
  Finish(GrpcCode::kOk, {});
}

void GrpcCall::Send(std::string message) {
  if (!open_) return;
  CountSent(1);
  Queue(state_->bodies.Make(std::move(message), false));
  session_->Submit(this);
}

std::string GrpcCall::TakeBuffer() { return state_->bodies.TakeSpare(); }

void GrpcCall::SendFramed(std::string frames) {
  if (!open_ || frames.empty()) return;
  CountSent(CountMessages(frames));
  Queue(state_->bodies.Make(std::move(frames), true));
  session_->Submit(this);
}

void GrpcCall::SendHeaders() {
  if (open_ && !submitted_) session_->Submit(this);
}

void GrpcCall::Finish(GrpcCode code, std::string_view text) {
  if (!open_) return;
  code_ = code;
  text_ = text;
  finishing_ = true;
  session_->Submit(this);
  Close(true);
}

void GrpcCall::Queue(Body* body) {
  if (first_ == nullptr) {
    first_ = body;
  } else {
    last_->next = body;
  }
  last_ = body;
  unsent_ += body->size();
  session_->AddQueued(body->size());
}

void GrpcCall::DropQueue() {
  if (session_ != nullptr) session_->SubtractQueued(unsent_);
  unsent_ = first_sent_ = 0;
  while (first_ != nullptr) {
    Body* body = std::exchange(first_, first_->next);
    state_->bodies.Release(body);
  }
  last_ = nullptr;
}

void GrpcCall::CountSent(uint64_t messages) { state_->metrics[*method_].messages_sent.Add(messages); }

void GrpcCall::OnDeadline(void* owner) {
  auto* call = static_cast<GrpcCall*>(owner);
  call->session_->DeadlineExceeded(call);
}

void GrpcCall::Close(bool told) {
  if (std::exchange(open_, false) && method_ != nullptr) {
    // Without an end of its own it was the client who went away.
    const GrpcCode code = finishing_ || code_ != GrpcCode::kOk ? code_ : GrpcCode::kCanceled;
    // Within one turn the turn's clock stands still, while a lone write is being synced.
    const int64_t now_ns = state_->now_ns == began_ns_ ? MonotonicNs() : state_->now_ns;
    state_->metrics[*method_].Handled(code, now_ns - began_ns_);
  }
  gone_ = !told && delivered_;
  if ((handler_ == nullptr && !gone_) || listed_) return;
  listed_ = true;
  state_->ended.push_back(this);
}

void GrpcCall::ReleaseIfDone() {
  if (open_ || listed_ || session_ != nullptr) return;
  method_ = nullptr;
  deadline_ns_ = INT64_MAX;
  http_status_ = 200;
  gone_ = delivered_ = has_message_ = remote_closed_ = submitted_ = deferred_ = finishing_ = progressed_ = fair_ =
      false;
  code_ = GrpcCode::kOk;
  text_.clear();
  headers_.Reset();
  reader_.Reset();
  std::string().swap(message_);
  state_->calls.Release(this);
}

void ThreadState::TellEnded() {
  // What is told may end further calls.
  for (size_t i = 0; i < ended.size(); ++i) {
    GrpcCall* call = ended[i];
    if (call->handler_ != nullptr) {
      call->handler_->OnEnd();
      call->handler_.reset();
    } else {
      service->Gone(*call->method_, call->id_, thread);
    }
    call->listed_ = false;
    call->ReleaseIfDone();
  }
  ended.clear();
}

bool ThreadState::AskForMore() {
  if (writable.empty()) return false;
  std::vector<uint64_t> asked;
  asked.swap(writable);
  for (const uint64_t id : asked) {
    GrpcCall* call = calls.Find(id);
    if (call == nullptr) continue;
    call->progressed_ = false;
    if (call->handler_ != nullptr && call->unsent_ < kUnsentLowBytes) call->handler_->OnWritable();
  }
  return true;
}

CallTable::~CallTable() = default;

GrpcCall* CallTable::Make() {
  uint32_t index;
  if (!free_.empty()) {
    index = free_.back();
    free_.pop_back();
  } else {
    if (slots_.size() >> kSlotBits != 0) return nullptr;
    index = static_cast<uint32_t>(slots_.size());
    slots_.emplace_back();
  }
  Slot& slot = slots_[index];
  if (slot.call == nullptr) slot.call = std::make_unique<GrpcCall>(state_);
  slot.call->id_ = ++slot.uses << kSlotBits | index;
  slot.call->open_ = true;
  return slot.call.get();
}

GrpcCall* CallTable::Find(uint64_t id) const {
  const size_t index = id & ((uint64_t{1} << kSlotBits) - 1);
  if (index >= slots_.size()) return nullptr;
  GrpcCall* call = slots_[index].call.get();
  return call != nullptr && call->id_ == id && call->open_ ? call : nullptr;
}

void CallTable::Release(GrpcCall* call) {
  const auto index = static_cast<uint32_t>(call->id_ & ((uint64_t{1} << kSlotBits) - 1));
  call->id_ = 0;
  free_.push_back(index);
  if (free_.size() > kSpareMax) slots_[index].call.reset();
}

}  // namespace fastkv::front
