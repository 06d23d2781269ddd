#include "mvcc/revision_index.h"

#include <cstdlib>
#include <new>

namespace fastkv {
namespace {

void FreeMemory(void* memory, void*) { std::free(memory); }

}  // namespace

RevisionIndex::Directory* RevisionIndex::NewDirectory(uint64_t first_chunk, uint64_t capacity) {
  void* memory = std::malloc(sizeof(Directory) + capacity * sizeof(std::atomic<Chunk*>));
  if (memory == nullptr) throw std::bad_alloc();
  auto* directory = new (memory) Directory;
  directory->first_chunk = first_chunk;
  directory->capacity = capacity;
  for (uint64_t i = 0; i < capacity; ++i) new (directory->chunks() + i) std::atomic<Chunk*>(nullptr);
  return directory;
}

RevisionIndex::RevisionIndex(Retired* retired) : retired_(retired), directory_(NewDirectory(0, 16)) {}

RevisionIndex::~RevisionIndex() {
  Directory* directory = directory_.load();
  for (uint64_t i = 0; i < directory->capacity; ++i) std::free(directory->chunks()[i].load());
  std::free(directory);
}

const Record* RevisionIndex::at(uint64_t position) const {
  const Directory* directory = directory_.load(std::memory_order_acquire);
  const uint64_t number = position / kChunk;
  if (number < directory->first_chunk) return nullptr;
  const Chunk* chunk = directory->chunks()[number - directory->first_chunk].load(std::memory_order_acquire);
  return chunk == nullptr ? nullptr : chunk->slots[position % kChunk].load(std::memory_order_acquire);
}

uint64_t RevisionIndex::LowerBound(int64_t main) const {
  const uint64_t end = this->end();
  uint64_t low = begin(), high = end;
  while (low < high) {
    const uint64_t middle = low + (high - low) / 2;
    const Record* record = at(middle);
    if (record == nullptr || record->main() < main) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

void RevisionIndex::Append(Record* record) {
  const uint64_t position = end_.load(std::memory_order_relaxed);
  Directory* directory = directory_.load(std::memory_order_relaxed);
  const uint64_t chunk_number = position / kChunk;
  if (chunk_number - directory->first_chunk == directory->capacity) {
    const uint64_t first = begin_.load(std::memory_order_relaxed) / kChunk;
    Directory* grown = NewDirectory(first, (chunk_number - first + 1) * 2);
    for (uint64_t i = first; i < chunk_number; ++i) {
      grown->chunks()[i - first].store(directory->chunks()[i - directory->first_chunk].load(std::memory_order_relaxed),
                                       std::memory_order_relaxed);
    }
    directory_.store(grown, std::memory_order_release);
    retired_->Add(directory, FreeMemory);
    directory = grown;
  }
  std::atomic<Chunk*>& slot = directory->chunks()[chunk_number - directory->first_chunk];
  Chunk* chunk = slot.load(std::memory_order_relaxed);
  if (chunk == nullptr) {
    void* memory = std::malloc(sizeof(Chunk));
    if (memory == nullptr) throw std::bad_alloc();
    chunk = new (memory) Chunk;
    slot.store(chunk, std::memory_order_release);
  }
  chunk->slots[position % kChunk].store(record, std::memory_order_release);
  end_.store(position + 1, std::memory_order_release);
}

void RevisionIndex::TrimTo(uint64_t begin) {
  const uint64_t from = begin_.load(std::memory_order_relaxed) / kChunk;
  begin_.store(begin, std::memory_order_release);
  Directory* directory = directory_.load(std::memory_order_relaxed);
  for (uint64_t i = from; i < begin / kChunk; ++i) {
    std::atomic<Chunk*>& slot = directory->chunks()[i - directory->first_chunk];
    if (Chunk* chunk = slot.load(std::memory_order_relaxed); chunk != nullptr) {
      slot.store(nullptr, std::memory_order_release);
      retired_->Add(chunk, FreeMemory);
    }
  }
}

uint64_t RevisionIndex::memory_bytes() const { return (end() / kChunk - begin() / kChunk + 1) * sizeof(Chunk); }

}  // namespace fastkv
