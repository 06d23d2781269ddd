"""What the tests share: the oracle codec, servers as processes, golden scripts, the Mirror engine, random calls."""
