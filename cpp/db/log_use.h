// Somebody beside the leader of a group who uses the log, if status() is OK: Close waits for it. Who only reads it may
// do so also when the store is poisoned. Included by db/*.cc only.
#pragma once

#include <mutex>

#include "db/db.h"

namespace fastkv {

class Db::LogUse {
 public:
  enum Purpose { kWrite, kRead };
  explicit LogUse(Db* db, Purpose purpose = kWrite) : db_(db) {
    const std::lock_guard lock(db_->queue_mutex_);
    status_ = purpose == kRead && !db_->closed_ ? Status() : db_->Writable();
    if (status_.ok()) ++db_->log_users_;
  }
  ~LogUse() {
    if (!status_.ok()) return;
    const std::lock_guard lock(db_->queue_mutex_);
    if (--db_->log_users_ == 0) db_->idle_.notify_all();
  }
  LogUse(const LogUse&) = delete;
  const Status& status() const { return status_; }

 private:
  Db* const db_;
  Status status_;
};

}  // namespace fastkv
