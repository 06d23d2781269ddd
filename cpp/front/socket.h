// The few socket calls that differ between systems.
//
// Thread safety: none needed, no state.
#pragma once

#include "front/call.h"

namespace fastkv::front {

void SetNonBlocking(int socket);
// A connection, non-blocking, closed on exec, TCP_NODELAY, or -1 and errno.
int AcceptSocket(int listening, Peer* peer);
// Both ends non-blocking and closed on exec; false and errno.
bool MakeSocketPair(int ends[2]);

}  // namespace fastkv::front
