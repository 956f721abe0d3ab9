"""Ring arithmetic, packing, public polynomials and the discrete Gaussian, slow and obviously right: plain
integers.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from hashlib import blake2b

from nacl.bindings import randombytes_buf_deterministic

BITS = 23
LANES_DEPTH = 32


def multiply(left: list[int], right: list[int], modulus: int) -> list[int]:
    """Schoolbook product in Z_q[X]/(X^N+1)."""
    degree = len(left)
    product = [0] * degree
    for i, first in enumerate(left):
        for j, second in enumerate(right):
            if i + j < degree:
                product[i + j] += first * second
            else:
                product[i + j - degree] -= first * second
    return [coefficient % modulus for coefficient in product]


def add(*polynomials: list[int], modulus: int) -> list[int]:
    return [sum(column) % modulus for column in zip(*polynomials, strict=True)]


def centred(value: int, modulus: int) -> int:
    """The residue of least magnitude."""
    value %= modulus
    return value - modulus if value > modulus // 2 else value


def root_of_unity(degree: int, modulus: int) -> int:
    """psi with psi^N = -1: g^((q-1)/2N) for the smallest g that gives one."""
    for generator in range(2, modulus):
        root = pow(generator, (modulus - 1) // (2 * degree), modulus)
        if pow(root, degree, modulus) == modulus - 1:
            return root
    raise AssertionError("no root")


def value_at(polynomial: list[int], point: int, modulus: int) -> int:
    total = 0
    for coefficient in reversed(polynomial):
        total = (total * point + coefficient) % modulus
    return total


def spectrum(polynomial: list[int], modulus: int) -> list[int]:
    """Values at psi^(2k+1), k = 0..N-1."""
    degree = len(polynomial)
    root = root_of_unity(degree, modulus)
    return [value_at(polynomial, pow(root, 2 * k + 1, modulus), modulus) for k in range(degree)]


def from_spectrum(values: list[int], modulus: int) -> list[int]:
    """The polynomial with these values at psi^(2k+1)."""
    degree = len(values)
    inverse_root = pow(root_of_unity(degree, modulus), -1, modulus)
    powers = [1]
    for _ in range(2 * degree - 1):
        powers.append(powers[-1] * inverse_root % modulus)
    scale = pow(degree, -1, modulus)
    return [
        scale
        * sum(value * powers[i * (2 * k + 1) % (2 * degree)] for k, value in enumerate(values))
        % modulus
        for i in range(degree)
    ]


def digest(domain: str, *parts: bytes) -> bytes:
    state = blake2b(digest_size=32)
    for part in (domain.encode(), *parts):
        state.update(len(part).to_bytes(8, "little") + part)
    return state.digest()


def public_spectrum(deployment: bytes, kind: str, index: int, degree: int, modulus: int) -> list[int]:
    """Values of a_index in natural order of frequency k = r + 32 m; the stream gives them row by row, r
    first.
    """
    seed = digest(
        f"asyncfl/1/public-{kind}",
        deployment,
        *(value.to_bytes(8, "little") for value in (degree, modulus, index)),
    )
    stream = randombytes_buf_deterministic(8 * degree + 1024, seed)
    words = (int.from_bytes(stream[at : at + 4], "little") for at in range(0, len(stream), 4))
    accepted = [low for word in words if (low := word % (1 << BITS)) < modulus]
    columns = degree // LANES_DEPTH
    values = [0] * degree
    for row in range(LANES_DEPTH):
        for column in range(columns):
            values[row + LANES_DEPTH * column] = accepted[row * columns + column]
    return values


def public_polynomial(deployment: bytes, kind: str, index: int, degree: int, modulus: int) -> list[int]:
    return from_spectrum(public_spectrum(deployment, kind, index, degree, modulus), modulus)


def pack(coefficients: list[int], degree: int) -> bytes:
    """Block by block; in a block, column c's 32 coefficients c, c + N/32, ... as one bit string, lowest bit
    first.
    """
    columns = degree // LANES_DEPTH
    packed = bytearray()
    for start in range(0, len(coefficients), degree):
        block = coefficients[start : start + degree]
        numbers = []
        for column in range(columns):
            bits = "".join(
                format(block[row * columns + column], f"0{BITS}b")[::-1] for row in range(LANES_DEPTH)
            )
            numbers.append(bits)
        for word in range(BITS):
            for bits in numbers:
                packed += int(bits[32 * word : 32 * word + 32][::-1], 2).to_bytes(4, "little")
    return bytes(packed)


def unpack(data: bytes, degree: int) -> list[int]:
    columns = degree // LANES_DEPTH
    size = degree * BITS // 8
    coefficients: list[int] = []
    for start in range(0, len(data), size):
        words = [int.from_bytes(data[at : at + 4], "little") for at in range(start, start + size, 4)]
        block = [0] * degree
        for column in range(columns):
            bits = "".join(format(words[word * columns + column], "032b")[::-1] for word in range(BITS))
            for row in range(LANES_DEPTH):
                block[row * columns + column] = int(bits[BITS * row : BITS * row + BITS][::-1], 2)
        coefficients += block
    return coefficients


def gaussian_probabilities(sigma: float, reach: int) -> dict[int, Decimal]:
    """P(X = x) of the discrete Gaussian for |x| <= reach; the sum is cut at 16 sigma beyond."""
    with localcontext() as context:
        context.prec = 60
        exact = Decimal(sigma)
        span = reach + int(16 * sigma) + 1
        weights = [(-Decimal(x * x) / (2 * exact * exact)).exp() for x in range(span)]
        total = 2 * sum(weights) - 1
        return {x: weights[abs(x)] / total for x in range(-reach, reach + 1)}
