#include "front/guard.h"

#include <algorithm>

#include "front/limits.h"

namespace fastkv::front {

bool TokenBucket::Take(int64_t count, int64_t now_ns) {
  constexpr int64_t kNsPerSecond = 1'000'000'000;
  // No more than fills it, so that nothing overflows after an idle week.
  const int64_t elapsed_ns = std::min(now_ns - filled_ns_, (burst_ / per_second_ + 1) * kNsPerSecond);
  if (const int64_t filled = elapsed_ns * per_second_ / kNsPerSecond; filled > 0) {
    tokens_ = std::min(burst_, tokens_ + filled);
    filled_ns_ = now_ns;
  }
  if (tokens_ < count) return false;
  tokens_ -= count;
  return true;
}

Guard::Guard(int64_t ping_min_ms, bool strict_pings, int64_t now_ns)
    : ping_min_ns_(ping_min_ms * 1'000'000),
      strict_pings_(strict_pings),
      control_(kControlBurst, kControlPerSecond, now_ns),
      resets_(kResetsBurst, kResetsPerSecond, now_ns) {}

bool Guard::BadHeaders(int64_t now_ns) { return control_.Take(kBadHeadersCost, now_ns); }

bool Guard::Ping(bool streams_open, int64_t now_ns) {
  const int64_t since_ns = now_ns - last_ping_ns_;
  const bool first = !pinged_;
  last_ping_ns_ = now_ns;
  pinged_ = true;
  if (!control_.Take(1, now_ns)) return false;
  if (!strict_pings_) return true;
  if (forgive_pings_) {
    forgive_pings_ = false;
    strikes_ = 0;
    return true;
  }
  const int64_t allowed_ns = streams_open ? ping_min_ns_ : kIdlePingMs * 1'000'000;
  if (!first && since_ns < allowed_ns) ++strikes_;
  return strikes_ <= kPingStrikesMax;
}

void Guard::FrameSent() {
  forgive_pings_ = true;
  control_.Give(kControlPerSentFrame);
}

}  // namespace fastkv::front
