"""Sortable, prefixed identifiers: `job_01k...`: 48 bits of milliseconds, 80 bits of chance, Crockford base 32."""

from __future__ import annotations

import re

import numpy as np

from dujiang.kit.clock import Clock, to_micros

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_CHANCE_BITS = 80
_PATTERN = re.compile(r"[a-z]{2,8}_[0-9a-hjkmnp-tv-z]{26}")


class Ids:
    """Makes identifiers that sort by the time they were made, also within one millisecond and after a clock step."""

    def __init__(self, clock: Clock, rng: np.random.Generator) -> None:
        self._clock, self._rng = clock, rng
        self._last = 0

    def new(self, prefix: str) -> str:
        """Return a new identifier such as `job_01k8...` (26 characters after the prefix)."""
        millis = to_micros(self._clock.now()) // 1000
        chance = int.from_bytes(self._rng.bytes(_CHANCE_BITS // 8), "big") >> 1  # room to count upwards
        self._last = max((millis << _CHANCE_BITS) | chance, self._last + 1)
        return f"{prefix}_{_encode(self._last)}"


def is_id(text: str, prefix: str) -> bool:
    """Say whether text has the form of an identifier with that prefix."""
    return text.startswith(prefix + "_") and _PATTERN.fullmatch(text) is not None


def _encode(value: int) -> str:
    return "".join(_ALPHABET[(value >> shift) & 31] for shift in range(125, -1, -5))
