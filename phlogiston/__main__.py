"""`python -m phlogiston` and the `phlogiston` command."""

from phlogiston.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
