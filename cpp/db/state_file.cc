#include "db/state_file.h"

#include <utility>
#include <vector>

#include "base/coding.h"

namespace fastkv {

Status LoadState(const CheckpointReader& reader, Store* store, StateExtras* extras) {
  const CheckpointHead& head = reader.head();
  Store::Picture picture;
  picture.revision = static_cast<int64_t>(head.revision);
  picture.compact_revision = head.compact_revision;
  picture.keys = head.keys;
  picture.records = head.records;
  Store::Loader loader(store);
  std::vector<std::string_view> chains;
  // Blocks of records come first in a file, so what is wrong in them is told first.
  FASTKV_RETURN_IF_ERROR(reader.ForEachBlock([&chains](BlockType type, std::string_view payload) -> Status {
    if (type == BlockType::kRecords) chains.push_back(payload);
    return {};
  }));
  if (size_t refused = 0; !loader.AddAll(chains, &refused)) {
    return reader.CorruptBlock(chains[refused], std::string("records that no store has written: ") + loader.refusal());
  }
  FASTKV_RETURN_IF_ERROR(reader.ForEachBlock([&](BlockType type, std::string_view payload) -> Status {
    ByteReader in(payload);
    switch (type) {
      case BlockType::kRecords:
        return {};
      case BlockType::kLeases:
        while (!in.done()) {
          Store::LeaseInfo lease{};
          if (!in.I64(&lease.id) || !in.I64(&lease.ttl) || !in.I64(&lease.remaining_ttl)) {
            return reader.CorruptBlock(payload, "leases cut short");
          }
          picture.leases.push_back(lease);
        }
        return {};
      case BlockType::kMeta:
        extras->meta = std::string(payload);
        return {};
      case BlockType::kMembership:
        extras->membership = std::string(payload);
        return {};
      case BlockType::kAlarms:
        while (!in.done()) {
          std::pair<uint64_t, uint64_t> alarm;
          if (!in.U64(&alarm.first) || !in.U64(&alarm.second)) return reader.CorruptBlock(payload, "alarms cut short");
          picture.alarms.push_back(alarm);
        }
        return {};
      case BlockType::kHardState:
      case BlockType::kHead:
      case BlockType::kFooter:
        return {};
    }
    return reader.CorruptBlock(payload, "a block of an unknown type");
  }));
  if (!loader.Finish(picture)) {
    return {Code::kCorrupt, reader.path() + ": the checkpoint contradicts itself (counts, order, leases or revisions)"};
  }
  return {};
}

Status WriteState(const Store& store, const Store::Picture& picture, const StateExtras& extras,
                  CheckpointWriter* writer) {
  FASTKV_RETURN_IF_ERROR(store.WriteChains(
      picture, [writer](std::string_view payload) { return writer->AddBlock(BlockType::kRecords, payload); }));
  std::string payload;
  for (size_t i = 0; i < picture.leases.size(); ++i) {
    PutI64(&payload, picture.leases[i].id);
    PutI64(&payload, picture.leases[i].ttl);
    PutI64(&payload, picture.leases[i].remaining_ttl);
    if ((i + 1) % kLeasesPerBlockMax == 0 || i + 1 == picture.leases.size()) {
      FASTKV_RETURN_IF_ERROR(writer->AddBlock(BlockType::kLeases, payload));
      payload.clear();
    }
  }
  if (!extras.meta.empty()) FASTKV_RETURN_IF_ERROR(writer->AddBlock(BlockType::kMeta, extras.meta));
  for (const auto& [member, alarm] : picture.alarms) {
    PutU64(&payload, member);
    PutU64(&payload, alarm);
  }
  if (!payload.empty()) FASTKV_RETURN_IF_ERROR(writer->AddBlock(BlockType::kAlarms, payload));
  if (extras.membership.empty()) return {};
  return writer->AddBlock(BlockType::kMembership, extras.membership);
}

}  // namespace fastkv
