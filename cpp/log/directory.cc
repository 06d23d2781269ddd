#include "log/directory.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>
#include <vector>

namespace fastkv {
namespace {

constexpr std::string_view kMarker = "FASTKV";
constexpr std::string_view kMarkerPrefix = "fastkv ";
// What a creation that did not finish may have left, and what a new file system holds.
constexpr std::array<std::string_view, 5> kUnfinished = {"FASTKV.tmp", "LOCK", "checkpoint", "log", "lost+found"};

Status Foreign(const std::string& path, const std::string& what) { return {Code::kFormat, path + " " + what}; }

Status CheckMarker(const std::string& path, std::string_view text) {
  uint32_t number = 0;
  std::string_view digits = text;
  if (!digits.starts_with(kMarkerPrefix) || !digits.ends_with('\n')) {
    return Foreign(path, "holds a FASTKV file that fastkv has not written");
  }
  digits.remove_prefix(kMarkerPrefix.size());
  digits.remove_suffix(1);
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc() || end != digits.data() + digits.size() || number == 0) {
    return Foreign(path, "holds a FASTKV file that fastkv has not written");
  }
  if (number > kFormatNumber) {
    return Foreign(path, "was written by a newer fastkv: its format is " + std::to_string(number) +
                             ", this one knows up to " + std::to_string(kFormatNumber));
  }
  if (number < kFormatNumber) {
    return Foreign(path, "was written before fastkv 0.1.0: its format is " + std::to_string(number) +
                             ", this one knows only " + std::to_string(kFormatNumber));
  }
  return {};
}

Status CreateWithParents(Env* env, const std::string& path) {
  FileInfo info;
  FASTKV_RETURN_IF_ERROR(env->Stat(path, &info));
  if (info.exists) return {};
  const std::string parent = ParentPath(path);
  FASTKV_RETURN_IF_ERROR(CreateWithParents(env, parent));
  FASTKV_RETURN_IF_ERROR(env->CreateDir(path));
  return env->SyncDir(parent);
}

// No FASTKV file: nothing but leftovers of an unfinished creation may be here.
Status CheckUnused(Env* env, const std::string& path) {
  std::vector<std::string> names;
  FASTKV_RETURN_IF_ERROR(env->List(path, &names));
  for (const auto& name : names) {
    bool ours = std::find(kUnfinished.begin(), kUnfinished.end(), name) != kUnfinished.end();
    if (ours && (name == "log" || name == "checkpoint")) {
      std::vector<std::string> inside;
      FASTKV_RETURN_IF_ERROR(env->List(JoinPath(path, name), &inside));
      ours = inside.empty();
    }
    if (ours) continue;
    if (name == "member") return Foreign(path, "is not a fastkv directory; its \"member\" looks like etcd's");
    return Foreign(path, "is not a fastkv directory: it holds \"" + name + "\" but no FASTKV file");
  }
  return {};
}

}  // namespace

Status DataDirectory::Open(Env* env, const std::string& path, const DirectoryOptions& options,
                           std::unique_ptr<DataDirectory>* directory) {
  if (path.empty()) return {Code::kNotFound, "the path of the data directory is empty"};
  std::unique_ptr<DataDirectory> made(new DataDirectory);
  made->path_ = path;
  made->log_dir_ = JoinPath(path, "log");
  made->checkpoint_dir_ = JoinPath(path, "checkpoint");

  FileInfo info;
  FASTKV_RETURN_IF_ERROR(env->Stat(path, &info));
  if (info.exists && !info.directory) return Foreign(path, "is a file, not a directory");
  const bool create = options.create_if_missing && !options.readonly;
  if (!info.exists) {
    if (!create) return {Code::kNotFound, path + " does not exist"};
    FASTKV_RETURN_IF_ERROR(CreateWithParents(env, path));
  }

  const std::string marker = JoinPath(path, kMarker);
  FASTKV_RETURN_IF_ERROR(env->Stat(marker, &info));
  // Before the lock is taken, so that a foreign directory gets no LOCK file.
  if (!info.exists) FASTKV_RETURN_IF_ERROR(CheckUnused(env, path));
  if (!info.exists && !create) return {Code::kNotFound, path + " holds no fastkv store"};
  if (!options.readonly) {
    Status locked = env->Lock(JoinPath(path, "LOCK"), &made->lock_);
    if (locked.code() == Code::kLocked) return {Code::kLocked, path + " is open already: " + locked.message()};
    FASTKV_RETURN_IF_ERROR(locked);
    FASTKV_RETURN_IF_ERROR(env->Stat(marker, &info));  // who held the lock meanwhile may have made it
  }
  if (info.exists) {
    std::string text;
    FASTKV_RETURN_IF_ERROR(env->ReadAll(marker, &text));
    FASTKV_RETURN_IF_ERROR(CheckMarker(path, text));
  } else {
    FASTKV_RETURN_IF_ERROR(env->CreateDir(made->log_dir_));
    FASTKV_RETURN_IF_ERROR(env->CreateDir(made->checkpoint_dir_));
    FASTKV_RETURN_IF_ERROR(env->SyncDir(path));
    FASTKV_RETURN_IF_ERROR(
        env->WriteAtomically(marker, std::string(kMarkerPrefix) + std::to_string(kFormatNumber) + "\n"));
    made->created_ = true;
  }
  *directory = std::move(made);
  return {};
}

}  // namespace fastkv
