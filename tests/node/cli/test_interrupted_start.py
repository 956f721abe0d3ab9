"""Ctrl-C before the program has begun: while its modules are being imported."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
INTERRUPTS = "raise KeyboardInterrupt\n"


def entry_point() -> str:
    """What the installed program runs."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts["asyncfl"].partition(":")
    return f"import sys\nfrom {module} import {function}\nsys.exit({function}())"


@pytest.mark.parametrize("module", ["typer", "pydantic"])
@pytest.mark.parametrize("way", [["-c", entry_point()], ["-m", "node.cli"]], ids=["installed", "module"])
def test_ctrl_c_during_the_imports_ends_with_130_and_no_traceback(
    tmp_path: Path, way: list[str], module: str
) -> None:
    (tmp_path / f"{module}.py").write_text(INTERRUPTS)
    done = subprocess.run(
        [sys.executable, *way, "--version"],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130
    assert done.stderr == "interrupted\n"
