// What one client may cost: every bound of the transport that is not an option of the server, with what happens beyond.
//
// "Calm" below: GOAWAY ENHANCE_YOUR_CALM, what is under way is cut, the connection closes. nghttp2 adds bounds of its
// own: a header block of 64 KiB and 8 CONTINUATION frames, 1,000 unsent acknowledgements, 32 entries in a SETTINGS
// frame.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastkv::front {

// Reading. The buffer is shared by the connections of an IoThread.
inline constexpr size_t kReadBytesMax = 512 << 10;  // of one connection in one turn
inline constexpr int32_t kStreamWindowBytes = 4 << 20;
inline constexpr int32_t kConnectionWindowBytes = 16 << 20;
// Messages that have begun and not ended. Beyond: the call that asks for more ends with RESOURCE_EXHAUSTED.
inline constexpr size_t kPartialBytesMax = 64 << 20;         // of a connection
inline constexpr size_t kThreadPartialBytesMax = 512 << 20;  // of all connections of an IoThread

// Writing.
inline constexpr size_t kFrameBytesMax = 64 << 10;     // payload of a DATA frame, if the client takes that much
inline constexpr size_t kGatherBytes = 256 << 10;      // handed to the socket at once
inline constexpr size_t kTurnBytesMax = 1 << 20;       // of one connection in one turn; the others get theirs first
inline constexpr size_t kReferenceBytesMin = 8 << 10;  // from here on bytes are sent from where they are, not copied
inline constexpr size_t kSpareBytesMin = 16 << 10, kSpareBytesMax = 4 << 20;  // memory kept for what is sent next
inline constexpr size_t kQueuedBytesMax = 128 << 20;  // unsent answers of a connection; beyond: new streams are refused
inline constexpr size_t kPauseReadBytes = 4 << 20;    // unsent answers while the socket is full; beyond: reading stops
inline constexpr size_t kRelayBytesMax = 64 << 10;    // HTTP/1.1, in each direction

// Time.
inline constexpr int64_t kHeaderBlockTimeoutMs = 10'000;  // from HEADERS to END_HEADERS; beyond: closed
inline constexpr int64_t kLingerMs = 1'000;               // after a GOAWAY that closes, for the client to read it
inline constexpr int64_t kDrainPingTimeoutMs = 5'000;     // between the two GOAWAYs of a drain, without an answer

// Pings, as grpc-go counts them: more than two that came too early, and it is GOAWAY too_many_pings.
inline constexpr int kPingStrikesMax = 2;
inline constexpr int64_t kIdlePingMs = 2 * 3'600'000;  // without an open stream

// Streams that the client resets before their answer (CVE-2023-44487). Beyond: calm.
inline constexpr int64_t kResetsBurst = 5'000, kResetsPerSecond = 500;
// Frames that carry no request: SETTINGS, PING, PRIORITY, WINDOW_UPDATE, empty DATA, and what is malformed. Every
// frame we send pays for kControlPerSentFrame of them. Beyond: calm.
inline constexpr int64_t kControlBurst = 10'000, kControlPerSecond = 1'000, kControlPerSentFrame = 4;
// A header list that is too large or malformed costs as much as this many control frames.
inline constexpr int64_t kBadHeadersCost = 100;

}  // namespace fastkv::front
