"""One client on a test bench: whatever any replica could say to it, in the replicas' names."""

from typing import Any

from asyncfl.client import Client
from asyncfl.effects import Compute, Effect, Fetch, Persist, Put, Send, Table
from asyncfl.identity import Identity
from asyncfl.messages import (
    Certificate,
    Front,
    Message,
    ModelVote,
    Ready,
    Settings,
    Task,
    Vote,
)
from asyncfl.simulation import Simulation, StillTrainer
from asyncfl.simulation.network import MemoryBlobs
from tests.core.builders import make_parameters


class Bench:
    """One client, and the replicas' keys to say anything to it."""

    def __init__(
        self,
        replicas: int = 4,
        byzantine: int = 1,
        last_epoch: int | None = None,
        upload_limit: int | None = None,
        concurrency: int = 0,
    ) -> None:
        parameters = make_parameters(
            16, replicas=replicas, byzantine=byzantine, cell_size=4, min_group=3, concurrency=concurrency
        )
        self.simulation = Simulation(parameters, 16)
        self.federation = self.simulation.federation
        self.now, self.blobs = 0.0, MemoryBlobs()
        self.durable: dict[Table, dict[bytes, bytes]] = {table: {} for table in Table}
        self.effects: list[Effect] = []
        self.last_epoch, self.upload_limit = last_epoch, upload_limit
        self.client = self.make()

    @property
    def identity(self) -> Identity:
        return self.simulation.client_ids[0]

    def make(self) -> Client:
        trainer = StillTrainer(0, self.federation.dimension)
        client = Client(
            self.federation,
            self.identity,
            self.durable,
            trainer=trainer,
            last_epoch=self.last_epoch,
            upload_limit=self.upload_limit,
        )
        self.take(client.start(self.now))
        for key in self.federation.replica_keys:
            self.take(client.connected(key, self.now))
        return client

    def take(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Persist):
                for write in effect.writes:
                    assert isinstance(write, Put)
                    self.durable[write.table][write.key] = write.value
            if isinstance(effect, Compute):
                result = effect.job.run(self.blobs)
                self.effects.append(effect)
                self.take(self.client.computed(effect.key, result, self.now))
            else:
                self.effects.append(effect)

    def hear(self, replica: int, message: Message) -> None:
        self.take(self.client.receive(self.federation.replica_keys[replica], message, self.now))

    def sign(self, replica: int, kind: str, body: bytes) -> bytes:
        return self.simulation.replica_ids[replica].sign(kind, self.federation.digest, body)

    def front(
        self,
        replica: int,
        epoch: int,
        *,
        forged: bool = False,
        patience: int = 1000,
        finished: bool = False,
        statement: int = 0,
    ) -> None:
        message = Front(
            front=epoch,
            patience=patience,
            roster=0,
            finished=finished,
            statement=statement,
            signature=bytes(64),
        )
        signer = (replica + 1) % self.federation.parameters.replicas if forged else replica
        signature = self.sign(signer, Front.KIND, message.body())
        self.hear(replica, message.model_copy(update={"signature": signature}))

    def certificate(
        self, signers: tuple[int, ...] = (0, 1), entries: int = 0, statement: int = 0
    ) -> Certificate:
        model = self.blobs.write(self.simulation.initial)
        version = bytes([entries, statement]) * 16
        unsigned = Certificate(version=version, entries=entries, model=model, votes=(), statement=statement)
        votes = tuple(
            Vote(replica=j, signature=self.sign(j, ModelVote.KIND, unsigned.body())) for j in signers
        )
        return unsigned.model_copy(update={"votes": votes})

    def task(
        self, replica: int, epoch: int, certificate: Certificate, settings: Settings | None = None
    ) -> None:
        size = len(self.simulation.initial)
        wanted = settings or self.federation.schedule.settings_at(epoch)
        self.hear(replica, Task(epoch=epoch, certificate=certificate, model_bytes=size, settings=wanted))

    @property
    def coordinator(self) -> int:
        return self.last(Ready).coordinator

    def last(self, kind: type[Any]) -> Any:
        return next(
            e.message for e in reversed(self.effects) if isinstance(e, Send) and isinstance(e.message, kind)
        )

    def fetches(self) -> list[Fetch]:
        return [effect for effect in self.effects if isinstance(effect, Fetch)]

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 0.1
            self.take(self.client.tick(self.now))

    def give_task(self) -> None:
        """A proper TASK, up to the upload."""
        for replica in range(3):
            self.front(replica, 1)
        self.wait(0.2)
        self.task(self.coordinator, self.client.epoch, self.certificate())
        fetch = self.fetches()[-1]
        self.take(self.client.fetched(fetch.peer, fetch.digest, self.now))
