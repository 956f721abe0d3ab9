"""What a person sees of a broken run: made small, readable on 80 columns, with the command that runs it again."""

import json
from pathlib import Path

from typer.testing import CliRunner

from asyncfl.messages import Pull
from asyncfl.simulation.attackers import Attack
from asyncfl.simulation.deployment import Simulation
from asyncfl.simulation.faults import Hold, Partition, RosterChange
from asyncfl.simulation.observer import Observer
from asyncfl.simulation.scenario import Scenario, draw
from asyncfl.simulation.shrinking import _smaller, shrink
from asyncfl.simulation.trial import run
from node.cli import app
from tests.defects import defects
from tests.simulation.mutations import BY_NAME, applied

BROKEN = BY_NAME["uploads-locked-twice"]
SEED = ("simulate", "--seeds", "1", "--attack", "differencing", "--workers", "1")
AGAIN = "asyncfl simulate --seeds 1 --first-seed 1 --replicas 4 --byzantine 1 --attack differencing"


def test_a_broken_run_is_made_small_and_told_on_eighty_columns(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    with applied(BROKEN):
        result = CliRunner().invoke(app, [*SEED, "--json", str(report)], env={"COLUMNS": "80"})
    assert result.exit_code == 1
    lines = result.output.splitlines()
    before = next(line for line in lines if line.startswith("before"))
    after = next(line for line in lines if line.startswith("after"))
    assert "3 epochs" in before
    assert "1 epoch, 1 attacker, no faults" in after
    assert "  replica-1 attacks: differencing" in lines
    table = lines[next(i for i, line in enumerate(lines) if "to whom" in line) :]
    events = table[1 : table.index("")]
    assert 10 <= len(events) <= 60
    assert all(len(line.rstrip()) <= 80 for line in events)
    assert any("Lock id=" in line for line in events)
    assert not any("Ready" in line for line in events)
    assert any(line.startswith("S4 at ") and "for epoch 1 in two groups" in line for line in lines)
    assert f"the whole run again: {AGAIN}" in lines

    told = json.loads(report.read_text())
    assert (told["seeds"], told["violations"], told["stalled"]) == (1, 1, 0)
    (failing,) = told["failing"]
    assert (failing["seed"], failing["rule"], failing["command"]) == (1, "S4", AGAIN)
    assert "in two groups" in failing["what"]


def test_a_failing_run_shrinks_to_fewer_nodes_of_either_role_and_fewer_events() -> None:
    scenario = Scenario(
        1, 7, 2, 9, epochs=1, attacks=(Attack("replica-5", "differencing"),),
        faults=(Hold("Relay", "replica-6", 0.5, 5.0),),
    )  # fmt: skip
    with applied(BROKEN):
        whole = run(scenario)
        small = shrink(whole, tries=20)
    assert whole.kind == small.kind
    assert (small.scenario.replicas, small.scenario.byzantine) == (4, 1)
    assert small.scenario.clients < 9
    assert small.scenario.faults == ()
    assert small.events < whole.events / 2
    assert run(scenario).kind is None


def test_smaller_scenarios_mention_nobody_who_is_not_there() -> None:
    for seed in range(60):
        for smaller in _smaller(draw(seed, replicas=7, byzantine=2)):
            joiners = sum(f.joining for f in smaller.faults if isinstance(f, RosterChange))
            sizes = {"replica": smaller.replicas, "client": smaller.clients, "joiner": joiners}
            for name in smaller.mentioned() - {"*"}:
                role, number = name.split("-")
                if role != "joiner":
                    assert int(number) < sizes[role], (seed, smaller)
            assert sum(a.node.startswith("replica") for a in smaller.attacks) <= smaller.byzantine


def test_misfortune_reads_as_a_sentence() -> None:
    change = RosterChange(2.0, 0.5, 3, ("client-1",), (), 2, ("replica-0",))
    told = (
        "at 2 s the operator signs a roster for 3 epochs beyond the front and tells replica-0: "
        "client-1 leaves, 2 join"
    )
    assert str(change) == told
    assert str(Partition(("client-1",), 1.0, 2.5)) == "client-1 cut off from all others at 1 s, for 2.5 s"


def test_a_client_that_is_given_what_is_no_model_is_noticed() -> None:
    """Nobody honest asks for anything else."""
    simulation = Simulation(Scenario(1, 4, 1, 8).parameters(), 8, last_epoch=1)
    observer = Observer(simulation)
    simulation.start()
    replica = simulation.network.nodes[simulation.replica_key(0)]
    payload = replica.blobs.write(b"an upload")
    simulation.network.run(seconds=1)
    pull = Pull(blob=payload, offset=0)
    simulation.network.deliver(replica, simulation.client_key(0), pull)
    assert not observer.violations
    edit = ("asyncfl.replica.machine:Replica._receive_pull", "if replica is not None or", "if True or")
    with defects([edit]):
        simulation.network.deliver(replica, simulation.client_key(0), pull)
    assert [broken.text for broken in observer.violations] == ["gives a client what is no model"]
