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
  if (batch->status.ok()) {
    Applied(batch.get());
  } else {
    Failed(batch.get());
  }
}

void Aftermath::Applied(Batch* batch) {
  const int64_t now_ns = NowNs();
  const double now = static_cast<double>(now_ns) * 1e-9;
  std::vector<LeaseClock::Waiter> waiters;
  std::vector<Event> events;
  Event committed;
  committed.kind = Event::kCommitted;
  size_t at = 0, bytes = 0;
  // Leases first: who is told of a grant may renew it, on whatever connection.
  for (const WriteGroup& group : batch->groups) {
    for (const Write& write : group.writes) Follow(group, write, batch->results[at++], now, &waiters);
  }
  at = 0;
  for (const WriteGroup& group : batch->groups) {
    bytes += group.bytes.size();
    std::vector<Answer> answers;
    if (group.thread != nullptr) answers.reserve(group.writes.size());
    for (const Write& write : group.writes) {
      CommandResult& result = batch->results[at++];
      if (write.from == Write::kOutside) {
        committed.commands.push_back({write.asker, write.tag, {}, result.code, std::move(result.response)});
        continue;
      }
      const bool followed = write.tag == kCompactionTag || write.tag == kAlarmTag;
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
      (*parts_.methods)[write.method].Handled(code);
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

  if (!waiters.empty()) {
    std::sort(waiters.begin(), waiters.end(), [](const auto& a, const auto& b) { return a.thread < b.thread; });
    for (size_t i = 0; i < waiters.size();) {
      IoThread* const thread = waiters[i].thread;
      std::vector<uint64_t> calls;
      for (; i < waiters.size() && waiters[i].thread == thread; ++i) calls.push_back(waiters[i].call_id);
      parts_.lease_ended(thread, std::move(calls));
    }
  }
  if (std::exchange(disk_full_, false)) committed.commands.emplace_back();  // so that the node hears of it
  if (!committed.commands.empty()) events.push_back(std::move(committed));
  if (options_.slow_batch_ns > 0 && batch->took_ns > options_.slow_batch_ns) {
    Event slow;
    slow.kind = Event::kSlowBatch;
    slow.number = batch->took_ns;
    slow.count = static_cast<int64_t>(batch->commands.size());
    events.push_back(std::move(slow));
  }
  parts_.events->Push(&events);
  parts_.watches->Wake();
}

void Aftermath::Follow(const WriteGroup& group, const Write& write, const CommandResult& result, double now,
                       std::vector<LeaseClock::Waiter>* waiters) {
  const bool gone = write.tag == kLeaseRevokeTag && result.code == Code::kLeaseNotFound;
  if (result.code != Code::kOk && !gone) return;
  if (write.tag == kLeaseGrantTag) {
    LeaseGrantRequest grant;
    if (grant.Parse(group.payload(write))) parts_.leases->Grant(grant.id, grant.ttl, now);
  } else if (write.tag == kLeaseRevokeTag) {
    LeaseRevokeRequest revoke;
    if (!revoke.Parse(group.payload(write))) return;
    for (const LeaseClock::Waiter& waiter : parts_.leases->Revoke(revoke.id)) waiters->push_back(waiter);
  } else if (write.tag == kAlarmTag) {
    constexpr int32_t kNoSpaceAlarm = 1;
    AlarmRequest alarm;
    if (!alarm.Parse(group.payload(write)) || alarm.alarm != kNoSpaceAlarm) return;
    if (alarm.member_id == parts_.member_id && alarm.action != AlarmRequest::kGet) {
      parts_.quota->SetAlarm(alarm.action == AlarmRequest::kActivate);
    }
  }
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
  if (committer_->Submit(&again, /*at_once=*/false) == Committer::Taken::kYes) return;
  (*parts_.methods)[write.method].Handled(GrpcCode::kUnavailable);
  AnswerGroup(group, {{write.asker, GrpcCode::kUnavailable, std::string(kStoppedText)}});
}

void Aftermath::Failed(Batch* batch) {
  const Code code = batch->status.code();
  disk_full_ = code == Code::kNoSpace;
  // Of a full disk a client is told what etcd would tell it, and not our paths.
  const std::string& text = disk_full_ ? parts_.errors->text(code) : batch->status.message();
  const GrpcCode grpc_code = parts_.errors->grpc_code(code);
  Event failed;
  failed.kind = Event::kCommitted;
  failed.code = code;
  failed.text = batch->status.message();
  for (const WriteGroup& group : batch->groups) {
    std::vector<Answer> answers;
    for (const Write& write : group.writes) {
      if (write.from == Write::kOutside) failed.commands.push_back({write.asker, write.tag, {}, code, {}});
      if (write.from != Write::kCall) continue;
      (*parts_.methods)[write.method].Handled(grpc_code);
      answers.push_back({write.asker, grpc_code, text});
    }
    AnswerGroup(group, std::move(answers));
  }
  parts_.events->Push(std::move(failed));
}

}  // namespace fastkv::front
