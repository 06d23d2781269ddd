#include "log/recovery.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>

#include "base/coding.h"
#include "base/crc32c.h"

namespace fastkv {
namespace {

constexpr size_t kPrefixStepBytes = 4096;
constexpr size_t kZeroChunkBytes = 64 << 10;

uint64_t EndOfNonZero(std::string_view bytes) {
  uint64_t end = bytes.size();
  while (end > 0 && end % 8 != 0) {
    if (bytes[end - 1] != 0) return end;
    --end;
  }
  while (end >= 8 && LoadU64(bytes.data() + end - 8) == 0) end -= 8;
  while (end > 0 && bytes[end - 1] == 0) --end;
  return end;
}

// Past the last byte that is not zero, but at least `from`.
//
// Forward: a file is read ahead in that direction only. And not through what was reserved and never written, the most
// of a log's last segment: reading it would fill the page cache with zeros.
uint64_t EndOfNonZero(const FileView& view, uint64_t from) {
  const std::string_view bytes = view.bytes();
  uint64_t end = from;
  for (uint64_t at = from; at < bytes.size() && (at = view.NextData(at)) < bytes.size();) {
    const uint64_t piece_end = std::min<uint64_t>(bytes.size(), at + kZeroChunkBytes);
    const uint64_t length = EndOfNonZero(bytes.substr(at, piece_end - at));
    if (length > 0) end = at + length;
    at = piece_end;
  }
  return end;
}

// The record crc of any range of a segment in about a microsecond, so that hostile bytes full of things that look like
// record headers cannot make the search below quadratic.
class RangeCrc {
 public:
  RangeCrc(std::string_view bytes, uint32_t seed) : bytes_(bytes), seed_(seed), prefixes_{0} {}

  uint32_t operator()(uint64_t from, uint64_t to) {
    if (to - from <= 2 * kPrefixStepBytes) return Crc32cExtend(seed_, bytes_.substr(from, to - from));
    return Crc32cCombine(seed_ ^ Prefix(from), Prefix(to), to - from);  // takes one away, puts the other in its place
  }

 private:
  uint32_t Prefix(uint64_t end) {
    const size_t step = end / kPrefixStepBytes;
    while (prefixes_.size() <= step) {
      const size_t at = (prefixes_.size() - 1) * kPrefixStepBytes;
      prefixes_.push_back(Crc32cExtend(prefixes_.back(), bytes_.substr(at, kPrefixStepBytes)));
    }
    return Crc32cExtend(prefixes_[step], bytes_.substr(step * kPrefixStepBytes, end - step * kPrefixStepBytes));
  }

  const std::string_view bytes_;
  const uint32_t seed_;
  std::vector<uint32_t> prefixes_;  // [k]: crc of the first k steps
};

struct Evidence {
  uint64_t offset = 0;
  uint64_t number = 0;
};

// A record that was written when record `number` was known to be synced already.
std::optional<Evidence> FindEvidence(std::string_view bytes, uint32_t seed, uint64_t from, uint64_t number) {
  RangeCrc crc(bytes, seed);
  for (uint64_t at = from; bytes.size() - at >= kRecordHeaderBytes; at += 8) {
    const auto record = DecodeRecordHeader(bytes, at);
    if (!record || record->number <= number || record->durable < number) continue;
    if (crc(at + 4, at + kRecordHeaderBytes + record->payload.size()) != record->crc) continue;
    return Evidence{at, record->number};
  }
  return std::nullopt;
}

class Scanner {
 public:
  Scanner(Env* env, const RecordVisitor& visit, LogScan* scan) : env_(env), visit_(visit), scan_(scan) {}

  Status Run(const std::string& dir) {
    FASTKV_RETURN_IF_ERROR(ListFiles(dir));
    for (size_t i = 0; i < files_.size(); ++i) {
      std::unique_ptr<FileView> view;
      FASTKV_RETURN_IF_ERROR(env_->View(files_[i].path, &view));
      const std::string_view bytes = view->bytes();
      const auto header = DecodeSegmentHeader(bytes);
      if (!header || !Continues(files_[i], *header)) return EndBefore(i);
      FASTKV_RETURN_IF_ERROR(Walk(i, *header, bytes));
      if (i + 1 == files_.size() && EndOfNonZero(*view, files_[i].used_bytes) != files_[i].used_bytes) {
        return EndBefore(files_.size());
      }
    }
    return {};
  }

 private:
  Status ListFiles(const std::string& dir) {
    std::vector<std::string> names;
    FASTKV_RETURN_IF_ERROR(env_->List(dir, &names));
    for (const auto& name : names) {
      const auto sequence = ParseSegmentFileName(name);
      if (!sequence) continue;
      SegmentFile file;
      file.sequence = *sequence;
      file.path = JoinPath(dir, name);
      files_.push_back(std::move(file));
    }
    return {};  // names are sorted, and so are fixed-width hex digits
  }

  bool Continues(const SegmentFile& file, const SegmentHeader& header) const {
    if (header.sequence != file.sequence) return false;
    if (scan_->segments.empty()) return file.sequence > 1 || (header.last_number == 0 && header.last_crc == 0);
    return file.sequence == scan_->segments.back().sequence + 1 && header.last_number == scan_->last_number &&
           header.last_crc == scan_->last_crc;
  }

  Status Walk(size_t i, const SegmentHeader& header, std::string_view bytes) {
    SegmentFile& file = files_[i];
    file.header = header;
    file.file_bytes = bytes.size();
    scan_->last_number = header.last_number;
    scan_->last_crc = header.last_crc;
    if (scan_->segments.empty()) scan_->durable_number = header.last_number;
    uint64_t offset = kSegmentHeaderBytes;
    scan_->segments.push_back(file);
    const auto set_used = [&] { scan_->segments.back().used_bytes = file.used_bytes = std::min(offset, bytes.size()); };
    set_used();
    const uint32_t seed = RecordSeed(header.salt);
    while (const auto record = DecodeRecord(bytes, offset, seed)) {
      if (record->number != scan_->last_number + 1 || record->prev != scan_->last_crc) break;
      FASTKV_RETURN_IF_ERROR(visit_(*record, {scan_->segments.size() - 1, offset}));
      offset += RecordBytes(record->payload.size());
      set_used();
      scan_->last_number = record->number;
      scan_->last_crc = record->crc;
      scan_->durable_number = std::max(scan_->durable_number, record->durable);
    }
    return {};
  }

  // files_[i] does not continue the log (or there is none, and the last one does not end in zeros).
  Status EndBefore(size_t i) {
    const bool nothing_good = i == 0;
    const uint64_t number = scan_->last_number + 1;
    if (nothing_good && files_[0].sequence > 1) {
      return {Code::kCorrupt, files_[0].path +
                                  ": the segment header at offset 0 is damaged, and this is the oldest segment; " +
                                  "`fastkv check` shows what is left"};
    }
    const std::string& where = nothing_good ? files_[0].path : files_[i - 1].path;
    const uint64_t where_offset = nothing_good ? 0 : files_[i - 1].used_bytes;
    for (size_t k = nothing_good ? 0 : i - 1; k < files_.size(); ++k) {
      std::unique_ptr<FileView> view;
      FASTKV_RETURN_IF_ERROR(env_->View(files_[k].path, &view));
      const std::string_view bytes = view->bytes();
      const bool last_good = !nothing_good && k == i - 1;
      const uint64_t from = last_good ? where_offset : 0;
      const uint64_t end = EndOfNonZero(*view, from);
      const auto header = DecodeSegmentHeader(bytes);
      if (!header && end > kSegmentHeaderBytes) {
        return {Code::kCorrupt, files_[k].path +
                                    ": the segment header at offset 0 is damaged: it was synced before anything was "
                                    "written behind it; `fastkv check` shows what is left"};
      }
      const auto evidence = header ? FindEvidence(bytes, RecordSeed(header->salt), from, number) : std::nullopt;
      if (evidence) {
        return {Code::kCorrupt, where + ": record " + std::to_string(number) + " at offset " +
                                    std::to_string(where_offset) + " is damaged: it was synced before record " +
                                    std::to_string(evidence->number) + " (" + files_[k].path + " offset " +
                                    std::to_string(evidence->offset) +
                                    ") was written; `fastkv check` shows what is left"};
      }
      scan_->torn_bytes += end - from;
      if (last_good) {
        scan_->zero_until = end;
      } else {
        scan_->remove.insert(scan_->remove.begin(), files_[k].path);  // the newest goes first
      }
    }
    return {};
  }

  Env* const env_;
  const RecordVisitor& visit_;
  LogScan* const scan_;
  std::vector<SegmentFile> files_;
};

}  // namespace

Status ScanLog(Env* env, const std::string& dir, const RecordVisitor& visit, LogScan* scan) {
  *scan = {};
  return Scanner(env, visit, scan).Run(dir);
}

Status RepairLog(Env* env, const std::string& dir, const LogScan& scan) {
  if (!scan.segments.empty() && scan.zero_until > scan.segments.back().used_bytes) {
    std::unique_ptr<WritableFile> file;
    FASTKV_RETURN_IF_ERROR(env->OpenForWrite(scan.segments.back().path, WriteMode::kPwrite, &file));
    const std::string zeros(kZeroChunkBytes, '\0');
    for (uint64_t at = scan.segments.back().used_bytes; at < scan.zero_until; at += zeros.size()) {
      const uint64_t length = std::min<uint64_t>(zeros.size(), scan.zero_until - at);
      FASTKV_RETURN_IF_ERROR(file->Write(at, std::string_view(zeros).substr(0, length)));
    }
    FASTKV_RETURN_IF_ERROR(file->Sync());
  }
  for (const auto& path : scan.remove) {  // each for good before the next: what stays must not look whole
    FASTKV_RETURN_IF_ERROR(env->Remove(path));
    FASTKV_RETURN_IF_ERROR(env->SyncDir(dir));
  }
  return {};
}

}  // namespace fastkv
