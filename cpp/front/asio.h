// The one way to include asio: standalone, compiled once (asio.cc).
#pragma once

// Before asio, which asks the standard library's configuration how to allocate: it has to be known in every file, or
// one allocates what another does not know how to free.
#include <cstddef>

#ifndef ASIO_STANDALONE
#define ASIO_STANDALONE
#endif
#ifndef ASIO_SEPARATE_COMPILATION
#define ASIO_SEPARATE_COMPILATION
#endif
#ifndef ASIO_NO_DEPRECATED
#define ASIO_NO_DEPRECATED
#endif

#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
