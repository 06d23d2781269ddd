"""The pure-Python engine: the executable specification of the native one, its oracle in tests, and the fallback."""
