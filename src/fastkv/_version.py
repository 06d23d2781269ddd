"""The product's version: the one place it is written (pyproject.toml and `fastkv --version` read it here)."""

__version__ = "0.1.0"
