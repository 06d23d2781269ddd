#include "front/quota.h"

#include <algorithm>

#include "front/requests.h"
#include "proto/messages.h"

namespace fastkv::front {
namespace {

constexpr uint64_t kPutCost = 256, kLeaseCost = 64;
constexpr int kTxnDepthMax = 128;

uint64_t PutCost(std::string_view bytes) {
  PutRequest put;
  return put.Parse(bytes) ? kPutCost + put.key.size() + put.value.size() : 0;
}

uint64_t TxnCost(std::string_view bytes, int depth) {
  TxnRequest txn;
  if (depth == 0 || !txn.Parse(bytes)) return 0;
  auto branch_cost = [depth](const std::vector<RequestOp>& ops) {
    uint64_t sum = 0;
    for (const RequestOp& op : ops) {
      if (op.kind == RequestOp::kPut) sum += PutCost(op.body);
      if (op.kind == RequestOp::kTxn) sum += TxnCost(op.body, depth - 1);
    }
    return sum;
  };
  return std::max(branch_cost(txn.success), branch_cost(txn.failure));
}

}  // namespace

uint64_t QuotaCost(uint64_t tag, std::string_view payload) {
  switch (tag) {
    case kPutTag:
      return PutCost(payload);
    case kTxnTag:
      return TxnCost(payload, kTxnDepthMax);
    case kLeaseGrantTag:
      return kLeaseCost;
    default:
      return 0;
  }
}

bool Quota::IsExceededBy(uint64_t tag, std::string_view payload) const {
  if (limit_bytes_ == 0) return false;
  // Far from the limit no request needs to be taken apart. An operation has at least 4 bytes: this is not too low.
  const uint64_t used_bytes = backend_->memory_bytes();
  const uint64_t highest_bytes = payload.size() + kPutCost * (payload.size() / 4 + 1);
  if (used_bytes + highest_bytes < limit_bytes_) return false;
  const uint64_t cost_bytes = QuotaCost(tag, payload);
  return cost_bytes > 0 && used_bytes + cost_bytes >= limit_bytes_;
}

}  // namespace fastkv::front
