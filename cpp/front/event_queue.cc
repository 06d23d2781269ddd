#include "front/event_queue.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <iterator>
#include <system_error>
#include <utility>

namespace fastkv::front {

EventQueue::EventQueue() {
  if (pipe(pipe_) != 0) throw std::system_error(errno, std::generic_category(), "pipe");
  for (const int end : pipe_) {
    fcntl(end, F_SETFL, O_NONBLOCK);
    fcntl(end, F_SETFD, FD_CLOEXEC);
  }
}

EventQueue::~EventQueue() {
  for (const int end : pipe_) close(end);
}

void EventQueue::Push(Event event) {
  std::vector<Event> one;
  one.push_back(std::move(event));
  Push(&one);
}

void EventQueue::Push(std::vector<Event>* events) {
  if (events->empty()) return;
  const std::lock_guard lock(mutex_);
  // Under the lock: Take must not find the byte before the events, nor leave it behind.
  if (events_.empty()) {
    ssize_t written = 0;
    do {
      written = write(pipe_[1], "", 1);
    } while (written < 0 && errno == EINTR);
  }
  events_.insert(events_.end(), std::make_move_iterator(events->begin()), std::make_move_iterator(events->end()));
  events->clear();
}

std::vector<Event> EventQueue::Take() {
  const std::lock_guard lock(mutex_);
  if (events_.empty()) return {};
  char byte = 0;
  ssize_t got = 0;
  do {
    got = read(pipe_[0], &byte, 1);
  } while (got < 0 && errno == EINTR);
  return std::exchange(events_, {});
}

}  // namespace fastkv::front
