"""The program as a person meets it: help, exit codes, one-line errors, JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer

from asyncfl.digest import content_digest
from asyncfl.errors import AsyncflError, ConfigurationError, DeadlineExceeded, ParameterError, StorageError
from node.commands import common
from node.commands.common import ExitCode, exit_code, key_values, write_json
from node.deployment_files import DeploymentDirectory

from .conftest import Program

COMMANDS = ["demo", "init", "up", "status", "keygen", "node", "evaluate", "export", "bench"]


def test_help_lists_every_command_and_documents_the_exit_codes(asyncfl: Program) -> None:
    outcome = asyncfl("--help")
    assert outcome.code == 0
    for word in [*COMMANDS, "Exit codes", "130"]:
        assert word in outcome.stdout, word
    page = (Path(__file__).parents[3] / "docs" / "reference" / "commands.md").read_text()
    for code in ExitCode:
        assert f"| {code.value} |" in page
    for command in COMMANDS:
        assert f"`asyncfl {command}" in page


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_examples(asyncfl: Program, command: str) -> None:
    outcome = asyncfl(command, "--help")
    assert outcome.code == 0
    assert "Examples" in outcome.stdout
    assert f"asyncfl {command}" in outcome.stdout.split("Examples")[1]


def test_the_command_line_and_the_supervisor_start_without_torch() -> None:
    code = (
        "import sys, node.cli, node.commands.supervise, node.supervisor.outages\n"
        "heavy = [name for name in ('torch', 'sklearn', 'matplotlib', 'numpy', 'safetensors') if name in sys.modules]\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_version_is_printed(asyncfl: Program) -> None:
    assert asyncfl("--version").stdout.startswith("asyncfl 0.")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("x"), 2),
        (ParameterError("x"), 2),
        (StorageError("x"), 3),
        (PermissionError(13, "no", "file"), 3),
        (DeadlineExceeded("x"), 1),
        (AsyncflError("x"), 1),
    ],
)
def test_exit_codes_are_the_documented_ones(error: Any, code: int) -> None:
    assert exit_code(error) == code


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["init"],
        ["init", "x", "--replicas", "many"],
        ["init", "x", "--clients", "0"],
        ["node", "--role", "king", "--deployment", "x", "--name", "y"],
        ["node", "--role", "client", "--name", "y"],
        ["up", "x", "--epochs", "0"],
        ["bench", "--dim", "0"],
    ],
)
def test_wrong_usage_ends_with_2_and_without_traceback(asyncfl: Program, arguments: list[str]) -> None:
    outcome = asyncfl(*arguments)
    assert outcome.code == 2
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize("command", ["up", "status", "evaluate"])
def test_a_directory_without_a_deployment_ends_with_2(asyncfl: Program, tmp_path: Path, command: str) -> None:
    outcome = asyncfl(command, tmp_path)
    assert outcome.code == 2
    assert "holds no deployment.toml" in outcome.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--kill", "replica-9@7"], "no replica is called 'replica-9'"),
        (["--kill", "replica-2"], "NAME@EPOCH"),
        (["--restart", "replica-2@7"], "no --kill replica-2"),
        (["--kill", "replica-2@21"], "from 1 to 20"),
        (["--client-processes", "7"], "only 6 clients"),
    ],
)
def test_up_refuses_what_cannot_work_before_it_starts_anything(
    asyncfl: Program, made: DeploymentDirectory, options: list[str], said: str
) -> None:
    outcome = asyncfl("up", made.root, *options)
    assert outcome.code == 2
    assert said in outcome.stderr
    assert not (made.root / "logs").exists()


def test_up_refuses_a_missing_key_before_it_starts_anything(
    asyncfl: Program, copied: DeploymentDirectory
) -> None:
    copied.key_file("client-4").unlink()
    outcome = asyncfl("up", copied.root)
    assert outcome.code == 2
    assert "client-4.key: no such key file" in outcome.stderr
    assert not (copied.root / "logs").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--role", "aggregator", "--name", "replica-9"], "no replica is called 'replica-9'"),
        (["--role", "aggregator", "--name", "client-0"], "no replica is called 'client-0'"),
        (["--role", "client", "--name", "replica-0"], "no client is called 'replica-0'"),
        (["--role", "aggregator", "--name", "replica-0", "--name", "replica-1"], "one --name"),
        (["--role", "aggregator", "--name", "replica-0", "--epochs", "3"], "--epochs is for clients"),
        (["--role", "aggregator", "--name", "replica-0", "--listen", "nowhere"], "HOST:PORT"),
        (["--role", "client", "--name", "client-0", "--listen", "0.0.0.0:1"], "only dial out"),
        (["--role", "client", "--name", "client-0", "--name", "client-0"], "given twice"),
    ],
)
def test_node_refuses_what_cannot_work(
    asyncfl: Program, made: DeploymentDirectory, options: list[str], said: str
) -> None:
    outcome = asyncfl("node", "--deployment", made.root, *options)
    assert outcome.code == 2
    assert said in outcome.stderr


def test_demo_leaves_a_directory_alone_that_it_did_not_make(asyncfl: Program, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    outcome = asyncfl("demo", tmp_path)
    assert outcome.code == 2
    assert "left alone" in outcome.stderr
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    outcome = asyncfl("demo", tmp_path / "thesis.tex")
    assert outcome.code == 2


def test_demo_deletes_an_earlier_demonstration_only(tmp_path: Path) -> None:
    from node.supervisor.demonstration import fresh_directory
    from node.supervisor.lock import exclusive

    root = tmp_path / "demo-run"
    fresh_directory(root)
    (root / "old").mkdir()
    with exclusive(root), pytest.raises(ConfigurationError, match="is being run"):
        fresh_directory(root)
    assert (root / "old").exists()
    fresh_directory(root)
    assert not (root / "old").exists()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "link").symlink_to(elsewhere)
    with pytest.raises(ConfigurationError):
        fresh_directory(tmp_path / "link")


def test_status_of_a_deployment_that_never_ran(asyncfl: Program, made: DeploymentDirectory) -> None:
    facts = json.loads(asyncfl("status", made.root, "--json").stdout)
    assert facts["deployment"] == made.deployment.digest.hex()
    assert set(facts["replicas"]) == {f"replica-{i}" for i in range(4)}
    nothing = {"running": False, "state": "never run here"}
    assert facts["clients"]["client-5"] == {**nothing, "takes_part": [[1, None]]}
    assert facts["rosters"] == [{"number": 0, "start_epoch": 1, "members": 6}]
    shown = asyncfl("status", made.root).stdout
    assert "replica-3" in shown
    assert "never run here" in shown


def test_status_names_the_command_that_retires_clients_that_are_silent_everywhere(
    asyncfl: Program, copied: DeploymentDirectory
) -> None:
    deployment = copied.deployment
    keys = {name: deployment.client(name).key.hex() for name in deployment.members}
    heard = {
        "replica-0": ["client-0", "client-1", "client-2"],
        "replica-1": ["client-0", "client-1", "client-4"],
    }
    for name, live in heard.items():
        path = copied.status_file(name)
        path.parent.mkdir(parents=True)
        status = {
            "deployment": deployment.digest.hex(), "pid": os.getpid(), "time": time.time() + 60, "state": "up",
            "stall": "3 of 6 clients are live …; (asyncfl retire)", "connected": 1, "connected_clients": 3,
            "silent": [key for client, key in keys.items() if client not in live],
        }  # fmt: skip
        path.write_text(json.dumps(status))
    shown = asyncfl("status", copied.root).stdout
    assert f"asyncfl retire {copied.root} client-3 client-5" in shown
    # With four silent, those left fill no cell: retiring would not help.
    for name in heard:
        path = copied.status_file(name)
        silent = [keys[f"client-{i}"] for i in range(2, 6)]
        path.write_text(json.dumps({**json.loads(path.read_text()), "silent": silent}))
    assert f"asyncfl retire {copied.root}" not in asyncfl("status", copied.root).stdout


def with_model(
    files: DeploymentDirectory, name: str, entries: int, data: bytes, *, statement: int = 0, held: int = 0
) -> str:
    """Lets replica `name` have `data` as its certified model."""
    digest = content_digest(data).hex()
    folder = files.state(name) / "blobs" / digest[:2]
    folder.mkdir(parents=True)
    (folder / digest).write_bytes(data)
    status = {
        "deployment": files.deployment.digest.hex(), "pid": 1, "time": 0, "exclusion": held,
        "certified": {"version": "aa" * 32, "entries": entries, "model": digest, "statement": statement},
    }  # fmt: skip
    files.status_file(name).write_text(json.dumps(status))
    return digest


def test_evaluate_and_export_take_the_newest_certified_model(
    asyncfl: Program, copied: DeploymentDirectory, tmp_path: Path
) -> None:
    from node.training.files import read_model

    outcome = asyncfl("evaluate", copied.root)
    assert outcome.code == 2
    assert "no replica" in outcome.stderr
    initial = copied.initial_model()
    with_model(copied, "replica-1", 3, bytes(len(initial)))
    newest = with_model(copied, "replica-2", 5, initial)
    facts = json.loads(asyncfl("evaluate", copied.root, "--json").stdout)
    assert (facts["model"], facts["entries"], facts["replica"]) == (newest, 5, "replica-2")
    assert 0 < facts["accuracy"] < 0.5
    outcome = asyncfl("export", copied.root, tmp_path / "model.safetensors")
    assert outcome.code == 0
    assert read_model(tmp_path / "model.safetensors")[1] == initial
    assert asyncfl("export", copied.root, tmp_path / "absent" / "m.safetensors").code == 3


@pytest.mark.parametrize("more", [0, 2])
def test_a_model_from_before_a_rollback_is_not_the_newest(
    asyncfl: Program, copied: DeploymentDirectory, tmp_path: Path, more: int
) -> None:
    """Replica 0 was down when the operator took something out: what it has left is poisoned."""
    from node.training.files import read_model

    initial = copied.initial_model()
    with_model(copied, "replica-0", 5 + more, bytes(len(initial)))
    clean = with_model(copied, "replica-1", 5, initial, statement=1, held=1)
    outcome = asyncfl("export", copied.root, tmp_path / "model.safetensors")
    assert " 5 entries under exclusion 1" in outcome.stdout
    assert "certified yet" not in outcome.stderr
    assert read_model(tmp_path / "model.safetensors")[1] == initial
    facts = json.loads(asyncfl("evaluate", copied.root, "--json").stdout)
    assert (facts["model"], facts["exclusion"], facts["replica"]) == (clean, 1, "replica-1")


def test_a_model_that_an_exclusion_is_still_to_change_is_named_so(
    asyncfl: Program, copied: DeploymentDirectory
) -> None:
    with_model(copied, "replica-0", 5, copied.initial_model(), statement=1, held=2)
    outcome = asyncfl("evaluate", copied.root)
    assert outcome.code == 0
    assert "no model under exclusion 2 is certified yet" in outcome.stderr


def test_a_damaged_copy_of_a_model_is_passed_by_where_another_replica_has_a_whole_one(
    asyncfl: Program, copied: DeploymentDirectory
) -> None:
    initial = copied.initial_model()
    digest = with_model(copied, "replica-1", 5, initial)
    with_model(copied, "replica-2", 5, initial)
    damaged = copied.state("replica-1") / "blobs" / digest[:2] / digest
    damaged.write_bytes(b"something else")
    older = with_model(copied, "replica-3", 3, bytes(len(initial)))
    (copied.state("replica-3") / "blobs" / older[:2] / older).write_bytes(b"something else")
    facts = json.loads(asyncfl("evaluate", copied.root, "--json").stdout)
    assert (facts["model"], facts["entries"]) == (digest, 5)


def test_a_damaged_model_is_a_matter_of_storage(asyncfl: Program, copied: DeploymentDirectory) -> None:
    digest = with_model(copied, "replica-1", 3, copied.initial_model())
    (copied.state("replica-1") / "blobs" / digest[:2] / digest).write_bytes(b"something else")
    outcome = asyncfl("evaluate", copied.root)
    assert outcome.code == 3
    assert "damaged" in outcome.stderr


def test_ctrl_c_at_the_question_before_signing_interrupts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> bool:
        raise typer.Abort

    monkeypatch.setattr(typer, "confirm", interrupted)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(type(common.messages), "is_terminal", True)
    with pytest.raises(KeyboardInterrupt):  # which ends the program with 130
        common.confirm("why")
    assert "nothing was changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "table"), [("experiment", "[reduced]"), ("init", "[training]"), ("export", "[stop]")]
)
def test_help_shows_the_names_of_tables(asyncfl: Program, command: str, table: str) -> None:
    """Brackets are markup to who prints it."""
    assert table in asyncfl(command, "--help").stdout


def test_key_values_are_toml_or_text() -> None:
    pairs = ["a=1", "b=0.5", "c=true", 'd="x"', "e=plain text", "f=[1, 2]", "g="]
    assert key_values("--x", pairs) == {
        "a": 1, "b": 0.5, "c": True, "d": "x", "e": "plain text", "f": [1, 2], "g": "",
    }  # fmt: skip


def test_json_is_written_whole_or_not_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "result.json"
    write_json({"a": 1}, target)
    assert json.loads(target.read_text()) == {"a": 1}
    assert [path.name for path in target.parent.iterdir()] == ["result.json"]
    write_json({"a": 2}, Path("-"))
    assert json.loads(capsys.readouterr().out) == {"a": 2}
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="--json"):
        write_json({}, tmp_path / "file" / "x.json")


def test_what_counts_under_an_exclusion_is_said(
    asyncfl: Program, copied: DeploymentDirectory, tmp_path: Path
) -> None:
    with_model(copied, "replica-0", 1255, copied.initial_model(), statement=3, held=3)
    path = copied.status_file("replica-0")
    said = json.loads(path.read_text())
    said["certified"]["counted"] = 1157
    keys = [copied.deployment.client(f"client-{index}").key.hex() for index in (3, 4)]
    said |= {
        "entries": 1255, "inclusion": {keys[0]: 392, keys[1]: 3561},
        "counted": {"entries": 1157, "uploads": 3561},
        "left_out": {"entries": 0, "clients": keys[:1], "spans": []},
    }  # fmt: skip
    path.write_text(json.dumps(said))
    assert "after 1157 of 1255 entries under exclusion 3" in asyncfl("evaluate", copied.root).stdout
    written = asyncfl("export", copied.root, tmp_path / "model.safetensors").stdout
    assert "1157 of 1255 entries under exclusion 3" in written
    shown = asyncfl("status", copied.root).stdout
    assert "exclusion 3 in force: client-3 left out; 3561 of 3953 uploads count" in shown
