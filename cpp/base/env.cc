#include "base/env.h"

namespace fastkv {

std::string JoinPath(std::string_view dir, std::string_view name) {
  std::string path(dir);
  if (!path.empty() && path.back() != '/') path += '/';
  return path.append(name);
}

std::string ParentPath(const std::string& path) {
  size_t end = path.find_last_not_of('/');
  if (end == std::string::npos) return path.empty() ? "." : "/";
  const size_t slash = path.find_last_of('/', end);
  if (slash == std::string::npos) return ".";
  end = path.find_last_not_of('/', slash);
  return end == std::string::npos ? "/" : path.substr(0, end + 1);
}

Status Env::ReadAll(const std::string& path, std::string* bytes) {
  std::unique_ptr<FileView> view;
  FASTKV_RETURN_IF_ERROR(View(path, &view));
  bytes->assign(view->bytes());
  return {};
}

Status Env::WriteAtomically(const std::string& path, std::string_view bytes) {
  const std::string tmp = path + ".tmp";
  {
    std::unique_ptr<WritableFile> file;
    FASTKV_RETURN_IF_ERROR(Create(tmp, 0, WriteMode::kPwrite, &file));
    FASTKV_RETURN_IF_ERROR(file->Write(0, bytes));
    FASTKV_RETURN_IF_ERROR(file->Sync());
  }
  FASTKV_RETURN_IF_ERROR(Rename(tmp, path));
  return SyncDir(ParentPath(path));
}

}  // namespace fastkv
