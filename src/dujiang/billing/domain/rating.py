"""From the ledger to charges: each microsecond of each allocation once, cut at price changes and at month boundaries.

Quantities are integers in the ledger's own units (thousandths or bytes, times microseconds), so cutting and adding lose
nothing; money appears only when a line of a bill is made. What has no price is charged at nothing and shown as such:
usage is never lost for want of a price.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from dujiang.billing.domain.prices import Price, PriceList, Resource
from dujiang.kit.clock import from_micros, to_micros
from dujiang.kit.errors import Invalid
from dujiang.pool.domain import Allocation


class BadMonth(Invalid):
    """Not a month."""

    code, title = "bad_month", "Not a month"


@dataclass(frozen=True, slots=True)
class Segment:
    """An amount of one resource, held from one time to another."""

    allocation_id: str
    project_id: str
    job_id: str
    resource: Resource
    amount: int
    """Thousandths or bytes."""
    vendor: str
    model: str
    simulated: bool
    start: int
    """Microseconds; likewise end, which is not part of it."""
    end: int


@dataclass(frozen=True, slots=True)
class Charge:
    """A piece of a segment that lies in one month and under one price."""

    segment: Segment
    start: int
    end: int
    period: str
    """The billing period: `YYYY-MM`."""
    price: Price | None
    """None where the list has no price: charged at nothing."""

    @property
    def quantity(self) -> int:
        """Return amount times microseconds."""
        return self.segment.amount * (self.end - self.start)


class Calendar:
    """Billing periods: the months of one time zone."""

    def __init__(self, zone: tzinfo = UTC) -> None:
        self.zone = zone
        self._bounds: dict[tuple[int, int], int] = {}

    def month_of(self, micros: int) -> tuple[int, int]:
        """Return year and month at that time."""
        local = from_micros(micros).astimezone(self.zone)
        month = (local.year, local.month)
        # Where the first midnight of a month is passed twice or not at all, the boundary decides.
        if micros < self.starts(month):
            return _before(month)
        return month if micros < self.starts(_after(month)) else _after(month)

    def starts(self, month: tuple[int, int]) -> int:
        """Return the microsecond at which a month begins."""
        known = self._bounds.get(month)
        if known is None:
            known = self._bounds[month] = to_micros(datetime(*month, 1, tzinfo=self.zone))
        return known

    def bounds(self, period: str) -> tuple[int, int]:
        """Return where a period `YYYY-MM` begins and ends, in microseconds.

        Raises:
            BadMonth: not of that form.
        """
        month = parse_month(period)
        return self.starts(month), self.starts(_after(month))

    def cut(self, start: int, end: int) -> Iterator[tuple[int, int, str]]:
        """Yield the pieces of an interval that lie in one month each, with the month."""
        while start < end:
            month = self.month_of(start)
            stop = min(end, self.starts(_after(month)))
            yield start, stop, format_month(month)
            start = stop


def segments(allocation: Allocation, *, until: int) -> list[Segment]:
    """Return what a row of the ledger holds, one segment a resource; what is live is taken up to `until`."""
    share = allocation.share
    start = to_micros(allocation.started_at)
    end = max(start, until if allocation.ended_at is None else to_micros(allocation.ended_at))
    amounts = (
        (Resource.GPU, share.gpu_milli),
        (Resource.GPU_MEMORY, share.device_memory_bytes),
        (Resource.CPU, share.cpu_milli),
        (Resource.MEMORY, share.memory_bytes),
        (Resource.DISK, share.disk_bytes),
    )
    return [
        Segment(
            allocation.id, share.project_id, share.key.job_id, resource, amount, share.vendor, share.model,
            share.simulated, start, end,
        )
        for resource, amount in amounts
        if amount > 0 and end > start
    ]  # fmt: skip


def rate(segment: Segment, prices: PriceList, calendar: Calendar) -> list[Charge]:
    """Cut a segment at price changes and month boundaries; the pieces follow one another and leave nothing out."""
    timeline = prices.timeline(segment.resource, segment.vendor, segment.model)
    found: list[Charge] = []
    start = segment.start
    while start < segment.end:
        at = bisect_right(timeline, start, key=lambda step: step[0])
        stop = min(segment.end, timeline[at][0]) if at < len(timeline) else segment.end
        price = timeline[at - 1][1] if at else None
        found += [Charge(segment, *piece, price) for piece in calendar.cut(start, stop)]
        start = stop
    return found


def parse_month(text: str) -> tuple[int, int]:
    """Return year and month of `YYYY-MM`.

    Raises:
        BadMonth: not of that form, or outside the years 1970 to 9000.
    """
    year, dash, month = text.partition("-")
    digits = len(year) == 4 and len(month) == 2 and (year + month).isascii() and (year + month).isdigit()
    if not dash or not digits or not 1 <= int(month) <= 12 or not 1970 <= int(year) <= 9000:
        raise BadMonth(f'"{text[:20]}" is not a month; write 2026-01.')
    return int(year), int(month)


def format_month(month: tuple[int, int]) -> str:
    """Return `YYYY-MM`."""
    return f"{month[0]:04d}-{month[1]:02d}"


def _after(month: tuple[int, int]) -> tuple[int, int]:
    year, number = month
    return (year, number + 1) if number < 12 else (year + 1, 1)


def _before(month: tuple[int, int]) -> tuple[int, int]:
    year, number = month
    return (year, number - 1) if number > 1 else (year - 1, 12)
