"""Where the program `asyncfl` begins: Ctrl-C ends it with 130 also while its modules are still being imported."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the installed program."""
    try:
        from node.cli import app

        app()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)  # ExitCode.INTERRUPTED, which may not be imported yet
