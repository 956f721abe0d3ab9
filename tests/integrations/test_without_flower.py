"""What somebody sees who has not installed a framework. Needs none."""

import importlib
import sys

import pytest


def test_a_missing_framework_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "asyncfl.integrations.flower", raising=False)
    monkeypatch.setitem(sys.modules, "flwr", None)
    monkeypatch.setitem(sys.modules, "flwr.app", None)
    with pytest.raises(ImportError, match=r"needs Flower 1.41 or newer.*pip install 'asyncfl\[flower\]'"):
        importlib.import_module("asyncfl.integrations.flower")
