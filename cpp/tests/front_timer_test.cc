// The timer wheel against a sorted list of times: no timer early, none late, none lost.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <vector>

#include "front/timer_wheel.h"

namespace fastkv::front {
namespace {

struct Alarm {
  Alarm() : timer([](void* self) { ++static_cast<Alarm*>(self)->fired; }, this) {}
  Timer timer;
  int fired = 0;
  int64_t due_ms = 0;
};

TEST(TimerWheel, FiresAtItsTimeAndNotBefore) {
  TimerWheel wheel(1000);
  Alarm alarm;
  wheel.Arm(&alarm.timer, 1050);
  EXPECT_EQ(wheel.NextMs(), 1050);
  wheel.Advance(1049);
  EXPECT_EQ(alarm.fired, 0);
  wheel.Advance(1050);
  EXPECT_EQ(alarm.fired, 1);
  EXPECT_EQ(wheel.NextMs(), INT64_MAX);
}

TEST(TimerWheel, CancelledTimerStaysSilentAndLeavesNothingToWaitFor) {
  TimerWheel wheel(0);
  Alarm alarm;
  wheel.Arm(&alarm.timer, 7'200'000);
  EXPECT_LT(wheel.NextMs(), 7'200'001);
  alarm.timer.Cancel();
  EXPECT_EQ(wheel.NextMs(), INT64_MAX);
  wheel.Advance(8'000'000);
  EXPECT_EQ(alarm.fired, 0);
}

TEST(TimerWheel, ArmingAgainMovesIt) {
  TimerWheel wheel(0);
  Alarm alarm;
  wheel.Arm(&alarm.timer, 10);
  wheel.Arm(&alarm.timer, 500);
  wheel.Advance(499);
  EXPECT_EQ(alarm.fired, 0);
  wheel.Advance(500);
  EXPECT_EQ(alarm.fired, 1);
}

TEST(TimerWheel, CallbackMayCancelAndArmOthersDueAtTheSameTime) {
  TimerWheel wheel(0);
  struct Pair {
    TimerWheel* wheel;
    Alarm victim, later;
    Timer first{[](void* self) {
                  auto* pair = static_cast<Pair*>(self);
                  pair->victim.timer.Cancel();
                  pair->wheel->Arm(&pair->later.timer, 64);
                },
                this};
  } pair{.wheel = &wheel, .victim = {}, .later = {}};
  wheel.Arm(&pair.first, 5);
  wheel.Arm(&pair.victim.timer, 5);
  wheel.Advance(6);
  EXPECT_EQ(pair.victim.fired, 0);
  wheel.Advance(64);
  EXPECT_EQ(pair.later.fired, 1);
}

TEST(TimerWheel, RandomTimersAgreeWithTheirTimes) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  int64_t now_ms = static_cast<int64_t>(random() % 10'000'000'000);
  TimerWheel wheel(now_ms);
  std::vector<std::unique_ptr<Alarm>> alarms(300);
  for (auto& alarm : alarms) alarm = std::make_unique<Alarm>();
  for (int step = 0; step < 20'000; ++step) {
    Alarm& alarm = *alarms[random() % alarms.size()];
    if (random() % 8 == 0) {
      alarm.timer.Cancel();
    } else {
      alarm.due_ms = now_ms + 1 + static_cast<int64_t>(random() % (uint64_t{1} << random() % 30));
      alarm.fired = 0;
      wheel.Arm(&alarm.timer, alarm.due_ms);
    }
    if (random() % 4 != 0) continue;
    int64_t next_ms = INT64_MAX;
    for (const auto& each : alarms) {
      if (each->timer.armed()) next_ms = std::min(next_ms, each->due_ms);
    }
    ASSERT_LE(wheel.NextMs(), next_ms);
    now_ms += static_cast<int64_t>(random() % (uint64_t{1} << random() % 24));
    std::vector<std::pair<Alarm*, bool>> expected;
    for (const auto& each : alarms) expected.emplace_back(each.get(), each->timer.armed() && each->due_ms <= now_ms);
    for (const auto& [each, due] : expected) each->fired = 0;
    wheel.Advance(now_ms);
    for (const auto& [each, due] : expected) ASSERT_EQ(each->fired, due ? 1 : 0) << each->due_ms << " at " << now_ms;
  }
}

}  // namespace
}  // namespace fastkv::front
