#include "db/backend.h"

#include <new>
#include <utility>

#include "base/check.h"
#include "db/db.h"
#include "db/replica.h"
#include "proto/messages.h"

namespace fastkv {
namespace {

// A short range: at most so many bytes in the answer, and so little in the store that counting the rest, or passing
// over deleted keys, is nothing.
constexpr size_t kShortBytes = 64 << 10;
constexpr uint64_t kShortKeys = 10'000, kShortRecords = 50'000;

// A client can send the fields that RangeChunk keeps its state in: of a field given twice the last counts.
constexpr std::string_view kChunkStateCleared("\xc0\x3e\x00\xc8\x3e\x00", 6);

template <typename Function>
Code Guarded(Function&& function) {
  try {
    return function();
  } catch (const InvariantBroken&) {
    return Code::kPoisoned;
  } catch (const std::bad_alloc&) {
    return Code::kPoisoned;
  }
}

class DbBackend final : public Backend {
 public:
  explicit DbBackend(Db* db) : db_(db) {}

  Code Range(std::string_view request, std::string* response) override {
    return Guarded([&] { return db_->store().Range(request, response); });
  }

  bool RangeIfShort(std::string_view bytes, Code* code, std::string* response) override {
    RangeRequest request;
    if (!request.Parse(bytes) || request.range_end.empty()) {
      *code = Range(bytes, response);
      return true;
    }
    const bool reorders = request.sort_order != RangeRequest::kNone || request.sort_target != RangeRequest::kKey;
    if (reorders || request.has_filter()) return false;
    const Store::Stats stats = db_->store().GetStats();
    if (stats.keys > kShortKeys || stats.records > kShortRecords) return false;
    std::string next, chunk(bytes);
    chunk += kChunkStateCleared;
    *code = Guarded([&] { return db_->store().RangeChunk(chunk, kShortBytes, response, &next); });
    return next.empty();
  }

  Code RangeChunk(std::string_view request, size_t bytes_max, std::string* response, std::string* next) override {
    return Guarded([&] { return db_->store().RangeChunk(request, bytes_max, response, next); });
  }

  Code ReadTxn(std::string_view request, bool* reads_only, std::string* response) override {
    return Guarded([&] { return db_->ReadTxn(request, reads_only, response); });
  }

  Code Validate(uint64_t tag, std::string_view payload) override {
    return Guarded([&] { return fastkv::Validate(tag, payload, db_->limits()); });
  }

  Status Commit(std::span<const Command> commands, std::span<CommandResult> results) override {
    return db_->CommitValidated(commands, results);
  }

  void ExpectApplied(uint64_t sequence, ApplyObserver* observer) override {
    FASTKV_CHECK(db_->replica() != nullptr);
    db_->replica()->Expect(sequence, observer);
  }
  bool ForgetApplied(uint64_t sequence) override {
    return db_->replica() != nullptr && db_->replica()->Forget(sequence);
  }
  void SetFollower(ApplyFollower* follower) override {
    if (db_->replica() != nullptr) db_->replica()->SetFollower(follower);
  }

  uint64_t WatchAdd(WatchSpec spec) override { return db_->hub().Add(std::move(spec)); }
  void WatchCancel(uint64_t id) override { db_->hub().Cancel(id); }
  WatchNews WatchTake(uint64_t id, size_t bytes_max, bool* more) override {
    return db_->hub().TakeJoined(id, bytes_max, more);
  }
  std::vector<uint64_t> WatchReady() override { return db_->hub().Ready(); }
  int64_t WatchProgress(uint64_t id) override { return db_->hub().Progress(id); }

  int64_t revision() const override { return db_->store().revision(); }
  uint64_t memory_bytes() const override { return db_->store().GetStats().memory_bytes; }
  void AppendHeader(std::string* to, int64_t revision) const override { db_->store().AppendHeader(to, revision); }

 private:
  Db* const db_;
};

}  // namespace

std::unique_ptr<Backend> MakeBackend(Db* db) { return std::make_unique<DbBackend>(db); }

}  // namespace fastkv
