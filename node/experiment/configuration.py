"""The file of an experiment: its keys, what they may hold, and what is refused, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from asyncfl.errors import ConfigurationError, StorageError
from asyncfl.parameters import Parameters
from asyncfl.schedule import (
    BatchSize,
    Change,
    Decay,
    DecayEpochs,
    DecayFactor,
    Floor,
    LearningRate,
    Proximal,
    Schedule,
    Seconds,
    Steps,
)
from asyncfl.toml_document import MAX_BYTES, parse_document
from asyncfl.toml_errors import explain
from node.text_files import read_text
from node.training.defaults import task_defaults


def _numbers(value: Any) -> Any:
    """`[0, 1, 5]`, or text such as `"0-19, 40"`."""
    if not isinstance(value, str):
        return value
    numbers: list[int] = []
    for part in value.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError('numbers such as "0-19, 40" or [0, 1] are needed')
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers


Numbers = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), BeforeValidator(_numbers)]
Positive = Annotated[float, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Distribution(_Section):
    """Factors around 1. `sigma` belongs to log-normal, `shape` to gamma (mean 1), `ratio` to even.

    `even` spreads the factors evenly on a logarithmic scale, the slowest `ratio` times slower than the fastest.
    """

    kind: Literal["none", "log-normal", "gamma", "even"] = "none"
    sigma: Positive | None = None
    shape: Positive | None = None
    ratio: Annotated[float, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        own = {"none": None, "log-normal": "sigma", "gamma": "shape", "even": "ratio"}[self.kind]
        given = {key for key in ("sigma", "shape", "ratio") if getattr(self, key) is not None}
        if given != ({own} if own else set()):
            raise ValueError(f"{self.kind} takes {own or 'no further key'}")
        return self


class Slow(_Section):
    """A group of clients that is `factor` times slower than it would be."""

    clients: Numbers
    factor: Positive


class Speeds(_Section):
    """Seconds of one local training: `seconds`, times a client's own factor, times one drawn for each task."""

    seconds: Positive = 2.0
    persistent: Distribution = Distribution()
    jitter: Distribution = Distribution()
    factors: list[Positive] | None = None
    """One for each client, in place of `persistent`."""
    slow: list[Slow] = Field(default_factory=list)


class Partition(_Section):
    """Who holds which examples. `clients` alone hold `classes`, and nothing else; others share the rest."""

    kind: Literal["iid", "dirichlet"] = "iid"
    alpha: Positive = 0.5
    classes: Numbers | None = None
    clients: Numbers | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.classes is None) != (self.clients is None):
            raise ValueError("classes and clients belong together: these clients alone hold these classes")
        return self


class At(_Section):
    """Clients that something happens to at a virtual time."""

    clients: Numbers
    at: Annotated[float, Field(ge=0)]


class Outage(_Section):
    """A replica that is down from `start` on, to `end` or for good."""

    replica: Annotated[int, Field(ge=0)]
    start: Annotated[float, Field(ge=0)]
    end: Positive | None = None


class Training(_Section):
    """Local training, as in a deployment file (`asyncfl.schedule`); what is absent is the task's own."""

    learning_rate: LearningRate | None = None
    local_steps: Steps | None = None
    batch_size: BatchSize | None = None
    proximal: Proximal | None = None
    seconds: Seconds | None = None
    most_steps: Steps | None = None
    warmup_epochs: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    decay: Decay | None = None
    decay_epochs: DecayEpochs | None = None
    decay_factor: DecayFactor | None = None
    decay_floor: Floor | None = None
    changes: list[Change] | None = None


class Run(_Section):
    """One line of the comparison."""

    name: Annotated[str, Field(min_length=1, max_length=60)]
    method: Literal["asyncfl", "fedbuff", "fedavg"] = "asyncfl"
    speeds: Speeds | None = None
    """In place of the experiment's."""
    training: Training = Training()
    """Keys that replace the experiment's."""
    window: Annotated[int, Field(ge=0, le=64)] | None = None
    """asyncfl: epochs that a client may run ahead of the slowest live one."""
    inclusion: bool = True
    """asyncfl: false for what the protocol would be without its section 5: nobody waits for anybody, nor for the own
    last upload to be in the model."""
    buffer: Annotated[int, Field(ge=1)] | None = None
    """fedbuff: uploads that are averaged into one step; absent: as many as asyncfl's smallest group."""
    preset: Literal["standard", "tiny"] | None = None
    cell_size: Annotated[int, Field(ge=1)] | None = None
    clip: Positive | None = None
    """asyncfl: these three in place of the experiment's."""
    noise_multiplier: Annotated[float, Field(ge=0)] = 0.0
    """asyncfl: of differential privacy; groups smaller than a deployment would be allowed are."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    """Of the experiment's seeds, those that this run is made with; absent: all."""


_ONLY_ASYNCFL: Final = ("window", "inclusion", "preset", "cell_size", "clip", "noise_multiplier")


MAX_WINDOW: Final = 64


class Experiment(_Section):
    """The whole file. Clients, replicas and classes are numbered from 0; times are virtual seconds."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]
    task: str = "digits"
    clients: Annotated[int, Field(ge=2, le=1000)] = 16
    replicas: Annotated[int, Field(ge=1, le=16)] = 4
    byzantine: Annotated[int, Field(ge=0)] = 1
    preset: Literal["standard", "tiny"] = "tiny"
    cell_size: Annotated[int, Field(ge=1)] | None = None
    clip: Positive | None = None
    """L2 norm that asyncfl clips updates of weights to; absent: the task's own."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """For which epsilon is told."""
    epochs: Annotated[int, Field(ge=1)] | None = None
    seconds: Positive | None = None
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0]
    evaluate_every: Positive = 5.0
    evaluate_uploads: Annotated[int, Field(ge=1)] | None = None
    """Look at accuracy after so many more uploads are in the model, in place of `evaluate_every`."""
    accuracies: list[Annotated[float, Field(gt=0, le=1)]] = Field(default_factory=list)
    """For each, how many uploads were in the model when it was first seen."""
    reference: str | None = None
    """The run that the others are compared with, seed by seed."""
    target_accuracy: Annotated[float, Field(gt=0, le=1)] | None = None
    """Runs end, in the file with `seconds`, once it is reached."""
    classes: Numbers | None = None
    """Whose accuracy is told separately."""
    training: Training = Training()
    partition: Partition = Partition()
    speeds: Speeds = Speeds()
    drop_out: list[At] = Field(default_factory=list)
    late_join: list[At] = Field(default_factory=list)
    dead_replica: list[Outage] = Field(default_factory=list)
    run: Annotated[list[Run], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.epochs is None) == (self.seconds is None):
            raise ValueError("give either epochs or seconds (of virtual time)")
        if self.target_accuracy is not None and self.seconds is None:
            raise ValueError("target_accuracy needs seconds: how long to try")
        names = [run.name for run in self.run]
        if len(set(names)) < len(names):
            raise ValueError("two runs have the same name")
        if self.reference is not None and self.reference not in names:
            raise ValueError(f"reference {self.reference!r} is none of the runs: {', '.join(names)}")
        for run in self.run:
            if run.seeds is not None and not set(run.seeds) <= set(self.seeds):
                raise ValueError(f"run {run.name!r} has seeds that the experiment has not: {self.seeds}")
            given = [name for name in _ONLY_ASYNCFL if name in run.model_fields_set]
            if run.method != "asyncfl" and given:
                raise ValueError(f"run {run.name!r}: {', '.join(given)} is for method 'asyncfl' only")
            if not run.inclusion and run.window is not None:
                raise ValueError(f"run {run.name!r}: without inclusion there is no window; leave it out")
        groups = [event.clients for event in (*self.drop_out, *self.late_join)]
        groups += [slow.clients for speeds in self.all_speeds() for slow in speeds.slow]
        if self.partition.clients is not None:
            groups.append(self.partition.clients)
            if len(set(self.partition.clients)) >= self.clients:
                raise ValueError("partition.clients must leave clients for the other classes")
        for group in groups:
            if max(group) >= self.clients:
                raise ValueError(f"there is no client {max(group)}: they are 0 to {self.clients - 1}")
        for outage in self.dead_replica:
            if outage.replica >= self.replicas:
                raise ValueError(f"there is no replica {outage.replica}: they are 0 to {self.replicas - 1}")
            if outage.end is not None and outage.end <= outage.start:
                raise ValueError("a dead replica's end must come after its start")
        for speeds in self.all_speeds():
            if speeds.factors is not None and len(speeds.factors) != self.clients:
                raise ValueError(f"speeds.factors must name {self.clients} factors, one for each client")
        return self

    def all_speeds(self) -> list[Speeds]:
        return [self.speeds, *(run.speeds for run in self.run if run.speeds is not None)]

    def schedule(self, run: Run) -> Schedule:
        """Local training: the task's own, with what the file says, and what it says of this run.

        Raises pydantic's `ValidationError` when that does not go together.
        """
        layers = (task_defaults(self.task).schedule, self.training, run.training)
        merged = {
            key: value for layer in layers for key, value in layer.model_dump(exclude_none=True).items()
        }
        return Schedule.model_validate(merged)

    def parameters(self, run: Run | None = None) -> Parameters:
        """The protocol's parameters, in `run`. Raises `ParameterError`."""
        defaults = task_defaults(self.task)
        options: dict[str, object] = {
            "preset": self.preset,
            "clip": self.clip or defaults.clip,
            "buffer_clip": defaults.buffer_clip,
            "cell_size": self.cell_size,
        }
        if run is not None:
            options["noise_multiplier"] = run.noise_multiplier
            # A simulation may show what noise does to small groups; a deployment has to ask for it.
            options["allow_small_private_groups"] = run.noise_multiplier > 0
            if not run.inclusion:
                options.update(window=MAX_WINDOW, beta=0.0)
            own = run.model_dump(include={"window", "preset", "cell_size", "clip"}, exclude_none=True)
            options.update(own)
        return Parameters.for_clients(
            self.clients, replicas=self.replicas, byzantine=self.byzantine, **options
        )

    def present_throughout(self) -> list[int]:
        """Clients that neither drop out nor join late."""
        moved = {client for event in (*self.drop_out, *self.late_join) for client in event.clients}
        return [client for client in range(self.clients) if client not in moved]


def read_experiment(path: Path, *, reduced: bool = False) -> Experiment:
    """The experiment in `path`; `reduced`: with the keys of its table `[reduced]` in place of its own.

    Raises `ConfigurationError` naming file and key (mostly the line, too); `StorageError` when it cannot be read.
    """
    return parse_experiment(read_file(path), source=str(path), reduced=reduced)


def read_file(path: Path) -> str:
    """The text of an experiment's file. Raises `StorageError`, `ConfigurationError`."""
    try:
        return read_text(path, limit=MAX_BYTES)
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}; name an experiment's file") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: not UTF-8 text; a TOML file is needed") from None


def read_tables(text: str, *, source: str, reduced: bool) -> dict[str, Any]:
    """What the TOML `text` says; `reduced`: with the keys of its table `[reduced]` in place of its own.

    Raises `ConfigurationError`.
    """
    document = parse_document(text, source=source)
    changes = document.pop("reduced", None)
    if reduced:
        if not isinstance(changes, dict):
            raise ConfigurationError(f"{source}: --reduced needs a table [reduced] with the keys to replace")
        document |= changes
    return document


def parse_experiment(text: str, *, source: str, reduced: bool = False) -> Experiment:
    """The experiment that TOML `text` describes; `source` is the file's name. Raises `ConfigurationError`."""
    document = read_tables(text, source=source, reduced=reduced)
    try:
        experiment = Experiment.model_validate(document)
    except ValidationError as error:
        raise ConfigurationError(explain(error, Experiment, source, text)) from None
    for run in experiment.run:
        experiment.parameters(run)
        try:
            experiment.schedule(run)
        except ValidationError as error:
            reason = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            raise ConfigurationError(f"{source}: [training] of run {run.name!r}: {reason}") from None
    return experiment
