"""Rules that aggregate inputs of which some may be bad, for plain tensors as for opened groups.

>>> from asyncfl.rules import aggregate
>>> aggregate("krum", updates, byzantine=2)            # updates [n, d] -> [d]
>>> aggregate("bucketing", updates, byzantine=2, then="krum", size=2)

One file each; `RULES` has them by name, with what each sees, costs and stands.
"""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor

from asyncfl.errors import ParameterError
from asyncfl.rules.bulyan import Bulyan
from asyncfl.rules.clipping import CenteredClipping, NormClipping, NormRejection
from asyncfl.rules.fedaot import FedAOT, Trust, Weighed
from asyncfl.rules.fltrust import FLTrust
from asyncfl.rules.geometric_median import GeometricMedian
from asyncfl.rules.interface import Facts, Rule
from asyncfl.rules.krum import Krum, MultiKrum
from asyncfl.rules.mean import Mean
from asyncfl.rules.median import Median
from asyncfl.rules.mixing import Bucketing, NearestNeighborMixing
from asyncfl.rules.trimmed_mean import TrimmedMean

RULES: Final[dict[str, type[Rule]]] = {
    "mean": Mean,
    "median": Median,
    "trimmed_mean": TrimmedMean,
    "krum": Krum,
    "multi_krum": MultiKrum,
    "bulyan": Bulyan,
    "geometric_median": GeometricMedian,
    "centered_clipping": CenteredClipping,
    "norm_clipping": NormClipping,
    "norm_rejection": NormRejection,
    "bucketing": Bucketing,
    "nearest_neighbor_mixing": NearestNeighborMixing,
    "fltrust": FLTrust,
    "fedaot": FedAOT,
}


def make_rule(name: str, **options: Any) -> Rule:
    """The rule of that name with `options`; `then` may be a rule's name, too.

    Raises `ParameterError` for another name, or options it does not take.
    """
    if name not in RULES:
        raise ParameterError(f"no rule is called {name!r}; there are {', '.join(RULES)}")
    if isinstance(options.get("then"), str):
        options["then"] = make_rule(options["then"])
    try:
        return RULES[name](**options)
    except (TypeError, ParameterError) as error:
        raise ParameterError(f"rule {name}: {error}") from None


def aggregate(name: str, updates: Tensor, *, byzantine: int = 0, **options: Any) -> Tensor:
    """Aggregate `updates` [n, d], of which up to `byzantine` may be anything, into one [d] in their dtype.

    Raises `ParameterError` for an unknown rule or option, and `RuleError` for inputs that the rule cannot take: too few
    for so many bad ones, another shape, or not finite.
    """
    return make_rule(name, **options)(updates, byzantine)


__all__ = [
    "RULES", "Bucketing", "Bulyan", "CenteredClipping", "FLTrust", "Facts", "FedAOT", "GeometricMedian", "Krum", "Mean",
    "Median", "MultiKrum", "NearestNeighborMixing", "NormClipping", "NormRejection", "Rule", "TrimmedMean", "Trust",
    "Weighed", "aggregate", "make_rule",
]  # fmt: skip
