#!/usr/bin/env bash
# Fetches the real etcds that the tests compare with into FASTKV_PEERS (default ~/.cache/fastkv/peers):
#
#   3.7.3/bin/{etcd,etcdctl,etcdutl}   built with Go, as ordinary Go tools, if Go is there
#   clients/clientv3-*                 tests/clients/go with etcd's own Go client, likewise
#   debian/usr/bin/{etcd,etcdctl}      Debian's packages, unpacked (not installed: that would start a server on 2379)
#   tools/promtool                     from Debian's package prometheus, likewise
#
# What cannot be had is said in one line and is no failure; a build that fails is one. A second call does nothing.
set -euo pipefail

version=3.7.3
peers=${FASTKV_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/fastkv/peers}
mkdir -p "$peers"

build_tools() {
  local work=$peers/$version.build tool
  rm -rf "$work" && mkdir -p "$work/bin"
  for tool in etcd:server etcdctl:etcdctl etcdutl:etcdutl; do
    local name=${tool%%:*} module=go.etcd.io/etcd/${tool##*:}/v3
    # A module of its own for each, as `go install` would resolve it: the servers' dependencies are not mixed.
    mkdir -p "$work/$name"
    printf 'module example.invalid/peers\n\ngo 1.24\n\nrequire %s v%s\n' "$module" "$version" >"$work/$name/go.mod"
    (cd "$work/$name" && GOFLAGS=-mod=mod go build -trimpath -o "$work/bin/$name" "$module")
  done
  rm -rf "${peers:?}/$version" && mkdir -p "$peers/$version"
  mv "$work/bin" "$peers/$version/bin"
  rm -rf "$work"
}

unpack_debian() {
  local work
  work=$(mktemp -d)
  [ "$(id -u)" = 0 ] && apt-get update -qq
  # As root apt-get drops its rights for the download, so the directory must be open to it.
  chmod 755 "$work"
  (cd "$work" && apt-get download -qq etcd-server etcd-client 2>/dev/null) || { rm -rf "$work" && return 1; }
  rm -rf "$peers/debian"
  for package in "$work"/*.deb; do dpkg-deb -x "$package" "$peers/debian"; done
  rm -rf "$work"
}

if [ -x "$peers/$version/bin/etcdutl" ]; then
  echo "etcd $version: $peers/$version/bin"
elif command -v go >/dev/null; then
  echo "etcd $version: building with $(go version | cut -d' ' -f3), takes a minute or two"
  build_tools
  echo "etcd $version: $peers/$version/bin"
else
  echo "etcd $version: left out, Go is not installed"
fi

client=$(FASTKV_PEERS=$peers "${PYTHON:-python3}" "$(dirname "$0")/../tests/support/go_client.py")
fetch_promtool() {
  local work
  work=$(mktemp -d)
  chmod 755 "$work"
  # Of the whole package only this program: the server and its service are not wanted.
  if (cd "$work" && apt-get download -qq prometheus 2>/dev/null) && dpkg-deb -x "$work"/*.deb "$work/all"; then
    mkdir -p "$peers/tools" && cp "$work/all/usr/bin/promtool" "$peers/tools/promtool"
  fi
  rm -rf "$work"
  [ -x "$peers/tools/promtool" ]
}

if [ -x "$client" ]; then
  echo "Go clientv3: $client"
elif command -v go >/dev/null; then
  echo "Go clientv3: building with $(go version | cut -d' ' -f3)"
  rm -rf "$peers/clients" && mkdir -p "$peers/clients"
  (cd "$(dirname "$0")/../tests/clients/go" && GOFLAGS=-mod=readonly go build -trimpath -o "$client" .)
  echo "Go clientv3: $client"
else
  echo "Go clientv3: left out, Go is not installed"
fi

if [ -x "$peers/debian/usr/bin/etcdctl" ] && [ -x "$peers/debian/usr/bin/etcd" ]; then
  echo "Debian's etcd: $peers/debian/usr/bin"
elif command -v etcd >/dev/null && command -v etcdctl >/dev/null; then
  echo "Debian's etcd: not fetched, $(command -v etcd) is on PATH"
elif command -v apt-get >/dev/null && unpack_debian; then
  echo "Debian's etcd: $peers/debian/usr/bin"
else
  echo "Debian's etcd: left out, apt-get cannot download etcd-server and etcd-client here"
fi

if [ -x "$peers/tools/promtool" ]; then
  echo "promtool: $peers/tools"
elif command -v promtool >/dev/null; then
  echo "promtool: not fetched, $(command -v promtool) is on PATH"
elif command -v apt-get >/dev/null && fetch_promtool; then
  echo "promtool: $peers/tools"
else
  echo "promtool: left out, apt-get cannot download prometheus here"
fi
