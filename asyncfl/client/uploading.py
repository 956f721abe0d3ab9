"""From a TASK's model to STORED: train, write everything to disk, send the same bytes until they are kept."""

from __future__ import annotations

from collections.abc import Callable

from asyncfl import masking
from asyncfl.client.context import EPOCH, PENDING, Context, State, put_integer
from asyncfl.client.jobs import TrainAndProtect, Trained, Trainer
from asyncfl.effects import Compute, DeleteBlob, Put, SendBlob, Table
from asyncfl.messages import Expired, Missing, Pull, Refused, Stored, Upload
from asyncfl.wire import pack

TRAIN = "train"
RECONNECT_SECONDS = 1.0
"""After a restart with an upload on disk: how long its coordinator has to come within reach."""


class Uploading:
    """One upload at a time."""

    def __init__(self, context: Context, trainer: Trainer, move: Callable[[int], None]) -> None:
        self.context = context
        self.trainer = trainer
        self.move = move
        self._upload_at = 0.0
        self._next_place = 0
        """Where in the line the upload goes next, once `_upload_at` has come."""
        self._refused: set[int] = set()

    def resume(self) -> None:
        """After a restart: the upload on disk goes to its coordinator first."""
        context = self.context
        assert context.upload is not None
        context.place = self._next_place = context.line.index(context.upload.core.coordinator)
        self._upload_at = context.now + RECONNECT_SECONDS
        context.waiting_for = f"replica {context.coordinator}, to send it the upload on disk again"

    def connected(self, peer: bytes) -> None:
        if self.context.state is State.UPLOADING and peer == self.context.coordinator_key:
            self._next_place, self._upload_at = self.context.place, self.context.now

    def disconnected(self, peer: bytes) -> None:
        if self.context.state is State.UPLOADING and peer == self.context.coordinator_key:
            self._upload_at = self.context.now

    def tick(self) -> None:
        if self.context.state is State.UPLOADING and self.context.now >= self._upload_at:
            self._send()

    # training

    def train(self, model: bytes) -> None:
        """The TASK's model is here."""
        context = self.context
        assert context.task is not None
        context.waiting_for = "local training"
        upload = masking.UploadContext(
            epoch=context.epoch,
            cell=context.cell,
            coordinator=context.task_from,
            roster=context.roster.number,
            roster_digest=context.roster.digest,
            base_version=context.task.certificate.version,
        )
        settings = context.work.settings(context.epoch, context.task.settings)
        job = TrainAndProtect(model, self.trainer, settings, upload, context.identity, context.federation)
        context.effects.append(Compute((TRAIN, context.epoch), job))

    def trained(self, result: Trained) -> None:
        """The upload and its privacy event are on disk before a byte of it leaves."""
        context = self.context
        assert context.task is not None
        context.upload, context.state, self._refused = result.manifest, State.UPLOADING, set()
        context.events += 1
        event = pack((context.epoch, context.parameters.noise_multiplier, context.parameters.min_group))
        context.persist(
            Put(Table.PRIVACY, context.epoch.to_bytes(8, "big"), event),
            Put(Table.META, PENDING, result.manifest.encode()),
            put_integer(EPOCH, context.epoch),
        )
        context.effects.append(DeleteBlob(context.task.certificate.model))
        context.task = None
        context.place = context.line.index(result.manifest.core.coordinator)
        if result.zeroed:
            context.notify("update_zeroed", "warning", epoch=context.epoch)
        context.notify("trained", epoch=context.epoch, **result.facts)
        self._next_place = context.place
        self._send()

    # sending

    def _send(self) -> None:
        """No STORED in time: the same bytes go to the next replica in line that can be reached."""
        context = self.context
        if context.upload is None:
            return
        for place in context.reachable_from(self._next_place):
            if context.line[place] not in self._refused:
                context.place = place
                context.send(context.coordinator_key, Upload(manifest=context.upload))
                break
        epoch = context.upload.core.epoch
        context.waiting_for = f"replica {context.coordinator} to store the upload of epoch {epoch}"
        self._next_place = context.place + 1
        self._upload_at = context.now + 2 * context.fronts.patience

    def receive_pull(self, peer: bytes, message: Pull) -> None:
        upload = self.context.upload
        if upload is not None and message.blob == upload.core.upload:
            self.context.effects.append(SendBlob(peer, message.blob, message.offset))
        else:
            self.context.send(peer, Missing(blob=message.blob))

    def receive_stored(self, replica: int, message: Stored) -> None:
        context = self.context
        if context.upload is None or message.manifest != context.upload.digest():
            return
        context.sent += 1
        context.uploaded = context.upload.core.epoch
        context.persist(Put(Table.EPOCHS, context.uploaded.to_bytes(8, "big"), message.manifest))
        self.move(context.upload.core.epoch + 1)

    def receive_refused(self, replica: int, message: Refused) -> None:
        """More than t refusals: one of them honest, so this upload is hopeless and the epoch lost."""
        context = self.context
        if context.upload is None or message.manifest != context.upload.digest():
            return
        self._refused.add(replica)
        hopeless = len(self._refused) > context.parameters.byzantine
        context.notify(
            "upload_refused", "error" if hopeless else "warning",
            replica=replica, epoch=message.epoch, reason=message.reason,
        )  # fmt: skip
        if hopeless:
            self.move(context.upload.core.epoch + 1)
        elif replica == context.coordinator:
            self._send()

    def receive_expired(self, replica: int, message: Expired) -> None:
        self.context.notify("upload_expired", "warning", replica=replica, epoch=message.epoch)
