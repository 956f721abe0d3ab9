"""What a run gives: plain values for JSON, and what failed, a sentence each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from asyncfl.deployment import Deployment
from node.supervisor.plan import Action
from node.supervisor.record import Record


@dataclass(frozen=True, slots=True)
class Requirements:
    """What accuracy must be reached, and how far it may lie below the baseline; None: anything will do."""

    accuracy: float | None = None
    below_baseline: float | None = None


def result_of(record: Record, deployment: Deployment) -> dict[str, Any]:
    """The result as plain JSON values; docs/reference/commands.md says what each key means."""
    snapshot = record.snapshot
    return {
        "ok": not record.failures,
        "failures": list(record.failures),
        "accuracy": record.accuracy,
        "baseline_accuracy": record.baseline,
        "own_accuracy": snapshot.own_accuracy,
        "finished": record.finished,
        "entries": snapshot.entries,
        "entries_after_kill": record.entries_after_kill,
        "epochs": snapshot.epoch,
        "refused_updates": {
            client.name: {"count": client.refused, "reason": client.refused_reason}
            for client in snapshot.clients
            if client.refused
        },
        "uploads": {"sent": snapshot.sent, "included": snapshot.included, "counted": snapshot.counted},
        "inclusion": {
            client.name: snapshot.inclusion.get(client.key.hex(), 0) for client in deployment.clients
        },
        "model_digest": {
            replica.name: replica.certified.model
            for replica in snapshot.replicas
            if replica.answers and replica.certified is not None
        },
        "version": record.final.version if record.final is not None else None,
        "killed": record.replicas_with(Action.KILL),
        "restarted": record.replicas_with(Action.RESTART),
        "upload_bytes": upload_bytes(record, deployment),
        "seconds": round(record.seconds, 2),
        "longest_stall_s": round(record.longest_stall, 2),
    }


def upload_bytes(record: Record, deployment: Deployment) -> dict[str, int | None]:
    """Bytes per upload: the masked vector; all else that clients sent, for each upload; plain float32."""
    dimension = deployment.model.weights + deployment.model.buffers
    masked = deployment.parameters.upload_bytes(dimension)
    sent = record.snapshot.sent - record.sent_before
    total = sum(client.bytes_out for client in record.snapshot.clients)
    return {
        "masked": masked,
        "overhead": max(0, round(total / sent) - masked) if sent > 0 else None,
        "float32": 4 * dimension,
    }


def judge(record: Record, requirements: Requirements) -> list[str]:
    """What failed beyond `record.failures`: liveness, agreement, accuracy; a sentence each."""
    failures = []
    snapshot = record.snapshot
    killed = ", ".join(record.replicas_with(Action.KILL))
    if record.entries_after_kill == 0:
        failures.append(f"liveness: no group was opened after {killed} was killed")
    if snapshot.epoch < record.epochs and record.finished is None:
        why = f" ({'; '.join(snapshot.refusals)})" if snapshot.refusals else ""
        failures.append(f"liveness: the ledger reached epoch {snapshot.epoch}, not {record.epochs}{why}")
    running = [replica for replica in snapshot.replicas if replica.running]
    models = {replica.certified.model if replica.certified else None for replica in running}
    if len(models) != 1 or None in models:
        held = ", ".join(
            f"{replica.name} {replica.certified.model[:12] if replica.certified else 'none'}"
            for replica in running
        )
        failures.append(f"agreement: the replicas do not end with the same certified model ({held})")
    if record.accuracy is None:
        failures.append("accuracy: it was not measured, because the run did not get that far")
        return failures
    if requirements.accuracy is not None and record.accuracy < requirements.accuracy:
        failures.append(f"accuracy: {record.accuracy:.4f} is below {requirements.accuracy}")
    if requirements.below_baseline is not None and record.baseline is not None:
        # Counts of test examples, so that 0.94 is not 0.9399999 short.
        short = record.baseline - record.accuracy
        if short > requirements.below_baseline + 1e-9:
            failures.append(
                f"accuracy: {record.accuracy:.4f} is {100 * short:.2f} points under the baseline's "
                f"{record.baseline:.4f}; at most {100 * requirements.below_baseline:g} are allowed"
            )
    return failures
