"""The fold's arithmetic has the same bits whatever instructions a machine's vector libraries use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import hashlib
import numpy as np
import torch
from asyncfl.reputation import score_groups
from asyncfl.rules import RULES, FedAOT, aggregate
from asyncfl.rules.arithmetic import EXACT
torch.set_num_threads(1)
draw = np.random.default_rng(1)  # torch's own numbers depend on the instructions.
def normal(n, d):
    return torch.from_numpy(draw.standard_normal((n, d)).astype(np.float32))
for name in RULES:
    if name == "fltrust":
        continue
    found = hashlib.sha256()
    for scale in (1.0, 37.0, 1000.0):
        for _ in range(10):
            updates = normal(9, 5000) * scale
            if name == "fedaot":
                made = FedAOT(arithmetic=EXACT).step(updates, 1).aggregate
            else:
                made = aggregate(name, updates, byzantine=1)
            found.update(made.numpy().tobytes())
    print(name, found.hexdigest())
scores = [score_groups(normal(9, 100), range(3, 12)) for _ in range(200)]
print("scores", hashlib.sha256(repr(scores).encode()).hexdigest())
"""


def digests(**environment: str) -> str:
    known = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=110, env=known, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def usual() -> str:
    return digests()


@pytest.mark.parametrize(
    "environment",
    [
        {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ATEN_CPU_CAPABILITY": "default"},
        {"MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    ],
    ids=["oldest", "AVX2"],
)
def test_rules_have_the_same_bits_with_other_instructions(usual: str, environment: dict[str, str]) -> None:
    assert digests(**environment).splitlines() == usual.splitlines()
