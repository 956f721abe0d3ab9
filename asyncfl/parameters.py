"""Protocol parameters: what a deployment fixes, what follows from it, and what is refused, with the reason.

Source: the project's `docs/protocol.md`, sections 1, 2, 4 and 10.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, isqrt, sqrt
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from asyncfl.errors import ParameterError

MAX_REPLICAS: Final = 16
MAX_GROUP: Final = 63
PROJECTIONS: Final = 32
"""Combinations of check-block errors that a dealing proof shows (protocol section 3)."""
CHECK_BLOCKS: Final = 4
ERROR_SIGMA: Final = 4.5
"""Standard deviation of the ring-LWE error on check blocks, and at least on payload blocks."""
OPENING_BOUND: Final = 16384
"""Largest check-block residue per member and coordinate that an opening accepts."""
MAX_LATE_EPOCHS: Final = 8
"""How many epochs an upload may ride on top of later groups before it expires."""
SMALLEST_PRIVATE: Final = 16
"""Smallest `min_group` with noise that needs no flag."""
SMALLEST_CELL: Final = 3
"""Default cells have at least so many clients, however few there are for each replica."""
MAX_SCALE: Final = 1 << 15
MAX_NUMBER: Final = 1e6
"""Largest clip and learning rate: their products stay finite, so that no NaN can enter a model."""
OPTIMIZER_SETTINGS: Final = {
    "server_momentum": ("momentum", "adam"),
    "server_beta2": ("adam",),
    "server_epsilon": ("adam",),
}
"""Which server optimisers a setting concerns."""
ADAM_RATE: Final = 0.03
"""Default server learning rate with Adam, whose steps do not shrink with the updates: about what every weight
moves by in a row (docs/results/optimisers.md)."""
WEIGHT_SHARE: Final = 8
"""A client's weight travels as a coordinate of its own, with the bound L / 8: at the least one part in 4096."""
METRICS_SHARE: Final = 4
"""The accuracy on a client's own test data travels as two coordinates that share the bound L / 4: with privacy on
their noise is that of everything else, so that a smaller share would drown them."""
LATER: Final = {"rule_options": {}, "bad_groups": 0.0, "bad_clients": 0.0, "reputation": False}
"""Parameters that came later, and what they were before: a deployment that leaves them so keeps its digest."""
NEED_A_REFERENCE: Final = ("fltrust",)
"""Rules of asyncfl.rules that need data which replicas do not have."""


@dataclass(frozen=True, slots=True)
class Preset:
    """Ring dimensions: `Z_q[X]/(X^N+1)` with `q = 1 mod 2N`."""

    name: str
    degree: int
    modulus: int


STANDARD: Final = Preset("standard", 1024, 8380417)
TINY: Final = Preset("tiny", 64, 8380417)
"""For unit tests and simulations only; refused for a network."""
PRESETS: Final = {preset.name: preset for preset in (STANDARD, TINY)}


@dataclass(frozen=True, slots=True)
class Segment:
    """Coordinates [start, stop) of the flat update that share one clip.

    `clip` is the L2 norm (in model units) that the segment is clipped to, `bound` the L2 norm of its
    integer image: the segment is scaled by `bound / clip`. The squares of all bounds sum to at most L^2.
    """

    start: int
    stop: int
    clip: float
    bound: int


def _no_reference(value: Any) -> Any:
    if value in NEED_A_REFERENCE:
        raise ParameterError(
            f"rule {value!r} weighs updates by a reference made from clean data, and replicas have none; "
            "take another rule, such as fedaot or multi_krum (asyncfl.rules has it for plain tensors)"
        )
    return value


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    for name, value in options.items():
        if not isinstance(value, int | float | str):
            raise ValueError(f"option {name!r} must be a number or a name")
    return dict(sorted(options.items()))


RuleName = Literal[
    "mean", "median", "trimmed_mean", "krum", "multi_krum", "bulyan", "geometric_median", "centered_clipping",
    "norm_clipping", "norm_rejection", "bucketing", "nearest_neighbor_mixing", "fedaot",
]  # fmt: skip


class Parameters(BaseModel):
    """Everything of protocol section 10, checked together. All norms are L2."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    replicas: int = Field(default=4, ge=1)
    byzantine: int = Field(default=1, ge=0)
    preset: Literal["standard", "tiny"] = "standard"
    cell_size: int = Field(ge=1)
    min_group: int = Field(ge=1)
    max_group: int = Field(ge=1)
    window: int = Field(default=2, ge=0, le=64)
    concurrency: int = Field(default=0, ge=0, le=1_000_000)
    """TASKs that one coordinator has outstanding at once; 0: as many as clients ask for."""
    beta: float = Field(default=1.0, ge=0, le=100)
    """How much a coordinator prefers those who are in the model less often; 0: not at all."""
    clip: float = Field(default=1.0, gt=0, le=MAX_NUMBER)
    buffer_clip: float = Field(default=1.0, gt=0, le=MAX_NUMBER)
    noise_multiplier: float = Field(default=0.0, ge=0)
    malicious_allowance: int = Field(default=0, ge=0)
    malicious_fraction: float = Field(default=0.0, ge=0, lt=1)
    """What the allowance was computed for; nothing else depends on it."""
    server_learning_rate: float = Field(default=1.0, gt=0, le=MAX_NUMBER)
    server_optimizer: Literal["sgd", "momentum", "adam"] = "sgd"
    server_momentum: float = Field(default=0.9, ge=0, lt=1)
    server_beta2: float = Field(default=0.99, ge=0, lt=1)
    server_epsilon: float = Field(default=1e-3, ge=1e-6, le=MAX_NUMBER)
    weighting: Literal["uniform", "examples"] = "uniform"
    examples_cap: int = Field(default=1000, ge=1, le=1_000_000_000)
    metrics: bool = False
    metrics_cap: int = Field(default=100, ge=1, le=1_000_000_000)
    rule: Annotated[RuleName, BeforeValidator(_no_reference)] = "mean"
    """How opened groups make a row's update: `asyncfl.rules` on group means in units of the clip."""
    rule_options: Annotated[dict[str, Any], AfterValidator(_plain)] = Field(default_factory=dict)
    bad_groups: float = Field(default=0.0, ge=0, lt=1)
    """Share of the groups that the rule has to stand."""
    bad_clients: float = Field(default=0.0, ge=0, lt=1)
    """Share of malicious clients that `bad_groups` was computed for; the check at load uses it."""
    reputation: bool = False
    """Groups count by what their members' earlier groups were like (`asyncfl.reputation`)."""
    allow_minority_groups: bool = False
    allow_small_private_groups: bool = False
    allow_single_clients: bool = False

    @classmethod
    def for_clients(cls, clients: int, *, replicas: int = 4, byzantine: int = 1, **options: object) -> Self:
        """Defaults of section 10 for a roster of `clients`. Raises `ParameterError`."""
        optimizer = options.get("server_optimizer", "sgd")
        for name, users in OPTIMIZER_SETTINGS.items():
            if name in options and optimizer not in users:
                raise ParameterError(
                    f"{name} does nothing with server_optimizer {optimizer!r}; leave it out, or set "
                    f"server_optimizer to {' or '.join(users)}"
                )
        even = min(clients // max(1, replicas), MAX_GROUP // 2)
        size = options.pop("cell_size", None) or max(even, min(clients, SMALLEST_CELL))
        if not isinstance(size, int) or size > clients:
            raise ParameterError(f"cell_size {size} exceeds the {clients} clients of the roster")
        values: dict[str, object] = {
            "min_group": ceil(2 * size / 3),
            "max_group": min(MAX_GROUP, max(2 * size, 1)),
            "server_learning_rate": ADAM_RATE if optimizer == "adam" else 1.0,
            **options,
        }
        return cls.model_validate({"replicas": replicas, "byzantine": byzantine, "cell_size": size, **values})

    @model_validator(mode="after")
    def _check(self) -> Self:
        n, t = self.replicas, self.byzantine
        if n < 3 * t + 1:
            raise ParameterError(
                f"{n} replicas tolerate at most {(n - 1) // 3} Byzantine ones, not {t}: n >= 3t+1 is required; "
                f"use --replicas {3 * t + 1} or --byzantine {(n - 1) // 3}"
            )
        if n > MAX_REPLICAS:
            raise ParameterError(f"{n} replicas: at most {MAX_REPLICAS} are supported")
        if self.min_group > self.cell_size:
            raise ParameterError(
                f"min_group {self.min_group} exceeds cell_size {self.cell_size}: no cell could ever fill a group"
            )
        if self.min_group < ceil(self.cell_size / 2) and not self.allow_minority_groups:
            raise ParameterError(
                f"min_group {self.min_group} is a minority of a cell of {self.cell_size}: a coordinator could "
                f"surround a victim; use at least {ceil(self.cell_size / 2)} or set allow_minority_groups"
            )
        if self.min_group == 1 and not self.allow_single_clients:
            raise ParameterError(
                "min_group 1 opens the updates of single clients: only their own noise would protect them; use at "
                "least 2, or set allow_single_clients if that is what you want"
            )
        if self.min_group > MAX_GROUP:
            raise ParameterError(
                f"min_group {self.min_group}: sums of more than {MAX_GROUP} uploads cannot be opened; use at most "
                f"{MAX_GROUP}"
            )
        if not self.min_group <= self.max_group <= MAX_GROUP:
            raise ParameterError(
                f"max_group {self.max_group} must lie between min_group {self.min_group} and {MAX_GROUP}"
            )
        if self.max_group * OPENING_BOUND > self.modulus // 8:
            raise ParameterError(
                f"max_group {self.max_group} times the opening bound {OPENING_BOUND} exceeds q/8 = "
                f"{self.modulus // 8}"
            )
        if self.honest_members < 1:
            raise ParameterError(
                f"malicious_allowance {self.malicious_allowance} leaves no honest member in a group of "
                f"{self.min_group}: the noise of a group could not be guaranteed"
            )
        if (
            self.noise_multiplier > 0
            and self.min_group < SMALLEST_PRIVATE
            and not self.allow_small_private_groups
        ):
            raise ParameterError(
                f"min_group {self.min_group}: with noise, groups of fewer than {SMALLEST_PRIVATE} drown every model; "
                f"use min_group={SMALLEST_PRIVATE} or more, of cells of cell_size={3 * SMALLEST_PRIVATE // 2} or "
                "more, or set allow_small_private_groups if that is what you want"
            )
        if self.rule == "mean" and (self.rule_options or self.bad_groups):
            raise ParameterError(
                "rule 'mean' has no options and stands no bad group; leave rule_options and bad_groups out, or take "
                "another rule, such as median"
            )
        if self.scale < 16:
            raise ParameterError(
                f"noise_multiplier {self.noise_multiplier} with groups of {self.min_group} to {self.max_group} "
                f"leaves an integer scale of {self.scale}: the sum does not fit the modulus {self.modulus}"
            )
        return self

    @property
    def judges_groups(self) -> bool:
        """Whether rows are made by a rule that looks at groups one by one, rather than by their sum."""
        return self.rule != "mean" or self.reputation

    def digested(self) -> tuple[tuple[str, Any], ...]:
        """What of these stands in a deployment's digest: plain values by name, sorted."""
        values = {name: value for name, value in self.model_dump().items() if LATER.get(name, ...) != value}
        if "rule_options" in values:
            values["rule_options"] = tuple(values["rule_options"].items())
        return tuple(sorted(values.items()))

    @property
    def ring(self) -> Preset:
        return PRESETS[self.preset]

    @property
    def modulus(self) -> int:
        return self.ring.modulus

    @property
    def quorum(self) -> int:
        """n - t: acknowledgements and locks that a group needs."""
        return self.replicas - self.byzantine

    @property
    def threshold(self) -> int:
        """n - 2t: shares that open a sum."""
        return self.replicas - 2 * self.byzantine

    @property
    def certifiers(self) -> int:
        """t + 1: signatures of which at least one is honest."""
        return self.byzantine + 1

    @property
    def honest_members(self) -> int:
        """h: members of a minimal group that are assumed to add their noise."""
        return self.min_group - self.malicious_allowance

    @property
    def scale(self) -> int:
        """L: largest power of two <= 2^15 with L (max_group + 6.5 z sqrt(max_group/h)) <= q/2."""
        load = self.max_group + 6.5 * self.noise_multiplier * sqrt(self.max_group / self.honest_members)
        scale = MAX_SCALE
        while scale > 1 and scale * load > self.modulus / 2:
            scale //= 2
        return scale

    @property
    def payload_sigma(self) -> float:
        """Standard deviation of each client's payload error: its DP share, or the LWE error."""
        return max(ERROR_SIGMA, self.noise_multiplier * self.scale / sqrt(self.honest_members))

    @property
    def sends_weights(self) -> bool:
        """Whether uploads carry their weight: with noise on a row is divided by its public member count."""
        return self.weighting == "examples" and self.noise_multiplier == 0

    @property
    def extra_coordinates(self) -> int:
        """Coordinates of an upload beyond the model's: its weight, then (correct, count)."""
        return int(self.sends_weights) + 2 * int(self.metrics)

    def segments(self, weights: int, buffers: int) -> tuple[Segment, ...]:
        """Clip groups of a flat upload: `weights` coordinates of parameters, `buffers` of buffers, the extra ones.

        The extra coordinates have fixed shares of L; weights and buffers have equal shares of what is left.
        """
        extra = self._extra_segments(weights + buffers)
        room = self.scale**2 - sum(segment.bound**2 for segment in extra)
        if not buffers:
            return (Segment(0, weights, self.clip, isqrt(room)), *extra)
        bound = isqrt(room // 2)
        return (
            Segment(0, weights, self.clip, bound),
            Segment(weights, weights + buffers, self.buffer_clip, bound),
            *extra,
        )

    def _extra_segments(self, start: int) -> tuple[Segment, ...]:
        segments: list[Segment] = []
        if self.sends_weights:
            segments.append(Segment(start, start + 1, 1.0, self.scale // WEIGHT_SHARE))
            start += 1
        if self.metrics:
            # correct <= count <= cap, so that the pair's norm is at most cap * sqrt(2).
            norm = self.metrics_cap * sqrt(2)
            segments.append(Segment(start, start + 2, norm, self.scale // METRICS_SHARE))
        return tuple(segments)

    def upload_dimension(self, dimension: int) -> int:
        """Coordinates of an upload for a model of `dimension` coordinates."""
        return dimension + self.extra_coordinates

    def blocks(self, dimension: int) -> int:
        """Payload blocks of N coefficients of an upload for a model of `dimension` coordinates."""
        return max(1, -(-self.upload_dimension(dimension) // self.ring.degree))

    def upload_bytes(self, dimension: int) -> int:
        """Packed size of y for a model of `dimension` coordinates: all blocks at 23 bits a coefficient."""
        return (self.blocks(dimension) + CHECK_BLOCKS) * self.ring.degree * 23 // 8
