"""Writing the pictures of experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from asyncfl.errors import StorageError

DPI: Final = 130


def write_picture(pyplot: Any, figure: Any, path: Path, dpi: int = DPI) -> None:
    """`figure` as PNG, which is closed. Raises `StorageError`."""
    try:
        figure.savefig(path, dpi=dpi)
    except OSError as error:
        raise StorageError(f"{path}: cannot write the picture: {error.strerror}") from None
    finally:
        pyplot.close(figure)
