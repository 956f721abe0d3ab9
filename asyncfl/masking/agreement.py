"""Which share sums lie on one polynomial, and which are thereby proven wrong.

Honest answers about one group lie on one polynomial of degree n-2t-1. Of n-t answers on such a polynomial n-2t are
honest, and those determine it: there is one at most, and whoever is off it has lied. With fewer, liars whose errors
cancel make an honest answer look wrong: n = 7, t = 2, two liars and one honest replica open by the right secret, on a
polynomial on which the four other honest answers do not lie.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from asyncfl.errors import InvalidItem
from asyncfl.federation import Federation
from asyncfl.masking.proof import CPU
from asyncfl.masking.sharing import lagrange_weights
from asyncfl.ring import centre_, from_lanes, packed_bytes, unpack


def read_element(packed: bytes, federation: Federation) -> Tensor:
    """The packed ring element as residues [32, 1, N/32]. Raises `InvalidItem` for a malformed one."""
    ring = federation.parameters.ring
    if len(packed) != packed_bytes(1, ring.degree):
        raise InvalidItem(f"a ring element of {len(packed)} bytes instead of {packed_bytes(1, ring.degree)}")
    return unpack(packed, ring.degree, ring.modulus, CPU)


def read_answers(answers: Mapping[int, bytes], federation: Federation) -> dict[int, Tensor]:
    """The well-formed ones of replicas' packed share sums: centred float64 [N], by ascending replica."""
    elements: dict[int, Tensor] = {}
    for index in sorted(answers):
        try:
            element = from_lanes(read_element(answers[index], federation))[0]
        except InvalidItem:
            continue
        elements[index] = centre_(element.to(torch.float64), federation.parameters.modulus)
    return elements


def find_agreeing(elements: Mapping[int, Tensor], through: Sequence[int], modulus: int) -> tuple[int, ...]:
    """The replicas whose answers lie on the polynomial through the answers of `through`, ascending."""
    points = [index + 1 for index in through]
    indices = sorted(elements)
    rows = [lagrange_weights(points, index + 1, modulus) for index in indices]
    matrix = centre_(torch.tensor(rows, dtype=torch.float64), modulus)
    known = torch.stack([elements[index] for index in through])
    difference = centre_(matrix @ known - torch.stack([elements[index] for index in indices]), modulus)
    same = (difference == 0).all(1).tolist()
    return tuple(index for index, equal in zip(indices, same, strict=True) if equal)


def find_wrong(
    answers: Mapping[int, bytes], federation: Federation, *, distrusted: Collection[int] = ()
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """n-t or more replicas whose answers lie on one polynomial, and all others that gave one: proven wrong.

    Two empty tuples where no n-t answers agree. `distrusted` are tried last: with up to t liars among the others,
    up to C(n, n-2t) subsets are tried.
    """
    parameters = federation.parameters
    elements = read_answers(answers, federation)
    order = sorted(elements, key=lambda index: (index in distrusted, index))
    for through in combinations(order, parameters.threshold):
        agreeing = find_agreeing(elements, through, parameters.modulus)
        if len(agreeing) >= parameters.quorum:
            return agreeing, tuple(sorted(set(answers) - set(agreeing)))
    return (), ()
