#include "log/checkpoint.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/coding.h"
#include "base/crc32c.h"
#include "base/parallel.h"

namespace fastkv {
namespace {

constexpr std::string_view kMagic("fkvckpt\2", 8);
constexpr std::string_view kSuffix = ".ckpt";
constexpr std::string_view kTmpSuffix = ".ckpt.tmp";
constexpr std::string_view kReceivedSuffix = ".recv";
constexpr size_t kBlockHeaderBytes = 12;
constexpr size_t kFlushBytes = 1 << 20;
constexpr size_t kVerifiersMax = 4, kBlocksAPiece = 16;

uint32_t ExtendWithCrc(uint32_t crc_of_crcs, uint32_t crc) {
  char bytes[4];
  StoreU32(bytes, crc);
  return Crc32cExtend(crc_of_crcs, bytes, sizeof bytes);
}

// Where a type stands in the order of blocks; 0: no such type.
int Rank(uint8_t type) {
  switch (static_cast<BlockType>(type)) {
    case BlockType::kHead:
      return 1;
    case BlockType::kRecords:
      return 2;
    case BlockType::kLeases:
      return 3;
    case BlockType::kMeta:
      return 4;
    case BlockType::kAlarms:
      return 5;
    case BlockType::kHardState:
      return 6;
    case BlockType::kMembership:
      return 7;
    case BlockType::kFooter:
      return 8;
  }
  return 0;
}

std::optional<uint64_t> ParseName(std::string_view name, std::string_view suffix) {
  if (!name.ends_with(suffix)) return std::nullopt;
  return ParseHexName(name.substr(0, name.size() - suffix.size()));
}

}  // namespace

std::string EncodeCheckpointHead(const CheckpointHead& head) {
  std::string out;
  PutU64(&out, head.index);
  PutU64(&out, head.term);
  PutU64(&out, head.revision);
  PutI64(&out, head.compact_revision);
  PutU64(&out, head.keys);
  PutU64(&out, head.records);
  return out;
}

std::optional<CheckpointHead> DecodeCheckpointHead(std::string_view payload) {
  ByteReader in(payload);
  CheckpointHead head;
  if (!in.U64(&head.index) || !in.U64(&head.term) || !in.U64(&head.revision) || !in.I64(&head.compact_revision) ||
      !in.U64(&head.keys) || !in.U64(&head.records) || !in.done() || head.index > kIndexMax) {
    return std::nullopt;
  }
  return head;
}

std::string ReceivedFileName(uint64_t index, uint64_t random) {
  return HexName(index) + "." + HexName(random) + std::string(kReceivedSuffix);
}

std::string CheckpointFileName(uint64_t index) { return HexName(index).append(kSuffix); }

Status ListCheckpoints(Env* env, const std::string& dir, std::vector<CheckpointInfo>* out) {
  out->clear();
  std::vector<std::string> names;
  const Status listed = env->List(dir, &names);
  if (listed.code() == Code::kNotFound) return {};
  FASTKV_RETURN_IF_ERROR(listed);
  for (const auto& name : names) {
    const auto index = ParseName(name, kSuffix);
    if (!index) continue;
    CheckpointInfo info{*index, JoinPath(dir, name), 0};
    FileInfo file;
    FASTKV_RETURN_IF_ERROR(env->Stat(info.path, &file));
    info.bytes = file.size;
    out->push_back(std::move(info));
  }
  std::reverse(out->begin(), out->end());
  return {};
}

CheckpointWriter::CheckpointWriter(Env* env, std::string dir, uint64_t index, Throttle throttle)
    : env_(env),
      dir_(std::move(dir)),
      path_(JoinPath(dir_, CheckpointFileName(index))),
      tmp_path_(path_ + ".tmp"),
      throttle_(std::move(throttle)) {}

CheckpointWriter::~CheckpointWriter() {
  if (finished_) return;
  file_.reset();
  (void)env_->Remove(tmp_path_).ok();  // what stays is removed by the next open
}

Status CheckpointWriter::Create(Env* env, const std::string& dir, const CheckpointHead& head, Throttle throttle,
                                std::unique_ptr<CheckpointWriter>* writer) {
  FASTKV_CHECK(head.index <= kIndexMax);
  std::unique_ptr<CheckpointWriter> made(new CheckpointWriter(env, dir, head.index, std::move(throttle)));
  FASTKV_RETURN_IF_ERROR(env->Create(made->tmp_path_, 0, WriteMode::kPwrite, &made->file_));
  made->buffer_.assign(kMagic);
  FASTKV_RETURN_IF_ERROR(made->AddBlock(BlockType::kHead, EncodeCheckpointHead(head)));
  *writer = std::move(made);
  return {};
}

Status CheckpointWriter::AddBlock(BlockType type, std::string_view payload) {
  FASTKV_CHECK(payload.size() <= UINT32_MAX);
  char header[kBlockHeaderBytes];
  StoreU32(header + 4, static_cast<uint32_t>(payload.size()));
  StoreU32(header + 8, static_cast<uint32_t>(type));
  const uint32_t crc = Crc32cExtend(Crc32c({header + 4, sizeof header - 4}), payload);
  StoreU32(header, crc);
  if (type != BlockType::kFooter) {
    ++blocks_;
    crc_of_crcs_ = ExtendWithCrc(crc_of_crcs_, crc);
  }
  buffer_.append(header, sizeof header);
  if (payload.size() < kFlushBytes) {
    buffer_.append(payload);
    return buffer_.size() < kFlushBytes ? Status() : Flush();
  }
  FASTKV_RETURN_IF_ERROR(Flush());  // a huge block is not copied
  FASTKV_RETURN_IF_ERROR(file_->Write(offset_, payload));
  offset_ += payload.size();
  return throttle_ ? throttle_(payload.size()) : Status();
}

Status CheckpointWriter::AddHardState(const HardState& state) {
  return AddBlock(BlockType::kHardState, EncodeHardState(state));
}

Status CheckpointWriter::Flush() {
  if (buffer_.empty()) return {};
  FASTKV_RETURN_IF_ERROR(file_->Write(offset_, buffer_));
  const uint64_t bytes = buffer_.size();
  offset_ += bytes;
  buffer_.clear();
  file_->StartWriteback();  // so that the sync at the end finds little to do and does not starve the log's
  return throttle_ ? throttle_(bytes) : Status();
}

Status CheckpointWriter::Finish() {
  std::string footer;
  PutU64(&footer, blocks_);
  PutU32(&footer, crc_of_crcs_);
  PutU32(&footer, 0);
  FASTKV_RETURN_IF_ERROR(AddBlock(BlockType::kFooter, footer));
  FASTKV_RETURN_IF_ERROR(Flush());
  FASTKV_RETURN_IF_ERROR(file_->Sync());
  file_.reset();
  FASTKV_RETURN_IF_ERROR(env_->Rename(tmp_path_, path_));
  finished_ = true;
  return env_->SyncDir(dir_);
}

Status CheckpointReader::Open(Env* env, const std::string& path, uint64_t index,
                              std::unique_ptr<CheckpointReader>* reader) {
  std::unique_ptr<CheckpointReader> made(new CheckpointReader);
  FASTKV_RETURN_IF_ERROR(env->View(path, &made->view_));
  made->path_ = path;
  made->bytes_ = made->view_->bytes();
  FASTKV_RETURN_IF_ERROR(made->Verify(index));
  *reader = std::move(made);
  return {};
}

Status CheckpointReader::OpenBytes(std::string_view bytes, const std::string& name,
                                   std::unique_ptr<CheckpointReader>* reader) {
  std::unique_ptr<CheckpointReader> made(new CheckpointReader);
  made->path_ = name;
  made->bytes_ = bytes;
  FASTKV_RETURN_IF_ERROR(made->Verify(0));
  *reader = std::move(made);
  return {};
}

Status CheckpointReader::CorruptAt(uint64_t offset, const std::string& what) const {
  return {Code::kCorrupt, "checkpoint " + path_ + ": " + what + " at offset " + std::to_string(offset)};
}

Status CheckpointReader::CorruptBlock(std::string_view payload, const std::string& what) const {
  FASTKV_CHECK(payload.data() >= bytes_.data() && payload.data() <= bytes_.data() + bytes_.size());
  return CorruptAt(static_cast<uint64_t>(payload.data() - bytes_.data()) - kBlockHeaderBytes, what);
}

// First the lengths, from block to block, then the checksums, side by side: they are most of the work. What is wrong is
// told of the first place where something is wrong, as if it had been read once from front to back.
Status CheckpointReader::Verify(uint64_t index) {
  if (!bytes_.starts_with(kMagic)) return CorruptAt(0, "this is not a checkpoint:");
  std::vector<uint64_t> offsets;
  const Status walked = Walk(index, &offsets);
  const auto damaged = [this](uint64_t offset) {
    const char* at = bytes_.data() + offset;
    return LoadU32(at) != Crc32c({at + 4, kBlockHeaderBytes - 4 + LoadU32(at + 4)});
  };
  std::atomic<size_t> first_damaged{offsets.size()};
  const size_t pieces = (offsets.size() + kBlocksAPiece - 1) / kBlocksAPiece;
  RunParallel(Workers(kVerifiersMax), pieces, [&](size_t piece) {
    const size_t end = std::min(offsets.size(), (piece + 1) * kBlocksAPiece);
    for (size_t i = piece * kBlocksAPiece; i < end && i < first_damaged.load(); ++i) {
      if (!damaged(offsets[i])) continue;
      for (size_t known = first_damaged.load(); i < known && !first_damaged.compare_exchange_weak(known, i);) {
      }
    }
  });
  if (first_damaged.load() < offsets.size()) return CorruptAt(offsets[first_damaged.load()], "a damaged block");
  return walked;
}

// Everything but the checksums of the blocks. *offsets: of those that lie whole in the file, also of one that is wrong.
Status CheckpointReader::Walk(uint64_t index, std::vector<uint64_t>* offsets) {
  uint64_t offset = kMagic.size(), blocks = 0;
  uint32_t crc_of_crcs = 0;
  int rank = 0;
  for (;;) {
    if (bytes_.size() - offset < kBlockHeaderBytes) return CorruptAt(offset, "the file ends before its footer");
    const char* at = bytes_.data() + offset;
    const uint32_t crc = LoadU32(at), length = LoadU32(at + 4), type = LoadU32(at + 8);
    if (length > bytes_.size() - offset - kBlockHeaderBytes) return CorruptAt(offset, "a block is cut short");
    offsets->push_back(offset);
    const std::string_view payload(at + kBlockHeaderBytes, length);
    const int block_rank = type <= UINT8_MAX ? Rank(static_cast<uint8_t>(type)) : 0;
    const bool repeats = block_rank == Rank(static_cast<uint8_t>(BlockType::kRecords)) ||
                         block_rank == Rank(static_cast<uint8_t>(BlockType::kLeases));
    if (block_rank == 0 || block_rank < rank || (block_rank == rank && !repeats) || (blocks == 0 && block_rank != 1)) {
      return CorruptAt(offset, "a block of type " + std::to_string(type) + " where it may not stand");
    }
    rank = block_rank;
    offset += kBlockHeaderBytes + length;
    switch (static_cast<BlockType>(type)) {
      case BlockType::kHead: {
        const auto head = DecodeCheckpointHead(payload);
        if (!head) return CorruptBlock(payload, "a malformed head");
        if (index != 0 && head->index != index)
          return CorruptBlock(payload, "an index other than the file's name says");
        head_ = *head;
        break;
      }
      case BlockType::kHardState: {
        const auto state = DecodeHardState(payload);
        if (!state) return CorruptBlock(payload, "a malformed hard state");
        hard_state_ = *state;
        has_hard_state_ = true;
        break;
      }
      case BlockType::kFooter: {
        ByteReader in(payload);
        uint64_t blocks_stated;
        uint32_t crc_stated, zero;
        if (!in.U64(&blocks_stated) || !in.U32(&crc_stated) || !in.U32(&zero) || !in.done() || zero != 0 ||
            blocks_stated != blocks || crc_stated != crc_of_crcs) {
          return CorruptBlock(payload, "a footer that does not fit the blocks");
        }
        if (offset != bytes_.size()) return CorruptAt(offset, "bytes behind the footer");
        return {};
      }
      default:
        break;
    }
    ++blocks;
    crc_of_crcs = ExtendWithCrc(crc_of_crcs, crc);
  }
}

Status CheckpointReader::ForEachBlock(const std::function<Status(BlockType, std::string_view)>& visit) const {
  // Everything was verified: only lengths and types are read here.
  for (uint64_t offset = kMagic.size();;) {
    const char* at = bytes_.data() + offset;
    const uint32_t length = LoadU32(at + 4);
    const auto type = static_cast<BlockType>(at[8]);
    if (type == BlockType::kFooter) return {};
    if (type != BlockType::kHead) FASTKV_RETURN_IF_ERROR(visit(type, {at + kBlockHeaderBytes, length}));
    offset += kBlockHeaderBytes + length;
  }
}

Status LoadNewestCheckpoint(Env* env, const std::string& dir, const std::function<void(const std::string&)>& warn,
                            NewestCheckpoint* out) {
  *out = {};
  std::vector<CheckpointInfo> all;
  FASTKV_RETURN_IF_ERROR(ListCheckpoints(env, dir, &all));
  for (const auto& info : all) {
    const Status status = CheckpointReader::Open(env, info.path, info.index, &out->reader);
    if (status.ok()) return {};
    if (status.code() != Code::kCorrupt) return status;
    if (warn) warn(status.message() + "; trying an older one and the log");
    if (out->damaged.empty()) {
      out->reach_index = info.index;
      out->reach_reason = status.message();
    }
    out->damaged.push_back(info.index);
  }
  return {};
}

Status PruneCheckpoints(Env* env, const std::string& dir, const std::vector<uint64_t>& damaged, size_t keep,
                        uint64_t* oldest_kept) {
  *oldest_kept = 0;
  FASTKV_RETURN_IF_ERROR(RemoveUnfinishedCheckpoints(env, dir, /*received=*/false));
  std::vector<CheckpointInfo> all;
  FASTKV_RETURN_IF_ERROR(ListCheckpoints(env, dir, &all));
  size_t kept = 0;
  bool removed = false;
  for (const auto& info : all) {
    const bool good = std::find(damaged.begin(), damaged.end(), info.index) == damaged.end();
    if (good && kept < keep) {
      if (++kept == keep) *oldest_kept = info.index;
      continue;
    }
    FASTKV_RETURN_IF_ERROR(env->Remove(info.path));
    removed = true;
  }
  return removed ? env->SyncDir(dir) : Status();
}

Status RemoveUnfinishedCheckpoints(Env* env, const std::string& dir, bool received) {
  std::vector<std::string> names;
  const Status listed = env->List(dir, &names);
  if (listed.code() == Code::kNotFound) return {};
  FASTKV_RETURN_IF_ERROR(listed);
  for (const auto& name : names) {
    if (ParseName(name, kTmpSuffix) || (received && name.ends_with(kReceivedSuffix))) {
      FASTKV_RETURN_IF_ERROR(env->Remove(JoinPath(dir, name)));
    }
  }
  return {};
}

}  // namespace fastkv
