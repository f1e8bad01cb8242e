"""The bill: what the ledger holds and what is charged for it, added up here and compared."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from checks import hold, moment, until
from dujiang.client import Client
from screen import Screen

RATED_S = 60.0
_MICROSECOND = timedelta(microseconds=1)
_MILLI, _GIB = 1000, 1 << 30
RESOURCES = {
    "gpu": ("gpu_milli", _MILLI, "GPU-seconds"),
    "gpu_memory": ("device_memory_bytes", _GIB, "GPU memory GiB-seconds"),
    "cpu": ("cpu_milli", _MILLI, "CPU core-seconds"),
    "memory": ("memory_bytes", _GIB, "memory GiB-seconds"),
    "disk": ("disk_bytes", _GIB, "disk GiB-seconds"),
}
"""As the bill names them -> field of a row of the ledger, how much of it is one, the unit for people."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What it came to."""

    billed: Decimal
    exact: Decimal
    """Before each line of the bill was rounded."""
    currency: str

    def __str__(self) -> str:
        """Return both, for people."""
        return f"{self.billed} {self.currency} ({self.exact:.6f} before each line is rounded)"


def settled(client: Client, screen: Screen, project: str) -> Cost:
    """Wait until all that has ended is charged, then compare bill and ledger; return the cost.

    Raises:
        NotHeld: something is never charged, or bill and ledger differ.
    """
    verdict = until(
        "everything that ended to be charged", lambda: dict(client.get("/v1/bills/verify")),
        lambda one: one["waiting"] == 0, for_s=RATED_S, tell=lambda one: f"{one['waiting']} rows that wait",
    )  # fmt: skip
    rows = list(client.items("/v1/allocations", project=project))
    hold(
        all(row["ended_at"] for row in rows),
        "no row of the ledger still open",
        [r["id"] for r in rows if not r["ended_at"]],
    )
    bills = _bills(client, project, rows)
    screen.say(f"ledger of project {project}: {len(rows)} rows; charges: {verdict['charges']}")
    table = []
    for resource, (field, one, unit) in RESOURCES.items():
        held = sum(row[field] * _micros(row) for row in rows)
        billed = sum(int(line["quantity"]) for bill in bills for line in bill["lines"] if line["resource"] == resource)
        hold(billed == held, f"{unit} billed = ledger, {held}", f"{billed}: a difference of {billed - held}")
        if held or resource == "gpu":
            table.append([unit, _seconds(held, one), _seconds(billed, one), str(billed - held)])
    screen.table(["", "ledger", "billed", "difference"], table, right=(1, 2, 3))
    hold(verdict["holds"], "the platform's own proof of the charges to hold", verdict["offences"])
    growing = [line for bill in bills for line in bill["lines"] if line["provisional_quantity"] != "0"]
    hold(not growing, "every line of the bill to be final", growing)
    hold(not any(bill["unpriced"] for bill in bills), "a price for all that was used", [b["unpriced"] for b in bills])
    exact = sum((Decimal(one["billed_cost"]) for one in client.items("/v1/charges", project=project)), Decimal(0))
    cost = Cost(sum((Decimal(b["billed_cost"]) for b in bills), Decimal(0)), exact, bills[0]["billing_currency"])
    screen.held(f"billed = ledger to the microsecond; the bill of project {project}: {cost}")
    return cost


def _bills(client: Client, project: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the bills of every month in which something was held: a demo may run over the end of one."""
    months = sorted({f"{moment(row[end]):%Y-%m}" for row in rows for end in ("started_at", "ended_at")})
    return [bill for month in months for bill in client.items("/v1/bills", project=project, month=month)]


def _micros(row: dict[str, Any]) -> int:
    return (moment(row["ended_at"]) - moment(row["started_at"])) // _MICROSECOND


def _seconds(quantity: int, one: int) -> str:
    """Return thousandths or bytes times microseconds as seconds of one device, core or GiB."""
    return f"{Decimal(quantity) / one / 1_000_000:.6f}"
