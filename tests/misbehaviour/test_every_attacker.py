"""Every attacker there is, as a real process, against honest nodes on real sockets and disks."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import pytest

from asyncfl.adversary import ATTACKERS
from asyncfl_misbehaviour.assaults import TRANSPORT_ATTACKS

from .besieged import CLIENT, REPLICA, besieged
from .hostile import Hostile

REPLICAS, CLIENTS = (
    sorted([name for name, attacker in ATTACKERS.items() if attacker.role == role] + [*TRANSPORT_ATTACKS])
    for role in ("replica", "client")
)
PAIRS = [*zip(REPLICAS, cycle(CLIENTS), strict=False)]
"""Each attack of a replica, with one of a client beside it."""
WITHOUT_OCCASION = {name for name, attacker in ATTACKERS.items() if attacker.beside} | {*TRANSPORT_ATTACKS}
"""They take a colluding replica, of which a pair has none; those on the transport give no account of themselves."""
EPOCHS = 3


def test_every_attack_is_in_a_pair() -> None:
    assert {name for pair in PAIRS for name in pair} == {*ATTACKERS, *TRANSPORT_ATTACKS}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_training_goes_on_and_nothing_honest_breaks(tmp_path: Path, pair: tuple[str, str]) -> None:
    """On a deployment of its own: who was convicted before is avoided, and has no occasion to attack."""
    with besieged(tmp_path / "run") as made:
        hostile = [Hostile(made, REPLICA, pair[0]), Hostile(made, CLIENT, pair[1])]
        try:
            made.until("malice", lambda: all(each.is_up for each in hostile))
            epoch = made.epoch
            made.until(f"{EPOCHS} epochs more", lambda: made.epoch >= epoch + EPOCHS)
            logs = [each.log.read_text() for each in hostile]
            idle = {name for name, each in zip(pair, hostile, strict=True) if not each.misbehaved}
        finally:
            for each in hostile:
                each.end()
        assert idle <= WITHOUT_OCCASION, "it did what an honest node does"
        assert not made.errors(0)
        assert all("MISBEHAVIOUR" in log and "Traceback" not in log for log in logs)
        liars = {made.files.deployment.replica(REPLICA).key, made.files.deployment.client(CLIENT).key}
        convicted = {
            proof["culprit"]
            for index in range(3)
            for proof in made.status(f"replica-{index}").get("evidence", ())
        }
        assert convicted <= {key.hex() for key in liars}
