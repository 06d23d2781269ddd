// The generator's command line: `loadgen WORKLOAD --name value ...`, all values numbers but the target's.
//
// Thread safety: none needed; read-only once parsed.
#pragma once

#include <cstdint>
#include <string>

#include "messages.h"

namespace fastkv::load {

struct Options {
  std::string target = "127.0.0.1:2379";
  int64_t connections = 100;
  int64_t streams = 10;       // calls at a time on each connection
  int64_t seconds = 5;        // measured
  int64_t warmup = 1;         // seconds before
  int64_t prefix = 'k';       // first byte of the keys
  int64_t keys = 100'000;     // key space
  int64_t key_bytes = 8;      // of a key
  int64_t value_bytes = 256;  // of a value
  int64_t puts = 0;           // load: puts in all (0: one a key)
  int64_t ops = 128;          // load: puts a transaction
  int64_t serializable = 0;   // range, list
  int64_t limit = 0;          // list: keys an answer (0: all)
  int64_t watchers = 10;      // watch: watchers a connection
  int64_t inflight = 16;      // watch: puts whose events may be outstanding
  int64_t rate = 0;           // watch, put-during-*: puts per second (0, watch only: as many as inflight allows)
  int64_t repeat = 1;         // put-during-list: lists
  int64_t window = 16 << 20;  // HTTP/2 flow control, bytes
  int64_t server_pid = 0;     // whose CPU time and writes are reported
  int64_t revision = 0;       // first-get: the store has this one and key 0; 0: any
  int64_t shared = 0;         // put: other generators write meanwhile

  static Options Parse(int count, char** words);
};

inline Options Options::Parse(int count, char** words) {
  Options o;
  const struct {
    const char* name;
    int64_t* value;
  } known[] = {
      {"--connections", &o.connections},
      {"--streams", &o.streams},
      {"--seconds", &o.seconds},
      {"--warmup", &o.warmup},
      {"--prefix", &o.prefix},
      {"--keys", &o.keys},
      {"--key-bytes", &o.key_bytes},
      {"--value-bytes", &o.value_bytes},
      {"--puts", &o.puts},
      {"--ops", &o.ops},
      {"--serializable", &o.serializable},
      {"--limit", &o.limit},
      {"--watchers", &o.watchers},
      {"--inflight", &o.inflight},
      {"--rate", &o.rate},
      {"--repeat", &o.repeat},
      {"--window", &o.window},
      {"--server-pid", &o.server_pid},
      {"--revision", &o.revision},
      {"--shared", &o.shared},
  };
  for (int i = 0; i < count; i += 2) {
    const std::string name = words[i];
    if (i + 1 == count) throw Failure(name + " needs a value");
    bool found = name == "--target";
    if (found) o.target = words[i + 1];
    for (const auto& one : known) {
      if (name != one.name) continue;
      size_t used = 0;
      const std::string text = words[i + 1];
      *one.value = std::stoll(text, &used);
      if (used != text.size()) throw Failure(name + " needs a number, not " + text);
      found = true;
    }
    if (!found) throw Failure("there is no " + name);
  }
  return o;
}

}  // namespace fastkv::load
