// What the tests of a replica share: entries that own their bytes, a Db on a disk that can fail, snapshots carried
// over.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/fault_env.h"
#include "db/db.h"
#include "db/replica.h"
#include "tests/commands.h"

namespace fastkv::testing {

inline constexpr uint64_t kOwnMember = 7;

struct OwnedEntry {
  uint64_t term = 0, index = 0;
  EntryKind kind = EntryKind::kNormal;
  std::string batch;

  LogEntry view() const { return {term, index, batch, kind}; }
  bool operator==(const OwnedEntry&) const = default;
};

inline std::string BatchOf(uint64_t origin, uint64_t sequence,
                           const std::vector<std::pair<uint64_t, std::string>>& commands) {
  std::string batch;
  AppendBatchHeader(&batch, origin, sequence);
  for (const auto& [tag, payload] : commands) AppendCommand(&batch, {tag, payload});
  return batch;
}
inline OwnedEntry PutEntry(uint64_t term, uint64_t index, std::string_view key, std::string_view value,
                           uint64_t origin = 1) {
  return {term, index, EntryKind::kNormal, BatchOf(origin, index, {{kTagPut, PutBytes(key, value)}})};
}
inline OwnedEntry ChangeEntry(uint64_t term, uint64_t index) {
  return {term, index, EntryKind::kConfChange, BatchOf(1, index, {}) + "change"};
}

inline std::vector<LogEntry> Views(const std::vector<OwnedEntry>& entries) {
  std::vector<LogEntry> views;
  for (const OwnedEntry& entry : entries) views.push_back(entry.view());
  return views;
}

inline DbOptions ReplicaOptions(Env* env) {
  DbOptions options;
  options.env = env;
  options.replicated = true;
  options.segment_bytes_first = 4096;
  options.segment_bytes_max = 16384;
  return options;
}
inline Status OpenReplica(Env* env, std::unique_ptr<Db>* db, const std::string& path = "/data") {
  FASTKV_RETURN_IF_ERROR(Db::Open(path, ReplicaOptions(env), db));
  (*db)->SetIdentity(1, kOwnMember, 0);
  return {};
}

inline Status AppendAndSync(Db* db, const std::vector<OwnedEntry>& entries, const HardState& state,
                            bool alone = false) {
  const std::vector<LogEntry> views = Views(entries);
  FASTKV_RETURN_IF_ERROR(db->replica()->Append(views, &state, alone));
  return db->replica()->Sync();
}
inline Status ApplyEntries(Db* db, const std::vector<OwnedEntry>& entries,
                           std::vector<Replica::Answers>* answers = nullptr, const char* membership = nullptr) {
  std::vector<Replica::Answers> ignored;
  const std::vector<LogEntry> views = Views(entries);
  const std::string_view bytes(membership == nullptr ? "" : membership);
  return db->replica()->Apply(views, membership == nullptr ? nullptr : &bytes, answers ? answers : &ignored);
}
// Appended, synced and applied one by one; the hard state commits them.
inline Status Commit(Db* db, const std::vector<OwnedEntry>& entries) {
  FASTKV_RETURN_IF_ERROR(AppendAndSync(db, entries, {entries.back().term, 0, entries.back().index}));
  return ApplyEntries(db, entries);
}

inline std::vector<OwnedEntry> LogOf(Db* db, uint64_t low = 1) {
  std::vector<Log::OwnedEntry> read;
  FASTKV_CHECK(db->replica()->Entries(low, db->replica()->last_index() + 1, UINT64_MAX, &read).ok());
  std::vector<OwnedEntry> entries;
  for (Log::OwnedEntry& entry : read) entries.push_back({entry.term, entry.index, entry.kind, std::move(entry.batch)});
  return entries;
}

// The bytes of the newest snapshot; waits for one that is being made.
inline std::string SnapshotBytes(Db* db, uint64_t* index = nullptr, uint64_t* term = nullptr) {
  std::unique_ptr<SnapshotReader> reader;
  while (reader == nullptr) FASTKV_CHECK(db->replica()->OpenSnapshot(&reader).ok());
  std::string all, chunk;
  do {
    FASTKV_CHECK(reader->Read(all.size(), 1000, &chunk).ok());
    all += chunk;
  } while (!chunk.empty());
  FASTKV_CHECK(all.size() == reader->bytes());
  if (index != nullptr) *index = reader->index();
  if (term != nullptr) *term = reader->term();
  return all;
}
inline Status Receive(Db* db, uint64_t index, uint64_t term, std::string_view bytes,
                      std::unique_ptr<SnapshotWriter>* writer) {
  FASTKV_RETURN_IF_ERROR(db->replica()->ReceiveSnapshot(index, term, writer));
  for (size_t at = 0; at < bytes.size(); at += 700) FASTKV_RETURN_IF_ERROR((*writer)->Write(bytes.substr(at, 700)));
  return (*writer)->Finish();
}
inline Status Install(Db* db, uint64_t index, uint64_t term, std::string_view bytes) {
  std::unique_ptr<SnapshotWriter> writer;
  FASTKV_RETURN_IF_ERROR(Receive(db, index, term, bytes, &writer));
  return db->replica()->InstallSnapshot(writer.get());
}

inline std::string ValueOf(Db* db, std::string_view key) {
  const EpochGuard guard;
  const Record* record = nullptr;
  FASTKV_CHECK(db->store().Get(key, 0, &record) == Code::kOk);
  return record == nullptr ? "" : std::string(record->value());
}

}  // namespace fastkv::testing
