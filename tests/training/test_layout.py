"""The flat layout carries every floating tensor, and only those, there and back."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from asyncfl.model import CARRIED, Layout, LayoutError, flat_from_bytes, model_bytes

SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
FLOATING = st.sampled_from(list(CARRIED))
OTHER = st.sampled_from([torch.int64, torch.int32, torch.bool, torch.uint8])


def tensor_of(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 8
    return values.to(dtype)


@st.composite
def states(draw: st.DrawFn) -> tuple[dict[str, Tensor], set[str], set[str]]:
    """A state dict, its parameter names, its frozen names. The first tensor is a trained parameter."""
    state = {"first": tensor_of(draw(SHAPES), draw(FLOATING), 0)}
    parameters, frozen = {"first"}, set()
    for number in range(draw(st.integers(0, 6))):
        name = f"tensor{number}"
        role = draw(st.sampled_from(["parameter", "buffer", "frozen", "counter"]))
        dtype = draw(OTHER if role == "counter" else FLOATING)
        state[name] = tensor_of(draw(SHAPES), dtype, number + 1)
        if role == "parameter":
            parameters.add(name)
        if role == "frozen":
            frozen.add(name)
    return state, parameters, frozen


@settings(max_examples=100, deadline=None)
@given(states())
def test_a_state_dict_survives_flattening_bit_for_bit(
    case: tuple[dict[str, Tensor], set[str], set[str]],
) -> None:
    state, parameters, frozen = case
    layout = Layout.of(state, parameters, frozen=frozen)
    template = {name: torch.ones_like(tensor) for name, tensor in state.items()}
    flat = flat_from_bytes(model_bytes(layout.flatten(state)), layout.dimension)
    # float64 is carried as float32: what comes back is the nearest float32.
    back = layout.unflatten(flat, template)
    assert list(back) == list(state)
    carried = {entry.name for entry in layout.entries}
    for name, tensor in state.items():
        assert back[name].dtype == tensor.dtype
        expected = tensor.float().to(tensor.dtype) if name in carried else template[name]
        assert torch.equal(back[name], expected), name
    assert carried == {name for name in state if state[name].is_floating_point()} - frozen


@settings(max_examples=50, deadline=None)
@given(states())
def test_weights_come_first_and_each_part_keeps_the_order_of_the_state_dict(
    case: tuple[dict[str, Tensor], set[str], set[str]],
) -> None:
    state, parameters, frozen = case
    layout = Layout.of(state, parameters, frozen=frozen)
    floating = [name for name in state if state[name].is_floating_point() and name not in frozen]
    weights = [name for name in floating if name in parameters]
    buffers = [name for name in floating if name not in parameters]
    expected = torch.cat([state[name].float().reshape(-1) for name in weights + buffers])
    assert torch.equal(layout.flatten(state), expected)
    assert layout.weights == sum(state[name].numel() for name in weights)
    assert layout.buffers == sum(state[name].numel() for name in buffers)
    assert layout.dimension == layout.weights + layout.buffers


@settings(max_examples=50, deadline=None)
@given(states())
def test_a_layout_described_in_text_is_read_back_equal(
    case: tuple[dict[str, Tensor], set[str], set[str]],
) -> None:
    state, parameters, frozen = case
    layout = Layout.of(state, parameters, frozen=frozen)
    assert Layout.parse(layout.describe()) == layout


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}x",
        "[[1]]",
        json.dumps([["a", [1], "int8", "weight", []]]),
        json.dumps([["a", [1], "float32", "other", []]]),
        "[1]",
        "null",
    ],
)
def test_a_malformed_layout_text_is_a_typed_error(text: str) -> None:
    with pytest.raises(LayoutError, match="malformed layout"):
        Layout.parse(text)


def test_model_bytes_are_little_endian_float32() -> None:
    assert model_bytes(torch.tensor([1.0, -2.5])) == struct.pack("<2f", 1.0, -2.5)


def test_model_bytes_of_another_length_are_refused_with_both_lengths() -> None:
    with pytest.raises(LayoutError, match=r"8 bytes, expected 12 \(3 float32\)"):
        flat_from_bytes(bytes(8), 3)
    with pytest.raises(LayoutError, match="7 bytes"):
        flat_from_bytes(bytes(7))


def test_a_flat_model_read_from_bytes_does_not_share_their_memory() -> None:
    data = bytearray(8)
    flat = flat_from_bytes(data)
    flat += 1
    assert data == bytes(8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_values_are_rounded_to_nearest_on_the_way_back(dtype: torch.dtype) -> None:
    state = {"w": torch.zeros(3, dtype=dtype)}
    layout = Layout.of(state, {"w"})
    flat = torch.tensor([0.1, 1.0001, -3.3333])
    assert torch.equal(layout.unflatten(flat, state)["w"], flat.to(dtype))


def test_running_statistics_of_batchnorm_travel_as_buffers_and_its_counter_stays() -> None:
    module = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    layout = Layout.of_module(module)
    assert [(entry.name, entry.kind) for entry in layout.entries] == [
        ("0.weight", "weight"), ("0.bias", "weight"), ("1.weight", "weight"), ("1.bias", "weight"),
        ("1.running_mean", "buffer"), ("1.running_var", "buffer"),
    ]  # fmt: skip
    assert (layout.weights, layout.buffers) == (15 + 5 + 5 + 5, 10)
    before = layout.flatten(module.state_dict())
    module(torch.randn(8, 3) + 4)
    after = layout.flatten(module.state_dict())
    assert torch.equal(after[: layout.weights], before[: layout.weights])
    assert not torch.equal(after[layout.weights :], before[layout.weights :])


def test_frozen_parameters_do_not_travel_and_come_from_the_template() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[0].requires_grad_(False)
    layout = Layout.of_module(module)
    assert [entry.name for entry in layout.entries] == ["1.weight", "1.bias"]
    assert layout.buffers == 0
    back = layout.unflatten(torch.zeros(6), module.state_dict())
    assert torch.equal(back["0.weight"], module[0].weight)
    assert not back["1.weight"].any()


def test_tied_parameters_travel_once_and_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(7, 4)
            self.output = nn.Linear(4, 7, bias=False)
            self.output.weight = self.embedding.weight

    module = Tied()
    layout = Layout.of_module(module)
    assert layout.dimension == 28
    assert layout.entries[0].aliases == ("output.weight",)
    flat = torch.arange(28.0)
    back = layout.unflatten(flat, module.state_dict())
    assert torch.equal(back["output.weight"], back["embedding.weight"])
    layout.write(flat, module.state_dict())
    assert module.output.weight is module.embedding.weight
    assert torch.equal(module.output.weight.detach().reshape(-1), flat)


def test_equal_but_separate_tensors_are_not_taken_for_tied() -> None:
    layout = Layout.of({"a": torch.zeros(3), "b": torch.zeros(3)}, {"a", "b"})
    assert layout.dimension == 6


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn])
def test_a_dtype_that_float32_does_not_carry_is_refused_by_name(dtype: torch.dtype) -> None:
    state = {"good": torch.zeros(1), "odd.weight": torch.zeros(2).to(dtype)}
    with pytest.raises(LayoutError, match=r"'odd\.weight' is torch\.(complex64|float8)"):
        Layout.of(state, {"good", "odd.weight"})
    assert Layout.of(state, {"good"}, frozen={"odd.weight"}).dimension == 1


def test_a_model_without_trainable_parameters_is_refused() -> None:
    with pytest.raises(LayoutError, match="nothing to train"):
        Layout.of_module(nn.ReLU())


def test_a_state_dict_of_another_model_is_refused_naming_the_tensor() -> None:
    layout = Layout.of({"w": torch.zeros(2, 3)}, {"w"})
    with pytest.raises(LayoutError, match="no tensor 'w'"):
        layout.flatten({"v": torch.zeros(2, 3)})
    with pytest.raises(
        LayoutError, match=r"'w' is torch\.float32 \(3, 2\), the layout needs float32 \(2, 3\)"
    ):
        layout.flatten({"w": torch.zeros(3, 2)})
    with pytest.raises(LayoutError, match=r"'w' is torch\.float64"):
        layout.flatten({"w": torch.zeros(2, 3, dtype=torch.float64)})
    with pytest.raises(LayoutError, match=r"shape \(5,\), the layout needs \(6,\)"):
        layout.write(torch.zeros(5), {"w": torch.zeros(2, 3)})
