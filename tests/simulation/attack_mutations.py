"""More deliberate defects: for each attack that no other mutation helps, the rule without which it succeeds.

Most of these attacks break none of the rules S1 to S4: they are after clients' time, uploads, disks or models. What
each has reached is measured (`goals`).
"""

from __future__ import annotations

from dataclasses import replace

from asyncfl.simulation.attackers import Attack
from asyncfl.simulation.faults import Crash, Disconnection
from asyncfl.simulation.scenario import Scenario
from tests.simulation import goals
from tests.simulation.mutations import (
    BY_NAME,
    CLIENT,
    NONE,
    REPLICA,
    S1,
    S4,
    STALL,
    Mutation,
    by_clients,
    by_replica,
    quiet,
)

MASKING = "asyncfl.masking."
OVERDUE = BY_NAME["nobody-is-overdue"]
TWO_OKS = (
    (REPLICA + "coordination:Coordination._consider",
     "len(record.oks) >= parameters.quorum]", "len(record.oks) >= 2]"),
    ("asyncfl.groups:choose_supporters", "everybody = [", "quorum = 2\n    everybody = ["),
    (REPLICA + "coordination:Coordination._is_hopeless", "< self.context.parameters.quorum", "< 2"),
)  # fmt: skip
"""With `Locks._check`: two SHARE_OKs are enough for a group, of which n - 2t = 2 shares must be good."""

ATTACK_MUTATIONS = [
    # uploads
    Mutation(
        "two-oks-enough", "n-t SHARE_OKs, of which n-2t are honest, for every member of a group",
        REPLICA + "locks:Locks._check", "len(supporters) < parameters.quorum", "len(supporters) < 2",
        STALL, quiet(("replica-1", "blind-oks"), ("client-0", "misdeals-many"), ("client-5", "misdeals-many")),
        also=TWO_OKS,
    ),
    Mutation(
        "bytes-from-the-client-alone", "replicas pull what they lack from each other",
        REPLICA + "uploads:Uploads._accept",
        "context.want(core.upload, context.parameters.upload_bytes(context.federation.dimension), source)",
        "if carrier or not record.carrier:\n"
        "            context.want(core.upload, context.parameters.upload_bytes(context.federation.dimension), source)",
        NONE, by_clients("half-uploads"), goal=replace(goals.LOST, least=0.1),
        also=((REPLICA + "locks:Locks._check", "len(supporters) < parameters.quorum", "len(supporters) < 2"),
              *TWO_OKS),
    ),
    Mutation(
        "one-bad-share-ends-it", "n-t SHARE_OKs are enough, whatever the others say",
        REPLICA + "coordination:Coordination._is_hopeless",
        "return len(record.oks) + silent < self.context.parameters.quorum",
        "return bool(record.answered - set(record.oks))", NONE, by_replica("share-bad"),
    ),
    Mutation(
        "bad-shares-vouched", "a replica whose share fails says SHARE_BAD", REPLICA + "uploads:Uploads.verified",
        "record.stored, record.share,",
        "share = share or bytes(context.parameters.ring.degree * 23 // 8)\n    record.stored, record.share,",
        STALL | S4, by_clients("misdeals-many"),
    ),
    Mutation(
        "false-proofs-vouched", "the dealing proof is checked, its public part and at every share",
        MASKING + "verify:verify_check_blocks", "if not error_within_bound(", "if False and not error_within_bound(",
        NONE, by_clients("false-proof"), goal=goals.ADMITTED,
        also=((MASKING + "verify:_check_share", "if bool((difference % ring.modulus).any()):", "if False:"),),
    ),
    Mutation(
        "boxes-of-any-length", "a box has the length of a share", MASKING + "verify:check_manifest",
        "if any(len(box) != box_bytes(ring.degree) for box in core.boxes):", "if False:",
        S1 | STALL, by_clients("short-boxes"),
        also=((REPLICA + "uploads:Uploads.verified", "record.stored, record.share,",
               "share = share or bytes(context.parameters.ring.degree * 23 // 8)\n    record.stored, record.share,"),
              (REPLICA + "jobs:VerifyUpload.run", "except DealingError as error:", "except EOFError as error:")),
    ),
    Mutation(
        "payload-not-scanned", "every coefficient of y is below q", MASKING + "verify:verify_public",
        "unpack(view[start : min(start + step, len(view) - check)], ring.degree, ring.modulus, CPU)", "pass",
        STALL, by_clients("coefficients-from-q-on"),
    ),
    Mutation(
        "payload-of-any-length", "a payload has the bytes that the model asks for", MASKING + "verify:verify_public",
        "if len(payload) != parameters.upload_bytes(federation.dimension):", "if False:",
        STALL, by_clients("short-payload"),
    ),
    Mutation(
        "other-deployments-taken", "the deployment's digest is in core and signature",
        MASKING + "verify:check_manifest",
        '"deployment": federation.digest,', '"deployment": core.deployment,', S1, by_clients("another-deployment"),
        also=((MASKING + "verify:check_manifest", "Manifest.KIND, federation.digest,",
               "Manifest.KIND, core.deployment,"),),
    ),
    Mutation(
        "any-roster-digest", "an upload names its roster by digest", "asyncfl.groups:check_assignment",
        "if core.roster_digest != roster.digest:", "if False:", S1, by_clients("wrong-roster"),
    ),
    Mutation(
        "any-coordinator", "an upload names a replica that exists", MASKING + "verify:check_manifest",
        "if core.coordinator >= parameters.replicas:", "if False:", STALL, by_clients("of-no-replica"),
        also=(("asyncfl.groups:check_assignment", "if core.coordinator >= federation.parameters.replicas:",
               "if False:"),),
    ),
    Mutation(
        "uploads-in-any-name", "an upload comes from its client, under its signature",
        REPLICA + "uploads:Uploads.receive_upload", "if core.client != client:", "if False:", S1,
        by_clients("forged-uploads"),
        also=((MASKING + "verify:check_manifest", "if not verify(", "if False and not verify("),),
    ),
    Mutation(
        "uploads-without-limit", "24 unopened uploads of one client", REPLICA + "uploads:Uploads._has_room",
        "if self._unopened[core.client] >= MAX_UNOPENED_PER_CLIENT:", "if False:", NONE,
        by_clients("hoard-of-uploads"), goal=goals.HELD,
    ),
    Mutation(
        "beyond-the-window", "TASKs and uploads up to front + window", REPLICA + "uploads:Uploads._has_room",
        "if core.epoch > limit:", "if False:", NONE, by_clients("runs-ahead"), goal=goals.AHEAD,
        also=(
            (REPLICA + "uploads:Uploads.verified", "epoch <= front + context.parameters.window and ", ""),
            (REPLICA + "tasks:Tasks._obstacle", "if asking.epoch > limit:", "if False:"),
        ),
    ),
    # locks and answers
    Mutation(
        "one-lock-fewer", "n-t lock signatures: two sets of them share an honest one",
        REPLICA + "context:Context.are_votes_valid", "len(votes) < needed", "len(votes) < needed - (kind == 'locked')",
        S1 | S4, lambda seed: Scenario(seed, 7, 2, 14, epochs=2, attacks=(
            Attack("replica-0", "differencing"), Attack("replica-1", "signs-conflicts"))),
    ),
    Mutation(
        "takeovers-not-held", "a takeover waits while the named coordinator can be reached",
        REPLICA + "locks:Locks._is_held", "return any(", "return False and any(", NONE,
        by_replica("steals-uploads", clients=12), goal=goals.STOLEN,
    ),
    Mutation(
        "own-uploads-given-away", "who is named itself waits before it signs a takeover of its uploads",
        REPLICA + "locks:Locks._is_held", "if not all(", "if False and not all(", NONE,
        by_replica("steals-uploads", clients=12), goal=goals.STOLEN,
    ),
    Mutation(
        "locks-without-limit", "64 pending LOCKs of one coordinator", REPLICA + "locks:Locks.receive_lock",
        ">= MAX_PENDING_PER_REPLICA", ">= 10**9", NONE, by_replica("flood", epochs=6), goal=goals.LOCKS,
    ),
    Mutation(
        "nothing-pulled", "what a signer lacks it pulls, and a revealed group is pulled by all",
        REPLICA + "opening:Opening._collect", "if missing and", "if False and", STALL,
        by_replica("selective-relay", clients=12),
        also=(
            (REPLICA + "locks:Locks._collect", "if missing and", "if False and"),
            (REPLICA + "items:Items.receive_certified", "name = message.item.digest()", "return"),
        ),
    ),
    Mutation(
        "all-must-lock", "n-t locks are enough", REPLICA + "coordination:Coordination._advance",
        "self.context.parameters.quorum", "self.context.parameters.replicas", NONE,
        by_replica("refuses-locks"),
    ),
    Mutation(
        "all-must-answer", "n-2t answers open a group", REPLICA + "opening:Opening._progress",
        "self.context.parameters.threshold", "self.context.parameters.replicas", STALL, by_replica("silent-answers"),
    ),
    Mutation(
        "attestations-by-id", "an attestation is of an item's digest, not of its id",
        REPLICA + "items:Items.receive_attest", "name = message.item",
        "name = self.context.ledger.by_id.get(message.id, message.item)", STALL | S4,
        by_replica("false-attestations", faults=(Crash("replica-2", 3.0, 20.0),)),
        also=((REPLICA + "items:Requested.is_due", "if replica in self.replicas else", "if False else"),),
    ),
    # models
    Mutation(
        "sums-unclipped", "every opened mean is clipped", "asyncfl.rows:_clip", "if norm > limit:", "if False:",
        NONE, by_clients("far-beyond-the-clip"), goal=goals.DISPLACED,
    ),
    Mutation(
        "settings-taken", "a client trains as its own file says", CLIENT + "work:Work.settings",
        "own = self.schedule.settings_at(epoch)", "own = asked", NONE, by_replica("wild-settings"),
        goal=goals.LEARNING_RATE,
    ),
    # the course of training
    Mutation(
        "previous-awaited-for-ever", "a coordinator waits two patience for a previous upload",
        REPLICA + "tasks:Tasks._has_previous",
        "if not asking.uploaded or context.now - asking.since >= 2 * context.inclusion.patience.seconds:",
        "if not asking.uploaded:", NONE, by_replica("never-locks", epochs=6), goal=goals.LEFT_OUT,
    ),
    Mutation(
        "claims-awaited-for-ever", "a coordinator waits two patience for a previous upload, others six for a client",
        REPLICA + "tasks:Tasks._has_previous",
        "if not asking.uploaded or context.now - asking.since >= 2 * context.inclusion.patience.seconds:",
        "if not asking.uploaded:", STALL, by_clients("claims-to-have-uploaded", epochs=6), seeds=1,
        also=((OVERDUE.place, OVERDUE.old, OVERDUE.new), *OVERDUE.also),
    ),
    Mutation(
        "same-coordinator-again", "a client whose model does not come asks the next in line",
        CLIENT + "asking:Asking._ask_another", "self.ask_from(self.context.place + 1)",
        "self.ask_from(self.context.place)", NONE, by_replica("models-of-nothing"), goal=goals.HOURS,
    ),
    Mutation(
        "smallest-front", "the (t+1)-th largest front moves a client", CLIENT + "fronts:Fronts.front",
        "ranked[self.parameters.byzantine]", "ranked[-1]", NONE,
        by_replica("front-behind", epochs=8, faults=(
            Crash("client-1", 3.0, 15.0), Disconnection("client-1", "replica-3", 2.0, 25.0))), goal=goals.BEHIND,
    ),
    Mutation(
        "largest-patience", "the (t+1)-th largest patience", CLIENT + "fronts:Fronts.patience",
        "ranked[self.parameters.byzantine]", "ranked[0]", NONE, by_replica("long-patience"), goal=goals.PATIENCE,
    ),
    Mutation(
        "smallest-patience", "the (t+1)-th largest patience", CLIENT + "fronts:Fronts.patience",
        "ranked[self.parameters.byzantine]", "ranked[-1]", NONE,
        by_replica("no-patience", latency=(0.2, 0.9)), goal=goals.IMPATIENCE,
    ),
    Mutation(
        "largest-roster", "a roster is used when n-t replicas report it", CLIENT + "fronts:Fronts.roster",
        "ranked[self.parameters.quorum - 1]", "ranked[0]", STALL, by_replica("roster-of-nobody"),
    ),
    Mutation(
        "every-repetition-measured", "patience is measured once for each client and epoch",
        "asyncfl.inclusion:Inclusion.stored", "epoch > presence.measured", "epoch", NONE,
        by_clients("flood-of-uploads"), goal=goals.MEASURED,
    ),
    Mutation(
        "leaves-unsigned", "a LEAVE is signed", REPLICA + "tasks:Tasks.receive_leave", "if not verify(",
        "if False and not verify(", NONE, by_clients("forged-leave"), goal=goals.LEAVES,
    ),
]  # fmt: skip
