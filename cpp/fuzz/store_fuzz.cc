// Any commands and reads, in any order: the store stays whole, and what a checkpoint of it holds is the same store.
//
//   input := (op:u8 length:u8 bytes[length])*
//
// op < 12 is a command tag that goes through Validate as in a Db; op % 16 from 12 on are reads, compaction steps and
// copies. Another half of the ops (bit 7) build their request from a few bytes, or the fuzzer would seldom get past the
// parser.

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "tests/commands.h"

namespace fastkv {
namespace {

using namespace testing;

class Machine {
 public:
  void Do(uint8_t op, std::string_view bytes) {
    std::string made;
    const uint8_t kind = op & 15;
    if (op & 128) {
      made = Make(kind, bytes);
      bytes = made;
    }
    switch (kind) {
      case 12:
        return Read(bytes);
      case 13:
        return Chunks(bytes);
      case 14: {
        const auto lock = store_.WriteLock();
        store_.CompactStep(1 + bytes.size());
        return;
      }
      case 15:
        return Others(bytes);
      default:
        break;
    }
    const int64_t before = store_.revision();
    if (Validate(kind, bytes, {}) != Code::kOk) return;
    std::string response;
    const Code code = Apply(&store_, kind, bytes, &response);
    if (code == Code::kMalformed) abort();  // Validate has promised
    if (code != Code::kOk && store_.revision() != before) abort();
    if (store_.revision() < before || store_.revision() > before + 1) abort();
  }

  void Finish() {
    if (!Problems(store_).empty()) abort();
    const uint32_t hash = store_.Hash();
    Store copy;
    if (!CopyByCheckpoint(&store_, &copy, 1 + static_cast<uint64_t>(store_.revision()) % 300)) abort();
    if (copy.Hash() != hash || !Problems(copy).empty()) abort();
    if (copy.revision() != store_.revision() || copy.compact_revision() != store_.compact_revision()) abort();
    if (!CompactFully(&store_) || store_.Hash() != hash || !Problems(store_).empty()) abort();
    uint32_t first = 0, second = 0;
    int64_t compacted = 0, revision = 0;
    if (store_.HashKv(0, &first, &compacted, &revision) != Code::kOk) abort();
    if (copy.HashKv(0, &second, &compacted, &revision) != Code::kOk || first != second) abort();
  }

 private:
  static uint8_t At(std::string_view bytes, size_t i) { return i < bytes.size() ? static_cast<uint8_t>(bytes[i]) : 0; }
  static std::string Key(uint8_t n) { return std::string(1 + n % 3, static_cast<char>('a' + n / 3 % 5)); }
  static std::string End(uint8_t n) { return n % 4 == 0 ? "" : n % 4 == 1 ? kAll : Key(n / 4); }

  std::string Make(uint8_t kind, std::string_view bytes) const {
    const uint8_t a = At(bytes, 0), b = At(bytes, 1), c = At(bytes, 2);
    switch (kind) {
      case kTagPut:
        return PutBytes(Key(a), std::string(b, 'v'), c % 4, c & 64);
      case kTagDeleteRange:
        return DeleteBytes(Key(a), End(b), c & 1);
      case kTagTxn: {
        std::string txn;
        for (size_t i = 0; i + 1 < bytes.size() && i < 20; i += 2) {
          const uint8_t what = At(bytes, i), of = At(bytes, i + 1);
          const uint32_t branch = what & 8 ? 3 : 2;
          if (what % 3 == 0) AppendOp(&txn, branch, RequestOp::kPut, PutBytes(Key(of), std::to_string(what), of % 3));
          if (what % 3 == 1) AppendOp(&txn, branch, RequestOp::kDeleteRange, DeleteBytes(Key(of), End(what / 3)));
          if (what % 3 == 2) AppendOp(&txn, branch, RequestOp::kRange, RangeBytes(Key(of), End(what / 3)));
        }
        return txn;
      }
      case kTagCompaction:
        return CompactionBytes(store_.revision() - a % 8);
      case kTagLeaseGrant:
        return GrantBytes(1 + a % 3, b);
      case kTagLeaseRevoke:
        return RevokeBytes(1 + a % 3);
      case kTagLeaseCheckpoint:
        return LeaseCheckpointBytes(a % 4, b);
      case kTagAlarm:
        return AlarmBytes(a % 4, b % 3, c % 3);
      default: {
        RangeOptions options;
        options.revision = store_.revision() - a % 8;
        options.limit = b % 8;
        options.sort_order = c % 3;
        options.sort_target = c / 3 % 5;
        options.count_only = c & 128;
        return RangeBytes(Key(At(bytes, 3)), End(At(bytes, 4)), options);
      }
    }
  }

  void Read(std::string_view request) const {
    std::string response;
    if (store_.Range(request, &response) == Code::kOk) ParseRangeAnswer(response);
  }
  void Chunks(std::string_view bytes) const {
    std::string request(bytes), part, next, whole, joined;
    if (store_.RangeChunk(request, 1, &part, &next) != Code::kOk) return;
    const bool in_one = next.empty();
    joined = part;
    for (int i = 0; !next.empty(); ++i) {
      request = next;
      if (i > 10'000 || store_.RangeChunk(request, 1 + i % 64, &part, &next) != Code::kOk) abort();
      joined += part;
    }
    if (store_.Range(bytes, &whole) != Code::kOk) abort();
    const RangeAnswer one = ParseRangeAnswer(whole), many = ParseRangeAnswer(joined);
    if (in_one) return;  // a client that sends our own fields gets its own answer
    if (one.kvs.size() != many.kvs.size() || one.more != many.more) abort();
  }
  void Others(std::string_view bytes) {
    const int64_t at = store_.revision() - At(bytes, 0) % 8;
    uint32_t hash = 0;
    int64_t compacted = 0, revision = 0;
    (void)store_.HashKv(at, &hash, &compacted, &revision);
    const std::string begin = Key(At(bytes, 1)), end = End(At(bytes, 2));
    const KeyRange range(begin, end);
    const EpochGuard guard;
    std::vector<const Record*> forward, backward, events;
    int64_t count = 0;
    const Code code = store_.Scan(range, at, 0, false, &forward);
    if (store_.Scan(range, at, 0, true, &backward) != code || store_.Count(range, at, &count) != code) abort();
    if (code == Code::kOk && (forward.size() != backward.size() || forward.size() != static_cast<size_t>(count)))
      abort();
    if (store_.Events(at, store_.revision(), 1 + At(bytes, 3), &events) < at) abort();
    store_.History(begin, &events);
    bool reads_only = false;
    std::string response;
    (void)store_.ReadTxn(bytes, {}, &reads_only, &response);
    for (const Store::LeaseInfo& lease : store_.Leases()) store_.LeaseKeys(lease.id);
    store_.GetStats();
  }

  Store store_;
};

// The same bytes as two records blocks: refused, or a store that is whole.
void LoadHostile(std::string_view bytes) {
  for (const int64_t compacted : {int64_t{-1}, int64_t{3}}) {
    Store store;
    Store::Loader loader(&store);
    Store::Picture picture;
    picture.revision = 100;
    picture.compact_revision = compacted;
    if (bytes.size() < 3 || bytes.size() > 4096) return;
    picture.keys = static_cast<uint8_t>(bytes[0]) % 8;
    picture.records = static_cast<uint8_t>(bytes[1]) % 16;
    const std::string_view records = bytes.substr(3);
    const size_t cut = std::min<size_t>(static_cast<uint8_t>(bytes[2]), records.size());
    if (!loader.AddChains(records.substr(0, cut)) || !loader.AddChains(records.substr(cut))) {
      if (*loader.refusal() == '\0') abort();
      continue;
    }
    if (!loader.Finish(picture)) continue;
    std::string response;
    (void)store.Range(RangeBytes(kAll, kAll), &response);
    Apply(&store, kTagCompaction, CompactionBytes(50));
    Apply(&store, kTagDeleteRange, DeleteBytes(kAll, kAll));
    CompactFully(&store);
  }
}

}  // namespace
}  // namespace fastkv

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fastkv;
  std::string_view input(reinterpret_cast<const char*>(data), size);
  LoadHostile(input);
  Machine machine;
  while (input.size() >= 2) {
    const auto op = static_cast<uint8_t>(input[0]);
    const size_t length = std::min<size_t>(static_cast<uint8_t>(input[1]), input.size() - 2);
    machine.Do(op, input.substr(2, length));
    input.remove_prefix(2 + length);
  }
  machine.Finish();
  return 0;
}
