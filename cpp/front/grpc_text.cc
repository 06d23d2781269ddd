#include "front/grpc_text.h"

#include <array>

namespace fastkv::front {
namespace {

constexpr char kHexUpper[] = "0123456789ABCDEF";
constexpr char kHexLower[] = "0123456789abcdef";
constexpr std::string_view kBase64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

constexpr std::array<int8_t, 256> Base64Values() {
  std::array<int8_t, 256> values{};
  for (auto& value : values) value = -1;
  for (size_t i = 0; i < kBase64.size(); ++i) values[static_cast<uint8_t>(kBase64[i])] = static_cast<int8_t>(i);
  return values;
}
constexpr std::array<int8_t, 256> kBase64Values = Base64Values();

}  // namespace

std::string PercentEncode(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    if (c >= 0x20 && c <= 0x7e && c != '%') {
      out += c;
    } else {
      const auto byte = static_cast<uint8_t>(c);
      out += {'%', kHexUpper[byte >> 4], kHexUpper[byte & 15]};
    }
  }
  return out;
}

std::string Quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += {'\\', c};
    } else if (c >= 0x20 && c <= 0x7e) {
      out += c;
    } else {
      const auto byte = static_cast<uint8_t>(c);
      out += {'\\', 'x', kHexLower[byte >> 4], kHexLower[byte & 15]};
    }
  }
  return out + '"';
}

bool ParseTimeout(std::string_view text, int64_t* timeout_ns, std::string* error) {
  if (text.size() < 2) {
    *error = "transport: timeout string is too short: " + Quoted(text);
    return false;
  }
  if (text.size() > 9) {
    *error = "transport: timeout string is too long: " + Quoted(text);
    return false;
  }
  int64_t unit_ns = 0;
  switch (text.back()) {
    case 'H':
      unit_ns = 3'600'000'000'000;
      break;
    case 'M':
      unit_ns = 60'000'000'000;
      break;
    case 'S':
      unit_ns = 1'000'000'000;
      break;
    case 'm':
      unit_ns = 1'000'000;
      break;
    case 'u':
      unit_ns = 1'000;
      break;
    case 'n':
      unit_ns = 1;
      break;
    default:
      *error = "transport: timeout unit is not recognized: " + Quoted(text);
      return false;
  }
  text.remove_suffix(1);
  int64_t count = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') {
      *error = "strconv.ParseUint: parsing " + Quoted(text) + ": invalid syntax";
      return false;
    }
    count = count * 10 + (c - '0');
  }
  *timeout_ns = count > INT64_MAX / unit_ns ? INT64_MAX : count * unit_ns;
  return true;
}

bool DecodeBase64(std::string_view text, std::string* bytes) {
  bytes->clear();
  if (text.size() % 4 == 0 && !text.empty()) {
    for (int i = 0; i < 2 && text.back() == '='; ++i) text.remove_suffix(1);
  }
  if (text.size() % 4 == 1) return false;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const int8_t value = kBase64Values[static_cast<uint8_t>(c)];
    if (value < 0) return false;
    bits = bits << 6 | static_cast<uint32_t>(value);
    count += 6;
    if (count >= 8) {
      count -= 8;
      *bytes += static_cast<char>(bits >> count & 0xff);
    }
  }
  return true;
}

std::string EncodeBase64(std::string_view bytes) {
  std::string out;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : bytes) {
    bits = bits << 8 | static_cast<uint8_t>(c);
    for (count += 8; count >= 6;) {
      count -= 6;
      out += kBase64[bits >> count & 63];
    }
  }
  if (count > 0) out += kBase64[bits << (6 - count) & 63];
  return out;
}

bool IsGrpcContentType(std::string_view content_type) {
  constexpr std::string_view kBase = "application/grpc";
  if (!content_type.starts_with(kBase)) return false;
  return content_type.size() == kBase.size() || content_type[kBase.size()] == '+' || content_type[kBase.size()] == ';';
}

}  // namespace fastkv::front
