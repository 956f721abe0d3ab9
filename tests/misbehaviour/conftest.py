"""One besieged deployment for all tests of this package."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from .besieged import Besieged
from .besieged import besieged as besiege


@pytest.fixture(scope="package")
def besieged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    with besiege(tmp_path_factory.mktemp("besieged") / "run") as made:
        yield made
    gc.collect()  # What a node left open shows here, and not in some later test.
