#include "proto/messages.h"

#include <protozero/exception.hpp>
#include <protozero/pbf_reader.hpp>
#include <protozero/varint.hpp>

namespace fastkv {
namespace {

using protozero::pbf_wire_type;

constexpr uint32_t Key(uint32_t field, pbf_wire_type type) { return (field << 3) | static_cast<uint32_t>(type); }
constexpr uint32_t Number(uint32_t field) { return Key(field, pbf_wire_type::varint); }
constexpr uint32_t Bytes(uint32_t field) { return Key(field, pbf_wire_type::length_delimited); }

// Calls on_field(key, reader) for each field; on_field must consume the value or return false (then it is skipped).
template <typename OnField>
bool ForEachField(std::string_view bytes, OnField&& on_field) {
  try {
    protozero::pbf_reader reader{bytes.data(), bytes.size()};
    while (reader.next()) {
      if (!on_field(Key(reader.tag(), reader.wire_type()), reader)) reader.skip();
    }
    return true;
  } catch (const protozero::exception&) {
    return false;
  }
}

std::string_view View(protozero::pbf_reader& reader) {
  const auto view = reader.get_view();
  return {view.data(), view.size()};
}

int64_t Signed(protozero::pbf_reader& reader) { return static_cast<int64_t>(reader.get_uint64()); }
// protobuf truncates an enum's or int32's varint to 32 bits.
int32_t Enum(protozero::pbf_reader& reader) { return static_cast<int32_t>(reader.get_uint64()); }
bool Bool(protozero::pbf_reader& reader) { return reader.get_uint64() != 0; }

}  // namespace

bool KeyValueMessage::Parse(std::string_view bytes) {
  return ForEachField(bytes, [this](uint32_t field, protozero::pbf_reader& reader) {
    switch (field) {
      case Bytes(1): key = View(reader); return true;
      case Number(2): create_revision = Signed(reader); return true;
      case Number(3): mod_revision = Signed(reader); return true;
      case Number(4): version = Signed(reader); return true;
      case Bytes(5): value = View(reader); return true;
      case Number(6): lease = Signed(reader); return true;
      default: return false;
    }
  });
}

bool RangeRequest::Parse(std::string_view bytes) {
  return ForEachField(bytes, [this](uint32_t field, protozero::pbf_reader& reader) {
    switch (field) {
      case Bytes(1): key = View(reader); return true;
      case Bytes(2): range_end = View(reader); return true;
      case Number(3): limit = Signed(reader); return true;
      case Number(4): revision = Signed(reader); return true;
      case Number(5): sort_order = Enum(reader); return true;
      case Number(6): sort_target = Enum(reader); return true;
      case Number(7): serializable = Bool(reader); return true;
      case Number(8): keys_only = Bool(reader); return true;
      case Number(9): count_only = Bool(reader); return true;
      case Number(10): min_mod_revision = Signed(reader); return true;
      case Number(11): max_mod_revision = Signed(reader); return true;
      case Number(12): min_create_revision = Signed(reader); return true;
      case Number(13): max_create_revision = Signed(reader); return true;
      case Number(kChunkHeader): chunk_header = Signed(reader); return true;
      case Number(kChunkSent): chunk_sent = Signed(reader); return true;
      default: return false;
    }
  });
}

bool PutRequest::Parse(std::string_view bytes) {
  return ForEachField(bytes, [this](uint32_t field, protozero::pbf_reader& reader) {
    switch (field) {
      case Bytes(1): key = View(reader); return true;
      case Bytes(2): value = View(reader); return true;
      case Number(3): lease = Signed(reader); return true;
      case Number(4): prev_kv = Bool(reader); return true;
      case Number(5): ignore_value = Bool(reader); return true;
      case Number(6): ignore_lease = Bool(reader); return true;
      default: return false;
    }
  });
}

bool DeleteRangeRequest::Parse(std::string_view bytes) {
  return ForEachField(bytes, [this](uint32_t field, protozero::pbf_reader& reader) {
    switch (field) {
      case Bytes(1): key = View(reader); return true;
      case Bytes(2): range_end = View(reader); return true;
      case Number(3): prev_kv = Bool(reader); return true;
      default: return false;
    }
  });
}

bool Compare::Parse(std::string_view bytes) {
  return ForEachField(bytes, [this](uint32_t field, protozero::pbf_reader& reader) {
    switch (field) {
      case Number(1): result = Enum(reader); return true;
      case Number(2): target = Enum(reader); return true;
      case Bytes(3): key = View(reader); return true;
      case Number(4): union_target = kVersion; number = Signed(reader); return true;
      case Number(5): union_target = kCreate; number = Signed(reader); return true;
      case Number(6): union_target = kMod; number = Signed(reader); return true;
      case Bytes(7): union_target = kValue; value = View(reader); return true;
      case Number(8): union_target = kLease; number = Signed(reader); return true;
      case Bytes(64): range_end = View(reader); return true;
      default: return false;
    }
  });
}

bool RequestOp::Parse(std::string_view bytes) {
  return ForEachField(bytes, [this](uint32_t field, protozero::pbf_reader& reader) {
    switch (field) {
      case Bytes(1):
      case Bytes(2):
      case Bytes(3):
      case Bytes(4):
        kind = static_cast<Kind>(field >> 3);
        body = View(reader);
        return true;
      default: return false;
    }
  });
}

bool TxnRequest::Parse(std::string_view bytes) {
  bool ops_ok = true;
  const bool ok = ForEachField(bytes, [this, &ops_ok](uint32_t field, protozero::pbf_reader& reader) {
    switch (field) {
      case Bytes(1): compare.push_back(View(reader)); return true;
      case Bytes(2): ops_ok = success.emplace_back().Parse(View(reader)) && ops_ok; return true;
      case Bytes(3): ops_ok = failure.emplace_back().Parse(View(reader)) && ops_ok; return true;
      default: return false;
    }
  });
  return ok && ops_ok;
}

bool CompactionRequest::Parse(std::string_view bytes) {
  return ForEachField(bytes, [this](uint32_t field, protozero::pbf_reader& reader) {
    switch (field) {
      case Number(1): revision = Signed(reader); return true;
      case Number(2): physical = Bool(reader); return true;
      default: return false;
    }
  });
}

bool LeaseGrantRequest::Parse(std::string_view bytes) {
  return ForEachField(bytes, [this](uint32_t field, protozero::pbf_reader& reader) {
    switch (field) {
      case Number(1): ttl = Signed(reader); return true;
      case Number(2): id = Signed(reader); return true;
      default: return false;
    }
  });
}

bool LeaseRevokeRequest::Parse(std::string_view bytes) {
  return ForEachField(bytes, [this](uint32_t field, protozero::pbf_reader& reader) {
    if (field != Number(1)) return false;
    id = Signed(reader);
    return true;
  });
}

bool LeaseCheckpointRequest::Parse(std::string_view bytes) {
  bool all_ok = true;
  const bool ok = ForEachField(bytes, [this, &all_ok](uint32_t field, protozero::pbf_reader& reader) {
    if (field != Bytes(1)) return false;
    Checkpoint& checkpoint = checkpoints.emplace_back();
    all_ok = ForEachField(View(reader), [&checkpoint](uint32_t inner, protozero::pbf_reader& from) {
      switch (inner) {
        case Number(1): checkpoint.id = Signed(from); return true;
        case Number(2): checkpoint.remaining_ttl = Signed(from); return true;
        default: return false;
      }
    }) && all_ok;
    return true;
  });
  return ok && all_ok;
}

bool AlarmRequest::Parse(std::string_view bytes) {
  return ForEachField(bytes, [this](uint32_t field, protozero::pbf_reader& reader) {
    switch (field) {
      case Number(1): action = Enum(reader); return true;
      case Number(2): member_id = reader.get_uint64(); return true;
      case Number(3): alarm = Enum(reader); return true;
      default: return false;
    }
  });
}

void AppendVarint(std::string* to, uint64_t value) {
  char buffer[protozero::max_varint_length];
  const int length = protozero::add_varint_to_buffer(buffer, value);
  to->append(buffer, static_cast<size_t>(length));
}

void AppendNumber(std::string* to, uint32_t field, int64_t value) {
  if (value == 0) return;
  AppendVarint(to, Number(field));
  AppendVarint(to, static_cast<uint64_t>(value));
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
    return bytes.empty() ? 0 : 1 + static_cast<size_t>(protozero::length_of_varint(bytes.size())) + bytes.size();
  };
  const size_t lease_size =
      lease == 0 ? 0 : 1 + static_cast<size_t>(protozero::length_of_varint(static_cast<uint64_t>(lease)));
  const size_t put = field_size(key) + field_size(value) + lease_size;
  AppendVarint(to, Bytes(2));
  AppendVarint(to, 1 + static_cast<size_t>(protozero::length_of_varint(put)) + put);
  AppendVarint(to, Bytes(RequestOp::kPut));
  AppendVarint(to, put);
  AppendBytes(to, 1, key);
  AppendBytes(to, 2, value);
  AppendNumber(to, 3, lease);
}

int64_t DeletedOf(std::string_view response) {
  int64_t deleted = 0;
  ForEachField(response, [&deleted](uint32_t field, protozero::pbf_reader& reader) {
    if (field != Number(2)) return false;
    deleted = Signed(reader);
    return true;
  });
  return deleted;
}

size_t BeginMessage(std::string* to, uint32_t field) {
  AppendVarint(to, Bytes(field));
  return to->size();
}

void EndMessage(std::string* to, size_t begin) {
  char buffer[protozero::max_varint_length];
  const int length = protozero::add_varint_to_buffer(buffer, to->size() - begin);
  to->insert(begin, buffer, static_cast<size_t>(length));
}

}  // namespace fastkv
