"""Times as people type them: of this machine's zone unless they name one, or so long from now."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from dujiang.cli.exits import Exit
from dujiang.cli.output import now
from dujiang.cli.session import Stop

TIME = "a time (2026-12-01T08:00; without zone: this machine's), now, or +2h from now."


def moment_of(option: str, text: str) -> datetime:
    """Return a moment: `now`, `+2h`, or a time, of this machine's zone where it names none.

    Raises:
        Stop: it is none of these.
    """
    if text == "now":
        return now()
    if text.startswith("+"):
        return later(option, now(), text[1:])
    try:
        at = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text))
        return at.astimezone()
    except (ValueError, OverflowError) as error:
        raise Stop(f'{option}: "{text}" is not {TIME}', Exit.USAGE) from error


def sent(option: str, text: str | None) -> str | None:
    """Return a moment as the API takes it; None stays None."""
    return None if text is None else moment_of(option, text).isoformat()


def later(option: str, begin: datetime, text: str) -> datetime:
    """Return the moment so long after another.

    Raises:
        Stop: it is no duration.
    """
    from dujiang.kit.units import BadQuantity, parse_duration_s

    try:
        return begin + timedelta(seconds=parse_duration_s(text))
    except (BadQuantity, OverflowError) as error:
        why = error.sentence if isinstance(error, BadQuantity) else f"{text} is too long."
        raise Stop(f"{option}: {why}", Exit.USAGE) from error
