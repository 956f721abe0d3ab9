"""The short report at the end of a run, as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asyncfl.deployment import Deployment
from node.supervisor.own_accuracy import describe_own_accuracy
from node.supervisor.plan import Action
from node.supervisor.record import Record


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def size(count: float) -> str:
    """Bytes with a decimal unit."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def outages(record: Record) -> list[str]:
    """A sentence for every kill: when, how long, and what went on meanwhile."""
    sentences = []
    for index, event in enumerate(record.events):
        if event.action is not Action.KILL:
            continue
        back = next(
            (
                later
                for later in record.events[index + 1 :]
                if later.replica == event.replica and later.action is Action.RESTART
            ),
            None,
        )
        told = f"{event.replica} killed {clock(event.seconds)} (epoch {event.epoch})"
        if back is None:
            sentences.append(f"{told}, left dead; {record.snapshot.entries - event.entries} entries since")
        else:
            gained = back.entries - event.entries
            sentences.append(f"{told}, back {clock(back.seconds)} (epoch {back.epoch}); {gained} entries")
    return sentences


def report(record: Record, deployment: Deployment, result: dict[str, Any], folder: Path) -> str:
    """The report: one fact a line, failures first."""
    snapshot = record.snapshot
    lines = [f"{deployment.name}: {'FAILED' if record.failures else 'passed'}"]
    lines += [f"  failed     {sentence}" for sentence in record.failures]
    if record.accuracy is not None:
        compared = ""
        if record.baseline is not None:
            compared = f"; FedAvg in one process, with as many updates, {record.baseline:.4f}"
        lines.append(f"  accuracy   {record.accuracy:.4f}{compared}")
    told = describe_own_accuracy(snapshot.own_accuracy)
    if told is not None:
        lines.append(f"  clients    {told}")
    uploads = result["uploads"]
    if record.finished is not None:
        lines.append(f"  finished   {record.finished}")
    lines.append(
        f"  ledger     {snapshot.entries} entries up to epoch {snapshot.epoch}; {uploads['included']} of "
        f"{uploads['sent']} uploads"
    )
    lines += [f"  refused    {sentence}" for sentence in snapshot.refusals]
    if uploads["counted"] != uploads["included"]:
        lines.append(
            f"  exclusion  {uploads['counted']} of {uploads['included']} uploads count; the model leaves out the others"
        )
    lines.append(f"  stall      at most {record.longest_stall:.1f} s without a new entry")
    lines += [f"  outage     {sentence}" for sentence in outages(record)]
    digests = set(result["model_digest"].values())
    if len(digests) == 1 and record.final is not None:
        lines.append(
            f"  agreement  {len(result['model_digest'])} replicas hold model {digests.pop()[:16]}, bit for bit"
        )
        lines.append(f"  version    {record.final.version[:16]}")
    sizes = result["upload_bytes"]
    if sizes["overhead"] is not None:
        lines.append(
            f"  upload     {size(sizes['masked'])} masked + {size(sizes['overhead'])} shares, proof, channel; "
            f"float32 {size(sizes['float32'])}"
        )
    lines.append(f"  time       {clock(record.seconds)}")
    lines.append(f"  results    {folder}")
    return "\n".join(lines) + "\n"
