"""The file of an experiment with malicious clients (`kind = "poisoning"`): its keys, and what is refused."""

from __future__ import annotations

from itertools import product
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from asyncfl.errors import ConfigurationError
from asyncfl.poisoning import make_attack
from asyncfl.rules import RULES
from asyncfl.schedule import Schedule
from asyncfl.toml_document import parse_document
from asyncfl.toml_errors import explain
from node.experiment.configuration import Numbers, Partition, Positive, read_tables

WITH_OPTIONS: Final = ("bucketing", "nearest_neighbor_mixing")
"""Pre-aggregators: rules only with another one behind them."""
WITH_REPUTATION: Final = "+reputation"
"""Behind a rule's name: suspect groups are drawn to the centre before the rule sees them, as in the fold."""
WITHOUT_HOLDOUT: Final = "fedaot-agreement"
"""FedAOT as replicas run it: it learns from the agreement among inputs, no clean examples."""
NOBODY: Final = "none"
"""The attack of cells without attackers."""


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


Fraction = Annotated[float, Field(ge=0, lt=0.5)]
Share = Annotated[float, Field(gt=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Data(_Section):
    """Where examples come from. Without `archive`: scikit-learn's digits."""

    archive: str | None = None
    """A NumPy archive (docs/how-to/archives.md) in the directory that `--data` names."""
    train: Annotated[int, Field(ge=1)] | None = None
    """Training examples that are used, drawn once for each seed; absent: all."""
    test: Annotated[int, Field(ge=1)] | None = None
    holdout: Annotated[int, Field(ge=1)] = 100
    """Clean training examples that replicas hold, and no client, for FLTrust and FedAOT."""
    shrink: Annotated[int, Field(ge=1, le=4)] = 1
    """Images are averaged over squares of so many pixels a side."""
    model: Literal["conv", "perceptron", "softmax"] = "conv"


class Learned(_Section):
    """FedAOT's weights are learned under these attacks, in turn, before each of its runs."""

    attacks: Annotated[list[str], Field(min_length=1)]
    epochs: Annotated[int, Field(ge=1)]


class Cell(_Section):
    """One run: a rule against an attack."""

    attack: str
    malicious: float
    group: int
    rule: str
    seed: int
    noise_multiplier: float = 0.0

    @property
    def name(self) -> str:
        """For a file."""
        attack = self.attack.replace("|", "-or-").replace("+", "-and-").replace(" ", "")
        noise = f".noise-{self.noise_multiplier:g}" if self.noise_multiplier else ""
        return f"{attack}.{100 * self.malicious:g}.group-{self.group}.{self.rule}.seed-{self.seed}{noise}"


class Poisoning(_Section):
    """The whole file: every attack, fraction, group size, rule and seed with each other."""

    kind: Literal["poisoning"]
    name: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]
    clients: Annotated[int, Field(ge=4, le=1000)] = 20
    epochs: Annotated[int, Field(ge=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0, 1, 2]
    attacks: Annotated[list[str], Field(min_length=1)]
    unseen: list[str] = Field(default_factory=list)
    """Attacks that are compared with `attacks` as ones that nothing was learned from."""
    malicious: Annotated[list[Fraction], Field(min_length=1)]
    """Fractions of the clients."""
    groups: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = [1]
    """Sizes of the groups whose sums are all that rules see; 1: in the clear."""
    rules: Annotated[list[str], Field(min_length=1)]
    knowledge: Literal["all", "colluders"] = "all"
    """What attacks that look at others see: all honest updates (the worst case), or what the attackers themselves
    trained on their untouched data, as in a deployment."""
    clip: Positive | None = None
    """L2 norm that honest updates and opened means are cut to, as the protocol does; absent: no bound."""
    noise_multiplier: Annotated[list[Annotated[float, Field(ge=0)]], BeforeValidator(_listed)] = [0.0]
    """Of differential privacy: each group's sum has Gaussian noise of so many clips. One, or several to compare."""
    evaluate_every: Annotated[int, Field(ge=1)] = 5
    classes: Numbers | None = None
    """Whose accuracy is told separately."""
    data: Data = Data()
    training: Schedule
    partition: Partition = Partition()
    learned: Learned | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for rule in self.rules:
            plain = rule.removesuffix(WITH_REPUTATION)
            names = (*(name for name in RULES if name not in WITH_OPTIONS), WITHOUT_HOLDOUT)
            if plain not in names:
                known = ", ".join(names)
                raise ValueError(f"no rule is called {rule!r}; there are {known}")
        for attack in (*self.attacks, *self.unseen, *(self.learned.attacks if self.learned else ())):
            try:
                make_attack(attack)
            except ConfigurationError as error:
                raise ValueError(str(error)) from None
        if max(self.groups) > self.clients:
            raise ValueError(
                f"a group of {max(self.groups)} needs as many clients, and there are {self.clients}"
            )
        if self.partition.clients is not None and max(self.partition.clients) >= self.clients:
            raise ValueError(
                f"there is no client {max(self.partition.clients)}: they are 0 to {self.clients - 1}"
            )
        if any(self.noise_multiplier) and self.clip is None:
            raise ValueError("noise_multiplier needs a clip, whose multiple it is")
        if self.unseen and len(self.noise_multiplier) > 1:
            raise ValueError(
                "with unseen attacks, one noise_multiplier: what they cost is a mean over the attacks"
            )
        training = self.training
        if not training.local_steps or training.proximal or training.seconds or training.most_steps:
            raise ValueError("training needs local_steps, and takes neither proximal nor a budget here")
        return self

    def cells(self) -> list[Cell]:
        """Seed by seed, so that an interrupted experiment has whole comparisons; without attackers under no attack."""
        every = [*self.attacks, *self.unseen]
        return [
            Cell(
                attack=attack, malicious=malicious, group=group, rule=rule, seed=seed, noise_multiplier=noise
            )
            for seed, malicious, noise in product(self.seeds, self.malicious, self.noise_multiplier)
            for attack, group, rule in product(every if malicious else [NOBODY], self.groups, self.rules)
        ]

    def settings(self) -> dict[str, Any]:
        """What a cell's result depends on beside the cell: everything but the lists of cells."""
        lists = {"name", "seeds", "attacks", "unseen", "malicious", "groups", "rules", "noise_multiplier"}
        return self.model_dump(mode="json", exclude=lists)


def is_poisoning(text: str, *, source: str) -> bool:
    """Whether the file is of this kind. Raises `ConfigurationError` where it is no TOML."""
    return parse_document(text, source=source).get("kind") == "poisoning"


def parse_poisoning(text: str, *, source: str, reduced: bool = False) -> Poisoning:
    """The experiment that TOML `text` describes; `source` is the file's name. Raises `ConfigurationError`."""
    try:
        return Poisoning.model_validate(read_tables(text, source=source, reduced=reduced))
    except ValidationError as error:
        raise ConfigurationError(explain(error, Poisoning, source, text)) from None
