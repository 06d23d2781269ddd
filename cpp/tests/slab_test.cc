// SlabPool against a map of what was handed out: nothing overlaps, nothing is lost, everything is aligned.
#include "base/slab.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <random>
#include <vector>

namespace fastkv {
namespace {

TEST(SlabPool, ObjectsNeverOverlapAndKeepTheirBytes) {
  struct Object {
    char* at;
    size_t bytes;
    char fill;
  };
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    SlabPool pool;
    std::vector<Object> objects;
    std::map<const char*, size_t> taken;
    for (int step = 0; step < 20'000; ++step) {
      // Phases of growth and of shrinking, so that slabs and regions empty and come back.
      const bool grow = objects.empty() || random() % 100 < (step / 4000 % 2 == 0 ? 70u : 30u);
      if (grow) {
        const size_t bytes = random() % 50 == 0 ? 4000 + random() % 10'000 : 1 + random() % 700;
        auto* at = static_cast<char*>(pool.Allocate(bytes));
        ASSERT_EQ(reinterpret_cast<uintptr_t>(at) % alignof(std::max_align_t), 0u);
        const auto next = taken.lower_bound(at);
        ASSERT_TRUE(next == taken.end() || at + bytes <= next->first);
        ASSERT_TRUE(next == taken.begin() || std::prev(next)->first + std::prev(next)->second <= at);
        taken[at] = bytes;
        objects.push_back({at, bytes, static_cast<char>(random())});
        memset(at, objects.back().fill, bytes);
      } else {
        std::swap(objects[random() % objects.size()], objects.back());
        const Object object = objects.back();
        objects.pop_back();
        for (size_t i = 0; i < object.bytes; ++i) ASSERT_EQ(object.at[i], object.fill);
        taken.erase(object.at);
        pool.Free(object.at, object.bytes);
      }
    }
  }
}

TEST(SlabPool, WhatIsAbsorbedIsFreedAndUsedAsItsOwn) {
  std::mt19937 random(7);
  for (int round = 0; round < 20; ++round) {
    SlabPool pool;
    std::array<SlabPool, 3> others;
    std::map<char*, std::pair<size_t, char>> objects;  // -> bytes, fill
    auto allocate = [&](SlabPool* from) {
      const size_t bytes = random() % 20 == 0 ? 4000 + random() % 10'000 : 1 + random() % 200;
      auto* at = static_cast<char*>(from->Allocate(bytes));
      const char fill = static_cast<char>(random());
      ASSERT_TRUE(objects.emplace(at, std::pair(bytes, fill)).second);
      memset(at, fill, bytes);
    };
    auto free_some = [&] {
      for (auto at = objects.begin(); at != objects.end();) {
        const auto [bytes, fill] = at->second;
        ASSERT_EQ(std::count(at->first, at->first + bytes, fill), static_cast<ptrdiff_t>(bytes));
        if (random() % 4 == 0) {
          ++at;
          continue;
        }
        pool.Free(at->first, bytes);
        at = objects.erase(at);
      }
    };
    for (size_t i = 0; i < others.size(); ++i) {  // one of them perhaps without anything
      for (size_t count = i * (random() % 20'000); count > 0; --count) allocate(&others[i]);
    }
    for (size_t count = random() % 10'000; count > 0; --count) allocate(&pool);
    for (SlabPool& other : others) pool.Absorb(&other);
    free_some();
    for (int count = 0; count < 10'000; ++count) allocate(&pool);
    others[1].Free(others[1].Allocate(100), 100);  // it goes on, empty
    free_some();
  }
}

#ifndef FASTKV_SANITIZED  // there everything comes from malloc, and a sanitizer's malloc does the opposite on purpose
TEST(SlabPool, FreedMemoryIsUsedAgain) {
  SlabPool pool;
  std::map<void*, int> seen;
  for (int round = 0; round < 100; ++round) {
    std::vector<void*> objects;
    for (int i = 0; i < 1000; ++i) objects.push_back(pool.Allocate(176));
    for (void* object : objects) {
      ++seen[object];
      pool.Free(object, 176);
    }
  }
  EXPECT_LT(seen.size(), 2000u);
}
#endif

}  // namespace
}  // namespace fastkv
