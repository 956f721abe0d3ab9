"""The README says what is so: its commands and options exist, its example is the tested one, its links lead."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from node.cli import app

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
OWN_MODEL = ROOT / "docs" / "how-to" / "own_model.py"


def commands(page: Path) -> Iterator[list[str]]:
    """Words of every `asyncfl ...` command in the code blocks of a page."""
    for block in re.findall(r"^```(?:sh|)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                if part.lstrip().startswith("asyncfl "):
                    yield shlex.split(part, comments=True)[1:]


def known() -> dict[str, set[str]]:
    """Options of every command of the program."""
    group = typer.main.get_group(app)
    return {
        name: {
            option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        for name, command in group.commands.items()
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_and_option_of_a_page_exists(page: Path) -> None:
    options = known()
    for words in commands(page):
        assert words[0] in options, words
        used = {word.split("=")[0] for word in words[1:] if word.startswith("--")}
        assert used <= options[words[0]], words


def test_the_readme_shows_every_command_that_help_lists() -> None:
    shown = {words[0] for words in commands(ROOT / "README.md")}
    assert shown == set(known())
    listing = CliRunner().invoke(app, ["--help"]).output
    assert all(re.search(rf"^\W*{name} ", listing, re.MULTILINE) for name in shown)


def test_the_example_in_the_readme_is_the_tested_file() -> None:
    example = OWN_MODEL.read_text()
    assert f"```python\n{example}```" in (ROOT / "README.md").read_text()
    assert len(example.splitlines()) < 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


def test_the_own_model_makes_a_deployment_and_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from node.deployment_creation import NewDeployment, create_deployment
    from node.training.baseline import fedavg_baseline
    from node.training.loader import load_task

    monkeypatch.syspath_prepend(str(OWN_MODEL.parent))
    name = "own_model:BreastCancer"
    training = {"learning_rate": 0.1, "batch_size": 8}
    made = create_deployment(tmp_path / "own", NewDeployment(clients=8, task=name, training=training))
    federation = made.deployment.federation()
    assert federation.dimension == 30 * 16 + 16 + 16 * 2 + 2
    outcome = fedavg_baseline(load_task(name, clients=8), 8, 4, federation.schedule, seed=0)
    assert outcome["accuracy"] >= 0.93
    largest = max(norm["max"] for norm in outcome["norm_by_round"])
    assert largest <= federation.parameters.clip, "the default clip would cut this example's updates"
