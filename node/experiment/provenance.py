"""What a result was made with: version and commit of this program, and of what computes for it."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
GIT_SECONDS: Final = 10.0


@cache
def made_with() -> dict[str, str]:
    """Versions by name. `commit`: as git describes the checkout this runs from, "unknown" where it is none."""
    versions = {name: version(name) for name in ("asyncfl", "torch", "numpy")}
    return {**versions, "python": platform.python_version(), "commit": _commit(ROOT)}


def _commit(root: Path) -> str:
    """With "-dirty" where files differ from it."""
    # An installed copy may lie within another project's checkout, whose commit says nothing.
    if not (root / ".git").exists():
        return "unknown"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
