// Hostile bytes as every message that the store reads: Parse says yes or no and looks at nothing else; what is static
// about a request is checked without a crash.

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "mvcc/store.h"
#include "proto/messages.h"

namespace fastkv {
namespace {

volatile uint64_t g_sink;  // the views are read, so that one that points outside is seen

void Touch(std::string_view bytes) {
  for (const char c : bytes) g_sink = g_sink + static_cast<uint8_t>(c);
}

void ParseAll(std::string_view bytes) {
  if (KeyValueMessage m; m.Parse(bytes)) Touch(m.key), Touch(m.value);
  if (RangeRequest m; m.Parse(bytes)) Touch(m.key), Touch(m.range_end);
  if (PutRequest m; m.Parse(bytes)) Touch(m.key), Touch(m.value);
  if (DeleteRangeRequest m; m.Parse(bytes)) Touch(m.key), Touch(m.range_end);
  if (Compare m; m.Parse(bytes)) Touch(m.key), Touch(m.range_end), Touch(m.value);
  if (RequestOp m; m.Parse(bytes)) Touch(m.body);
  if (TxnRequest m; m.Parse(bytes)) {
    for (const std::string_view compare : m.compare) Touch(compare);
    for (const auto* branch : {&m.success, &m.failure}) {
      for (const RequestOp& op : *branch) Touch(op.body);
    }
  }
  CompactionRequest().Parse(bytes);
  LeaseGrantRequest().Parse(bytes);
  LeaseRevokeRequest().Parse(bytes);
  LeaseCheckpointRequest().Parse(bytes);
  AlarmRequest().Parse(bytes);
  DeletedOf(bytes);
}

}  // namespace
}  // namespace fastkv

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fastkv;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  ParseAll(bytes);
  ValidateRangeRequest(bytes);
  for (uint64_t tag = 0; tag <= 12; ++tag) {
    const Code without = Validate(tag, bytes, {});
    Limits limits;
    limits.max_txn_ops = 3;
    limits.max_request_bytes = 64;
    const Code with = Validate(tag, bytes, limits);
    if (without != Code::kOk && with == Code::kOk) abort();  // limits only ever refuse more
    Grows(tag, bytes);
  }
  // A put op that we write is read back as it was.
  if (PutRequest put; put.Parse(bytes)) {
    std::string txn;
    AppendPutOp(&txn, put.key, put.value, put.lease);
    TxnRequest parsed;
    PutRequest again;
    if (!parsed.Parse(txn) || parsed.success.size() != 1 || !again.Parse(parsed.success[0].body)) abort();
    if (again.key != put.key || again.value != put.value || again.lease != put.lease) abort();
  }
  return 0;
}
