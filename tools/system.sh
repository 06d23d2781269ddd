#!/usr/bin/env bash
# Makes sure that what only the operating system can provide is there: tools/system.sh build|test
#
# build: what `make setup` needs (a C++20 compiler, Python with headers and venv; nghttp2, asio and OpenSSL for the native
#        front end, without which the build goes on).
# test:  also what the C++ tests and fuzz targets need (cmake, GoogleTest, clang with libFuzzer).
# What is missing is installed with apt-get as root or through a sudo that asks no password; otherwise the one line to
# type is printed and the exit status is 1. Nothing is asked, nothing is installed that is already there.
set -euo pipefail

group=${1:-build}
python=${PYTHON:-python3}
debian=() brew=()
optional_debian=() optional_brew=()

need() { # need DEBIAN-PACKAGES BREW-PACKAGES CHECK...
  local debian_packages=$1 brew_packages=$2
  shift 2
  if ! "$@" >/dev/null 2>&1; then
    # shellcheck disable=SC2206  # several names in one string are meant
    debian+=($debian_packages) brew+=($brew_packages)
  fi
}

want() { # like need, for what the build can do without
  if ! header "$3"; then
    optional_debian+=("$1") optional_brew+=("$2")
  fi
}

header() { # is there a header, for the compiler or in Homebrew's place?
  local directory
  for directory in /usr/include /usr/local/include /opt/homebrew/include /opt/local/include; do
    [ -e "$directory/$1" ] && return 0
  done
  return 1
}

python_headers() {
  "$python" -c 'import os, sysconfig; raise SystemExit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
}

fuzzer() { # can clang link a libFuzzer target?
  local directory status=0
  directory=$(mktemp -d)
  echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' >"$directory/f.cc"
  clang++ -fsanitize=fuzzer,address "$directory/f.cc" -o "$directory/f" || status=1
  rm -rf "$directory"
  return $status
}

clang_packages() { # the distribution's clang and the runtime of the same version
  local version
  version=$(apt-cache depends clang 2>/dev/null | grep -o 'clang-[0-9]\+' | head -1 | tr -dc 0-9 || true)
  echo "clang ${version:+libclang-rt-$version-dev}"
}

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }

if command -v "$python" >/dev/null; then
  "$python" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' || {
    echo "fastkv needs Python 3.11 or newer; $python is $("$python" --version 2>&1). Name another: make PYTHON=python3.12 setup" >&2
    exit 1
  }
fi

check() {
  debian=() brew=() optional_debian=() optional_brew=()
  need "python3" "python" command -v "$python"
  need "python3-dev" "python" python_headers
  need "python3-venv" "python" "$python" -c 'import ensurepip, venv'
  need "g++" "" sh -c 'command -v "${CXX:-c++}" || command -v g++'
  want "libnghttp2-dev" "libnghttp2" nghttp2/nghttp2.h
  want "libasio-dev" "asio" asio/io_context.hpp
  want "libssl-dev" "openssl@3" openssl/ssl.h
  if [ "$group" = test ]; then
    need "cmake" "cmake" command -v cmake
    need "make" "make" command -v make
    need "libgtest-dev" "googletest" header gtest/gtest.h
    need "$(clang_packages)" "llvm" fuzzer
  fi
}

install() { as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }

check
[ $((${#debian[@]} + ${#optional_debian[@]})) -eq 0 ] && exit 0

if command -v apt-get >/dev/null; then
  if [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; then
    echo "installing ${debian[*]:-} ${optional_debian[*]:-}"
    as_root apt-get update -qq || [ ${#debian[@]} -eq 0 ]
    check # clang's version is known only now
    [ ${#debian[@]} -eq 0 ] || install "${debian[@]}"
    [ ${#optional_debian[@]} -eq 0 ] || install "${optional_debian[@]}" ||
      echo "going on without the native front end: ${optional_debian[*]} could not be installed" >&2
    exit 0
  fi
fi
if [ ${#optional_debian[@]} -ne 0 ]; then
  echo "going on without the native front end, for want of ${optional_debian[*]}" >&2
fi
[ ${#debian[@]} -eq 0 ] && exit 0

if command -v apt-get >/dev/null; then
  echo "missing, type:  sudo apt-get install --no-install-recommends ${debian[*]}" >&2
elif command -v brew >/dev/null; then
  echo "missing, type:  brew install ${brew[*]:-} ${optional_brew[*]:-} (and for a compiler: xcode-select --install)" >&2
else
  echo "missing (Debian's names): ${debian[*]}" >&2
fi
exit 1
