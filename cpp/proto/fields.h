// Walking the fields of a protobuf message in hostile bytes: what every parser of a message is made of.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/coding.h"

namespace fastkv::proto {

enum WireType : uint32_t { kVarint = 0, kEightBytes = 1, kLengthDelimited = 2, kFourBytes = 5 };

// A field's tag: its number and wire type.
constexpr uint32_t Number(uint32_t field) { return (field << 3) | kVarint; }
constexpr uint32_t Bytes(uint32_t field) { return (field << 3) | kLengthDelimited; }

// What stands in one field: a number, or bytes.
struct Value {
  uint64_t number = 0;
  std::string_view bytes;

  int64_t Signed() const { return static_cast<int64_t>(number); }
  int32_t Enum() const { return static_cast<int32_t>(number); }  // protobuf truncates to 32 bits
  bool Bool() const { return number != 0; }
};

// Calls on_field(tag, value) for each varint and length-delimited field. As strict as the Go implementation: a varint
// or length beyond 64 bits, field number 0, a group, a cut field are all malformed.
template <typename OnField>
bool ForEachField(std::string_view message, OnField&& on_field) {
  ByteReader in(message);
  std::string_view skipped;
  while (!in.done()) {
    uint64_t tag = 0;
    Value value;
    if (!in.Varint(&tag) || tag < 8 || tag > UINT32_MAX) return false;
    switch (tag & 7) {
      case kVarint:
        if (!in.Varint(&value.number)) return false;
        break;
      case kLengthDelimited:
        if (!in.LengthPrefixed(&value.bytes)) return false;
        break;
      case kEightBytes:
        if (!in.Bytes(8, &skipped)) return false;
        continue;  // no message here has such a field
      case kFourBytes:
        if (!in.Bytes(4, &skipped)) return false;
        continue;
      default:
        return false;
    }
    on_field(static_cast<uint32_t>(tag), value);
  }
  return true;
}

}  // namespace fastkv::proto
