"""When replicas are killed and started again."""

from __future__ import annotations

import pytest

from asyncfl.errors import ConfigurationError
from node.supervisor.demonstration import demo_plan
from node.supervisor.outages import RandomOutages, TooManyOutages, rates
from node.supervisor.plan import Action, Moment, ScriptedPlan, Step, parse_step
from node.supervisor.watch import Phase, Snapshot

from .samples import record, replica, snapshot

REPLICAS = [f"replica-{i}" for i in range(4)]


def at(epoch: int, entries: int = 0, **phases: Phase) -> Snapshot:
    return snapshot(
        *(
            replica(name, phases.get(name.replace("-", "_"), Phase.UP), epoch=epoch, entries=entries)
            for name in REPLICAS
        )
    )


def parse(text: str) -> Step:
    return parse_step(Action.KILL, text, REPLICAS, epochs=20)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("replica-2@7", Moment(epoch=7)),
        ("replica-2@8s", Moment(seconds=8.0)),
        ("replica-2@0.5s", Moment(seconds=0.5)),
        ("replica-2@20", Moment(epoch=20)),
    ],
)
def test_a_moment_is_an_epoch_or_seconds(text: str, moment: Moment) -> None:
    assert parse(text) == Step(Action.KILL, "replica-2", moment)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("replica-2", "NAME@EPOCH"),
        ("replica-2@", "NAME@EPOCH"),
        ("@7", "NAME@EPOCH"),
        ("replica-2@x", "NAME@EPOCH"),
        ("replica-2@-1", "NAME@EPOCH"),
        ("replica-2@7m", "NAME@EPOCH"),
        ("replica-2@7@8", "replica-2"),
        ("replica-9@7", "replica-9"),
        ("client-0@7", "client-0"),
        ("replica-2@0", "from 1 to 20"),
        ("replica-2@21", "from 1 to 20"),
        ("replica-2@1.5", "replica-2@1.5s"),
    ],
)
def test_a_bad_moment_is_refused_with_the_option_and_the_form(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(text)
    assert f"--kill {text}" in str(caught.value)
    assert said in str(caught.value)


def test_a_restart_waits_for_its_kill() -> None:
    plan = ScriptedPlan(
        [Step(Action.KILL, "replica-2", Moment(seconds=5))],
        [Step(Action.RESTART, "replica-2", Moment(epoch=3))],
    )
    assert plan.due(at(9), 1.0) == []
    assert [step.action for step in plan.due(at(9), 5.0)] == [Action.KILL]
    assert [step.action for step in plan.due(at(9), 5.2)] == [Action.RESTART]
    assert plan.rest() == []


def test_what_was_not_due_is_left_over_in_order() -> None:
    plan = demo_plan("replica-2", 20)
    assert [str(step.at) for step in plan.rest()] == ["epoch 7", "epoch 14"]
    assert not plan.waits()
    plan.due(at(7), 1.0)
    assert [step.action for step in plan.rest()] == [Action.RESTART]


def test_a_stall_is_waited_out_when_a_restart_comes_by_the_clock() -> None:
    kill, restart = (
        Step(Action.KILL, "replica-1", Moment(epoch=2)),
        Step(Action.RESTART, "replica-1", Moment(seconds=9)),
    )
    plan = ScriptedPlan([kill], [restart])
    assert not plan.waits()
    plan.due(at(2), 1.0)
    assert plan.waits()
    plan.due(at(2), 9.0)
    assert not plan.waits()


@pytest.mark.parametrize(
    ("kills", "restarts", "said"),
    [
        ([], ["replica-1@3"], "no --kill replica-1"),
        (["replica-1@3"], ["replica-2@5"], "no --kill replica-2"),
        (["replica-1@3", "replica-1@5"], [], "again without a --restart"),
        (["replica-1@5"], ["replica-1@3"], "does not come after"),
        (["replica-1@5"], ["replica-1@5"], "does not come after"),
        (["replica-1@5s"], ["replica-1@4s"], "does not come after"),
    ],
)
def test_an_impossible_order_is_refused(kills: list[str], restarts: list[str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        ScriptedPlan(
            [parse(text) for text in kills],
            [parse_step(Action.RESTART, text, REPLICAS, 20) for text in restarts],
        )


@pytest.mark.parametrize("epochs", [3, 4, 5, 20, 100])
def test_the_demonstration_kills_before_it_restarts_and_both_before_the_end(epochs: int) -> None:
    down, up = (step.at.epoch for step in demo_plan("replica-2", epochs).rest())
    assert down is not None
    assert up is not None
    assert 1 <= down < up <= epochs


@pytest.mark.parametrize(("count", "faulty"), [(4, 1), (7, 2)])
def test_random_outages_never_take_more_than_t_and_wait_until_all_are_up(count: int, faulty: int) -> None:
    plan = RandomOutages(faulty, seed=3)
    down: dict[str, float] = {}
    kills = 0
    for tick in range(6000):
        seconds = tick * 0.1
        phases = {}
        for name in [f"replica-{i}" for i in range(count)]:
            back = down.get(name)
            lagging = back is not None and back <= 0
            phases[name] = (
                Phase.KILLED if back == float("inf") else Phase.CATCHING_UP if lagging else Phase.UP
            )
        view = snapshot(*(replica(name, phase, epoch=5) for name, phase in phases.items()))
        for step in plan.due(view, seconds):
            if step.action is Action.KILL:
                assert all(phase is Phase.UP for phase in phases.values())
                down[step.replica] = float("inf")
                kills += 1
            else:
                down[step.replica] = -10
        for name, left in list(down.items()):
            if left <= 0:
                down[name] = left + 1
                if down[name] > 0:
                    del down[name]
        assert len(down) <= faulty
    assert kills > 10


def test_random_outages_are_the_same_for_the_same_seed() -> None:
    def kills(seed: int) -> list[tuple[float, str]]:
        plan = RandomOutages(1, seed)
        return [
            (tick * 0.1, step.replica)
            for tick in range(300)
            for step in plan.due(at(5), tick * 0.1)
            if step.action is Action.KILL
        ]

    assert kills(1) == kills(1)
    assert kills(1) != kills(2)


def test_random_outages_wait_for_training_to_be_under_way() -> None:
    plan = RandomOutages(1, 0)
    assert all(plan.due(at(1), float(second)) == [] for second in range(100))


def test_beyond_t_the_stall_is_watched_and_the_first_return_resumes_it() -> None:
    plan = TooManyOutages(faulty=1, seed=0, epoch=3)
    assert plan.due(at(2, 8), 0.0) == []
    killed = plan.due(at(3, 10), 1.0)
    assert [step.action for step in killed] == [Action.KILL, Action.KILL]
    assert plan.due(at(3, 11), 2.0) == []  # What was locked before may still be opened.
    stalled = snapshot(replica(entries=11, stall="2 of 4 replicas can be reached"))
    assert plan.due(stalled, 5.0) == []
    assert plan.waits()
    first = plan.due(stalled, 20.0)
    assert [step.replica for step in first] == [killed[0].replica]
    assert not plan.waits()
    assert plan.due(at(3, 11), 25.0) == []
    others = plan.due(at(3, 12), 26.0)
    assert [step.replica for step in others] == [killed[1].replica]
    assert plan.resumed_s == pytest.approx(6.0)
    assert plan.said == "2 of 4 replicas can be reached"
    assert plan.failures() == []


def test_beyond_t_progress_silence_and_no_return_are_failures() -> None:
    plan = TooManyOutages(faulty=1, seed=0, epoch=3)
    assert "never reached epoch 3" in plan.failures()[0]
    plan.due(at(3, 10), 0.0)
    plan.due(at(3, 10), 2.0)
    plan.due(at(4, 12), 8.0)
    failures = plan.failures()
    assert any("2 entries were made while" in sentence for sentence in failures)
    assert any("no replica said why" in sentence for sentence in failures)
    assert any("did not resume" in sentence for sentence in failures)


def test_rates_are_entries_a_second_before_during_and_after() -> None:
    (outage,) = rates(record())
    assert outage.replicas == ("replica-2",)
    assert (outage.at, outage.seconds) == (5.0, 4.0)
    assert (outage.before, outage.during, outage.after) == (1.0, 1.0, 1.0)


def test_there_is_no_rate_for_a_time_that_did_not_exist() -> None:
    made = record()
    made.trained = 9.0
    (outage,) = rates(made)
    assert outage.during == 1.0
    assert outage.after is None


def test_kills_that_overlap_are_one_outage() -> None:
    made = record()
    first, second = made.events
    made.events = [first, type(first)(6.0, Action.KILL, "replica-3", 5, 1), second]
    made.events.append(type(first)(10.0, Action.RESTART, "replica-3", 9, 2))
    (outage,) = rates(made)
    assert outage.replicas == ("replica-2", "replica-3")
    assert outage.seconds == 5.0
