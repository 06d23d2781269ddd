// The workloads, one function each: run it, check it, print what was measured. A wrong answer throws Failure.
#pragma once

#include "options.h"

namespace fastkv::load {

// unary.cc: closed loops, `streams` calls at a time on each connection
void PutKeys(const Options& options);     // random keys of the key space
void RangeKeys(const Options& options);   // one key an answer, random, all loaded before
void CreateKeys(const Options& options);  // Txn: if the key is absent, put it; a new key each
void LoadKeys(const Options& options);    // fills the key space with transactions of `ops` puts
void FirstGet(const Options& options);    // tries until one linearizable get is answered

// bulk.cc
void ListKeys(const Options& options);             // Range of all keys with the prefix, `limit` an answer
void StreamKeys(const Options& options);           // RangeStream of the same
void PutDuringList(const Options& options);        // puts at `rate`, latency while `repeat` lists are read
void PutDuringCompaction(const Options& options);  // the same while everything is compacted

// streams.cc
void WatchOneKey(const Options& options);      // `watchers` watchers a connection, all of one key; a writer
void KeepLeasesAlive(const Options& options);  // one lease a stream, one keepalive at a time
void StayIdle(const Options& options);         // a watcher a connection and nothing else

}  // namespace fastkv::load
