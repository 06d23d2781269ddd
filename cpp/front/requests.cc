#include "front/requests.h"

#include "base/coding.h"
#include "proto/fields.h"

namespace fastkv::front {

using proto::Bytes;
using proto::ForEachField;
using proto::Number;
using proto::Value;

bool WatchCreateRequest::Parse(std::string_view bytes) {
  bool packed_ok = true;
  auto filter = [this](uint64_t number) {
    no_put |= number == 0;
    no_delete |= number == 1;
  };
  const bool ok = ForEachField(bytes, [&](uint32_t field, const Value& value) {
    switch (field) {
      case Bytes(1):
        key = value.bytes;
        break;
      case Bytes(2):
        range_end = value.bytes;
        break;
      case Number(3):
        start_revision = value.Signed();
        break;
      case Number(4):
        progress_notify = value.Bool();
        break;
      case Number(5):
        filter(value.number);
        break;
      case Bytes(5): {
        ByteReader in(value.bytes);
        uint64_t number = 0;
        while (!in.rest().empty()) {
          if (!in.Varint(&number)) {
            packed_ok = false;
            break;
          }
          filter(number);
        }
        break;
      }
      case Number(6):
        prev_kv = value.Bool();
        break;
      case Number(7):
        watch_id = value.Signed();
        break;
      case Number(8):
        fragment = value.Bool();
        break;
      default:
        break;
    }
  });
  return ok && packed_ok;
}

bool WatchRequest::Parse(std::string_view bytes) {
  bool inner_ok = true;
  const bool ok = ForEachField(bytes, [&](uint32_t field, const Value& value) {
    switch (field) {
      case Bytes(1):
        kind = kCreate;
        create = {};
        inner_ok = create.Parse(value.bytes) && inner_ok;
        break;
      case Bytes(2): {
        kind = kCancel;
        cancel_id = 0;
        inner_ok = ForEachField(value.bytes,
                                [this](uint32_t inner, const Value& part) {
                                  if (inner == Number(1)) cancel_id = part.Signed();
                                }) &&
                   inner_ok;
        break;
      }
      case Bytes(3):
        kind = kProgress;
        inner_ok = ForEachField(value.bytes, [](uint32_t, const Value&) {}) && inner_ok;
        break;
      default:
        break;
    }
  });
  return ok && inner_ok;
}

bool LeaseIdRequest::Parse(std::string_view bytes) {
  return ForEachField(bytes, [this](uint32_t field, const Value& value) {
    if (field == Number(1)) id = value.Signed();
  });
}

namespace {

// Whether the message has a field of bytes with that number that is not empty.
bool Has(std::string_view message, uint32_t tag) {
  bool found = false;
  ForEachField(message, [&found, tag](uint32_t field, const Value& value) {
    if (field == tag) found = !value.bytes.empty();
  });
  return found;
}

}  // namespace

bool TxnShape::Parse(std::string_view bytes) {
  constexpr uint32_t kRangeEnd = Bytes(2), kCompareRangeEnd = Bytes(64);
  return ForEachField(bytes, [this](uint32_t field, const Value& value) {
    if (field == Bytes(1)) {
      single_keys = single_keys && !Has(value.bytes, kCompareRangeEnd);
    } else if ((field == Bytes(2) || field == Bytes(3)) && only_reads) {
      ByteReader in(value.bytes);
      uint64_t tag = 0;
      std::string_view range;
      only_reads = in.Varint(&tag) && tag == Bytes(RequestOp::kRange) && in.LengthPrefixed(&range);
      single_keys = single_keys && only_reads && in.done() && !Has(range, kRangeEnd);
    }
  });
}

bool IsSerializableRange(std::string_view request) {
  constexpr uint32_t kSerializable = Number(7);
  bool serializable = false;
  ForEachField(request, [&serializable](uint32_t field, const Value& value) {
    if (field == kSerializable) serializable = value.Bool();
  });
  return serializable;
}

bool IsSerializableTxn(std::string_view request) {
  bool serializable = true;
  ForEachField(request, [&serializable](uint32_t field, const Value& value) {
    if (field != Bytes(2) && field != Bytes(3)) return;
    std::string_view range;
    ForEachField(value.bytes, [&range](uint32_t inner, const Value& part) {
      if (inner == Bytes(RequestOp::kRange)) range = part.bytes;
    });
    serializable = serializable && IsSerializableRange(range);
  });
  return serializable;
}

}  // namespace fastkv::front
