"""Quantities as people write them: `0.25`, `250m`, `16GiB`, `2h30m`; inside, integers.

Shares and cores become thousandths, sizes bytes, durations microseconds. Printing a share gives a form that parses back
to the same integer; sizes and durations that are not round are printed to a few figures.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Final

from dujiang.kit.errors import Invalid

MAX_MILLI: Final = 10**12
MAX_BYTES: Final = 2**60
MAX_DURATION_S: Final = 100 * 366 * 86400

_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}
_DECIMAL = {"k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGTP]i|[kKMGTP])?B?)")
_PART = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d|w)")
_SECONDS = {
    "us": Decimal("0.000001"), "ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600),
    "d": Decimal(86400), "w": Decimal(604800),
}  # fmt: skip
_CLOCK = re.compile(r"(?:(\d+)-)?(\d{1,3}):(\d{2})(?::(\d{2}))?")


class BadQuantity(Invalid):
    """A share, size or duration that cannot be read."""

    code, title = "bad_quantity", "A quantity cannot be read"


def parse_milli(value: str | int | float | Decimal) -> int:
    """Return thousandths of `2`, `0.25`, `1/8` or `250m`.

    Raises:
        BadQuantity: not a number, negative, finer than a thousandth or beyond 10^9 units.
    """
    text = _text(value)
    try:
        if text.endswith("m"):
            amount = Decimal(text[:-1])
        elif "/" in text:
            above, below = text.split("/", 1)
            amount = Decimal(above) * 1000 / Decimal(below)
        else:
            amount = Decimal(text) * 1000
    except ArithmeticError as error:  # also Overflow, of an exponent such as 9e999999999
        raise BadQuantity(f'"{text}" is not a share; write 0.25, 1/4, 250m or 2.') from error
    if amount.is_finite() and amount < 0:
        raise BadQuantity(f'"{text}" must not be negative.')
    if not amount.is_finite() or amount > MAX_MILLI:
        raise BadQuantity(f'"{text}" is out of range; 0 to {MAX_MILLI // 1000} is taken.')
    if amount != amount.to_integral_value():
        raise BadQuantity(f'"{text}" is finer than a thousandth; the smallest share is 1m (0.001).')
    return int(amount)


def parse_bytes(value: str | int | float) -> int:
    """Return bytes of `16GiB`, `500M`, `1.5Gi` or a plain number; `k M G T P` are powers of 1000, with `i` of 1024.

    Raises:
        BadQuantity: not a size, negative, not a whole number of bytes or beyond 1 EiB.
    """
    text = _text(value)
    match = _SIZE.fullmatch(text)
    if match is None:
        raise BadQuantity(f'"{text}" is not a size; write 16GiB, 512MiB, 500M or a number of bytes.')
    unit = match[2] or ""
    size = Decimal(match[1]) * (_BINARY.get(unit) or _DECIMAL.get(unit) or 1)
    if size > MAX_BYTES:
        raise BadQuantity(f'"{text}" is more than 1 EiB.')
    if size != size.to_integral_value():
        raise BadQuantity(f'"{text}" is not a whole number of bytes.')
    return int(size)


def parse_duration_s(value: str | int | float) -> float:
    """Return seconds of `2h30m`, `90s`, `1.5h`, Slurm's `HH:MM:SS` and `D-HH:MM`, or a plain number of seconds.

    Raises:
        BadQuantity: not a duration, negative, or longer than 100 years.
    """
    text = _text(value)
    seconds = _clock_form(text)
    if seconds is None:
        parts = _PART.findall(text)
        if parts and "".join(number + unit for number, unit in parts) == text.replace(" ", ""):
            seconds = sum((Decimal(number) * _SECONDS[unit] for number, unit in parts), Decimal(0))
        else:
            try:
                seconds = Decimal(text)
            except InvalidOperation as error:
                raise BadQuantity(f'"{text}" is not a duration; write 2h30m, 90s, 1d or 01:30:00.') from error
    if not seconds.is_finite() or not 0 <= seconds <= MAX_DURATION_S:
        raise BadQuantity(f'"{text}" is out of range; a duration is between 0 and 100 years.')
    return float(seconds)


def format_milli(milli: int) -> str:
    """Return thousandths as people read them: 2, 0.25, 0.125."""
    return f"{Decimal(milli) / 1000:f}".rstrip("0").rstrip(".") if milli % 1000 else str(milli // 1000)


def format_bytes(size: int) -> str:
    """Return bytes in the largest binary unit that keeps them exact, or to three or four figures: 16GiB, 1.5GiB."""
    for unit, factor in reversed(_BINARY.items()):
        if abs(size) >= factor:
            amount = Decimal(size) / factor
            whole = amount == amount.to_integral_value() or abs(amount) >= 1000  # else .3g would write 1.02e+03
            return f"{int(amount)}{unit}B" if whole else f"{amount:.3g}{unit}B"
    return f"{size}B"


def format_duration(seconds: float) -> str:
    """Return seconds as people read them, at most two units: 2h30m, 1m05s, 1.25s, 40ms."""
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.2f}".rstrip("0").rstrip(".") + "s"
    whole = round(seconds)
    days, hours, minutes, rest = whole // 86400, whole // 3600 % 24, whole // 60 % 60, whole % 60
    if days:
        return f"{days}d{hours:02d}h" if hours else f"{days}d"
    if hours:
        return f"{hours}h{minutes:02d}m" if minutes else f"{hours}h"
    return f"{minutes}m{rest:02d}s" if rest else f"{minutes}m"


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise BadQuantity(f"{value!r} is not a quantity.")
    text = str(value).strip()
    if len(text) > 40:
        raise BadQuantity(f'"{text[:40]}..." is too long for a quantity.')
    return text


def _clock_form(text: str) -> Decimal | None:
    match = _CLOCK.fullmatch(text)
    if match is None:
        return None
    days, first, second, third = (int(group) if group else 0 for group in match.groups())
    if match[1] is None and match[4] is None:  # Slurm reads MM:SS
        return Decimal(first * 60 + second)
    return Decimal(days * 86400 + first * 3600 + second * 60 + third)
