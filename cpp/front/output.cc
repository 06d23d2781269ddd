#include "front/output.h"

#include "front/limits.h"

namespace fastkv::front {

void Output::Append(Body* body, size_t offset, size_t size) {
  if (copy_all_ || size < kReferenceBytesMin) return Append(std::string_view(body->bytes).substr(offset, size));
  segments_.push_back({body, body->bytes.data() + offset, size});
  ++body->holders;
  size_ += size;
}

int Output::Pieces(iovec* pieces, int max) const {
  int count = 0;
  const char* at = bytes_.data() + written_;
  for (size_t i = segments_done_; i < segments_.size() && count < max; ++i, ++count) {
    const Segment& segment = segments_[i];
    pieces[count] = {const_cast<char*>(segment.body == nullptr ? at : segment.data), segment.size};
    if (segment.body == nullptr) at += segment.size;
  }
  return count;
}

void Output::Advance(size_t size) {
  size_ -= size;
  if (size_ == 0) return Clear();
  while (size > 0) {
    Segment& segment = segments_[segments_done_];
    const size_t step = size < segment.size ? size : segment.size;
    if (segment.body == nullptr) {
      written_ += step;
    } else {
      segment.data += step;
    }
    segment.size -= step;
    size -= step;
    if (segment.size > 0) continue;
    if (segment.body != nullptr) pool_->Release(segment.body);
    ++segments_done_;
  }
}

std::unique_ptr<Output> Output::Detach() {
  auto rest = std::make_unique<Output>(pool_, copy_all_);
  rest->bytes_ = bytes_.substr(written_);
  rest->segments_.assign(segments_.begin() + static_cast<ptrdiff_t>(segments_done_), segments_.end());
  rest->size_ = size_;
  segments_.clear();  // their bodies are the rest's now
  segments_done_ = 0;
  Clear();
  return rest;
}

void Output::Clear() {
  for (; segments_done_ < segments_.size(); ++segments_done_) {
    if (segments_[segments_done_].body != nullptr) pool_->Release(segments_[segments_done_].body);
  }
  segments_.clear();
  segments_done_ = 0;
  bytes_.clear();
  written_ = 0;
  size_ = 0;
}

}  // namespace fastkv::front
