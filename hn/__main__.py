"""The command `hn`; `python -m hn` is the same."""

from hn.cli import main

if __name__ == "__main__":
    main()
