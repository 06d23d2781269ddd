"""Tests of the embedded API. A package, so that `embedded` is not the benchmark of that name."""
