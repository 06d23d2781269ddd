// Reads and writes of NodeService.
#include <random>
#include <utility>

#include "front/requests.h"
#include "front/service.h"

namespace fastkv::front {

void NodeService::Answer_(Call* call, Code code, std::string response) {
  if (code == Code::kOk) {
    call->Reply(std::move(response));
  } else {
    errors_.Refuse(call, code);
  }
}

// -- reads

void NodeService::Range(Call* call, std::string_view message) {
  std::string response;
  Code code = Code::kOk;
  if (backend_->RangeIfShort(message, &code, &response)) {
    Metrics::Add(&metrics_.reads_inline, 1);
    return Answer_(call, code, std::move(response));
  }
  Read(call, std::string(message),
       [](Backend* backend, std::string_view request, std::string* answer) { return backend->Range(request, answer); });
}

void NodeService::Txn(Call* call, std::string_view message) {
  TxnShape shape;
  if (!shape.Parse(message)) return Answer_(call, Code::kMalformed, {});
  if (!shape.only_reads) return WriteCall(call, kTxn, kTxnTag, message);
  auto read = [](Backend* backend, std::string_view request, std::string* response) {
    bool reads_only = false;
    const Code code = backend->ReadTxn(request, &reads_only, response);
    // An operation that looks like a range to us and not to the store is none that protobuf would let through.
    return code == Code::kOk && !reads_only ? Code::kMalformed : code;
  };
  if (!shape.single_keys) return Read(call, std::string(message), read);
  std::string response;
  const Code code = read(backend_, message, &response);
  Metrics::Add(&metrics_.reads_inline, 1);
  Answer_(call, code, std::move(response));
}

void NodeService::Read(Call* call, std::string request, Code (*read)(Backend*, std::string_view, std::string*)) {
  Metrics::Add(&metrics_.reads_off_thread, 1);
  PerThread* const of = Of(call->thread());
  auto gone = std::make_shared<std::atomic<bool>>(false);
  of->reading[call->id()] = gone;
  readers_.Run([this, of, gone, read, thread = call->thread(), id = call->id(), request = std::move(request)] {
    if (gone->load(std::memory_order_relaxed)) return;
    auto response = std::make_shared<std::string>();
    const Code code = read(backend_, request, response.get());
    thread->Post([this, of, code, thread, id, response] {
      of->reading.erase(id);
      if (Call* const asker = thread->Find(id)) Answer_(asker, code, std::move(*response));
    });
  });
}

// -- writes

void NodeService::WriteCall(Call* call, HotMethod method, uint64_t tag, std::string_view payload, bool id_chosen) {
  if (const Code code = backend_->Validate(tag, payload); code != Code::kOk) return Answer_(call, code, {});
  PerThread* const of = Of(call->thread());
  if (of->writes.empty()) of->writes.began_ns = NowNs();
  if (quota_.IsExceededBy(tag, payload) && quota_.ClaimAlarm()) RaiseAlarm(of);
  Write write;
  write.tag = tag;
  write.asker = call->id();
  write.from = Write::kCall;
  write.method = static_cast<uint8_t>(method);
  write.id_chosen = id_chosen;
  of->writes.Add(write, payload);
}

// In front of the write that is too much, in the same batch: the store refuses it then.
void NodeService::RaiseAlarm(PerThread* of) {
  constexpr int64_t kActivate = 1, kNoSpaceAlarm = 1;
  std::string payload;
  AppendNumber(&payload, 1, kActivate);
  AppendNumber(&payload, 2, static_cast<int64_t>(options_.member_id));
  AppendNumber(&payload, 3, kNoSpaceAlarm);
  Write alarm;
  alarm.tag = kAlarmTag;
  of->writes.Add(alarm, payload);
  Event exceeded;
  exceeded.kind = Event::kQuota;
  events_.Push(std::move(exceeded));
}

void NodeService::Compact(const Method& method, Call* call, std::string_view message) {
  CompactionRequest request;
  if (!request.Parse(message)) return Answer_(call, Code::kMalformed, {});
  // Who wants to know when everything is removed is told by the node, which removes it.
  if (request.physical) return Cold(method, call, message);
  WriteCall(call, kCompact, kCompactionTag, message);
}

void NodeService::LeaseGrant(Call* call, std::string_view message) {
  LeaseGrantRequest request;
  if (!request.Parse(message)) return Answer_(call, Code::kMalformed, {});
  std::string payload;
  AppendNumber(&payload, 1, std::max(request.ttl, options_.lease_ttl_min_s));
  AppendNumber(&payload, 2, request.id != 0 ? request.id : NewLeaseId());
  WriteCall(call, kLeaseGrant, kLeaseGrantTag, payload, /*id_chosen=*/request.id == 0);
}

// A positive number that no lease has; the store has the last word.
int64_t NodeService::NewLeaseId() const {
  thread_local std::random_device device;
  for (;;) {
    const uint64_t drawn = (static_cast<uint64_t>(device()) << 32 | device()) & INT64_MAX;
    const auto id = static_cast<int64_t>(drawn);
    if (id != 0 && !leases_.Contains(id)) return id;
  }
}

}  // namespace fastkv::front
