"""Whether what was charged is what the ledger says: each microsecond of each closed row and resource, exactly once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dujiang.billing.domain.prices import Resource

IntArray = npt.NDArray[np.int64]
RESOURCES: Final = tuple(Resource)
MOST_OFFENCES: Final = 100


@dataclass(frozen=True, slots=True)
class RatedRows:
    """The ledger's rows up to where rating has come, in order of identifier."""

    ids: npt.NDArray[np.bytes_]
    started: IntArray
    ended: IntArray
    amounts: IntArray
    """(rows, 5), columns in the order of `RESOURCES`."""


@dataclass(frozen=True, slots=True)
class ChargeRows:
    """All charges, in any order."""

    ids: npt.NDArray[np.bytes_]
    allocation_ids: npt.NDArray[np.bytes_]
    resource: IntArray
    """Index into RESOURCES."""
    amount: IntArray
    start: IntArray
    end: IntArray


@dataclass(frozen=True, slots=True)
class Offence:
    """A row of the ledger, or a charge, that is not as it must be."""

    allocation_id: str
    """Empty where the charge itself is at fault."""
    resource: Resource | None
    ledger_quantity: int
    charged_quantity: int
    charge_ids: tuple[str, ...]
    sentence: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Ledger and charges of one resource, in thousandths or bytes times microseconds."""

    resource: Resource
    ledger_quantity: int
    charged_quantity: int

    @property
    def difference(self) -> int:
        """Return what was charged too much; 0 when all is well."""
        return self.charged_quantity - self.ledger_quantity


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of the check."""

    rows: int
    charges: int
    identities: tuple[Identity, ...]
    offences: tuple[Offence, ...]
    """At most a hundred."""
    waiting: int
    """Rows that are closed and not charged yet: they wait for the loop that rates."""

    @property
    def holds(self) -> bool:
        """Say whether charges and ledger are the same."""
        return not self.offences and all(identity.difference == 0 for identity in self.identities)


def compare(ledger: RatedRows, charges: ChargeRows, *, waiting: int = 0) -> Verdict:
    """Compare row by row; O(n log n)."""
    offences: list[Offence] = []
    identities: list[Identity] = []
    at, known = _positions(ledger.ids, charges.allocation_ids)
    for code, resource in enumerate(RESOURCES):
        mine = charges.resource == code
        amounts = ledger.amounts[:, code]
        lengths = np.where(amounts > 0, ledger.ended - ledger.started, 0)
        charged = _product(charges.amount[mine], charges.end[mine] - charges.start[mine])
        identities.append(Identity(resource, _product(amounts, lengths), charged))
        chosen = np.flatnonzero(mine & known)
        wrong = _wrong_rows(ledger, charges, at, chosen, amounts, lengths)
        offences += [
            _offence(ledger, charges, chosen[at[chosen] == row], int(row), code)
            for row in wrong[: MOST_OFFENCES - len(offences)]
        ]
    strays = np.flatnonzero(~known)[: MOST_OFFENCES - len(offences)]
    offences += [_stray(charges, int(row)) for row in strays]
    return Verdict(len(ledger.ids), len(charges.ids), tuple(identities), tuple(offences), waiting)


def _positions(ids: npt.NDArray[np.bytes_], wanted: npt.NDArray[np.bytes_]) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    if not len(ids):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), np.bool_)
    at = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1).astype(np.int64)
    return at, ids[at] == wanted


def _wrong_rows(
    ledger: RatedRows, charges: ChargeRows, at: IntArray, chosen: IntArray, amounts: IntArray, lengths: IntArray
) -> IntArray:
    """Return rows whose charges do not follow one another from the row's start to its end at the row's amount."""
    order = chosen[np.lexsort((charges.start[chosen], at[chosen]))]
    row = at[order]
    wrong = np.zeros(len(ledger.ids), np.bool_)
    wrong[row[charges.amount[order] != amounts[row]]] = True
    wrong[row[charges.end[order] <= charges.start[order]]] = True
    first = np.diff(row, prepend=-1) != 0
    last = np.diff(row, append=-1) != 0
    wrong[row[first & (charges.start[order] != ledger.started[row])]] = True
    wrong[row[last & (charges.end[order] != ledger.ended[row])]] = True
    inner = np.flatnonzero(~first)
    wrong[row[inner[charges.start[order[inner]] != charges.end[order[inner - 1]]]]] = True
    charged = np.zeros(len(ledger.ids), np.bool_)
    charged[row] = True
    wrong |= charged != (lengths > 0)
    return np.flatnonzero(wrong)


def _product(amounts: IntArray, lengths: IntArray) -> int:
    """Return the exact sum of products, which do not fit 64 bits: lengths are added up by amount first."""
    values, where = np.unique(amounts, return_inverse=True)
    sums = np.zeros(len(values), np.int64)
    np.add.at(sums, where, lengths)
    return sum(int(value) * int(length) for value, length in zip(values, sums, strict=True))


def _offence(ledger: RatedRows, charges: ChargeRows, mine: IntArray, row: int, code: int) -> Offence:
    held = int(ledger.amounts[row, code]) * int(ledger.ended[row] - ledger.started[row])
    charged = sum(int(charges.amount[each]) * int(charges.end[each] - charges.start[each]) for each in mine)
    if charged == held:
        why = "as much as it held, but not each moment once"
    else:
        why = "more than it held" if charged > held else "less than it held"
    return Offence(
        _text(ledger.ids, row), RESOURCES[code], held, charged, _texts(charges.ids, mine),
        f"This row of the ledger is charged {why}.",
    )  # fmt: skip


def _stray(charges: ChargeRows, row: int) -> Offence:
    charged = int(charges.amount[row]) * int(charges.end[row] - charges.start[row])
    return Offence(
        _text(charges.allocation_ids, row), RESOURCES[int(charges.resource[row])], 0, charged,
        (_text(charges.ids, row),), "This charge is for a row that the ledger does not have, or has not closed.",
    )  # fmt: skip


def _text(ids: npt.NDArray[np.bytes_], row: Any) -> str:
    return bytes(ids[int(row)]).decode()


def _texts(ids: npt.NDArray[np.bytes_], rows: Sequence[Any] | IntArray) -> tuple[str, ...]:
    return tuple(_text(ids, row) for row in rows[:50])
