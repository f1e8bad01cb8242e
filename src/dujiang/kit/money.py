"""Money: a Decimal amount with its currency, rounded once, at the line of a bill."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

from dujiang.kit.errors import Invalid

# Decimal places of the smallest unit (ISO 4217); what is not here has two.
_EXPONENT: Final = {"JPY": 0, "KRW": 0, "BHD": 3, "KWD": 3}


class CurrencyMismatch(Invalid):
    """Two amounts of different currencies were added."""

    code, title = "currency_mismatch", "Different currencies"


@dataclass(frozen=True, slots=True, order=False)
class Money:
    """An exact amount of one currency (ISO 4217 code)."""

    amount: Decimal
    currency: str

    def __add__(self, other: Money) -> Money:
        if other.currency != self.currency:
            raise CurrencyMismatch(f"{self.currency} and {other.currency} cannot be added; convert one of them first.")
        return Money(self.amount + other.amount, self.currency)

    def __sub__(self, other: Money) -> Money:
        return self + Money(-other.amount, other.currency)

    def rounded(self) -> Money:
        """Return the amount in whole smallest units, half up (away from zero)."""
        return Money(
            self.amount.quantize(Decimal(1).scaleb(-_EXPONENT.get(self.currency, 2)), ROUND_HALF_UP), self.currency
        )

    def __str__(self) -> str:
        return f"{self.amount} {self.currency}"


def zero(currency: str) -> Money:
    """Return no money of that currency."""
    return Money(Decimal(0), currency)
