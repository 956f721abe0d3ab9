"""The processes of a deployment: one aggregator, or any number of clients, from start to graceful end.

Exit codes, with `node.commands.common.exit_code`: 0 stopped as asked; 2 configuration (deployment, key, port,
task); 3 disk or database; 1 anything else. A process stops as asked on SIGINT, on SIGTERM, and, with
`exit_with_parent`, when its standard input ends: a supervisor that is killed leaves no orphan.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from asyncfl.deployment import Deployment
from asyncfl.effects import Machine, Table
from asyncfl.errors import AsyncflError, ConfigurationError
from asyncfl.identity import Identity
from asyncfl.privacy.collusion import Collusion
from node.blobs import BlobStore
from node.commands.common import exit_code
from node.deployment_files import DeploymentDirectory
from node.interference import Interference, require_consent
from node.logs import Writer, configure
from node.looplag import LoopLag
from node.parent import end_with_parent
from node.runtime import CLOSE_S, Network, Runtime
from node.state_file import require_no_orphans
from node.steps import Observer, unobserved
from node.storage import Storage
from node.transport import Endpoint

KILL_S: Final = 2 * CLOSE_S + 5.0
"""After a stop is asked for: what is not over by then is ended without more ado."""
JOB_S: Final = 5.0
"""How long the end of a process waits for a job under way (a training may take longer; it is made again)."""

log = structlog.get_logger("process")


@dataclass(frozen=True)
class ProcessOptions:
    """How a process behaves, whatever its role.

    `listen` (host, port) replaces the address in the deployment file, for a replica behind a proxy.
    `interference` makes the nodes misbehave, in drills.
    """

    log_form: str = "console"
    log_level: str = "info"
    exit_with_parent: bool = False
    listen: tuple[str, int] | None = None
    interference: Interference | None = None
    observe: Observer = unobserved
    """Told of every step towards the disk; no command gives one."""


def run_aggregator(directory: Path, name: str, options: ProcessOptions | None = None) -> None:
    """Run replica `name` of the deployment in `directory` until it is told to stop. Blocks.

    Raises `ConfigurationError`, `StorageError`, or another `AsyncflError` that ended it.
    """
    options = options or ProcessOptions()
    files = DeploymentDirectory.load(directory)
    deployment = files.deployment
    require_consent(options.interference, deployment, directory)
    replica = deployment.replica(name)
    identity = files.identity(name)
    federation = deployment.federation()

    async def main(process: _Process) -> None:
        from asyncfl.replica import Replica

        initial_model = files.initial_model()
        _say_what_is_assumed(deployment, None)
        _check_and_say_the_rule(deployment)
        _say_whether_it_is_a_drill(deployment, options)

        def machine(durable: _Durable) -> Machine:
            offset = time.time() - time.monotonic()
            return Replica(federation, identity, durable, initial_model, clock_offset=offset)

        node = _Node(process, files, identity, options, role="aggregator", name=name, machine=machine)
        # Clients pull the first model from here like any later one.
        node.blobs.write(initial_model)
        network = node.network(
            listen=options.listen or replica.address,
            dial={entry.key: entry.url for entry in deployment.replicas if entry.key != identity.public},
            accept=node.machine.accepts,
        )
        await process.run([(node, network)])

    _run(main, options, {**deployment.names, deployment.operator: "operator"})


def run_clients(
    directory: Path,
    names: Sequence[str],
    options: ProcessOptions | None = None,
    *,
    last_epoch: int | None = None,
) -> None:
    """Run the clients `names` in this process, each with its own identity, channels and state. Blocks.

    They take part up to `last_epoch` (None: without end) and then keep giving signs of life until they are
    told to stop. Raises like `run_aggregator`.
    """
    options = options or ProcessOptions()
    files = DeploymentDirectory.load(directory)
    deployment = files.deployment
    require_consent(options.interference, deployment, directory)
    numbers = {name: deployment.client_index(name) for name in names}
    identities = {name: files.identity(name) for name in names}
    federation = deployment.federation()
    limit = upload_limit(deployment)

    async def main(process: _Process) -> None:
        from asyncfl.client import Client
        from node.training.loader import load_task
        from node.training.workbench import Workbench

        _say_what_is_assumed(deployment, last_epoch if limit is None else min(limit, last_epoch or limit))
        _say_whether_it_is_a_drill(deployment, options)
        entry = deployment.task
        task = load_task(
            entry.factory, clients=len(deployment.first_clients), seed=entry.seed, options=entry.options
        )
        frozen = deployment.model.frozen_buffers
        trainers = Workbench(task, seed=entry.seed, frozen_buffers=frozen).trainers(set(numbers.values()))
        nodes = []
        for name, identity in identities.items():

            def machine(durable: _Durable, name: str = name, identity: Identity = identity) -> Machine:
                trainer = trainers[numbers[name]]
                return Client(
                    federation,
                    identity,
                    durable,
                    trainer=trainer,
                    last_epoch=last_epoch,
                    upload_limit=limit,
                )

            node = _Node(process, files, identity, options, role="client", name=name, machine=machine)
            network = node.network(
                listen=None,
                dial={replica.key: replica.url for replica in deployment.replicas},
                accept=lambda _key: False,
            )
            nodes.append((node, network))
        await process.run(nodes)

    _run(main, options, {**deployment.names, deployment.operator: "operator"})


def upload_limit(deployment: Deployment) -> int | None:
    """How many uploads the deployment's budget allows a client in all; None without one."""
    if deployment.privacy is None:
        return None
    from asyncfl.privacy.accountant import Mechanism
    from asyncfl.privacy.calibration import Budget, affordable_uploads

    if deployment.parameters.noise_multiplier == 0:
        raise ConfigurationError(
            "deployment.toml sets a [privacy] budget but no noise (parameters.noise_multiplier is 0): any upload "
            "would break it; make the deployment with --epsilon, or drop [privacy]"
        )
    budget = Budget(deployment.privacy.epsilon, deployment.privacy.delta)
    dimension = deployment.model.weights + deployment.model.buffers
    return affordable_uploads(budget, Mechanism.of(deployment.parameters, dimension))


_Durable = dict[Table, dict[bytes, bytes]]


class _Node:
    """One identity's durable state and its machine."""

    def __init__(
        self,
        process: _Process,
        files: DeploymentDirectory,
        identity: Identity,
        options: ProcessOptions | None = None,
        *,
        role: str,
        name: str,
        machine: Callable[[_Durable], Machine],
    ) -> None:
        options = options or ProcessOptions()
        state = files.state(name)
        database, blobs = state / "state.sqlite", state / "blobs"
        require_no_orphans(database, blobs)
        self.name = name
        self.role = role
        self._files = files
        self._identity = identity
        self._interference = options.interference
        owner = files.deployment.digest + identity.public
        self.storage = Storage.open(database, owner=owner, observe=options.observe)
        process.opened.append(self.storage)
        self.blobs = BlobStore(blobs, observe=options.observe)
        made = machine(self.storage.load())
        if self._interference is not None:
            made = self._interference.machine(files, identity, made)
        self.machine = made
        referenced = made.referenced_blobs()
        stored = set(self.blobs.digests())
        for digest in stored - referenced:
            self.blobs.delete(digest)
        for digest in referenced:
            # A client's upload is nowhere else; what a replica holds is checked whenever it is read.
            if role == "client" or digest not in stored:
                self.blobs.read(digest)
        self.runtime = Runtime(
            made,
            name=name,
            role=role,
            deployment=files.deployment.digest,
            storage=self.storage,
            blobs=self.blobs,
            workers=process.workers,
            status=files.status_file(name),
            lag=process.lag,
            observe=options.observe,
        )

    def network(
        self, *, listen: tuple[str, int] | None, dial: Mapping[bytes, str], accept: Callable[[bytes], bool]
    ) -> Network:
        """What connects the node to its peers."""
        if self._interference is not None:
            found = self._interference.network(self._files, self._identity, listen)
            if found is not None:
                return found
        return Endpoint(
            self._identity,
            self._files.deployment.digest,
            handler=self.runtime,
            blobs=self.blobs,
            listen=listen,
            dial=dial,
            accept=accept,
        )

    @property
    def labels(self) -> dict[str, str]:
        """What every line of its log says."""
        if self._interference is None:
            return {"node": self.name}
        return {"node": self.name, "misbehaving": self._interference.label}


class _Process:
    """What the nodes of a process share."""

    def __init__(self) -> None:
        self.workers = ThreadPoolExecutor(max_workers=1, thread_name_prefix="job")
        self.lag = LoopLag()
        self.stop = asyncio.Event()
        self.opened: list[Storage] = []

    def ask_to_stop(self, reason: str) -> None:
        """Stop gracefully; asked a second time, or where that takes too long, at once."""
        if self.stop.is_set():
            os._exit(130)
        log.info("stopping", reason=reason)
        self.stop.set()
        _end_after(KILL_S, 1)

    async def run(self, nodes: Sequence[tuple[_Node, Network]]) -> None:
        """Run all nodes until one fails or a stop is asked for."""
        # What is there now stays: the collector need not walk through torch again and again.
        gc.collect()
        gc.freeze()
        measuring = asyncio.create_task(self.lag.run(), name="measure the event loop")
        runs = [asyncio.create_task(self._run_node(node, network), name=node.name) for node, network in nodes]
        await asyncio.wait(runs, return_when=asyncio.FIRST_EXCEPTION)
        self.stop.set()
        await asyncio.wait(runs)
        measuring.cancel()
        for run in runs:
            run.result()

    async def close(self) -> None:
        """Close every state file, whatever became of its node."""
        for storage in self.opened:
            await storage.close()

    async def _run_node(self, node: _Node, network: Network) -> None:
        structlog.contextvars.bind_contextvars(**node.labels)
        log.info("started", role=node.role, pid=os.getpid(), state=str(node.storage.path.parent))
        await node.runtime.run(network, self.stop)
        log.info("stopped")


def _say_what_is_assumed(deployment: Deployment, epochs: int | None) -> None:
    """Log what privacy rests on: the assumed colluders, and what they could do in `epochs`."""
    collusion = Collusion.of(deployment.parameters, len(deployment.all_rosters[-1].members), epochs)
    log.info(
        "colluders_assumed",
        malicious_fraction=collusion.malicious_fraction,
        malicious_allowance=collusion.malicious_allowance,
        min_group=collusion.min_group,
        isolation_probability=collusion.isolation_probability,
        epochs=collusion.epochs,
    )


def _check_and_say_the_rule(deployment: Deployment) -> None:
    """Raises `RuleError` where the newest roster yields too few groups for the rule."""
    if deployment.parameters.rule == "mean":
        return
    from asyncfl.group_rules import check_rule, explain_rule

    clients = len(deployment.all_rosters[-1].members)
    check_rule(deployment.parameters, clients)
    log.info("rule", name=deployment.parameters.rule, stands=explain_rule(deployment.parameters, clients))


def _say_whether_it_is_a_drill(deployment: Deployment, options: ProcessOptions) -> None:
    if options.interference is not None:
        log.warning("this_process_misbehaves_on_purpose", misbehaving=options.interference.label)
    elif deployment.allow_misbehaviour:
        log.warning("drill", reason="nodes of this deployment may misbehave on purpose (allow_misbehaviour)")


def _run(
    main: Callable[[_Process], Coroutine[Any, Any, None]], options: ProcessOptions, names: dict[bytes, str]
) -> None:
    """Run `main` on an event loop of its own, with signals, logs and worker threads looked after."""
    if options.exit_with_parent:
        end_with_parent(grace=KILL_S)
    writer = configure(form=options.log_form, level=options.log_level, names=names)
    _use_one_thread()
    error: AsyncflError | None = None
    process: _Process | None = None

    async def body() -> None:
        nonlocal process
        process = _Process()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, process.ask_to_stop, signal.Signals(number).name)
        try:
            await main(process)
        finally:
            await process.close()

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(body())
    except AsyncflError as raised:
        error = raised
        raise
    finally:
        _finish(process, writer, error)


def _finish(process: _Process | None, writer: Writer, error: AsyncflError | None) -> None:
    """End the worker threads; a job that goes on for too long ends with the process."""
    if process is not None:
        process.workers.shutdown(wait=False, cancel_futures=True)
        under_way = [thread for thread in threading.enumerate() if thread.name.startswith("job")]
        for thread in under_way:
            thread.join(JOB_S)
        if any(thread.is_alive() for thread in under_way):
            log.warning("job_abandoned", seconds=JOB_S)
            writer.close()
            os._exit(0 if error is None else exit_code(error))
    writer.close()


def _use_one_thread() -> None:
    """Several processes share a machine; threads of each on all cores only get in each other's way."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def _end_after(seconds: float, code: int) -> None:
    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True
    timer.start()
