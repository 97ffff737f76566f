"""`python -m hn` is the same as `hn`."""

from hn.cli import main

if __name__ == "__main__":
    main()
