"""One besieged deployment for all tests of this package."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator

import pytest

from .besieged import Besieged
from .besieged import besieged as besiege


@pytest.fixture(scope="package")
def besieged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    with besiege(tmp_path_factory.mktemp("besieged") / "run") as made:
        yield made
    with warnings.catch_warnings():
        # What stopped attackers left open, so that no later test hears of it.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
