"""What the tests share: the oracle codec, real servers as processes, golden scripts, the Mirror engine, random operations."""
