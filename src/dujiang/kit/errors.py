"""One root for every error that a person or a client meets, rendered as RFC 9457 problem details.

The code is a contract with clients; the sentence is for people and says what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, ClassVar


class DujiangError(Exception):
    """The root. A context adds its own in `domain.py` with `code`, `http_status` and `retryable`."""

    code: ClassVar[str] = "internal_error"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    title: ClassVar[str] = "Something broke inside the platform"

    def __init__(self, sentence: str, **facts: Any) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.facts = facts

    def problem(self) -> dict[str, Any]:
        """Return the RFC 9457 members, with `code`, `retryable` and the facts as extensions."""
        return {
            "type": f"https://dujiang.invalid/problems/{self.code}",
            "title": self.title,
            "status": self.http_status,
            "detail": self.sentence,
            "code": self.code,
            "retryable": self.retryable,
            **self.facts,
        }


class Invalid(DujiangError):
    """What was sent cannot be understood or is out of range."""

    code, http_status, title = "invalid", 422, "The request is not valid"


class NotFound(DujiangError):
    """No such object, or none that the caller may know of."""

    code, http_status, title = "not_found", 404, "Not found"


class Conflict(DujiangError):
    """The object has moved, exists already or is in use."""

    code, http_status, title = "conflict", 409, "Conflict"


class Unauthenticated(DujiangError):
    """Nobody, or nobody known, is asking."""

    code, http_status, title = "unauthenticated", 401, "Sign in first"


class Forbidden(DujiangError):
    """The caller is known and may not do this."""

    code, http_status, title = "forbidden", 403, "Not allowed"


class Unavailable(DujiangError):
    """Something the platform depends on is away; the same request may succeed later."""

    code, http_status, retryable, title = "unavailable", 503, True, "Temporarily unavailable"


class StorageFull(Unavailable):
    """The disk or the database has no room left."""

    code, http_status, title = "storage_full", 507, "No space left"


class Stale(Conflict):
    """The row was changed by someone else since it was read; read again and retry."""

    code, retryable, title = "stale", True, "Changed meanwhile"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` Did you mean "x"?` for the nearest known word, or an empty string when none is near."""
    by_form = {each.casefold(): each for each in known}
    near = get_close_matches(word.casefold(), list(by_form), n=1, cutoff=0.6)
    return f' Did you mean "{by_form[near[0]]}"?' if near else ""
