"""The rule that replicas apply to opened groups: made from the parameters, and held against what clients can yield.

A rule counts bad *inputs*, and an input is a group: one poisoned member spoils it. So what a fraction of malicious
clients means for a rule depends on how small groups are, and how many there are of them:

    P(a group of s is clean) = C(clients - bad, s) / C(clients, s)

Small cells give more groups, and cleaner ones. Imports torch (with the rules).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from inspect import signature
from math import ceil, comb
from typing import Final, Self

import torch
from torch import Tensor

from asyncfl.errors import ParameterError, RuleError
from asyncfl.parameters import NEED_A_REFERENCE, Parameters
from asyncfl.privacy.allowance import Cells, colluders
from asyncfl.rules import RULES, Bucketing, FedAOT, Mean, Median, Rule, Trust, make_rule
from asyncfl.rules.arithmetic import EXACT

EXCEEDED: Final = 0.01
"""Probability, for each epoch, that more groups are bad than `bad_groups` allows for."""

OWN_OPTIONS: Final = ("seed", "trust", "arithmetic")
"""What replicas work out themselves."""
_NOT_SECOND: Final = (*NEED_A_REFERENCE, "fedaot", "bucketing", "nearest_neighbor_mixing")
SECOND: Final = tuple(name for name in RULES if name not in _NOT_SECOND)
"""Rules that may follow a pre-aggregator."""
FULL: Final = (
    "median",
    "trimmed_mean",
    "krum",
    "multi_krum",
    "bulyan",
    "geometric_median",
    "centered_clipping",
)
"""Rules with a bound for bad inputs of any length and direction, without options."""
LARGEST_SHARE: Final = 0.99
"""What no rule stands, where more must be expected: `check_rule` refuses it."""


@dataclass(frozen=True, slots=True)
class GroupRule:
    """A rule, and the share of its inputs that may be bad."""

    rule: Rule
    bad_groups: float

    def byzantine(self, inputs: int) -> int:
        """How many of so many inputs may be bad: the share of them, rounded up."""
        return ceil(self.bad_groups * inputs - 1e-9)

    def suffices(self, inputs: int) -> bool:
        """Whether the rule stands the bad ones among so many inputs."""
        return inputs >= max(1, self.rule.least_inputs(self.byzantine(inputs)))

    def combine(self, means: Tensor, seed: bytes, trust: Trust | None) -> tuple[Tensor, Trust | None]:
        """The result for one row, float64 [d], of group `means` [n, d]; and what a rule that learns has learned.

        What is drawn by lot is drawn with `seed`, known once the inputs are. `trust` is that after the row before.
        """
        byzantine = self.byzantine(len(means))
        if isinstance(self.rule, FedAOT):
            weighed = replace(self.rule, trust=trust or Trust()).step(means, byzantine)
            return weighed.aggregate.to(torch.float64), weighed.trust
        rule = replace(self.rule, seed=seed) if isinstance(self.rule, Bucketing) else self.rule
        return rule.combine(means, byzantine), None


def make_group_rule(parameters: Parameters) -> GroupRule:
    """Raises `ParameterError` for options that the rule does not take."""
    name, options = parameters.rule, dict(parameters.rule_options)
    if "then" in options and options["then"] not in SECOND:
        raise ParameterError(f"rule option then: one of {', '.join(SECOND)}, not {options['then']!r}")
    names = [option for option in signature(RULES[name]).parameters if option not in OWN_OPTIONS]
    for key in options:
        if key not in names:
            known = f"its options are {', '.join(names)}" if names else "it has none"
            raise ParameterError(f"rule {name} has no option {key!r}; {known}")
    if name == "fedaot":
        options["arithmetic"] = EXACT
    return GroupRule(make_rule(name, **options), parameters.bad_groups)


def most_bad(rule: Rule, inputs: int) -> int | None:
    """How many bad ones among `inputs` the rule stands; None where it cannot work on so few at all."""
    return max((f for f in range(inputs) if rule.least_inputs(f) <= inputs), default=None)


def clean_probability(clients: int, group: int, bad_clients: float) -> float:
    """That none of a random `group` of the `clients` is among those, a fraction `bad_clients`, that are malicious."""
    return comb(clients - colluders(clients, bad_clients), group) / comb(clients, group)


def likely_bad(cells: Cells, bad_clients: float) -> int:
    """The number of bad groups of an epoch that is exceeded with probability `EXCEEDED` at most.

    Cells are filled without replacement, so that bad ones are negatively associated: the binomial law bounds the tail.
    No more can be bad than there are bad clients.
    """
    count, bad = cells.count, 1.0 - clean_probability(cells.clients, cells.largest, bad_clients)
    most = min(count, colluders(cells.clients, bad_clients))
    tail, reached = 1.0, -1
    while tail > EXCEEDED and reached < most:
        reached += 1
        tail -= comb(count, reached) * bad**reached * (1.0 - bad) ** (count - reached)
    return reached


@dataclass(frozen=True, slots=True)
class Yield:
    """What a deployment gives a rule at a time, with every client present, and what it assumes of the clients."""

    clients: int
    cell_size: int
    rows: int
    """Rows that hold groups of n - t coordinators."""
    groups: int
    """Groups of these rows: the rule's inputs."""
    bad_clients: float
    clean: float
    """Probability that a group is clean."""
    bad: int
    """Bad groups to be expected among them."""

    @classmethod
    def of(cls, parameters: Parameters, clients: int, cell_size: int) -> Self:
        cells = Cells(clients, cell_size, parameters.replicas)
        rows = -(-parameters.quorum // cells.count)
        clean = clean_probability(clients, cells.largest, parameters.bad_clients)
        bad = likely_bad(cells, parameters.bad_clients) * rows
        return cls(clients, cell_size, rows, cells.count * rows, parameters.bad_clients, clean, bad)

    def sentence(self) -> str:
        """What it yields, for people."""
        rows = "an epoch yields" if self.rows == 1 else f"{self.rows} epochs yield"
        told = f"{rows} {self.groups} groups, from cells of {self.cell_size} clients"
        if not self.bad_clients:
            return f"{told}; no assumption is made of how many clients are malicious (--bad-clients)"
        return (
            f"{told}; if {self.bad_clients:.0%} of {self.clients} clients are malicious, a group is clean with "
            f"probability {self.clean:.2g}, and up to {self.bad} are bad"
        )


def settle_rule(parameters: Parameters, clients: int) -> Parameters:
    """The parameters of a new deployment, with `bad_groups` worked out where it is not given.

    From `bad_clients` where that is given; else as many as the rule stands. Raises `ParameterError`.
    """
    if parameters.rule == "mean" or parameters.bad_groups:
        return parameters
    given = Yield.of(parameters, clients, parameters.cell_size)
    stood = most_bad(make_group_rule(parameters).rule, given.groups) or 0
    bad = given.bad if parameters.bad_clients else stood
    share = min(bad / given.groups, LARGEST_SHARE)
    return Parameters.model_validate({**parameters.model_dump(), "bad_groups": share})


def check_rule(parameters: Parameters, clients: int) -> None:
    """Raise `RuleError` unless the rule stands the bad groups among those that `clients` yield."""
    used = make_group_rule(parameters)
    if parameters.rule == "mean":
        _check_mean(parameters, clients)
        return
    given = Yield.of(parameters, clients, min(parameters.cell_size, clients))
    allowed = used.byzantine(given.groups)
    if used.suffices(given.groups) and given.bad <= allowed:
        return
    stood = most_bad(used.rule, given.groups)
    least = used.rule.least_inputs(0)
    limit = (
        f"needs {least} groups or more" if stood is None else f"stands {stood} bad groups of {given.groups}"
    )
    raise RuleError(
        f"rule {parameters.rule} {limit} ({used.rule.facts.bound}), and has to stand {max(allowed, given.bad)}: "
        f"{given.sentence()}; {_remedy(used.rule, parameters, clients)}"
    )


def _check_mean(parameters: Parameters, clients: int) -> None:
    """The mean stands nobody: refused as soon as malicious clients are assumed."""
    if not parameters.bad_clients:
        return
    given = Yield.of(parameters, clients, min(parameters.cell_size, clients))
    do = [name for name in FULL if given.groups >= make_rule(name).least_inputs(given.bad)]
    if do:
        remedy = f"take --rule {' or '.join(do)}"
    else:
        remedy = f"no rule stands them as it is; for the median: {_remedy(Median(), parameters, clients)}"
    raise RuleError(
        f"rule mean stands no bad group ({Mean.facts.bound}), and has to stand {given.bad}: {given.sentence()}; "
        f"{remedy}"
    )


def warn_of_rule(parameters: Parameters, clients: int) -> str | None:
    """That a robust rule stands no bad group of so few, for people; None where it stands some, or is the mean."""
    if parameters.rule == "mean" or parameters.bad_groups:
        return None
    given = Yield.of(parameters, clients, min(parameters.cell_size, clients))
    return (
        f"rule {parameters.rule} stands no bad group of {given.groups} "
        f"({make_group_rule(parameters).rule.facts.bound}): one malicious client moves the model as with the mean; "
        "enrol more clients, make cells smaller, or take another rule, such as median"
    )


def explain_rule(parameters: Parameters, clients: int) -> str:
    """What the rule stands, and what that takes, for people."""
    given = Yield.of(parameters, clients, min(parameters.cell_size, clients))
    allowed = make_group_rule(parameters).byzantine(given.groups)
    return f"stands {allowed} bad {'group' if allowed == 1 else 'groups'}; {given.sentence()}"


def _remedy(rule: Rule, parameters: Parameters, clients: int) -> str:
    """The largest smaller cells of which it would stand the bad ones."""
    for size in range(min(parameters.cell_size, clients) - 1, 0, -1):
        given = Yield.of(parameters, clients, size)
        if given.groups >= max(1, rule.least_inputs(given.bad)):
            return (
                f"many small cells for each coordinator give more groups, and cleaner ones: cell_size={size} gives "
                f"{given.groups}, of which up to {given.bad} are bad; or assume fewer malicious clients"
            )
    return "no smaller cells would do: enrol more clients, assume fewer malicious ones, or take another rule"
