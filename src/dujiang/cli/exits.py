"""What each exit code means: a contract with scripts, printed by `dujiang --help` and in docs/cli.md."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """How a command ended."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    NOT_ALLOWED = 4
    UNREACHABLE = 5
    REFUSED = 6
    NOT_PROVEN = 7
    NOT_SEEN = 8
    INTERRUPTED = 130


MEANINGS: dict[Exit, str] = {
    Exit.OK: "it is done",
    Exit.FAILED: "the job or the operation failed",
    Exit.USAGE: "the command line or a job specification is wrong",
    Exit.NOT_FOUND: "there is no such thing, or none you may know of",
    Exit.NOT_ALLOWED: "not signed in, or not allowed",
    Exit.UNREACHABLE: "no server answers, or it cannot answer now",
    Exit.REFUSED: "refused: it conflicts with what is",
    Exit.NOT_PROVEN: "verify or reconcile found a row that does not hold",
    Exit.NOT_SEEN: "verify found nothing wrong, and could not look everywhere: a cluster does not answer",
    Exit.INTERRUPTED: "interrupted; what was submitted goes on",
}

EPILOG = (
    "Exit codes:\n\n"
    + "\n".join(f"{int(code):>3}  {meaning}" for code, meaning in MEANINGS.items())
    + "\n\n`submit --wait` exits as its job did: its exit code, or 128 and the number of its signal."
)


def of_status(status: int) -> Exit:
    """Return the exit code of a refusal by HTTP status."""
    match status:
        case 400 | 413 | 422:
            return Exit.USAGE
        case 401 | 403:
            return Exit.NOT_ALLOWED
        case 404 | 410:
            return Exit.NOT_FOUND
        case 409 | 412:
            return Exit.REFUSED
        case 429 | 502 | 503 | 504 | 507:
            return Exit.UNREACHABLE
        case _:
            return Exit.FAILED
