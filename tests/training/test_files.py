"""Model files hold everything another program needs, and the flat model again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from asyncfl.errors import ConfigurationError, StorageError
from asyncfl.model import Layout, model_bytes
from node.training.files import read_model, write_model


def network() -> nn.Module:
    module = nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4, bias=False).bfloat16(), nn.Linear(4, 4)
    )
    module[0].requires_grad_(False)
    module[3].weight = nn.Parameter(torch.ones(4, 4))
    module.add_module("tied", nn.Linear(4, 4, bias=False))
    module.tied.weight = module[3].weight
    return module


def test_the_file_loads_into_a_fresh_module_and_gives_back_the_flat_model(tmp_path: Path) -> None:
    module = network()
    layout = Layout.of_module(module)
    write_model(tmp_path / "m.safetensors", layout, module.state_dict(), {"epoch": "3"})
    loaded = load_file(tmp_path / "m.safetensors")
    assert loaded.keys() == module.state_dict().keys()
    network().load_state_dict(loaded)
    for name, tensor in module.state_dict().items():
        assert torch.equal(loaded[name], tensor)
    found, flat = read_model(tmp_path / "m.safetensors")
    assert flat == model_bytes(layout.flatten(module.state_dict()))
    assert found == layout
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_file_of_another_program_is_refused_with_the_command_to_run(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2)}, tmp_path / "m.safetensors")
    with pytest.raises(ConfigurationError, match=r"no 'asyncfl\.layout'.*asyncfl init"):
        read_model(tmp_path / "m.safetensors")


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"m\.safetensors: cannot read"):
        read_model(tmp_path / "m.safetensors")
    (tmp_path / "m.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(StorageError, match="not a safetensors file, or damaged"):
        read_model(tmp_path / "m.safetensors")


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    module = nn.Linear(1, 1)
    with pytest.raises(StorageError, match=r"nowhere/m\.safetensors: cannot write"):
        write_model(tmp_path / "nowhere" / "m.safetensors", Layout.of_module(module), module.state_dict())
