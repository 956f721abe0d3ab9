"""Which uploads an attack loses: by whose cell it was and which coordinator they name. Prints a table.

    python scripts/lost_uploads.py drop-updates --epochs 12 --seeds 2

n = 4, t = 1, 12 clients in four cells of 3; the attacker is replica 0. `none` for no attack.
"""

from __future__ import annotations

import argparse
from collections import Counter

from asyncfl.effects import Effect, Send
from asyncfl.messages import Manifest, Upload
from asyncfl.replica import Replica
from asyncfl.simulation.attackers import Attack
from asyncfl.simulation.deployment import Simulation
from asyncfl.simulation.network import Node
from asyncfl.simulation.scenario import Scenario
from asyncfl.simulation.trial import run

DRAIN = 60.0
"""Virtual seconds that uploads are given to be opened after the last client is done."""


class Uploads:
    """Every manifest that a client sends in one run."""

    def __init__(self) -> None:
        self.manifests: dict[bytes, Manifest] = {}

    def __call__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        before = simulation.network.before_effect

        def see(node: Node, effect: Effect) -> None:
            before(node, effect)
            if isinstance(effect, Send) and isinstance(effect.message, Upload):
                self.manifests[effect.message.manifest.digest()] = effect.message.manifest

        simulation.network.before_effect = see

    def count(self) -> Counter[tuple[str, bool]]:
        """Uploads by kind, and whether they are in the largest honest ledger."""
        machines = [node.machine for node in self.simulation.network.nodes.values()]
        ledgers = [machine.context.ledger for machine in machines if isinstance(machine, Replica)]
        included = max(ledgers, key=lambda ledger: ledger.entries).included
        kinds: Counter[tuple[str, bool]] = Counter()
        for core in (manifest.core for manifest in self.manifests.values()):
            cell = "the attacker's cell" if (core.cell + core.epoch - 1) % 4 == 0 else "another cell"
            named = "names the attacker" if core.coordinator == 0 else "names another"
            kinds[f"{cell}, {named}", (core.client, core.epoch) in included] += 1
        return kinds


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("attack")
    arguments.add_argument("--epochs", type=int, default=3)
    arguments.add_argument("--seeds", type=int, default=2)
    chosen = arguments.parse_args()
    attacks = () if chosen.attack == "none" else (Attack("replica-0", chosen.attack),)
    kinds: Counter[tuple[str, bool]] = Counter()
    for seed in range(1, chosen.seeds + 1):
        uploads = Uploads()
        run(Scenario(seed, 4, 1, 12, epochs=chosen.epochs, attacks=attacks), drain=DRAIN, attend=uploads)
        kinds += uploads.count()
    print("| upload | opened | lost | part of all that is lost |\n|---|---|---|---|")
    for kind in sorted({kind for kind, _ in kinds}):
        opened, lost = kinds[kind, True], kinds[kind, False]
        print(f"| {kind} | {opened} | {lost} | {lost / kinds.total():.0%} |")


if __name__ == "__main__":
    main()
