"""The gRPC services of the etcd v3 API, one a file, on raw message bytes."""
