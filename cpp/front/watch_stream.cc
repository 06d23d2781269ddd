#include "front/watch_stream.h"

#include <algorithm>
#include <random>
#include <utility>

#include "front/limits.h"
#include "front/proposer.h"

namespace fastkv::front {
namespace {

constexpr int64_t kInvalidId = -1;
constexpr size_t kTakeBytesMax = 1 << 20;
constexpr size_t kHeadBytes = 64;  // of a response, about
constexpr size_t kOutboxMax = 100'000;
constexpr int kProgressTakesMax = 8;
constexpr int64_t kRunNs = 500'000;
constexpr double kProgressJitter = 0.1;

constexpr std::string_view kEmptyRange = "mvcc: watcher range is empty";
constexpr std::string_view kDuplicateId = "mvcc: duplicate watch ID provided on the WatchStream";

double Random() {
  thread_local std::minstd_rand generator(std::random_device{}());
  return std::uniform_real_distribution<double>(0, 1)(generator);
}

// Where each field of a buffer of length-delimited fields ends; the bytes are our own.
std::vector<size_t> ElementEnds(std::string_view buffer) {
  std::vector<size_t> ends;
  ByteReader in(buffer);
  uint64_t tag = 0;
  std::string_view body;
  while (in.Varint(&tag) && in.LengthPrefixed(&body)) ends.push_back(buffer.size() - in.rest().size());
  return ends;
}

}  // namespace

// -- whose turn it is

void WatchThread::Enqueue(WatchStream* stream) {
  if (stream->queued_) return;
  stream->queued_ = true;
  queue_.push_back(stream);
}

void WatchThread::Drop(WatchStream* stream) {
  streams_.erase(stream->call_->id());
  if (stream->queued_) queue_.erase(std::find(queue_.begin(), queue_.end(), stream));
}

void WatchThread::Wake(const std::vector<uint64_t>& watchers) {
  for (const uint64_t number : watchers) {
    const auto found = watching_.find(number);
    if (found == watching_.end()) continue;
    WatchStream* const stream = found->second;
    stream->MarkReady(stream->by_number_.at(number));
  }
  Run();
}

void WatchThread::Run() {
  if (queue_.empty()) return;
  const int64_t until_ns = NowNs() + kRunNs;
  do {
    WatchStream* const stream = queue_.front();
    queue_.pop_front();
    stream->queued_ = false;
    if (stream->Step(until_ns)) Enqueue(stream);
  } while (!queue_.empty() && NowNs() < until_ns);
  if (queue_.empty() || posted_) return;
  posted_ = true;
  thread_->Post([this] {
    posted_ = false;
    Run();
  });
}

void WatchThread::Stop() {
  std::vector<Call*> calls;
  for (const auto& [id, stream] : streams_) calls.push_back(stream->call_);
  for (Call* const call : calls) call->Finish(GrpcCode::kUnavailable, kStoppedText);
}

void WatchThread::Tick(uint64_t call_id) {
  const auto found = streams_.find(call_id);
  if (found == streams_.end()) return;
  found->second->Tick();
  Run();
}

// -- one stream

WatchStream::WatchStream(WatchThread* owner, Call* call) : owner_(owner), call_(call) {
  owner_->streams_[call->id()] = this;
}

void WatchStream::OnEnd() {
  ended_ = true;
  for (const auto& [number, watcher] : by_number_) {
    owner_->parts().router->Remove(number);
    owner_->parts().backend->WatchCancel(number);
    owner_->watching_.erase(number);
  }
  owner_->Drop(this);
}

void WatchStream::OnMessage(std::string_view message) {
  if (ended_) return;
  WatchRequest request;
  if (!request.Parse(message)) {
    ended_ = true;
    owner_->parts().errors->RefuseStream(call_, Code::kMalformed);
    return;
  }
  switch (request.kind) {
    case WatchRequest::kCreate:
      Create(request.create);
      break;
    case WatchRequest::kCancel:
      CancelWatch(request.cancel_id);
      break;
    case WatchRequest::kProgress:
      if (!watchers_.empty()) AskProgress();
      break;
    case WatchRequest::kEmpty:
      break;
  }
  if (outbox_.size() <= kOutboxMax) return;
  ended_ = true;
  call_->Finish(GrpcCode::kUnknown, kTooManyRequestsText);
}

void WatchStream::OnWritable() {
  if (ended_ || (outbox_.empty() && ready_.empty())) return;
  owner_->Enqueue(this);
  owner_->Run();
}

void WatchStream::Post(std::string frame) {
  Item item;
  item.frame = std::move(frame);
  outbox_.push_back(std::move(item));
  owner_->Enqueue(this);
}

size_t WatchStream::BeginResponse(std::string* to, int64_t revision, int64_t id) const {
  const size_t begin = BeginFrame(to);
  owner_->parts().backend->AppendHeader(to, revision);
  AppendNumber(to, 2, id);
  return begin;
}

void WatchStream::Refuse(int64_t revision, std::string_view reason) {
  std::string frame;
  const size_t begin = BeginResponse(&frame, revision, kInvalidId);
  AppendBool(&frame, 3, true);
  AppendBool(&frame, 4, true);
  AppendBytes(&frame, 6, reason);
  EndFrame(&frame, begin);
  Post(std::move(frame));
}

void WatchStream::Create(const WatchCreateRequest& request) {
  static constexpr std::string_view kZero("\0", 1);
  const WatchParts& parts = owner_->parts();
  const std::string_view key = request.key.empty() ? kZero : request.key;
  const int64_t revision = parts.backend->revision();
  if (request.start_revision < 0) return Refuse(revision, parts.errors->text(Code::kCompacted));
  if (parts.options.refusal) {
    if (const std::string reason = parts.options.refusal(*call_, key, request.range_end); !reason.empty()) {
      return Refuse(revision, reason);
    }
  }
  if (!request.range_end.empty() && request.range_end != kZero && key >= request.range_end) {
    return Refuse(revision, kEmptyRange);
  }
  int64_t id = request.watch_id;
  if (id != 0 && watchers_.contains(id)) return Refuse(revision, kDuplicateId);
  if (id == 0) {
    while (watchers_.contains(next_id_)) ++next_id_;
    id = next_id_++;
  }
  WatchSpec spec;
  spec.key = std::string(key);
  spec.range_end = std::string(request.range_end);
  spec.start_revision = request.start_revision;
  spec.prev_kv = request.prev_kv;
  spec.no_put = request.no_put;
  spec.no_delete = request.no_delete;
  uint64_t number = parts.backend->WatchAdd(spec);
  if (request.start_revision == 0 && parts.backend->revision() != revision) {
    // A batch was committed meanwhile: "from now" is from the revision that the answer names.
    parts.backend->WatchCancel(number);
    spec.start_revision = revision + 1;
    number = parts.backend->WatchAdd(spec);
  }
  auto watcher = std::make_unique<Watcher>();
  watcher->id = id;
  watcher->number = number;
  watcher->start_revision = request.start_revision;
  watcher->progress_notify = request.progress_notify;
  watcher->fragment = request.fragment;
  by_number_[number] = watcher.get();
  owner_->watching_[number] = this;
  parts.router->Add(number, owner_->thread());
  std::string frame;
  const size_t begin = BeginResponse(&frame, revision, id);
  AppendBool(&frame, 3, true);
  EndFrame(&frame, begin);
  Post(std::move(frame));
  MarkReady(watcher.get());
  if (watcher->progress_notify && !ticking_) ScheduleTick();
  watchers_[id] = std::move(watcher);
}

void WatchStream::CancelWatch(int64_t id) {
  const auto found = watchers_.find(id);
  if (found == watchers_.end()) return;
  Forget(found->second.get());
  std::string frame;
  const size_t begin = BeginResponse(&frame, owner_->parts().backend->revision(), id);
  AppendBool(&frame, 4, true);
  EndFrame(&frame, begin);
  Post(std::move(frame));
}

void WatchStream::Forget(Watcher* watcher) {
  const uint64_t number = watcher->number;
  owner_->parts().router->Remove(number);
  owner_->parts().backend->WatchCancel(number);
  owner_->watching_.erase(number);
  by_number_.erase(number);
  watchers_.erase(watcher->id);
}

void WatchStream::MarkReady(Watcher* watcher) {
  if (watcher->ready) return;
  watcher->ready = true;
  ready_.push_back(watcher->number);
  owner_->Enqueue(this);
}

// -- progress

void WatchStream::AskProgress() {
  Item item;
  item.is_progress = true;
  item.id = kInvalidId;
  item.watchers.reserve(by_number_.size());
  const int64_t revision = owner_->parts().backend->revision();
  for (const auto& [number, watcher] : by_number_) {
    // One that waits for the future keeps the request unanswered, also if it is cancelled right behind it.
    if (watcher->start_revision > revision) return;
    item.watchers.push_back(number);
  }
  outbox_.push_back(std::move(item));
  owner_->Enqueue(this);
}

void WatchStream::ScheduleTick() {
  ticking_ = true;
  const auto interval_ns = static_cast<double>(owner_->parts().options.progress_interval_ns);
  const auto delay_ns = static_cast<int64_t>(interval_ns * (1 + kProgressJitter * Random()));
  owner_->parts().ticker->After(
      delay_ns, [owner = owner_, id = call_->id()] { owner->thread()->Post([owner, id] { owner->Tick(id); }); });
}

void WatchStream::Tick() {
  for (const auto& [id, watcher] : watchers_) {
    if (watcher->progress_notify && watcher->quiet) {
      Item item;
      item.is_progress = true;
      item.id = id;
      item.watchers = {watcher->number};
      outbox_.push_back(std::move(item));
      owner_->Enqueue(this);
    }
    watcher->quiet = true;
  }
  ScheduleTick();
}

// Brings the watchers up, one after the other, and says how far all of them are; nothing if one of them is still
// catching up.
bool WatchStream::StepProgress(Item* item) {
  Backend* const backend = owner_->parts().backend;
  while (!item->watchers.empty()) {
    const uint64_t number = item->watchers.back();
    if (by_number_.contains(number)) {
      const int64_t reached = backend->WatchProgress(number);
      if (reached < 0) {
        if (item->takes++ == kProgressTakesMax) return true;
        bool more = false;
        WriteNews(by_number_.at(number), backend->WatchTake(number, kTakeBytesMax, &more));
        return false;
      }
      item->lowest = std::min(item->lowest, reached);
    } else if (item->id != kInvalidId) {
      return true;
    }
    item->watchers.pop_back();
    item->takes = 0;
  }
  if (item->lowest == INT64_MAX) return true;
  EndFrame(&out_, BeginResponse(&out_, item->lowest, item->id));
  return true;
}

// -- responses

bool WatchStream::CanWrite() const { return call_->unsent_bytes() + out_.size() < kUnsentHighBytes; }

void WatchStream::Flush() {
  if (out_.empty()) return;
  call_->SendFramed(std::move(out_));
  out_ = {};
}

bool WatchStream::Step(int64_t until_ns) {
  if (ended_ || !CanWrite()) return false;  // OnWritable goes on
  do {
    if (!outbox_.empty()) {
      Item& item = outbox_.front();
      if (!item.is_progress) {
        out_ += item.frame;
      } else if (!StepProgress(&item)) {
        continue;
      }
      outbox_.pop_front();
    } else if (!ready_.empty()) {
      const uint64_t number = ready_.front();
      ready_.pop_front();
      StepEvents(number);
    } else {
      Flush();
      return false;
    }
  } while (CanWrite() && out_.size() < kTakeBytesMax && NowNs() < until_ns);
  Flush();
  return call_->unsent_bytes() < kUnsentHighBytes;  // else OnWritable goes on
}

void WatchStream::StepEvents(uint64_t number) {
  const auto found = by_number_.find(number);
  if (found == by_number_.end()) return;
  Watcher* const watcher = found->second;
  watcher->ready = false;
  bool more = false;
  const WatchNews news = owner_->parts().backend->WatchTake(number, kTakeBytesMax, &more);
  // Until nothing is left, behind the others: nobody wakes it for the rest.
  if (more) MarkReady(watcher);
  WriteNews(watcher, news);
}

void WatchStream::WriteNews(Watcher* watcher, const WatchNews& news) {
  if (news.compact_revision != 0) {
    const size_t begin = BeginResponse(&out_, 0, watcher->id);
    AppendBool(&out_, 4, true);
    AppendNumber(&out_, 5, news.compact_revision);
    EndFrame(&out_, begin);
    return Forget(watcher);
  }
  if (news.events == nullptr) return;
  watcher->quiet = false;
  WriteEvents(*watcher, news.revision, *news.events);
}

void WatchStream::WriteEvents(const Watcher& watcher, int64_t revision, std::string_view events) {
  Metrics* const metrics = owner_->parts().metrics;
  Metrics::Add(&metrics->watch_responses, 1);
  Metrics::Add(&metrics->watch_events_bytes, events.size());
  const size_t limit_bytes = owner_->parts().options.fragment_bytes;
  // The watchers behind it have as much to say, as a rule: they have seen the same batch.
  const size_t expected_bytes = out_.size() + (ready_.size() + 1) * (events.size() + kHeadBytes);
  if (out_.empty() && expected_bytes >= kSpareBytesMin) out_ = call_->TakeBuffer();
  if (expected_bytes > out_.capacity()) out_.reserve(std::min(expected_bytes, 2 * kTakeBytesMax));
  const size_t begin = BeginResponse(&out_, revision, watcher.id);
  const size_t head_bytes = out_.size() - begin - kPrefixBytes;
  if (!watcher.fragment || head_bytes + events.size() < limit_bytes) {
    out_ += events;
    EndFrame(&out_, begin);
    return;
  }
  out_.resize(begin);
  const size_t piece_bytes = limit_bytes > head_bytes + 2 ? limit_bytes - head_bytes - 2 : 0;
  auto write_piece = [&](std::string_view piece, bool last) {
    const size_t at = BeginResponse(&out_, revision, watcher.id);
    AppendBool(&out_, 7, !last);
    out_ += piece;
    EndFrame(&out_, at);
  };
  size_t start = 0, end = 0;
  for (const size_t next : ElementEnds(events)) {
    if (end > start && next - start >= piece_bytes) {
      write_piece(events.substr(start, end - start), false);
      start = end;
    }
    end = next;
  }
  write_piece(events.substr(start, end - start), true);
}

}  // namespace fastkv::front
