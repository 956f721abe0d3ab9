"""Deliberate defects, each a few characters of one function, that the simulator must catch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any

from asyncfl import assignment
from asyncfl.simulation.attackers import Attack
from asyncfl.simulation.faults import Crash, Disconnection, Fault, Hold, Rollback, RosterChange
from asyncfl.simulation.scenario import Scenario, draw
from tests.defects import Edit, defects
from tests.simulation.goals import LEFT_OUT, LOST, Goal


@dataclass(frozen=True)
class Mutation:
    """`found`: the rules whose breach gives the mutation away. Empty: it breaks none; `goal` is what is reached.

    `also`: places that must change with it, as (place, old, new); there the code has two lines of defence.
    """

    name: str
    disables: str
    place: str
    old: str
    new: str
    found: frozenset[str]
    scenario: Callable[[int], Scenario]
    seeds: int = 3
    also: tuple[Edit, ...] = ()
    goal: Goal = LOST


@contextmanager
def applied(mutation: Mutation) -> Iterator[None]:
    """The code with the defect in it."""
    with defects([(mutation.place, mutation.old, mutation.new), *mutation.also]):
        # Cells are remembered: those of other code are forgotten, now and in the end.
        assignment._assign.cache_clear()
        try:
            yield
        finally:
            assignment._assign.cache_clear()


def quiet(
    *attacks: tuple[str, str],
    faults: tuple[Fault, ...] = (),
    clients: int = 8,
    epochs: int = 3,
    cell_size: int | None = None,
    latency: tuple[float, float] = (0.005, 0.05),
) -> Callable[[int], Scenario]:
    """Four replicas, one of which may be malicious, on a fast network."""
    chosen = tuple(Attack(node, name) for node, name in attacks)
    return lambda seed: Scenario(
        seed,
        4,
        1,
        clients,
        epochs=epochs,
        latency=latency,
        faults=faults,
        attacks=chosen,
        cell_size=cell_size,
    )


def by_replica(name: str, *, clients: int = 12, **options: Any) -> Callable[[int], Scenario]:
    """As many cells as replicas, so that the attacker coordinates one in every epoch."""
    return quiet(("replica-0", name), clients=clients, **options)


def by_clients(name: str, **options: Any) -> Callable[[int], Scenario]:
    return quiet(("client-0", name), ("client-5", name), **options)


def that_draw(kind: type[Fault]) -> Callable[[int], Scenario]:
    """The `number`-th (from 1) of the seeds that draw a fault of this kind, and whatever else."""

    def scenario(number: int) -> Scenario:
        drawn = (draw(seed, replicas=4, byzantine=1) for seed in count(1))
        having = (each for each in drawn if any(isinstance(fault, kind) for fault in each.faults))
        return next(islice(having, number - 1, None))

    return scenario


with_roster_changes, with_rollbacks = that_draw(RosterChange), that_draw(Rollback)


SPLIT = {"clients": 8, "cell_size": 4, "epochs": 2}
LATE_CHANGE = RosterChange(
    2.0, 0.0, 1, leaving=("client-0", "client-1"), returning=(), joining=4, told=("replica-0",)
)
"""It comes when some have begun to train for its first epoch."""
EXCLUSION = Rollback(4.0, (), (), ((1, 2),), False, ("replica-0", "replica-1"))
REPLICA = "asyncfl.replica."
CLIENT = "asyncfl.client."
S1, S2, S3, S4, STALL = (frozenset((rule,)) for rule in ("S1", "S2", "S3", "S4", "L"))
NONE: frozenset[str] = frozenset()

MUTATIONS = [
    # groups and locks
    Mutation(
        "lock-rule-off", "an id and a (client, epoch) are locked once", REPLICA + "locks:LockTable.conflict",
        "same = self.by_id.get(content.id)", "return None", S1 | S4, by_replica("differencing"),
    ),
    Mutation(
        "uploads-locked-twice", "a (client, epoch) is locked once", REPLICA + "locks:LockTable.conflict",
        "if other is not None:", "if False:", S1 | S4, by_replica("differencing"),
    ),
    Mutation(
        "lock-table-forgotten", "locks are read back after a restart", REPLICA + "locks:LockTable.load",
        "for key in sorted(rows):", "for key in ():", S1 | S4,
        by_replica("waits-for-restarts", clients=8, faults=tuple(
            Crash(f"replica-{j}", at, 0.3) for at in (5.0, 7.0) for j in (1, 2, 3)
        )), seeds=8,
    ),
    Mutation(
        "lock-contradicted", "a replica never signs two groups that share an upload, not even a revealed one",
        REPLICA + "locks:Locks.receive_lock", "if content.id not in self.table.contested:", "if True:",
        S4, by_replica("differencing", clients=12), seeds=6,
    ),
    Mutation(
        "reveal-without-locks", "n-t lock signatures before any answer", REPLICA + "context:Context.are_votes_valid",
        "if len({vote.replica", "if kind == 'locked':\n        return True\n    if len({vote.replica",
        S1, by_replica("reveals-unlocked"),
    ),
    Mutation(
        "group-below-minimum", "at least min_group members of one cell", "asyncfl.groups:check_group",
        "if own < parameters.min_group:", "if own < 1:", S1 | S4, by_replica("lone-member"),
    ),
    Mutation(
        "riders-count", "riders come on top of min_group", "asyncfl.groups:is_own",
        "return member.epoch ==", "return True or member.epoch ==", S1, by_replica("minority-of-its-cell"),
    ),
    Mutation(
        "riders-of-any-epoch", "riders are of the last 8 epochs", "asyncfl.groups:check_ages",
        "if not content.id.epoch - MAX_LATE_EPOCHS <= member.epoch <= content.id.epoch:", "if False:",
        S1, by_replica("riders-of-the-future", clients=12),
    ),
    Mutation(
        "riders-on-any-cell", "riders only on the coordinator's own cells", "asyncfl.groups:check_group",
        "elif compute_coordinator(group.epoch, group.cell, parameters.replicas) != group.coordinator:", "elif False:",
        S1, by_replica("foreign-cell", clients=12, faults=(Disconnection("replica-0", "replica-1", 2.0, 60.0),
                                                           Crash("replica-1", 3.0, 40.0))), seeds=6,
        also=((REPLICA + "locks:Locks._is_held", "return any(", "return False and any("),),
    ),
    Mutation(
        "client-twice-in-group", "each client once in a group", "asyncfl.groups:check_members",
        "if len({client for client, _ in order}) != len(order):", "if False:", S1, by_replica("member-twice"),
    ),
    Mutation(
        "assignment-unchecked", "cell and epoch follow from the shuffle", "asyncfl.groups:check_assignment",
        "if core.cell != cell:", "if False:", S1, by_clients("wrong-cell", clients=12),
    ),
    Mutation(
        "manifests-unsigned", "the client signs its manifest", "asyncfl.masking.verify:check_manifest",
        "if not verify(", "if False and not verify(", S1, by_clients("broken-signature"),
    ),
    Mutation(
        "oks-unchecked", "every member of a LOCK has n-t valid SHARE_OKs", REPLICA + "jobs:VerifyOks.run",
        "federation = self.federation", "return True", STALL,
        quiet(("replica-0", "invented-oks"), *((f"client-{i}", "misdeals-many") for i in range(5))),
    ),
    # rosters
    Mutation(
        "cells-of-the-first-roster", "a cell is that of the roster which the upload names",
        "asyncfl.groups:check_assignment", "cell = assignment.cell_of(core.client, roster, core.epoch)",
        "cell = assignment.cell_of(core.client, rosters.first, core.epoch)", S4, with_roster_changes,
    ),
    Mutation(
        "roster-as-local-state", "an upload is judged by the roster that it names, not by the newest held",
        "asyncfl.groups:check_assignment", "roster = rosters.get(core.roster)", "roster = rosters.at(core.epoch)",
        S4, quiet(epochs=6, clients=12, faults=(LATE_CHANGE, *(
            Hold("RosterStatement", f"client-{i}", 3.0, 30.0) for i in range(2, 12)
        ))), seeds=10,
    ),
    Mutation(
        "roster-before-disk", "a roster is on disk before FRONT names it",
        REPLICA + "statements:StatementExchange.receive_statement", "context.persist(self.put(message))", "pass",
        S4, with_roster_changes,
    ),
    # exclusions
    Mutation(
        "exclusion-before-disk", "an exclusion is on disk before anything is said under it",
        REPLICA + "statements:StatementExchange.receive_statement", "context.persist(self.put(message))",
        "isinstance(message, RosterStatement) and context.persist(self.put(message))", S4, with_rollbacks,
    ),
    Mutation(
        "exclusion-forgotten", "exclusions are read back after a restart", "asyncfl.exclusions:Exclusions.load",
        "for key in sorted(rows):", "for key in ():", S4,
        quiet(epochs=6, faults=(EXCLUSION, Crash("replica-1", 6.0, 0.5),
                                Hold("ExclusionStatement", "replica-1", 5.0, 60.0))), seeds=6,
    ),
    Mutation(
        "excluded-entries-count", "the model is that of the entries which are not excluded",
        REPLICA + "models:Models._fold", "counted = context.ledger.counted(head)", "counted = head", S2,
        quiet(epochs=4, faults=(EXCLUSION,)),
    ),
    Mutation(
        "epoch-not-in-the-shuffle", "cells are shuffled anew in every epoch", "asyncfl.assignment:compute_seed",
        'epoch.to_bytes(8, "little")', "bytes(8)", S1, quiet(),
    ),
    Mutation(
        "roster-not-in-the-shuffle", "the roster's digest is in the shuffle's seed", "asyncfl.assignment:compute_seed",
        "deployment, roster_digest,", "deployment, bytes(32),", S1, quiet(),
    ),
    # secrets
    Mutation(
        "one-secret-for-all", "every upload has a fresh secret", "asyncfl.masking.protect:_attempt",
        "torch.from_numpy(stream.uniform(", "torch.from_numpy(SecretStream(bytes(32)).uniform(", S1, quiet(),
    ),
    Mutation(
        "commitments-of-nobody", "a commitment to a share names its dealer", "asyncfl.masking.protect:share_digest",
        '"asyncfl/1/share", client,', '"asyncfl/1/share", b"",', S1,
        quiet(("replica-0", "front-behind"), ("client-0", "copied-shares"), ("client-5", "copied-shares")),
    ),
    # answers
    Mutation(
        "answer-without-a-member", "an answer is the sum over all members", REPLICA + "jobs:SumShares.run",
        "masking.sum_packed(self.shares,", "masking.sum_packed(self.shares[1:],", S1, quiet(),
    ),
    Mutation(
        "check-blocks-ignored", "an opening is accepted by its check blocks", "asyncfl.masking.opening:find_secret",
        "members * OPENING_BOUND", "ring.modulus", S2 | S4, by_replica("random-sums"),
        also=(("asyncfl.masking.opening:open_sum", "> members * OPENING_BOUND", "> ring.modulus"),),
    ),
    Mutation(
        "blame-by-few", "a wrong sum is proven by n-t answers on one polynomial",
        "asyncfl.masking.agreement:find_wrong",
        "if len(agreeing) >= parameters.quorum:", "if len(agreeing) >= parameters.threshold:", S4,
        lambda seed: Scenario(seed, 7, 2, 14, epochs=2, attacks=(
            Attack("replica-0", "frame-up"), Attack("replica-1", "frame-up"))), seeds=6,
        also=(("asyncfl.evidence.verify:_require_others", "len(replicas) >= quorum", "len(replicas) >= 3"),),
    ),
    # dealing
    Mutation(
        "proof-unchecked", "check-block errors within six sigma", "asyncfl.masking.verify:verify_check_blocks",
        "if not error_within_bound(", "if False and not error_within_bound(", STALL | S4,
        by_clients("spiked-check-block"),
    ),
    Mutation(
        "polynomial-unchecked", "a share lies on the published projections", "asyncfl.masking.verify:_check_share",
        "if bool((difference % ring.modulus).any()):", "if False:", STALL | S4, by_clients("off-the-polynomial"),
    ),
    Mutation(
        "payload-not-in-core", "the projections are drawn from all of y",
        "asyncfl.messages.uploads:ManifestCore.digest",
        "self.encode()", 'self.model_copy(update={"upload": b"", "check_digest": b""}).encode()', STALL | S4,
        by_clients("errors-after-the-proof"),
    ),
    Mutation(
        "shares-not-in-core", "the projections are drawn from every h_j and box",
        "asyncfl.messages.uploads:ManifestCore.digest", "self.encode()",
        'self.model_copy(update={"share_digests": (), "boxes": ()}).encode()', STALL | S4,
        by_clients("shares-after-the-proof"),
    ),
    # disk before word
    Mutation(
        "signature-before-disk", "what is promised is on disk first", REPLICA + "context:Context.take_effects",
        "return effects", "return sorted(effects, key=lambda e: not isinstance(e, Send))", S4, quiet(),
    ),
    Mutation(
        "lock-before-disk", "a lock is on disk before its signature leaves", REPLICA + "locks:Locks._progress",
        "context.persist(self.table.record(content))", "self.table.record(content)", S4, quiet(),
    ),
    Mutation(
        "lock-asked-before-disk", "a coordinator's own lock is on disk before it asks for others'",
        REPLICA + "coordination:Coordination._lock", "self.locks.table.record(content), Put(",
        "*(self.locks.table.record(content),)[:0], Put(", S4, quiet(),
    ),
    Mutation(
        "revealed-not-recorded", "a revealed group is on disk as locked before its shares are answered",
        REPLICA + "opening:Opening._insert", "self.context.persist(self.locks.table.record(content), row)",
        "self.locks.table.record(content); self.context.persist(row)", S4,
        # It hears of the group from others than the coordinator, whose requests are late.
        quiet(faults=(Hold("Lock", "replica-3", 10.0, 60.0), Hold("ShareSum", "*", 4.0, 60.0))),
    ),
    Mutation(
        "locks-pruned", "locks are never deleted", REPLICA + "opening:Opening.entered",
        "Delete(Table.GROUPS, item.id.encode())", "Delete(Table.LOCKS, item.id.encode())", S4, quiet(),
    ),
    Mutation(
        "evidence-before-disk", "evidence is on disk before it is told of", "asyncfl.evidence.docket:Docket._accept",
        "around.persist(Put(Table.EVIDENCE, name, held.encoded))", "pass", S4, by_replica("wrong-sums", clients=8),
    ),
    Mutation(
        "share-not-on-disk", "the share is on disk before SHARE_OK", REPLICA + "uploads:Uploads.verified",
        'writes = [self._manifest_row(record), Put(Table.SHARES, digest, share or b"")]',
        "writes = [self._manifest_row(record)]", S4, quiet(),
    ),
    Mutation(
        "model-vote-without-row", "a model is on disk as its version's before it is signed",
        REPLICA + "models:Models.computed", "context.persist(Put(Table.MODELS, version, model))", "pass", S4, quiet(),
    ),
    Mutation(
        "no-privacy-event", "the privacy event is written with the upload", CLIENT + "uploading:Uploading.trained",
        "Put(Table.PRIVACY, context.epoch.to_bytes(8, \"big\"), event),", "", S4, quiet(),
    ),
    Mutation(
        "upload-made-anew", "after a restart the upload on disk is sent again", CLIENT + "context:Context.__init__",
        "pending = meta.get(PENDING)", "pending = None", S4,
        quiet(faults=(*(Hold("Stored", f"client-{i}", 4.0, 30.0) for i in range(4)),
                      *(Crash(f"client-{i}", 3.5, 0.5) for i in range(4)))),
    ),
    Mutation(
        "two-uploads-vouched", "one upload is vouched for of each (client, epoch)",
        REPLICA + "uploads:Uploads.verified",
        "if share is not None and record.key not in self.accepted and timely:", "if share is not None:", S4,
        by_clients("two-uploads"),
    ),
    # models
    Mutation(
        "no-certificate-check", "a client trains on certified models only", CLIENT + "asking:Asking._is_certified",
        "votes = certificate.votes", "return True", S3, by_replica("forged-models"),
    ),
    Mutation(
        "t-signatures-enough", "t+1 signatures certify", "asyncfl.parameters:Parameters.certifiers",
        "return self.byzantine + 1", "return self.byzantine", S3 | S2 | STALL, by_replica("forged-models"),
    ),
    Mutation(
        "another-version-named", "an upload names the version that it was trained from",
        CLIENT + "uploading:Uploading.train", "base_version=context.task.certificate.version", "base_version=bytes(32)",
        S3, quiet(),
    ),
    Mutation(
        "signers-not-distinct", "the signers of a model are distinct", CLIENT + "asking:Asking._is_certified",
        "len(replicas) != len(votes) or ", "", S3, by_replica("repeated-signatures"),
    ),
    Mutation(
        "votes-not-distinct", "the attestors of an item are distinct", REPLICA + "context:Context.are_votes_valid",
        "len({vote.replica for vote in votes}) != len(votes) or ", "", S2, by_replica("repeated-votes"),
    ),
    Mutation(
        "older-models-taken", "no model with fewer entries than seen", CLIENT + "asking:Asking.receive_task",
        "if certificate.entries < context.seen_entries:", "if False:", S3, by_replica("stale-models", epochs=6),
    ),
    Mutation(
        "fold-by-arrival", "the model is a function of the set of entries", REPLICA + "models:Models._fold",
        "roster_size = len(context.rosters.first.members)",
        "it = [*context.ledger.items.values()]; roster_size = 99 * next((i.id.cell + 1 for i in reversed(it)), 1)",
        S2,
        by_replica("late-epochs", clients=12, faults=(Hold("Relay", "replica-1", 1.0, 30.0),)),
    ),
    # the course of training
    Mutation(
        "largest-front", "the (t+1)-th largest front moves a client", CLIENT + "fronts:Fronts.front",
        "ranked[self.parameters.byzantine]", "ranked[0]", S1, by_replica("front-far-ahead"),
    ),
    Mutation(
        "nobody-is-overdue", "overdue clients are left out", "asyncfl.inclusion:Inclusion._holds_up",
        "return presence.at <= self.front and now - since > limit", "return False", STALL,
        by_clients("ready-for-ever", epochs=6), seeds=1,
        also=(
            ("asyncfl.inclusion:Inclusion.is_live", "return not presence.is_overdue(now)", "return True"),
            ("asyncfl.inclusion:Inclusion.update", "presence.misses += 1", "continue"),
        ),
    ),
    Mutation(
        "never-the-next-in-line", "a client turns to the next in line", CLIENT + "asking:Asking._check_silence",
        "silent = context.now - self._asked_at", "return", NONE, by_replica("silent", clients=8), goal=LEFT_OUT,
    ),
    Mutation(
        "one-refusal-kills-a-group", "only more than t refusals end a request",
        REPLICA + "coordination:Coordination.receive_refused",
        "if len(own.refused) > self.context.parameters.byzantine:", "if own.refused:", NONE,
        by_replica("refuses-locks"),
    ),
    Mutation(
        "one-refusal-enough", "only more than t refusals give an upload up",
        CLIENT + "uploading:Uploading.receive_refused",
        "hopeless = len(self._refused) > context.parameters.byzantine", "hopeless = True", NONE,
        by_replica("refuses-uploads"), goal=replace(LOST, least=0.2),  # A quarter of the cells is the attacker's.
    ),
    Mutation(
        "one-taken-over-enough", "t+1 must say that an upload was taken over",
        REPLICA + "coordination:Coordination._is_taken",
        "return len(taken.by) >= self.context.parameters.certifiers or self.context.now < taken.until", "return True",
        NONE, by_replica("false-taken-over"),
    ),
    Mutation(
        "one-finish-enough", "t+1 must say that training is over", CLIENT + "fronts:Fronts.finished",
        "said > self.parameters.byzantine", "said > 0", STALL, by_replica("false-finish"),
    ),
]  # fmt: skip

BY_NAME = {mutation.name: mutation for mutation in MUTATIONS}
assert len(BY_NAME) == len(MUTATIONS)
