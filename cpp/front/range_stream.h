// etcdserverpb.KV/RangeStream: the whole of a range, of whatever size, in bounded memory.
//
//   OnMessage, OnWritable --> reader thread: RangeChunk --> Send --> ...     the next chunk is read while one is sent
//
// Invariants: at most one chunk of a stream is being read, and none while kUnsentHighBytes are unsent: flow control
// reaches back to the store's cursor, which is the next request, with the pinned revision in it. Thread safety: none; a
// stream belongs to its IoThread, its reader only touches what is copied for it.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "db/backend.h"
#include "front/call.h"
#include "front/error_table.h"
#include "front/reader_pool.h"

namespace fastkv::front {

class RangeStream final : public CallHandler {
 public:
  // Outlives the stream while a chunk of it is being read, or a confirmation awaited.
  struct Link {
    RangeStream* stream;  // null: gone. Touched in the IoThread only.
  };
  struct Parts {
    Backend* backend = nullptr;
    ReaderPool* readers = nullptr;
    const ErrorTable* errors = nullptr;
    size_t chunk_bytes = 0;
    // Whether the read must wait until it is Confirmed; it has been parked then.
    std::function<bool(Call*, std::string_view request, const std::shared_ptr<Link>&)> park = {};
  };
  RangeStream(const Parts* parts, Call* call);

  void OnMessage(std::string_view message) override;
  void OnHalfClose() override;
  void OnWritable() override { ReadNext(); }
  void OnEnd() override;
  // What has parked it lets it go on, or refuses it.
  void Confirmed(Code code);

 private:
  struct Chunk {
    Code code = Code::kOk;
    std::string message, next;
  };
  void ReadNext();
  void Take(Chunk chunk);
  void Refuse(Code code);

  const Parts* const parts_;
  Call* const call_;
  const std::shared_ptr<Link> link_;
  std::string request_;  // for the next chunk
  bool asked_ = false, parked_ = false, reading_ = false, ended_ = false;
};

}  // namespace fastkv::front
