"""`python -m fastkv`: the same as the `fastkv` command."""

from fastkv.cli.main import main

if __name__ == "__main__":
    main()
