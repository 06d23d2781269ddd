// asio's implementation, compiled once for all who include front/asio.h.
#include "front/asio.h"

#include <asio/impl/src.hpp>
