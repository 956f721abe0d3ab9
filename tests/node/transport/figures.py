"""What each attack on the transport does with its rule and without it. Writes docs/results/transport.md.

PYTHONPATH=misbehaviour:scripts python -m tests.node.transport.figures --output docs/results/transport.md
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from tests.defects import defects
from tests.node.transport.conftest import Net
from tests.node.transport.rules import RULES, Rule

HEAD = """# Attacks on the transport, with each rule and without it

`PYTHONPATH=misbehaviour:scripts python -m tests.node.transport.figures --output docs/results/transport.md`: every rule
of the transport, the attack that it stops, and what this measures at a victim on real sockets, once as the code is
and once with that rule taken out of it. `tests/node/transport/test_rules.py` asserts both: at most *bound* with the
rule, more than that without. Deadlines are short here, so that a run takes a minute. *Without* is what was reached
when the test had seen enough, not what an attacker could reach.

| rule | attack does | bound | with it | without it |
|---|---|---:|---:|---:|
"""


async def measure(rule: Rule) -> float:
    """The harm that it does now."""
    with TemporaryDirectory() as folder:
        net = Net(Path(folder))
        try:
            return await rule.attack(net)
        finally:
            await net.close()


def row(rule: Rule) -> str:
    """A line of the table."""
    stopped = asyncio.run(measure(rule))
    with defects(rule.edits):
        succeeded = asyncio.run(measure(rule))
    cells = (f"`{rule.defect}`: {rule.what}", rule.harm, *map(figure, (rule.bound, stopped, succeeded)))
    return "| " + " | ".join(cells) + " |"


def figure(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:.2f}"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("--output", type=Path, required=True)
    chosen = arguments.parse_args()
    structlog.configure(processors=[drop])
    rows = []
    for rule in RULES:
        rows.append(row(rule))
        print(rows[-1], flush=True)
    chosen.output.write_text(HEAD + "\n".join(rows) + "\n")


def drop(logger: object, method: str, event: object) -> str:
    raise structlog.DropEvent


if __name__ == "__main__":
    main()
