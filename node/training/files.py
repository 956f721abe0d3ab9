"""Model files: safetensors with the full state dict, and the flat layout in the metadata.

Because the layout is in the file, a replica reads the flat initial model without the task's code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from asyncfl.errors import ConfigurationError, StorageError
from asyncfl.model import Layout, model_bytes
from node.whole_files import write_whole

LAYOUT_KEY: Final = "asyncfl.layout"


def write_model(
    path: Path, layout: Layout, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write `state` (full state dict) to `path`, whole or not at all. Raises `StorageError`.

    `metadata`: further text to go into the file's header (version, epoch, accuracy, ...).
    """
    # Tied tensors are written under each of their names: any safetensors reader then loads the file.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    data = save(tensors, {"format": "pt", **(metadata or {}), LAYOUT_KEY: layout.describe()})
    try:
        write_whole(path, data)
    except OSError as error:
        raise StorageError(f"{path}: cannot write the model: {error.strerror or error}") from error


def read_model(path: Path) -> tuple[Layout, bytes]:
    """The layout and the canonical flat bytes of the model at `path`, as `write_model` wrote it.

    Raises `StorageError` when it cannot be read, `ConfigurationError` when it is not such a file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(LAYOUT_KEY)
            if text is None:
                raise ConfigurationError(
                    f"{path}: not a model file of asyncfl: its header has no {LAYOUT_KEY!r}; "
                    "write one with `asyncfl init` or `asyncfl export`"
                )
            layout = Layout.parse(text)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return layout, model_bytes(layout.flatten(state))
    except OSError as error:
        raise StorageError(f"{path}: cannot read the model: {error.strerror or error}") from error
    except SafetensorError as error:
        raise StorageError(f"{path}: not a safetensors file, or damaged: {error}") from error
