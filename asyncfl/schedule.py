"""How clients train, epoch by epoch: the [training] section of a deployment file.

`Schedule.settings_at(epoch)` is a pure function of the section. What it says stays with one client: nothing
that two machines compute has to agree, so learning rates are plain floating-point numbers.
"""

from __future__ import annotations

from math import cos, pi
from typing import Annotated, Final, Literal, Self

from pydantic import Field, Strict, model_validator

from asyncfl.deployment_fields import Section
from asyncfl.messages import Settings

LearningRate = Annotated[float, Field(ge=0, le=1e6)]
Steps = Annotated[int, Field(ge=0, le=1_000_000)]
BatchSize = Annotated[int, Field(ge=1, le=1_000_000)]
Proximal = Annotated[float, Field(ge=0, le=1e6)]
Seconds = Annotated[float, Field(ge=0, le=1e7)]
DecayEpochs = Annotated[int, Field(ge=1, le=2**31 - 1)]
DecayFactor = Annotated[float, Field(gt=0, lt=1)]
Floor = Annotated[float, Field(ge=0, le=1)]
Decay = Literal["constant", "step", "exponential", "cosine"]

DECAY_KEYS: Final[dict[str, set[str]]] = {
    "constant": set(),
    "step": {"decay_epochs", "decay_factor"},
    "exponential": {"decay_epochs", "decay_factor"},
    "cosine": {"decay_epochs"},
}
"""What each kind of decay must be told."""


class Change(Section):
    """What is different from `epoch` on, until a later change says otherwise."""

    epoch: Annotated[int, Field(ge=2, le=2**31 - 1)]
    learning_rate: LearningRate | None = None
    local_steps: Steps | None = None
    batch_size: BatchSize | None = None
    proximal: Proximal | None = None
    seconds: Seconds | None = None
    most_steps: Steps | None = None


class Schedule(Section):
    """Local training. `learning_rate` is the base that warm-up and decay scale.

    `local_steps` 0 is one pass over the client's data. `proximal`: mu of FedProx (Li et al. 2020,
    arXiv 1812.06127), 0 is off. `seconds` and `most_steps` are a budget: a training ends early when either is
    spent (0: none), and its update is scaled up for that (`asyncfl.client.work`).

    The first `warmup_epochs` W rise linearly: epoch p <= W has p / (W + 1) of the base. Then, with
    k = p - W - 1 epochs behind and E = `decay_epochs`, the base is multiplied by

        step          decay_factor ^ floor(k / E)
        exponential   decay_factor ^ (k / E)
        cosine        f + (1 - f) (1 + cos(pi min(k, E) / E)) / 2     f = decay_floor
                                                                    Loshchilov, Hutter 2017, arXiv 1608.03983

    and never by less than `decay_floor`: clients go on for as long as they are asked to, and at a rate of
    zero they would spend privacy for nothing.
    """

    learning_rate: LearningRate
    local_steps: Steps = 0
    batch_size: BatchSize = 32
    proximal: Proximal = 0.0
    seconds: Seconds = 0.0
    most_steps: Steps = 0
    warmup_epochs: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    decay: Decay = "constant"
    decay_epochs: DecayEpochs | None = None
    decay_factor: DecayFactor | None = None
    decay_floor: Floor = 0.01
    # TOML arrays arrive as lists.
    changes: Annotated[tuple[Change, ...], Strict(False), Field(max_length=1000)] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        needed = DECAY_KEYS[self.decay]
        given = {key for key in ("decay_epochs", "decay_factor") if getattr(self, key) is not None}
        if given != needed:
            wanted = " and ".join(sorted(needed)) or "neither decay_epochs nor decay_factor"
            wrong = ", ".join(sorted(given)) or "none of these"
            raise ValueError(f'decay = "{self.decay}" takes {wanted}; given: {wrong}')
        epochs = [change.epoch for change in self.changes]
        if epochs != sorted(set(epochs)):
            raise ValueError("changes must be in the order of their epochs, each epoch once")
        return self

    def settings_at(self, epoch: int) -> Settings:
        """What a client trains with in `epoch`, from 1."""
        settings = Settings(
            learning_rate=self.learning_rate,
            local_steps=self.local_steps,
            batch_size=self.batch_size,
            proximal=self.proximal,
            seconds=self.seconds,
            most_steps=self.most_steps,
        )
        for change in self.changes:
            if change.epoch > epoch:
                break
            settings = settings.model_copy(update=change.model_dump(exclude={"epoch"}, exclude_none=True))
        rate = settings.learning_rate * self._scale(epoch)
        return settings.model_copy(update={"learning_rate": rate})

    def _scale(self, epoch: int) -> float:
        """Of the learning rate, in [0, 1]."""
        if epoch <= self.warmup_epochs:
            return epoch / (self.warmup_epochs + 1)
        if self.decay == "constant":
            return 1.0
        assert self.decay_epochs is not None
        behind = epoch - self.warmup_epochs - 1
        if self.decay == "cosine":
            half = (1 + cos(pi * min(behind, self.decay_epochs) / self.decay_epochs)) / 2
            return self.decay_floor + (1 - self.decay_floor) * half
        assert self.decay_factor is not None
        times = behind // self.decay_epochs if self.decay == "step" else behind / self.decay_epochs
        return max(self.decay_floor, self.decay_factor**times)
