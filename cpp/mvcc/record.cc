#include "mvcc/record.h"

#include <cstdlib>
#include <cstring>
#include <new>

#include "base/check.h"
#include "base/coding.h"

namespace fastkv {
namespace {

// Field tags of mvccpb.KeyValue.
constexpr char kKeyTag = 0x0a, kCreateTag = 0x10, kModTag = 0x18, kVersionTag = 0x20, kValueTag = 0x2a,
               kLeaseTag = 0x30;

// Of bytes that we wrote ourselves.
uint64_t GetVarint(const char*& from) {
  uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    const auto byte = static_cast<unsigned char>(*from++);
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
}

size_t VarintSize(int64_t value) { return VarintLength(static_cast<uint64_t>(value)); }

size_t BytesFieldSize(size_t length) { return length == 0 ? 0 : 1 + VarintSize(static_cast<int64_t>(length)) + length; }
size_t NumberFieldSize(int64_t value) { return value == 0 ? 0 : 1 + VarintSize(value); }

// Reads what NewPut and NewTombstone write and nothing else: fields in order, each at most once, none zero or empty, no
// varint longer than needed. A field that is not there reads as zero.
class CanonicalReader {
 public:
  explicit CanonicalReader(std::string_view bytes) : bytes_(bytes) {}

  size_t offset() const { return offset_; }
  bool Number(char tag, uint64_t* value) {
    if (!Has(tag)) return true;
    return Varint(value) && *value != 0;
  }
  bool Bytes(char tag, std::string_view* value) {
    uint64_t length = 0;
    if (!Has(tag)) return true;
    if (!Varint(&length) || length == 0 || length > bytes_.size() - offset_) return false;
    *value = bytes_.substr(offset_, length);
    offset_ += length;
    return true;
  }

 private:
  bool Has(char tag) {
    if (offset_ == bytes_.size() || bytes_[offset_] != tag) return false;
    ++offset_;
    return true;
  }
  bool Varint(uint64_t* value) {
    uint64_t read = 0;
    for (int shift = 0; shift < 70 && offset_ < bytes_.size(); shift += 7) {
      const auto byte = static_cast<unsigned char>(bytes_[offset_++]);
      if (shift == 63 && byte > 1) return false;
      read |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte >= 0x80) continue;
      *value = read;
      return byte != 0 || shift == 0;
    }
    return false;
  }

  const std::string_view bytes_;
  size_t offset_ = 0;
};

char* PutNumberField(char* to, char tag, int64_t value) {
  if (value == 0) return to;
  *to++ = tag;
  return StoreVarint(to, static_cast<uint64_t>(value));
}

char* PutBytesField(char* to, char tag, std::string_view bytes) {
  if (bytes.empty()) return to;
  *to++ = tag;
  to = StoreVarint(to, bytes.size());
  std::memcpy(to, bytes.data(), bytes.size());
  return to + bytes.size();
}

}  // namespace

Record* Record::Allocate(uint32_t kv_length, int64_t main, uint32_t sub_flags, Record* older, int64_t compacted,
                         SlabPool* pool) {
  const uint32_t depth = older == nullptr ? 0 : older->depth_ + 1;
  const size_t before = HasSkip(depth) ? sizeof(Skip) : 0;
  const size_t bytes = before + sizeof(Record) + kv_length;
  char* memory = static_cast<char*>(pool == nullptr ? std::malloc(bytes) : pool->Allocate(bytes));
  if (memory == nullptr) throw std::bad_alloc();
  auto* record = new (memory + before) Record;
  record->main_ = main;
  record->older_.store(older, std::memory_order_relaxed);
  record->sub_flags_ = sub_flags;
  record->depth_ = depth;
  record->kv_length_ = kv_length;
  if (before != 0) {
    // Wanted: the record whose depth is this one's without its lowest set bit; a nearer one if the history has been
    // cut.
    const uint32_t wanted = depth & (depth - 1);
    Record* target = older;
    while (target->depth_ > wanted) {
      const bool jump = HasSkip(target->depth_) && (target->depth_ & (target->depth_ - 1)) >= wanted &&
                        target->skip().main > compacted;
      Record* next = jump ? target->skip().target : target->older();
      if (next == nullptr) break;
      target = next;
    }
    new (reinterpret_cast<Skip*>(record) - 1) Skip{target, target->main_};
  }
  return record;
}

Record* Record::NewPut(const KeyValue& kv, uint32_t sub, Record* older, int64_t compacted, SlabPool* pool) {
  const size_t fixed = BytesFieldSize(kv.key.size()) + NumberFieldSize(kv.create_revision) +
                       NumberFieldSize(kv.mod_revision) + NumberFieldSize(kv.version);
  const size_t length = fixed + BytesFieldSize(kv.value.size()) + NumberFieldSize(kv.lease);
  FASTKV_CHECK(length < UINT32_MAX && sub < kLeased);
  Record* record = Allocate(static_cast<uint32_t>(length), kv.mod_revision, sub | (kv.lease != 0 ? kLeased : 0), older,
                            compacted, pool);
  char* to = record->data();
  to = PutBytesField(to, kKeyTag, kv.key);
  to = PutNumberField(to, kCreateTag, kv.create_revision);
  to = PutNumberField(to, kModTag, kv.mod_revision);
  to = PutNumberField(to, kVersionTag, kv.version);
  to = PutBytesField(to, kValueTag, kv.value);
  record->value_offset_ = static_cast<uint32_t>(to - record->data() - kv.value.size());
  PutNumberField(to, kLeaseTag, kv.lease);
  return record;
}

Record* Record::NewTombstone(std::string_view key, int64_t main, uint32_t sub, Record* older, int64_t compacted,
                             SlabPool* pool) {
  FASTKV_CHECK(sub < kLeased);
  const size_t length = BytesFieldSize(key.size()) + NumberFieldSize(main);
  Record* record = Allocate(static_cast<uint32_t>(length), main, sub | kTombstone, older, compacted, pool);
  char* to = PutBytesField(record->data(), kKeyTag, key);
  PutNumberField(to, kModTag, main);
  record->value_offset_ = static_cast<uint32_t>(length);
  return record;
}

Record* Record::NewEncoded(std::string_view encoded, int64_t main, uint32_t sub, bool tombstone, Record* older,
                           SlabPool* pool) {
  CanonicalReader in(encoded);
  uint64_t create = 0, mod = 0, version = 0, lease = 0;
  std::string_view key, value;
  if (sub >= kLeased || encoded.size() >= UINT32_MAX || !in.Bytes(kKeyTag, &key) || key.empty()) return nullptr;
  if (!in.Number(kCreateTag, &create) || !in.Number(kModTag, &mod) || !in.Number(kVersionTag, &version)) return nullptr;
  const size_t behind_version = in.offset();
  if (!in.Bytes(kValueTag, &value)) return nullptr;
  const size_t value_offset = value.empty() ? behind_version : static_cast<size_t>(value.data() - encoded.data());
  if (!in.Number(kLeaseTag, &lease) || in.offset() != encoded.size() || mod != static_cast<uint64_t>(main))
    return nullptr;
  if (tombstone && (create != 0 || version != 0 || lease != 0 || !value.empty())) return nullptr;
  const uint32_t flags = (tombstone ? kTombstone : 0) | (lease != 0 ? kLeased : 0);
  // The history below is being loaded oldest first: nothing of it can be freed meanwhile.
  Record* record = Allocate(static_cast<uint32_t>(encoded.size()), main, sub | flags, older, -1, pool);
  record->value_offset_ = static_cast<uint32_t>(value_offset);
  std::memcpy(record->data(), encoded.data(), encoded.size());
  return record;
}

void Record::Delete(Record* record, SlabPool* pool) {
  void* memory = record->has_skip() ? static_cast<void*>(reinterpret_cast<Skip*>(record) - 1) : record;
  if (pool == nullptr) {
    std::free(memory);
  } else {
    pool->Free(memory, record->bytes());
  }
}

uint64_t Record::AllocatedBytes(const Record* record) { return SlabPool::TakenBytes(record->bytes()); }

std::string_view Record::key() const {
  const char* from = data() + 1;
  const uint64_t length = GetVarint(from);
  return {from, length};
}

Record::KeyValue Record::Decode() const {
  KeyValue kv;
  const char* from = data();
  const char* const end = from + kv_length_;
  while (from != end) {
    const char tag = *from++;
    const uint64_t number = GetVarint(from);
    switch (tag) {
      case kKeyTag:
        kv.key = {from, number};
        from += number;
        break;
      case kValueTag:
        kv.value = {from, number};
        from += number;
        break;
      case kCreateTag:
        kv.create_revision = static_cast<int64_t>(number);
        break;
      case kModTag:
        kv.mod_revision = static_cast<int64_t>(number);
        break;
      case kVersionTag:
        kv.version = static_cast<int64_t>(number);
        break;
      default:
        kv.lease = static_cast<int64_t>(number);
    }
  }
  return kv;
}

std::string_view Record::value() const {
  if (leased()) return Decode().value;
  return {data() + value_offset_, kv_length_ - value_offset_};
}

std::string_view Record::encoded_key_only() const {
  const KeyValue kv = Decode();
  return encoded().substr(0, value_offset_ - (BytesFieldSize(kv.value.size()) - kv.value.size()));
}

const Record* Record::VisibleAt(int64_t revision) const {
  const Record* record = this;
  while (record != nullptr && record->main_ > revision) {
    // A skip target above `revision` is above the compact revision, hence alive.
    record = record->has_skip() && record->skip().main > revision ? record->skip().target : record->older();
  }
  return record;
}

const Record* Record::Previous() const {
  const Record* record = older();
  while (record != nullptr && record->main_ == main_) record = record->older();
  return record == nullptr || record->tombstone() ? nullptr : record;
}

}  // namespace fastkv
