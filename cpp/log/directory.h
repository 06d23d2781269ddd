// A data directory: is it ours, is its format ours, and is nobody else in it?
//
//   data/  FASTKV ("fastkv 2\n")   LOCK   log/   checkpoint/
//
// Invariants:
// - FASTKV is written last when a directory is made, so one that has it is whole.
// - the lock is held from before anything is read until this object goes, by one owner in one process.
// - a failed open changes nothing in a directory that is not ours, and never drops another's lock.
// Thread safety: immutable after Open.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/env.h"
#include "base/status.h"

namespace fastkv {

inline constexpr uint32_t kFormatNumber = 2;

struct DirectoryOptions {
  bool readonly = false;  // takes no lock, creates nothing
  bool create_if_missing = true;
};

class DataDirectory {
 public:
  // kNotFound, kFormat (foreign, newer, or a file), kLocked (names the holder's pid), kIoError (permission): one
  // sentence each.
  static Status Open(Env* env, const std::string& path, const DirectoryOptions& options,
                     std::unique_ptr<DataDirectory>* directory);

  const std::string& path() const { return path_; }
  const std::string& log_dir() const { return log_dir_; }
  const std::string& checkpoint_dir() const { return checkpoint_dir_; }
  bool created() const { return created_; }  // by this Open

 private:
  DataDirectory() = default;

  std::string path_, log_dir_, checkpoint_dir_;
  bool created_ = false;
  std::unique_ptr<FileLock> lock_;
};

}  // namespace fastkv
