#include "calls.h"

namespace fastkv::load {
namespace {

class SingleCall : public Unary {
 public:
  std::string answer;
  bool done = false;

 protected:
  void OnAnswer(std::string_view message) override { answer = message; }
  void OnDone() override { done = true; }
};

}  // namespace

void Unary::Start(Loop* loop, size_t connection, const char* path, std::string_view request) {
  answers_ = 0;
  loop->Send(connection, loop->Open(connection, path, this), request, true);
}

void Unary::OnData(std::string_view bytes) {
  reader_.Feed(bytes, [this](std::string_view message) {
    answers_++;
    OnAnswer(message);
  });
}

void Unary::OnEnd(int grpc_status, const std::string& text) {
  if (grpc_status != 0) throw Failure("grpc-status " + std::to_string(grpc_status) + ": " + text);
  if (answers_ != 1 || !reader_.empty()) throw Failure(std::to_string(answers_) + " answers to a unary call");
  OnDone();
}

std::string Call(Loop* loop, size_t connection, const char* path, std::string_view request) {
  SingleCall call;
  call.Start(loop, connection, path, request);
  loop->Run([&] { return call.done; });
  return call.answer;
}

int64_t CurrentRevision(Loop* loop) {
  std::string request;
  RangeRequest(&request, "no such key");
  return AnswerRevision(Call(loop, 0, kRange, request));
}

void RevisionLedger::End(int64_t revision, bool shared) const {
  if (shared && revision >= first_ + static_cast<int64_t>(writes_)) return;
  if (revision != first_ + static_cast<int64_t>(writes_)) {
    throw Failure(std::to_string(writes_) + " writes were acknowledged, the revision went from " +
                  std::to_string(first_) + " to " + std::to_string(revision));
  }
  if (sum_ != writes_ * (writes_ + 1) / 2) throw Failure("two writes got the same revision");
}

}  // namespace fastkv::load
