// Linearizable reads in a cluster: parked until a majority has confirmed who leads and this member has applied what was
// committed then (ReadIndex, thesis section 6.4). One confirmation serves all that had gathered when it began.
//
//   io threads: turn [r r r]  turn [r]            one lock a turn
//   Python:     Take --> group 7: 4 reads ..ReadIndex.. applied --> Release(7) --> every thread runs its reads, one
//   Post
//
// Invariants:
// - a read is in one group, and leaves it once: released, refused with a code, overdue, or stopped.
// - a group that was taken takes no more reads: what comes later belongs to the next.
// - what is parked is bounded: beyond, Park refuses.
// Thread safety: every method from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/status.h"
#include "front/call.h"
#include "front/range_stream.h"

namespace fastkv::front {

struct ParkedRead {
  uint64_t call_id = 0;
  uint32_t method = 0;                             // the service's number
  std::string request = {};                        // of a unary call
  std::shared_ptr<RangeStream::Link> stream = {};  // of a RangeStream, which keeps its request itself
  uint64_t round = 0;                              // of keep-alives (keep_alive.h): all of the turn in one
};

// The reads of one turn of one IoThread.
struct ParkedTurn {
  IoThread* thread = nullptr;
  int64_t began_ns = 0;
  size_t bytes = 0;
  std::vector<ParkedRead> reads;
};

struct ReadGateOptions {
  size_t parked_reads_max = 200'000;
  size_t parked_bytes_max = 256 << 20;
};

class ReadGate {
 public:
  enum class Parked { kYes, kFull, kStopped };
  // Runs the reads in their thread, or refuses them there if code is not kOk.
  using Go = std::function<void(IoThread* thread, std::vector<ParkedRead> reads, Code code)>;

  // gathered: called when a first read waits, once until the next Take; from any thread.
  ReadGate(ReadGateOptions options, Go go, std::function<void()> gathered)
      : options_(options), go_(std::move(go)), gathered_(std::move(gathered)) {}

  // The turn is taken over if the answer is kYes.
  Parked Park(ParkedTurn* turn);
  // Closes the waiting group and gives its number; 0: nothing waits.
  uint64_t Take();
  // False: there is no such group (any more). Its reads may be gone already.
  bool Release(uint64_t group, Code code);
  // Refuses what was parked before `before_ns`.
  void RefuseOverdue(int64_t before_ns, Code code);
  // Refuses everything, also what comes.
  void Stop();

  size_t size() const;

 private:
  using Group = std::deque<ParkedTurn>;  // in the order of Park

  void Forget(const ParkedTurn& turn);  // REQUIRES: mutex_
  void Answer(Group turns, Code code);  // REQUIRES: not mutex_

  const ReadGateOptions options_;
  const Go go_;
  const std::function<void()> gathered_;
  mutable std::mutex mutex_;
  Group waiting_;
  std::map<uint64_t, Group> taken_;
  uint64_t last_group_ = 0;
  size_t reads_ = 0, bytes_ = 0;
  bool told_ = false, stopped_ = false;
};

}  // namespace fastkv::front
