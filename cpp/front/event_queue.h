// What C++ has to tell Python: calls of cold methods, what an applied batch means for the node, lines for its log.
//
//   any thread --Push--> events --one byte in a pipe--> asyncio wakes --Take--> all of them, at once
//
// Invariants:
// - the pipe holds a byte exactly while there is something to take: many events, one wake-up.
// - events come out in the order of their Push.
// Thread safety: Push from any thread, Take from one.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "base/status.h"
#include "front/call.h"

namespace fastkv::front {

// A command that has been applied, for the node to follow, or the answer to one that Python proposed.
struct Committed {
  uint64_t token = 0;  // Python's; 0: a client's command
  uint64_t tag = 0;
  std::string payload;  // only if token is 0
  Code code = Code::kOk;
  std::string response;
};

struct Event {
  enum Kind : uint8_t {
    kCall = 0,        // a cold call begins: thread, call, text = path, body = the message, metadata
    kWritable = 1,    // the cold stream takes more: thread, call
    kEnd = 2,         // the cold call is gone: thread, call
    kHttp1 = 3,       // number = a socket, text = the client's address
    kCommitted = 4,   // commands, or, if code is not kOk, what the world did to them (text)
    kSlowBatch = 5,   // number = ns, count = commands
    kSlowCall = 6,    // text = path, number = ns, count = bytes
    kLeases = 7,      // a lease ends earlier than NextDeadline said
    kQuota = 8,       // the quota is exceeded: the alarm is being raised
    kDied = 9,        // text: the committer has ended; nothing will be written any more
    kLog = 10,        // text
    kRejected = 11,   // a connection: text = the client's address, body = why
    kWatch = 12,      // number = a watcher of Python's that has got something
    kProposals = 13,  // something has gathered for RaftProposer::Take
    kReads = 14,      // something has gathered for ReadGate::Take
    kRenew = 15,      // leases that the leader is asked to renew: NodeService::Renewed answers
  };
  Kind kind = kLog;
  Code code = Code::kOk;
  uint32_t thread = 0;
  uint64_t call = 0;
  int64_t number = 0, count = 0;
  std::string text = {}, body = {};
  Metadata metadata = {};
  std::vector<Committed> commands = {};
  std::vector<int64_t> leases = {};
};

class EventQueue {
 public:
  EventQueue();
  ~EventQueue();
  EventQueue(const EventQueue&) = delete;
  EventQueue& operator=(const EventQueue&) = delete;

  void Push(Event event);
  void Push(std::vector<Event>* events);  // leaves it empty
  std::vector<Event> Take();
  int fd() const { return pipe_[0]; }  // readable while there is something to take

 private:
  std::mutex mutex_;
  std::vector<Event> events_;
  int pipe_[2];
};

}  // namespace fastkv::front
