#include "front/aftermath.h"

#include <algorithm>
#include <utility>

#include "front/requests.h"

namespace fastkv::front {

void Deliver(IoThread* thread, std::vector<Answer> answers) {
  if (answers.empty()) return;
  if (!thread->IsCurrent()) {
    thread->Post(std::move(answers));
    return;
  }
  for (Answer& answer : answers) {
    Call* const call = thread->Find(answer.call_id);
    if (call == nullptr) continue;
    if (answer.code == GrpcCode::kOk) {
      call->Reply(std::move(answer.body));
    } else {
      call->Finish(answer.code, answer.body);
    }
  }
}

void Aftermath::Done(std::unique_ptr<Batch> batch) {
  if (batch->settled != Code::kOk) {
    Settled(batch.get());
  } else if (batch->status.ok()) {
    Applied(batch.get());
  } else {
    Failed(batch.get());
  }
}

void Aftermath::Applied(Batch* batch) {
  const int64_t now_ns = NowNs();
  const double now = static_cast<double>(now_ns) * 1e-9;
  const bool direct = batch->sequence == 0;
  std::vector<Event> events;
  Event committed;
  committed.kind = Event::kCommitted;
  size_t at = 0, bytes = 0;
  // Leases first: who is told of a grant may renew it, on whatever connection.
  if (direct) {
    for (const WriteGroup& group : batch->groups) {
      for (const Write& write : group.writes) {
        parts_.follower->Follow(write.tag, group.payload(write), batch->results[at++].code, now);
      }
    }
  }
  at = 0;
  for (const WriteGroup& group : batch->groups) {
    bytes += group.bytes.size();
    std::vector<Answer> answers;
    if (group.thread != nullptr) answers.reserve(group.writes.size());
    for (const Write& write : group.writes) {
      CommandResult& result = batch->results[at++];
      if (write.from == Write::kOutside) {
        if (direct || write.tag < kCompactionTag)
          committed.commands.push_back({write.asker, write.tag, {}, result.code, std::move(result.response)});
        continue;
      }
      const bool followed = direct && (write.tag == kCompactionTag || write.tag == kAlarmTag);
      if (followed && result.code == Code::kOk) {
        committed.commands.push_back({0, write.tag, std::string(group.payload(write)), result.code, result.response});
      }
      if (write.from != Write::kCall) continue;
      if (result.code == Code::kLeaseExists && write.id_chosen) {
        GrantAgain(group, write);
        continue;
      }
      const bool ok = result.code == Code::kOk;
      const GrpcCode code = ok ? GrpcCode::kOk : parts_.errors->grpc_code(result.code);
      answers.push_back({write.asker, code, ok ? std::move(result.response) : parts_.errors->text(result.code)});
    }
    if (options_.slow_call_ns > 0 && !answers.empty() && now_ns - group.began_ns > options_.slow_call_ns) {
      Event slow;
      slow.kind = Event::kSlowCall;
      slow.text = parts_.path(group.writes.front().method);
      slow.number = now_ns - group.began_ns;
      slow.count = static_cast<int64_t>(group.writes.front().size);
      events.push_back(std::move(slow));
    }
    AnswerGroup(group, std::move(answers));
  }
  Metrics::Add(&parts_.metrics->batches, 1);
  Metrics::Add(&parts_.metrics->commands, batch->commands.size());
  Metrics::Add(&parts_.metrics->batch_bytes, bytes);
  Metrics::Add(&parts_.metrics->commit_ns, static_cast<uint64_t>(batch->took_ns));

  if (direct) parts_.follower->TellEnded();
  if (std::exchange(disk_full_, false)) committed.commands.emplace_back();  // so that the node hears of it
  if (!committed.commands.empty()) events.push_back(std::move(committed));
  if (direct && options_.slow_batch_ns > 0 && batch->took_ns > options_.slow_batch_ns) {
    Event slow;
    slow.kind = Event::kSlowBatch;
    slow.number = batch->took_ns;
    slow.count = static_cast<int64_t>(batch->commands.size());
    events.push_back(std::move(slow));
  }
  parts_.events->Push(&events);
  parts_.watches->Wake();
}

void Aftermath::AnswerGroup(const WriteGroup& group, std::vector<Answer> answers) {
  if (group.thread != nullptr) Deliver(group.thread, std::move(answers));
}

void Aftermath::GrantAgain(const WriteGroup& group, const Write& write) {
  LeaseGrantRequest grant;
  grant.Parse(group.payload(write));
  std::string payload;
  AppendNumber(&payload, 1, grant.ttl);
  AppendNumber(&payload, 2, parts_.new_lease_id());
  WriteGroup again;
  again.thread = group.thread;
  again.began_ns = group.began_ns;
  again.Add(write, payload);
  const Committer::Taken taken = committer_->Submit(&again, /*at_once=*/false);
  if (taken == Committer::Taken::kYes) return;
  const Code code = taken == Committer::Taken::kFull ? Code::kTooManyRequests : Code::kStopped;
  AnswerGroup(group, {{write.asker, parts_.errors->grpc_code(code), parts_.errors->text(code)}});
}

Event Aftermath::Refuse(Batch* batch, Code code, const std::string& text) {
  const GrpcCode grpc_code = parts_.errors->grpc_code(code);
  Event told;
  told.kind = Event::kCommitted;
  for (const WriteGroup& group : batch->groups) {
    std::vector<Answer> answers;
    for (const Write& write : group.writes) {
      const bool heard = batch->followed && write.tag >= kCompactionTag;
      if (write.from == Write::kOutside && !heard) told.commands.push_back({write.asker, write.tag, {}, code, {}});
      if (write.from != Write::kCall) continue;
      answers.push_back({write.asker, grpc_code, text});
    }
    AnswerGroup(group, std::move(answers));
  }
  return told;
}

void Aftermath::Settled(Batch* batch) {
  Event told = Refuse(batch, batch->settled, parts_.errors->text(batch->settled));
  if (!told.commands.empty()) parts_.events->Push(std::move(told));
}

void Aftermath::Failed(Batch* batch) {
  const Code code = batch->status.code();
  disk_full_ = code == Code::kNoSpace;
  // Of a full disk a client is told what etcd would tell it, and not our paths.
  Event failed = Refuse(batch, code, disk_full_ ? parts_.errors->text(code) : batch->status.message());
  failed.code = code;
  failed.text = batch->status.message();
  parts_.events->Push(std::move(failed));
}

}  // namespace fastkv::front
