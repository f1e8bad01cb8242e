"""How Kubernetes and Slurm write amounts: exact, in our inner units."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from typing import Final

from dujiang.kit.errors import Invalid

_QUANTITY: Final = re.compile(
    r"\+?([0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:([eE][-+]?[0-9]{1,2})|([KMGTPE]i|[numkMGTPE]))?"
)
_SCALES: Final = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "k": Decimal(10**3), "M": Decimal(10**6),
    "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15), "E": Decimal(10**18),
    **{f"{letter}i": Decimal(1024 ** (power + 1)) for power, letter in enumerate("KMGTPE")},
}  # fmt: skip
_SLURM_SIZE: Final = re.compile(r"([0-9]{1,15})(?:([KMGT])B?)?", re.IGNORECASE)
_MIB: Final = 2**20
_SLURM_UNITS: Final = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SLURM_TIME: Final = re.compile(
    r"(?:(?P<days>\d{1,9})-(?P<dh>\d{1,9})(?::(?P<dm>\d{1,9})(?::(?P<ds>\d{1,9}))?)?"
    r"|(?P<h>\d{1,9}):(?P<hm>\d{1,9}):(?P<hs>\d{1,9})|(?P<m>\d{1,9})(?::(?P<ms>\d{1,9}))?)"
)


class BadAmount(Invalid):
    """An amount of another system that cannot be read."""

    code, title = "bad_amount", "An amount cannot be read"


def quantity(text: str) -> Decimal:
    """Return a quantity of Kubernetes: `500m`, `1.5Gi`, `2e3`.

    Raises:
        BadAmount: not a quantity.
    """
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise BadAmount("This is not a quantity of Kubernetes, such as 500m, 2 or 16Gi.")
    return Decimal(match[1]) * (Decimal(f"1{match[2]}") if match[2] else _SCALES.get(match[3] or "", Decimal(1)))


def up(amount: Decimal) -> int:
    """Return the next whole number."""
    return int(amount.to_integral_value(ROUND_CEILING))


def slurm_bytes(text: str) -> int:
    """Return bytes of Slurm's `4G` in whole MiB, as Slurm counts; without a unit it is MiB.

    Raises:
        BadAmount: not a size.
    """
    match = _SLURM_SIZE.fullmatch(text.strip())
    if match is None:
        raise BadAmount("This is not a size of Slurm, such as 16G or 4096 (MiB).")
    size = int(match[1]) * _SLURM_UNITS[(match[2] or "M").upper()]
    return -(-size // _MIB) * _MIB


def slurm_seconds(text: str) -> int | None:
    """Return seconds of Slurm's time, rounded up to whole minutes as Slurm does; None is no limit.

    The forms are minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes and
    days-hours:minutes:seconds.

    Raises:
        BadAmount: not a time.
    """
    text = text.strip()
    if text.upper() in ("UNLIMITED", "INFINITE", "-1"):
        return None
    match = _SLURM_TIME.fullmatch(text)
    if match is None:
        raise BadAmount("This is not a time of Slurm, such as 90 (minutes), 2:30:00 or 1-12 (days-hours).")
    part = {name: int(value or 0) for name, value in match.groupdict().items()}
    hours, minutes = part["dh"] + part["h"], part["dm"] + part["hm"] + part["m"]
    seconds = part["ds"] + part["hs"] + part["ms"]
    whole = part["days"] * 86400 + hours * 3600 + minutes * 60 + seconds
    return -(-whole // 60) * 60 or None
