"""A deployment with one replica on a disk of a megabyte, which fills up, is emptied, and is made read-only.

    unshare -rm python -m tests.node.crashes.small_disk FOLDER

Prints what the replica said when the disk was full, and when it was read-only.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tests.node.crashes.deployment import Nodes
from tests.node.crashes.test_every_point import AFTERWARDS, WANTED, finish, start_but
from tests.node.crashes.test_refusals import ending

VICTIM = "replica-1"


def main(root: Path) -> None:
    with Nodes(root, WANTED) as nodes:
        state = nodes.files.state(VICTIM)
        state.mkdir(parents=True, mode=0o700)
        mount("-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(state))
        start_but(nodes)
        nodes.until("the first entries", lambda: nodes.status(VICTIM).get("entries", 0) >= 1)
        ballast = state / "ballast"
        fill(ballast)
        print(ending(nodes, VICTIM, 0))
        before = nodes.status("replica-0")["entries"]
        nodes.until(
            "the others to go on", lambda: nodes.status("replica-0")["entries"] >= before + AFTERWARDS
        )
        ballast.unlink()
        # On a fast machine training goes on so quickly that a megabyte would be full again.
        mount("-o", "remount,size=64m", str(state))
        nodes.start(VICTIM)
        nodes.until("it to catch up", lambda: nodes.status(VICTIM).get("entries", 0) >= before + AFTERWARDS)
        nodes.ask_to_stop(VICTIM)
        assert nodes.wait_end(VICTIM) == 0
        mount("-o", "remount,ro", str(state))
        said = nodes.log(VICTIM).stat().st_size
        nodes.start(VICTIM)
        print(ending(nodes, VICTIM, said))
        mount("-o", "remount,rw", str(state))
        nodes.start(VICTIM)
        finish(nodes)


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def fill(ballast: Path) -> None:
    """Until nothing more goes onto the disk."""
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
