"""A deployment on hosts of its own, each in a network namespace, over air that loses, delays and reorders packets."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos.switch import Air, missing

from tests.network.running import hosted
from tests.network.test_processes import DIALLED_S, LATE_S, NOTICED_S, OTHERS, VICTIM

LACKING = missing()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(LACKING is not None, reason=str(LACKING)),
]


@pytest.mark.parametrize("loss", [0.01, 0.05], ids=["1 %", "5 %"])
async def test_training_goes_on_with_loss_delay_and_reordering(tmp_path: Path, loss: float) -> None:
    async with hosted(tmp_path) as (run, deployment):
        switch = deployment.switch
        switch.air = Air(loss=loss, delay_s=0.05, jitter_s=0.02, copies=0.01)
        lost, carried = switch.lost, switch.carried
        took = await run.grow(20, 240.0)
        lost, carried = switch.lost - lost, switch.carried - carried
        assert 0.5 * loss < lost / (lost + carried) < 2 * loss
        print(f"20 entries in {took:.1f} s; {lost} of {lost + carried} packets were lost")
        await run.rest()


async def test_a_host_that_hears_nothing_is_given_up_and_catches_up(tmp_path: Path) -> None:
    """No packet passes, in the middle of connections: the kernels retransmit in vain, and no end is heard of."""
    async with hosted(tmp_path) as (run, deployment):
        switch, addresses = deployment.switch, deployment.addresses
        switch.air = Air(loss=0.01, delay_s=0.02, jitter_s=0.01)
        others = [address for name, address in addresses.items() if name != VICTIM]
        switch.part([addresses[VICTIM]], others)
        noticed = await run.until(
            f"{VICTIM} to be given up by all",
            lambda: all(run.connected(name) == 2 for name in OTHERS) and run.connected(VICTIM) == 0,
            NOTICED_S + LATE_S,
        )
        await run.grow(10, 180.0)
        goal = run.entries()
        switch.heal()
        found = await run.until(
            f"{VICTIM} to catch up", lambda: run.entries(VICTIM) >= goal, 2 * DIALLED_S + LATE_S
        )
        print(f"given up after {noticed:.1f} s, caught up {found:.1f} s after packets passed again")
        await run.rest()
