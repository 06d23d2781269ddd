#include "proto/messages.h"

#include "base/coding.h"
#include "proto/fields.h"

namespace fastkv {

using proto::Bytes;
using proto::ForEachField;
using proto::Number;
using proto::Value;

bool KeyValueMessage::Parse(std::string_view bytes) {
  return ForEachField(bytes, [this](uint32_t field, const Value& value) {
    switch (field) {
      case Bytes(1):
        key = value.bytes;
        break;
      case Number(2):
        create_revision = value.Signed();
        break;
      case Number(3):
        mod_revision = value.Signed();
        break;
      case Number(4):
        version = value.Signed();
        break;
      case Bytes(5):
        this->value = value.bytes;
        break;
      case Number(6):
        lease = value.Signed();
        break;
      default:
        break;
    }
  });
}

bool RangeRequest::Parse(std::string_view bytes) {
  return ForEachField(bytes, [this](uint32_t field, const Value& value) {
    switch (field) {
      case Bytes(1):
        key = value.bytes;
        break;
      case Bytes(2):
        range_end = value.bytes;
        break;
      case Number(3):
        limit = value.Signed();
        break;
      case Number(4):
        revision = value.Signed();
        break;
      case Number(5):
        sort_order = value.Enum();
        break;
      case Number(6):
        sort_target = value.Enum();
        break;
      case Number(7):
        serializable = value.Bool();
        break;
      case Number(8):
        keys_only = value.Bool();
        break;
      case Number(9):
        count_only = value.Bool();
        break;
      case Number(10):
        min_mod_revision = value.Signed();
        break;
      case Number(11):
        max_mod_revision = value.Signed();
        break;
      case Number(12):
        min_create_revision = value.Signed();
        break;
      case Number(13):
        max_create_revision = value.Signed();
        break;
      case Number(kChunkHeader):
        chunk_header = value.Signed();
        break;
      case Number(kChunkSent):
        chunk_sent = value.Signed();
        break;
      default:
        break;
    }
  });
}

bool PutRequest::Parse(std::string_view bytes) {
  return ForEachField(bytes, [this](uint32_t field, const Value& value) {
    switch (field) {
      case Bytes(1):
        key = value.bytes;
        break;
      case Bytes(2):
        this->value = value.bytes;
        break;
      case Number(3):
        lease = value.Signed();
        break;
      case Number(4):
        prev_kv = value.Bool();
        break;
      case Number(5):
        ignore_value = value.Bool();
        break;
      case Number(6):
        ignore_lease = value.Bool();
        break;
      default:
        break;
    }
  });
}

bool DeleteRangeRequest::Parse(std::string_view bytes) {
  return ForEachField(bytes, [this](uint32_t field, const Value& value) {
    switch (field) {
      case Bytes(1):
        key = value.bytes;
        break;
      case Bytes(2):
        range_end = value.bytes;
        break;
      case Number(3):
        prev_kv = value.Bool();
        break;
      default:
        break;
    }
  });
}

bool Compare::Parse(std::string_view bytes) {
  return ForEachField(bytes, [this](uint32_t field, const Value& value) {
    switch (field) {
      case Number(1):
        result = value.Enum();
        break;
      case Number(2):
        target = value.Enum();
        break;
      case Bytes(3):
        key = value.bytes;
        break;
      case Number(4):
        union_target = kVersion;
        number = value.Signed();
        break;
      case Number(5):
        union_target = kCreate;
        number = value.Signed();
        break;
      case Number(6):
        union_target = kMod;
        number = value.Signed();
        break;
      case Bytes(7):
        union_target = kValue;
        this->value = value.bytes;
        break;
      case Number(8):
        union_target = kLease;
        number = value.Signed();
        break;
      case Bytes(64):
        range_end = value.bytes;
        break;
      default:
        break;
    }
  });
}

bool RequestOp::Parse(std::string_view bytes) {
  return ForEachField(bytes, [this](uint32_t field, const Value& value) {
    switch (field) {
      case Bytes(1):
      case Bytes(2):
      case Bytes(3):
      case Bytes(4):
        kind = static_cast<Kind>(field >> 3);
        body = value.bytes;
        break;
      default:
        break;
    }
  });
}

bool TxnRequest::Parse(std::string_view bytes) {
  bool ops_ok = true;
  const bool ok = ForEachField(bytes, [this, &ops_ok](uint32_t field, const Value& value) {
    switch (field) {
      case Bytes(1):
        compare.push_back(value.bytes);
        break;
      case Bytes(2):
        ops_ok = success.emplace_back().Parse(value.bytes) && ops_ok;
        break;
      case Bytes(3):
        ops_ok = failure.emplace_back().Parse(value.bytes) && ops_ok;
        break;
      default:
        break;
    }
  });
  return ok && ops_ok;
}

bool CompactionRequest::Parse(std::string_view bytes) {
  return ForEachField(bytes, [this](uint32_t field, const Value& value) {
    switch (field) {
      case Number(1):
        revision = value.Signed();
        break;
      case Number(2):
        physical = value.Bool();
        break;
      default:
        break;
    }
  });
}

bool LeaseGrantRequest::Parse(std::string_view bytes) {
  return ForEachField(bytes, [this](uint32_t field, const Value& value) {
    switch (field) {
      case Number(1):
        ttl = value.Signed();
        break;
      case Number(2):
        id = value.Signed();
        break;
      default:
        break;
    }
  });
}

bool LeaseRevokeRequest::Parse(std::string_view bytes) {
  return ForEachField(bytes, [this](uint32_t field, const Value& value) {
    if (field == Number(1)) id = value.Signed();
  });
}

bool LeaseCheckpointRequest::Parse(std::string_view bytes) {
  bool all_ok = true;
  const bool ok = ForEachField(bytes, [this, &all_ok](uint32_t field, const Value& value) {
    if (field != Bytes(1)) return;
    Checkpoint& checkpoint = checkpoints.emplace_back();
    all_ok = ForEachField(value.bytes,
                          [&checkpoint](uint32_t inner, const Value& part) {
                            switch (inner) {
                              case Number(1):
                                checkpoint.id = part.Signed();
                                break;
                              case Number(2):
                                checkpoint.remaining_ttl = part.Signed();
                                break;
                              default:
                                break;
                            }
                          }) &&
             all_ok;
  });
  return ok && all_ok;
}

bool AlarmRequest::Parse(std::string_view bytes) {
  return ForEachField(bytes, [this](uint32_t field, const Value& value) {
    switch (field) {
      case Number(1):
        action = value.Enum();
        break;
      case Number(2):
        member_id = value.number;
        break;
      case Number(3):
        alarm = value.Enum();
        break;
      default:
        break;
    }
  });
}

void AppendVarint(std::string* to, uint64_t value) { PutVarint(to, value); }

void AppendNumber(std::string* to, uint32_t field, int64_t value) {
  if (value == 0) return;
  char bytes[2 * kVarintBytesMax];
  const char* end = StoreVarint(StoreVarint(bytes, Number(field)), static_cast<uint64_t>(value));
  to->append(bytes, static_cast<size_t>(end - bytes));
}

void AppendBool(std::string* to, uint32_t field, bool value) { AppendNumber(to, field, value ? 1 : 0); }

void AppendBytes(std::string* to, uint32_t field, std::string_view bytes) {
  if (!bytes.empty()) AppendBytesAlways(to, field, bytes);
}

void AppendBytesAlways(std::string* to, uint32_t field, std::string_view bytes) {
  AppendVarint(to, Bytes(field));
  AppendVarint(to, bytes.size());
  to->append(bytes);
}

void AppendPutOp(std::string* to, std::string_view key, std::string_view value, int64_t lease) {
  auto field_size = [](std::string_view bytes) {
    return bytes.empty() ? 0 : 1 + VarintLength(bytes.size()) + bytes.size();
  };
  const size_t lease_size = lease == 0 ? 0 : 1 + VarintLength(static_cast<uint64_t>(lease));
  const size_t put = field_size(key) + field_size(value) + lease_size;
  AppendVarint(to, Bytes(2));
  AppendVarint(to, 1 + VarintLength(put) + put);
  AppendVarint(to, Bytes(RequestOp::kPut));
  AppendVarint(to, put);
  AppendBytes(to, 1, key);
  AppendBytes(to, 2, value);
  AppendNumber(to, 3, lease);
}

int64_t DeletedOf(std::string_view response) {
  int64_t deleted = 0;
  ForEachField(response, [&deleted](uint32_t field, const Value& value) {
    if (field == Number(2)) deleted = value.Signed();
  });
  return deleted;
}

size_t BeginMessage(std::string* to, uint32_t field) {
  AppendVarint(to, Bytes(field));
  return to->size();
}

void EndMessage(std::string* to, size_t begin) {
  char length[kVarintBytesMax];
  const char* end = StoreVarint(length, to->size() - begin);
  to->insert(begin, length, static_cast<size_t>(end - length));
}

}  // namespace fastkv
