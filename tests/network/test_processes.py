"""Real processes over links that fail in every way: training goes on or resumes, and everybody agrees in the end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest
from chaos.fabric import Fabric
from chaos.weather import Fault, Weather

from node.transport.limits import Limits
from tests.network.running import Running, running

LIMITS = Limits()
NOTICED_S = LIMITS.silence_s + 2 * LIMITS.heartbeat_s
"""A dead peer is given up this long after it was heard last."""
DIALLED_S = 2 * LIMITS.handshake_s + LIMITS.retry_cap_s
"""At worst a dialler sits in a handshake with nobody when a link is mended, and waits once more after that."""
LATE_S = 60.0
"""What an overloaded machine may add to any of these."""
VICTIM = "replica-3"
OTHERS = ["replica-0", "replica-1", "replica-2"]
FAULTS = [Fault.STUCK, Fault.BLACK_HOLE, Fault.LOST_LISTENER, Fault.LOST_DIALLER, Fault.RESET]


async def lose_and_find(run: Running, fabric: Fabric, fault: Fault) -> tuple[float, float]:
    """A replica's links fail; training goes on; they are mended. Seconds until it was given up, and until it agreed."""
    spell = fabric.befall(Weather(fault=fault), fabric.between([VICTIM]))
    noticed = await run.until(
        f"{VICTIM} to be given up by all",
        lambda: all(run.connected(name) == 2 for name in OTHERS) and run.connected(VICTIM) == 0,
        NOTICED_S + LATE_S,
    )
    await run.grow(2)
    assert run.entries(VICTIM) < run.entries()
    goal = run.entries()
    fabric.lift(spell)
    found = await run.until(
        f"{VICTIM} to be found and to catch up",
        lambda: all(run.connected(name) == 3 for name in run.replicas) and run.entries(VICTIM) >= goal,
        DIALLED_S + LATE_S,
    )
    return noticed, found


@pytest.mark.timeout(400)
async def test_a_replica_in_a_black_hole_is_given_up_and_catches_up_and_corruption_stops_nothing(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, parties=1) as (run, fabric):
        await lose_and_find(run, fabric, Fault.BLACK_HOLE)
        bad = Weather(corrupt=0.02, delay_s=0.02, jitter_s=0.05, reset_after=(1, 400_000))
        spell = fabric.befall(bad)
        await run.grow(2)
        fabric.lift(spell)
        await run.rest()


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_every_way_of_losing_a_replica_is_noticed_and_mended(tmp_path: Path) -> None:
    async with running(tmp_path) as (run, fabric):
        for fault in FAULTS:
            print(
                fault,
                "noticed after %.1f s, caught up %.1f s after it was mended"
                % await lose_and_find(run, fabric, fault),
            )
        await run.rest()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "weather",
    [
        Weather(delay_s=0.15),
        Weather(delay_s=0.05, jitter_s=0.3),
        Weather(bytes_per_s=100_000),
        Weather(corrupt=0.01),
        Weather(reset_after=(1, 1_000_000)),
    ],
    ids=["delay", "jitter", "bandwidth", "corruption", "resets"],
)
async def test_training_goes_on_over_bad_links_of_everybody(tmp_path: Path, weather: Weather) -> None:
    async with running(tmp_path) as (run, fabric):
        spell = fabric.befall(weather)
        await run.grow(8, 120.0)
        fabric.lift(spell)
        await run.grow(4)
        await run.rest()


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_training_resumes_after_links_that_carry_next_to_nothing(tmp_path: Path) -> None:
    """So many resets that uploads are stored faster than they are relayed: what piled up does not stay in the way."""
    async with running(tmp_path) as (run, fabric):
        spell = fabric.befall(Weather(reset_after=(1, 100_000)))
        await asyncio.sleep(60.0)
        made = run.entries()
        fabric.lift(spell)
        took = await run.grow(4, DIALLED_S + LATE_S)
        print(f"{made} entries while hardly anything passed; the fourth after that came {took:.1f} s later")
        await run.rest()


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_partition_of_t_replicas_heals_and_they_catch_up(tmp_path: Path) -> None:
    async with running(tmp_path) as (run, fabric):
        everybody = [*OTHERS, *run.deployment.parties]
        behind_before = run.entries(VICTIM)
        spell = fabric.part(everybody, [VICTIM])
        await run.grow(40, 180.0)
        missed = run.entries() - run.entries(VICTIM)
        assert missed >= 30
        assert run.entries(VICTIM) >= behind_before
        assert "2 of 4" not in str(run.deployment.status(OTHERS[0]).get("stall"))
        goal = run.entries()
        fabric.lift(spell)
        took = await run.until(
            "the one that was away to catch up", lambda: run.entries(VICTIM) >= goal, DIALLED_S + LATE_S
        )
        print(f"{missed} entries were caught up within {took:.1f} s")
        await run.rest()


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_partition_of_more_than_t_stalls_says_why_and_resumes_by_itself(tmp_path: Path) -> None:
    async with running(tmp_path) as (run, fabric):
        halves = ["replica-0", "replica-1"], ["replica-2", "replica-3", *run.deployment.parties]
        spell = fabric.part(*halves)

        def all_say_so() -> bool:
            stalls = [str(run.deployment.status(name).get("stall")) for name in run.replicas]
            return all("2 of 4 replicas can be reached, 3 are needed" in stall for stall in stalls)

        await run.until("every replica to say why nothing moves", all_say_so, NOTICED_S + LATE_S)
        entries = run.entries()
        await asyncio.sleep(10.0)
        assert run.entries() == entries, "an entry without n-t replicas"
        fabric.lift(spell)
        took = await run.grow(1, DIALLED_S + LATE_S)
        print(f"the first entry came {took:.1f} s after the partition was mended")
        await run.rest()


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_clients_cut_off_from_all_but_t_replicas_wait_and_go_on(tmp_path: Path) -> None:
    async with running(tmp_path) as (run, fabric):
        parties = list(run.deployment.parties)
        spell = fabric.befall(Weather(fault=Fault.STUCK), fabric.between(parties, OTHERS))
        await asyncio.sleep(NOTICED_S + 5.0)
        entries = run.entries()
        await asyncio.sleep(5.0)
        assert run.entries() == entries
        assert all(run.connected(name) == 3 for name in run.replicas)
        fabric.lift(spell)
        await run.grow(4)
        await run.rest()


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_memory_and_descriptors_stay_while_a_replica_flaps(tmp_path: Path) -> None:
    """Lost and found twenty times: nobody keeps anything of a dead channel, and nobody dials without pause."""
    async with running(tmp_path) as (run, fabric):
        processes = {name: psutil.Process(child.pid) for name, child in run.deployment.children.items()}
        links = fabric.between([VICTIM])
        before: dict[str, tuple[int, int]] = {}
        for number in range(21):
            spell = fabric.befall(Weather(fault=FAULTS[number % len(FAULTS)]), links)
            await asyncio.sleep(1.5)
            fabric.lift(spell)
            await asyncio.sleep(2.5)
            if number == 0:
                dialled = sum(link.accepted for link in links)
                before = {name: (p.num_fds(), p.memory_info().rss) for name, p in processes.items()}
        await run.until(
            "all to be connected", lambda: all(run.connected(name) == 3 for name in run.replicas), 60
        )
        await run.grow(2)
        for name, process in processes.items():
            descriptors, memory = before[name]
            assert process.num_fds() <= descriptors + 8, name
            assert process.memory_info().rss <= memory + (48 << 20), name
        dials = (sum(link.accepted for link in links) - dialled) / len(links)
        assert dials <= 20 * 4 + 40, f"{dials:.0f} dials on each link in 80 s"
        await run.rest()
