"""The generator of Go's `math/rand`, so that a seed means here what it meant in the runs that were published.

It adds two lagged outputs modulo 2^64 (x[n] = x[n-607] + x[n-273]); a seed fills the first 607 by a multiplicative
generator, mixed with the state that seed 1 reaches after 7.8e12 steps. That state is worked out here, by raising x to
that power modulo x^607 - x^334 - 1, rather than kept as a table.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_LONG: Final = 607
_SHORT: Final = 273
_STEPS: Final = 7_800_000_000_000
_BITS: Final = (1 << 64) - 1
_PRIME: Final = (1 << 31) - 1

Words = NDArray[np.uint64]


class GoRandom:
    """Numbers as Go's `math/rand` gives them after `rand.Seed(seed)`."""

    def __init__(self, seed: int) -> None:
        words = _filled(seed, 40, 20)
        self._state = [word ^ mixed for word, mixed in zip(words, _mixing(), strict=True)]
        self._tap, self._feed = 0, _LONG - _SHORT

    def int63(self) -> int:
        """Return a number below 2^63."""
        self._tap = (self._tap - 1) % _LONG
        self._feed = (self._feed - 1) % _LONG
        total = (self._state[self._feed] + self._state[self._tap]) & _BITS
        self._state[self._feed] = total
        return total & (_BITS >> 1)

    def below(self, end: int) -> int:
        """Return a number below `end` (Intn): of 31 bits, those past the last whole multiple drawn again."""
        if end & (end - 1) == 0:
            return (self.int63() >> 32) & (end - 1)
        largest = _PRIME - (1 << 31) % end
        drawn = self.int63() >> 32
        while drawn > largest:
            drawn = self.int63() >> 32
        return drawn % end

    def shuffle(self, values: MutableSequence[Any]) -> None:
        """Shuffle in place (Shuffle), from the last to the first."""
        for last in range(len(values) - 1, 0, -1):
            other = self._scaled(last + 1)
            values[last], values[other] = values[other], values[last]

    def permutation(self, size: int) -> list[int]:
        """Return the numbers below `size` in an order (Perm), built from the first on."""
        order = [0] * size
        for place in range(size):
            other = self.below(place + 1)
            order[place] = order[other]
            order[other] = place
        return order

    def _scaled(self, end: int) -> int:
        """Return a number below `end` by scaling 32 bits (Lemire)."""
        scaled = (self.int63() >> 31) * end
        if scaled & 0xFFFFFFFF < end:
            least = ((1 << 32) - end) % end
            while scaled & 0xFFFFFFFF < least:
                scaled = (self.int63() >> 31) * end
        return scaled >> 32


def _filled(seed: int, first_shift: int, second_shift: int) -> list[int]:
    """Return 607 words, each of three numbers of the multiplicative generator that starts with a seed."""
    number = seed % _PRIME or 89_482_311
    drawn: list[int] = []
    for _ in range(20 + 3 * _LONG):
        number = number * 48_271 % _PRIME
        drawn.append(number)
    parts = zip(drawn[20::3], drawn[21::3], drawn[22::3], strict=True)
    return [(a << first_shift ^ b << second_shift ^ c) & _BITS for a, b, c in parts]


@cache
def _mixing() -> tuple[int, ...]:
    """Return the state that seed 1 reaches after all those steps, by place."""
    filled = _filled(1, 20, 10)
    # the word written at step n stands at place (334 - n) mod 607; the first ones count as steps -606 to 0
    start = np.array([filled[(_LONG - _SHORT - step) % _LONG] for step in range(1 - _LONG, 1)], dtype=np.uint64)
    power = _power(_STEPS)
    state = [0] * _LONG
    for step in range(_STEPS + 1 - _LONG, _STEPS + 1):
        state[(_LONG - _SHORT - step) % _LONG] = int((power * start).sum(dtype=np.uint64))
        power = _reduced(np.concatenate([np.zeros(1, np.uint64), power]))
    return tuple(state)


def _power(exponent: int) -> Words:
    """Return x to a power modulo x^607 - x^334 - 1, the coefficients modulo 2^64."""
    result, base = np.zeros(_LONG, np.uint64), np.zeros(_LONG, np.uint64)
    result[0], base[1] = 1, 1
    while exponent:
        if exponent & 1:
            result = _reduced(np.convolve(result, base))
        base = _reduced(np.convolve(base, base))
        exponent >>= 1
    return result


def _reduced(polynomial: Words) -> Words:
    while len(polynomial) > _LONG:
        high = polynomial[_LONG:]
        low = np.zeros(max(_LONG, _LONG - _SHORT + len(high)), np.uint64)
        low[:_LONG] = polynomial[:_LONG]
        low[: len(high)] += high
        low[_LONG - _SHORT : _LONG - _SHORT + len(high)] += high
        polynomial = low
    return polynomial
