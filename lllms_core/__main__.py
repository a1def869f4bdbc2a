"""`python -m lllms_core` and the command `lllms`: the entry point."""

import os
import signal
import sys


def main() -> None:
    """Run the command line."""
    if os.getpid() == 1:
        # The kernel gives the first process of a container no default action for signals: until the server has its
        # own handlers, it could not be stopped. So this comes before the imports, which take a while.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    from lllms_core.cli import main as run

    run()


if __name__ == "__main__":
    main()
