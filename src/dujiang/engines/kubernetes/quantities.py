"""Quantities as Kubernetes writes them: `500m`, `1Gi`, `1e3`, `100M`; inside, integers, rounded up as it does."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from dujiang.kit.units import BadQuantity

_NUMBER = re.compile(r"([+-]?)(\d*)\.?(\d*)((?:[KMGTPE]i|[numkMGTPE]|[eE][+-]?\d{1,3})?)", re.ASCII)
_BINARY: Final = {f"{letter}i": 1 << 10 * (place + 1) for place, letter in enumerate("KMGTPE")}
_POWERS: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_MOST: Final = (1 << 63) - 1
"""What Kubernetes caps quantities at."""


def milli_of(quantity: str | int | float) -> int:
    """Return thousandths, as of cores: `500m` is 500, `2` is 2000.

    Raises:
        BadQuantity: not a quantity.
    """
    return _scaled(str(quantity), 3)


def whole_of(quantity: str | int | float) -> int:
    """Return units, as of bytes or devices: `1Ki` is 1024, `100m` is 1.

    Raises:
        BadQuantity: not a quantity.
    """
    return _scaled(str(quantity), 0)


@lru_cache(4096)
def _scaled(text: str, places: int) -> int:
    """Return a quantity times 10^places, rounded up in magnitude; exact, since no float is on the way."""
    match = _NUMBER.fullmatch(text)
    if match is None or not (match[2] or match[3]):
        raise BadQuantity(f"{text!r} is not a quantity of Kubernetes")
    sign, before, after, suffix = match.groups()
    number, power = int(before + after or 0), places - len(after)
    if suffix in _BINARY:
        number *= _BINARY[suffix]
    else:
        power += _POWERS[suffix] if suffix in _POWERS else int(suffix[1:])
    if power < -64:
        number = min(number, 1)  # so little that one is the least there is
    ten: int = 10 ** min(abs(power), 64)
    amount = number * ten if power >= 0 else -(-number // ten)
    return min(amount, _MOST) * (-1 if sign == "-" else 1)
