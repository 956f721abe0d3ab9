"""Frozen buffers: modules whose running statistics stay as the initial model has them.

A module that trains with a batch's own statistics and is judged with frozen ones would be two different networks.
So a module with frozen buffers of its own computes as in evaluation, always: BatchNorm becomes an affine layer that
uses its running statistics, trained scale and shift included.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from asyncfl.model import CARRIED


def owners_of_buffers(module: nn.Module) -> list[nn.Module]:
    """The submodules (the module itself included) that own floating buffers of its state dict."""
    kept = module.state_dict().keys()
    return [
        owner
        for name, owner in module.named_modules()
        if any(
            buffer.dtype in CARRIED and (f"{name}.{own}" if name else own) in kept
            for own, buffer in owner.named_buffers(recurse=False)
        )
    ]


def hold_in_evaluation(owner: nn.Module) -> None:
    """Let `owner` (not its children) compute in evaluation mode, whatever mode a task sets before training."""
    owner.register_forward_pre_hook(_evaluate)


def _evaluate(owner: nn.Module, _inputs: Any) -> None:
    owner.training = False
