// etcdserverpb.Lease/LeaseKeepAlive: one answer a request, in order. A lease that is due is waited for: only its
// revocation answers, with TTL 0.
//
// Thread safety: none; a KeepAliveThread and its streams belong to one IoThread.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "db/backend.h"
#include "front/call.h"
#include "front/error_table.h"
#include "front/lease_clock.h"

namespace fastkv::front {

class KeepAliveStream;

struct KeepAliveParts {
  Backend* backend = nullptr;
  LeaseClock* leases = nullptr;
  const ErrorTable* errors = nullptr;
};

// The streams of one IoThread.
class KeepAliveThread {
 public:
  KeepAliveThread(const KeepAliveParts* parts, IoThread* thread) : parts_(parts), thread_(thread) {}

  // What these calls have waited for has ended.
  void LeaseEnded(const std::vector<uint64_t>& call_ids);
  void Stop();

 private:
  friend class KeepAliveStream;
  const KeepAliveParts* const parts_;
  IoThread* const thread_;
  std::unordered_map<uint64_t, KeepAliveStream*> streams_;  // by call id
};

class KeepAliveStream final : public CallHandler {
 public:
  KeepAliveStream(KeepAliveThread* owner, Call* call);

  void OnMessage(std::string_view message) override;
  void OnHalfClose() override;
  void OnWritable() override { AnswerAll(); }
  void OnEnd() override;

 private:
  friend class KeepAliveThread;
  void AnswerAll();
  bool AnswerFirst(double now);  // false: it must wait
  void Write(int64_t id, int64_t ttl);

  KeepAliveThread* const owner_;
  Call* const call_;
  std::deque<int64_t> asked_;  // leases, not answered yet
  std::string out_;
  bool waiting_ = false;  // for the end of the lease in front
  bool half_closed_ = false, ended_ = false;
};

}  // namespace fastkv::front
