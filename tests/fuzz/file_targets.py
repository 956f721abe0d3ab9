"""What is fuzzed of files: deployments, experiments, keys, models."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

from asyncfl.deployment import Deployment
from asyncfl.errors import ConfigurationError
from asyncfl.identity import Identity
from asyncfl.model import Layout, flat_from_bytes
from node.deployment_files import read_key, read_public_key
from node.experiment.configuration import parse_experiment
from node.training.files import read_model

KEY: Final = bytes([1]) * 32
PEER: Final = Identity(bytes([7]) * 32)


def run_deployment(data: bytes) -> None:
    """The deployment file. What is refused says so in text that no terminal obeys."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ConfigurationError("not UTF-8") from None
    try:
        deployment = Deployment.parse(text)
    except ConfigurationError as error:
        if len(str(error)) > 5000:
            raise AssertionError("an error as long as what it complains about") from error
        raise
    deployment.federation()
    assert Deployment.parse(deployment.render()) == deployment


def run_experiment(data: bytes) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ConfigurationError("not UTF-8") from None
    parse_experiment(text, source="experiment.toml", reduced=len(data) % 2 == 0)


def seed_experiments() -> list[bytes]:
    folder = Path(__file__).parents[2] / "experiments"
    return [path.read_bytes() for path in sorted(folder.glob("*.toml"))]


@cache
def _scratch() -> Path:
    # In memory where there is such a place: a million files.
    directory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    path = tempfile.mkdtemp(prefix="asyncfl-fuzz-", dir=directory)
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return Path(path)


def _as_file(data: bytes) -> Path:
    path = _scratch() / "input"
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def run_key(data: bytes) -> None:
    path = _as_file(data)
    if data.startswith(b"asyncfl-public"):
        read_public_key(path)
    else:
        read_key(path)


def seed_keys() -> list[bytes]:
    return [
        b"asyncfl-private-key-1 " + KEY.hex().encode() + b"\n",
        b"asyncfl-public-key-1 " + PEER.public.hex().encode() + b" client-1\n",
    ]


def run_model(data: bytes) -> None:
    """A model file, or the description of its layout, or flat bytes."""
    if data.startswith(b"["):
        Layout.parse(data.decode(errors="replace"))
    elif len(data) % 3 == 0:
        flat_from_bytes(data, 25)
    else:
        read_model(_as_file(data))


@cache
def seed_models() -> list[bytes]:
    import torch

    from node.training.files import write_model

    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    layout = Layout.of_module(module)
    path = _scratch() / "model"
    write_model(path, layout, module.state_dict())
    return [path.read_bytes() + b" " * extra for extra in (0, 1)] + [
        layout.describe().encode(),
        bytes(100),
        bytes(99),
    ]
