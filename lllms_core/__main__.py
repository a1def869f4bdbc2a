"""`python -m lllms_core`: the same as the command `lllms`."""

from lllms_core.cli import main

if __name__ == "__main__":
    main()
