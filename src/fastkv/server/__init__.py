"""One member that serves the etcd v3 API from an engine: flags, log, node, front end."""
