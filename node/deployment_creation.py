"""Makes a deployment: initial model, keys, addresses, operator signatures, all into one directory."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ValidationError

from asyncfl.deployment import Deployment, ModelEntry, PrivacyEntry
from asyncfl.deployment_fields import NONCE_BYTES
from asyncfl.digest import content_digest
from asyncfl.errors import ConfigurationError, ParameterError, StorageError
from asyncfl.identity import Identity
from asyncfl.parameters import Parameters
from asyncfl.toml_errors import in_words
from node.deployment_files import (
    DEPLOYMENT_FILE,
    OPERATOR_KEY_FILE,
    DeploymentDirectory,
    key_file,
    read_public_key,
    write_key,
)
from node.training.defaults import OWN_TEST, is_built_in, task_defaults
from node.whole_files import make_directory, write_whole

LOCALHOST: Final = "127.0.0.1"
MODEL_FILE: Final = "model.safetensors"
DELTA: Final = 1e-5
"""Of a budget, unless the user says otherwise."""


@dataclass(frozen=True, slots=True)
class NewDeployment:
    """What the user chose. What `parameters` and `training` leave out suits the task (or is a default)."""

    replicas: int = 4
    clients: int = 16
    byzantine: int = 1
    task: str = "digits"
    seed: int = 0
    task_options: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    stop: Mapping[str, Any] = field(default_factory=dict)
    """Keys of [stop]; none: train up to the last epoch asked for."""
    epsilon: float | None = None
    """Budget of every client; calibrates the noise multiplier to `epochs` uploads. None: no budget."""
    delta: float = DELTA
    epochs: int | None = None
    buffers: Literal["train", "freeze"] | None = None
    """Whether floating buffers (BatchNorm) are trained; None: frozen when there is noise, else trained."""
    malicious_fraction: float = 0.0
    """Share of the clients that may collude with replicas: their noise is not counted on."""
    base_port: int | None = None
    """First of `replicas` consecutive ports; None: free ones, chosen by the operating system."""
    urls: Mapping[str, str] = field(default_factory=dict)
    """Addresses of replicas that run elsewhere, by name."""
    public_keys: Path | None = None
    """A directory of `asyncfl keygen`'s .pub files, one for every replica and client."""
    allow_misbehaviour: bool = False
    """A drill, in which nodes may misbehave on purpose (see misbehaviour/README.md)."""


def create_deployment(root: Path, wanted: NewDeployment) -> DeploymentDirectory:
    """Write a whole deployment into `root`, which must be absent or empty. Imports torch.

    Everything is checked before the first file is written, and `deployment.toml` is written last. Raises
    `ConfigurationError`, `ParameterError`, `StorageError`.
    """
    _require_empty(root)
    replica_names = [f"replica-{index}" for index in range(wanted.replicas)]
    client_names = [f"client-{index}" for index in range(wanted.clients)]
    parameters = _parameters(wanted)
    urls = _urls(replica_names, wanted)
    identities: dict[str, Identity] = {}
    if wanted.public_keys is None:
        identities = {name: Identity.generate() for name in replica_names + client_names}
        keys = {name: identity.public for name, identity in identities.items()}
    else:
        keys = _given_keys(wanted.public_keys, replica_names + client_names)

    from asyncfl.group_rules import check_rule, settle_rule
    from node.training.files import write_model
    from node.training.loader import load_task
    from node.training.task import ClientEvaluation
    from node.training.workbench import Workbench

    options = _task_options(wanted, parameters)
    task = load_task(wanted.task, clients=wanted.clients, seed=wanted.seed, options=options)
    if parameters.metrics and not isinstance(task, ClientEvaluation):
        raise ConfigurationError(
            f"parameter metrics=true: the task {wanted.task!r} has no method evaluate_client(module, client_index) "
            "that returns (correct, count) on a client's own test data; add it, or leave metrics out"
        )
    noisy = wanted.epsilon is not None or parameters.noise_multiplier > 0
    frozen = wanted.buffers == "freeze" or (wanted.buffers is None and noisy)
    workbench = Workbench(task, seed=wanted.seed, device="cpu", frozen_buffers=frozen)
    operator = Identity.generate()
    parameters = _with_noise(parameters, wanted, workbench.layout.dimension)
    parameters = settle_rule(parameters, wanted.clients)
    check_rule(parameters, wanted.clients)
    deployment = Deployment.create(
        name=re.sub(r"[^A-Za-z0-9]+", "-", root.resolve().name).strip("-")[:64] or "deployment",
        nonce=os.urandom(NONCE_BYTES),
        operator=operator,
        parameters=parameters,
        model=ModelEntry(
            file=MODEL_FILE,
            digest=content_digest(workbench.initial),
            weights=workbench.layout.weights,
            buffers=workbench.layout.buffers,
            frozen_buffers=frozen and bool(workbench.buffer_owners),
        ),
        task={"factory": wanted.task, "seed": wanted.seed, "options": options},
        training={**task_defaults(wanted.task).schedule.model_dump(exclude_none=True), **wanted.training},
        replicas={name: (urls[name], keys[name]) for name in replica_names},
        clients={name: keys[name] for name in client_names},
        privacy=None if wanted.epsilon is None else PrivacyEntry(epsilon=wanted.epsilon, delta=wanted.delta),
        stop=wanted.stop,
        allow_misbehaviour=wanted.allow_misbehaviour,
    )
    try:
        make_directory(root)
        write_key(root / OPERATOR_KEY_FILE, operator)
        for name, identity in identities.items():
            write_key(key_file(root, name), identity)
        write_model(root / MODEL_FILE, workbench.layout, workbench.state(workbench.initial))
        write_whole(root / DEPLOYMENT_FILE, deployment.render().encode())
    except OSError as error:
        raise StorageError(
            f"{error.filename or root}: cannot be written: {error.strerror}; name a directory on a "
            "writable disk with free space"
        ) from None
    return DeploymentDirectory.load(root)


def _with_noise(parameters: Parameters, wanted: NewDeployment, dimension: int) -> Parameters:
    """The parameters with an allowance for colluders, and noise for the wished budget.

    Raises `ConfigurationError` or `ParameterError` when the wish contradicts itself or cannot be met.
    """
    if wanted.malicious_fraction:
        from asyncfl.privacy.allowance import Cells, malicious_allowance

        cells = Cells(wanted.clients, parameters.cell_size, parameters.replicas)
        allowance = malicious_allowance(cells, wanted.malicious_fraction, parameters.min_group)
        parameters = _changed(
            parameters, malicious_fraction=wanted.malicious_fraction, malicious_allowance=allowance
        )
    if wanted.epsilon is None:
        return parameters
    if wanted.epochs is None:
        raise ConfigurationError(
            "--epsilon needs --epochs: the budget is spread over so many uploads of a client"
        )
    if "noise_multiplier" in wanted.parameters:
        raise ConfigurationError("--epsilon calibrates noise_multiplier: give one of the two")
    from asyncfl.privacy.accountant import Mechanism
    from asyncfl.privacy.calibration import Budget, calibrate

    def mechanism(multiplier: float) -> Mechanism:
        return Mechanism.of(_changed(parameters, noise_multiplier=multiplier), dimension)

    multiplier = calibrate(Budget(wanted.epsilon, wanted.delta), wanted.epochs, mechanism)
    return _changed(parameters, noise_multiplier=multiplier)


def _task_options(wanted: NewDeployment, parameters: Parameters) -> dict[str, Any]:
    """The options of the task; where metrics are on, clients of a built-in one keep examples to measure with."""
    options = dict(wanted.task_options)
    if parameters.metrics and is_built_in(wanted.task):
        options.setdefault("own_test", OWN_TEST)
    return options


def _changed(parameters: Parameters, **values: float) -> Parameters:
    return Parameters.model_validate({**parameters.model_dump(), **values})


def _require_empty(root: Path) -> None:
    try:
        entries = sorted(entry.name for entry in root.iterdir() if not entry.name.startswith("."))
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise ConfigurationError(f"{root} is a file; name a directory that is absent or empty") from None
    if entries:
        what = "a deployment" if DEPLOYMENT_FILE in entries else f"{entries[0]!r}"
        raise ConfigurationError(
            f"{root} already holds {what}, and its keys could not be made again; name a directory "
            "that is absent or empty"
        )


def _parameters(wanted: NewDeployment) -> Parameters:
    defaults = task_defaults(wanted.task)
    fixed = {"replicas", "byzantine", "malicious_fraction"} & wanted.parameters.keys()
    if fixed:
        name = min(fixed)
        raise ConfigurationError(f"parameter {name!r} has its own option: use --{name.replace('_', '-')}")
    try:
        return Parameters.for_clients(
            wanted.clients,
            replicas=wanted.replicas,
            byzantine=wanted.byzantine,
            **{"clip": defaults.clip, "buffer_clip": defaults.buffer_clip, **wanted.parameters},
        )
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            known = ", ".join(sorted(Parameters.model_fields))
            raise ParameterError(f"there is no parameter {where!r}; there are {known}") from None
        raise ParameterError(
            f"parameter {where}: {in_words(problem['msg'])}, not {problem['input']!r}"
        ) from None


def _given_keys(directory: Path, names: list[str]) -> dict[str, bytes]:
    if not directory.is_dir():
        raise ConfigurationError(f"{directory} is no directory; put every party's .pub file into one")
    found = dict(read_public_key(path) for path in sorted(directory.glob("*.pub")))
    for problem, those in (
        ("lacks", set(names) - found.keys()),
        ("has too many:", found.keys() - set(names)),
    ):
        if those:
            raise ConfigurationError(
                f"{directory} {problem} {', '.join(sorted(those)[:8])}: exactly one .pub file is needed for "
                f"each of {names[0]} … {names[-1]}; let that party run `asyncfl keygen NAME`"
            )
    return found


def _urls(names: list[str], wanted: NewDeployment) -> dict[str, str]:
    unknown = sorted(wanted.urls.keys() - set(names))
    if unknown:
        raise ConfigurationError(f"--url names {unknown[0]!r}; the replicas are {names[0]} … {names[-1]}")
    local = [name for name in names if name not in wanted.urls]
    ports = (
        _free_ports(len(local)) if wanted.base_port is None else _checked_ports(wanted.base_port, len(local))
    )
    return {
        **{name: f"ws://{LOCALHOST}:{port}" for name, port in zip(local, ports, strict=True)},
        **wanted.urls,
    }


def _free_ports(count: int) -> list[int]:
    # All are held at once, so that they differ.
    with ExitStack() as held:
        listeners = [held.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind((LOCALHOST, 0))
        return [listener.getsockname()[1] for listener in listeners]


def _checked_ports(base: int, count: int) -> list[int]:
    if not 1 <= base <= 65536 - count:
        raise ConfigurationError(f"--base-port {base}: {count} ports from there must lie in 1 to 65535")
    for port in range(base, base + count):
        with socket.socket() as listener:
            # As the replicas will bind: a port in TIME_WAIT is no obstacle.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((LOCALHOST, port))
            except OSError as error:
                why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
                raise ConfigurationError(
                    f"port {port} {why}; choose another --base-port, or leave it out to get free ports"
                ) from None
    return list(range(base, base + count))
