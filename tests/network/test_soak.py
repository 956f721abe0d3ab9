"""What a soak is made of: a plan that keeps its promises, slopes that find a leak, eyes for what stays behind."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from chaos import remains
from chaos.gauges import Life, Sample
from chaos.plan import Cast, Kind, Misfortune, draw
from chaos.verdict import LEAK_MIB_PER_HOUR, MIB, judge, theil_sen
from chaos.weather import Fault

LEAK = 33e3 / 5 * 3600 / MIB
"""MiB an hour: an upload of digits every five seconds."""
CAST = Cast(
    honest=tuple(f"replica-{j}" for j in range(6)),
    liars=("replica-6",),
    byzantine=2,
    parties=("party-0", "party-1"),
    malicious=("malicious",),
    spared=("replica-0", "party-0"),
    joiners=("client-8", "client-9"),
    replica_attacks=("silent", "flood"),
    client_attacks=("half-uploads",),
)
DOWN = {Kind.KILL, Kind.RESTART, Kind.PAUSE, Kind.PART}
"""What takes a replica away; so do links on which nothing passes."""


def takes_away(misfortune: Misfortune) -> bool:
    return misfortune.kind in DOWN or (
        misfortune.weather is not None and misfortune.weather.fault is not Fault.NONE
    )


@pytest.mark.parametrize("seed", range(20))
def test_no_more_honest_replicas_are_away_than_may_be_and_the_spared_live(seed: int) -> None:
    plan = draw(seed, 1800.0, CAST)
    assert plan == draw(seed, 1800.0, CAST)
    assert plan != draw(seed + 1, 1800.0, CAST)
    for misfortune in plan:
        meanwhile = [
            other
            for other in plan
            if other.at <= misfortune.at < other.at + other.seconds and other.kind is not Kind.BEYOND
        ]
        away = {name for other in meanwhile if takes_away(other) for name in other.names}
        assert len(away & set(CAST.honest)) <= CAST.byzantine - len(CAST.liars)
        if misfortune.kind in {Kind.KILL, Kind.RESTART}:
            assert not set(misfortune.names) & set(CAST.spared)
    kinds = Counter(misfortune.kind for misfortune in plan)
    assert all(kinds[kind] for kind in Kind), kinds
    for name in CAST.joiners:
        comes, goes = [each for each in plan if each.names == (name,)]
        assert (comes.kind, goes.kind) == (Kind.ENROL, Kind.RETIRE)


def life(mib_per_hour: float, *, descriptors_per_hour: float = 0.0, minutes: float = 28.0) -> Life:
    """Samples every three seconds with noise, jumps that come back, and a warm-up."""
    random = Random(1)
    made = Life("replica-0", "replica", 1)
    for number in range(int(20 * minutes)):
        seconds = 3.0 * number
        memory = 180 * MIB - max(0.0, 150 - seconds) * MIB + mib_per_hour * MIB * seconds / 3600
        memory += random.gauss(0, MIB / 2) + (40 * MIB if number % 9 == 0 else 0)
        descriptors = 40 + random.randint(-5, 5) + int(descriptors_per_hour * seconds / 3600)
        made.samples.append(Sample(seconds, int(memory), descriptors, 15, 0))
    return made


def test_a_slow_leak_is_found_through_noise_and_jumps() -> None:
    flat, leaking = judge(life(0.0), 0.0, 0.0), judge(life(LEAK), 0.0, 0.0)
    assert flat is not None
    assert leaking is not None
    assert flat.mib_per_hour == pytest.approx(0.0, abs=2.0)
    assert leaking.mib_per_hour == pytest.approx(LEAK, abs=2.0)
    assert flat.failures == []
    assert ["memory grew" in failure for failure in leaking.failures] == [True]


def test_what_entries_account_for_is_no_leak() -> None:
    growth = judge(life(60.0), 6144.0, 8000.0)
    assert growth is not None
    assert growth.allowed_mib_per_hour == pytest.approx(LEAK_MIB_PER_HOUR + 46.9, abs=0.1)
    assert growth.failures == []


def test_descriptors_that_pile_up_are_found_and_short_lives_are_not_judged() -> None:
    piling = judge(life(0.0, descriptors_per_hour=60.0), 0.0, 0.0)
    assert piling is not None
    assert ["descriptors" in failure for failure in piling.failures] == [True]
    short = judge(life(1000.0, minutes=6.0), 0.0, 0.0)
    assert short is not None
    assert short.mib_per_hour is None
    assert short.failures == []


def test_the_slope_is_the_median_of_the_slopes_of_all_pairs() -> None:
    assert theil_sen([0, 1, 2, 3], [0, 2, 4, 100]) == pytest.approx(53 / 3)
    assert theil_sen([0, 1, 2, 3, 4, 5], [1, 3, 5, 70, 9, 11]) == pytest.approx(2.0)


def test_processes_and_drafts_that_stay_behind_are_seen(tmp_path: Path) -> None:
    state = tmp_path / "replica-0" / "state" / "replica-0"
    (state / "blobs" / "incoming").mkdir(parents=True)
    for name in ("state.sqlite", "status.json"):
        (state / name).touch()
    assert remains.files(tmp_path) == []
    (state / "status.json.new").touch()
    (state / "core").touch()
    assert len(remains.files(tmp_path)) == 2
    sleeper = subprocess.Popen([sys.executable, "-S", "-c", "input()", str(tmp_path)], stdin=subprocess.PIPE)
    try:
        assert [f"process {sleeper.pid}" in found for found in remains.processes(tmp_path)] == [True]
    finally:
        sleeper.communicate()
    assert remains.processes(tmp_path) == []


def test_a_log_that_tells_of_a_bug_is_seen_and_one_of_misfortune_is_not() -> None:
    fine = (
        "[info] disconnected reason='the connection was lost'\n[warning] dial_failed reason='TimeoutError'\n"
    )
    assert remains.complaints(fine, "replica-0") == []
    assert len(remains.complaints(fine + "Traceback (most recent call last):\n", "replica-0")) == 1
    assert "replica-0" in remains.complaints("x\n[error] node_failed error=...", "replica-0")[0]
