"""Where results go that a user asks for: anywhere but over what a deployment lives from."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from asyncfl.errors import ConfigurationError
from node.deployment_files import DEPLOYMENT_FILE, OPERATOR_KEY_FILE, DeploymentDirectory
from node.exclusion_file import EXCLUSIONS_FILE

OWN: Final = frozenset(
    {DEPLOYMENT_FILE, OPERATOR_KEY_FILE, EXCLUSIONS_FILE, "keys", "state", "logs", "result"}
)
"""What a deployment keeps in its directory, beside the initial model and hidden files."""


def check_output_file(path: Path) -> None:
    """Raises `ConfigurationError` where a result must not be written.

    That is at a place of a deployment's own files, there already or not, and over what is no regular file: a directory,
    a device, a link. Any other file may be overwritten.
    """
    # By the name given, and by the one that links on the way lead to; the last part is replaced, not followed.
    for place in {Path(os.path.abspath(path)), path.parent.resolve() / path.name}:
        for folder in place.parents:
            if (folder / DEPLOYMENT_FILE).is_file() and _is_own(place, folder):
                raise ConfigurationError(f"{path}: a deployment keeps its own files there; name another file")
    try:
        mode = path.lstat().st_mode
    except OSError:
        return  # Not there; whether it can be written is for the writer to say.
    if not stat.S_ISREG(mode):
        raise ConfigurationError(f"{path}: there already, and no regular file; name another file")


def _is_own(place: Path, folder: Path) -> bool:
    first = place.relative_to(folder).parts[0]
    return first in OWN or first.startswith(".") or place == DeploymentDirectory.load(folder).model_file
