"""What Kubernetes answers instead of doing what it was asked, by kind.

An answer of the cluster that says no is an `ApiError`; no answer at all is the contract's `EngineUnavailable`. Both
are made here, so that every request tells the two apart in one way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dujiang.engines.contract import EngineUnavailable

SHOWN = 300
"""Characters of a foreign answer that go into a sentence."""


class ApiError(Exception):
    """The cluster answered, and not with what was asked for; the root of such answers."""

    def __init__(self, status: int, reason: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        """Of HTTP."""
        self.reason = reason
        """`Status.reason`, a closed list of Kubernetes such as `NotFound`."""
        self.message = message
        """For people, without an end of sentence."""
        self.details: Mapping[str, Any] = details or {}
        """`Status.details`: name, kind, causes."""


class NotFound(ApiError):
    """No such object, or no such kind of object in this cluster."""


class AlreadyExists(ApiError):
    """An object of that name is there."""


class Conflict(ApiError):
    """The object has changed meanwhile, or is another one of the same name."""


class Gone(ApiError):
    """The version that was asked for is no longer kept: list anew."""


class Forbidden(ApiError):
    """The platform's account may not do this, or an admission policy or quota refuses it."""


class Invalid(ApiError):
    """What was sent is not valid."""


class Blocked(ApiError):
    """A disruption budget lets no Pod be evicted now."""


_BY_REASON: Mapping[str, type[ApiError]] = {
    "NotFound": NotFound,
    "AlreadyExists": AlreadyExists,
    "Conflict": Conflict,
    "Gone": Gone,
    "Expired": Gone,
    "Forbidden": Forbidden,
    "Invalid": Invalid,
    "BadRequest": Invalid,
}
_BY_STATUS: Mapping[int, type[ApiError]] = {
    400: Invalid,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
}


def error_of(status: int, answer: Mapping[str, Any], server: str) -> ApiError | EngineUnavailable:
    """Return the error that a `Status` object of the cluster means."""
    reason, details = str(answer.get("reason") or ""), answer.get("details") or {}
    message = str(answer.get("message") or reason or f"HTTP {status}").strip().rstrip(".")
    causes = {cause.get("reason") for cause in details.get("causes") or ()}
    if status == 429 and "DisruptionBudget" in causes:
        return Blocked(status, reason, message, details)
    if status == 401:
        return EngineUnavailable(
            f"The cluster at {server} does not accept the platform's token or certificate ({message}): it may have "
            "expired; renew the credentials that the kubeconfig names."
        )
    if status in {408, 429} or status >= 500:
        return EngineUnavailable(
            f"The cluster at {server} cannot answer now: {message[:SHOWN]}; look at its API server if this stays so."
        )
    kind = _BY_REASON.get(reason) or _BY_STATUS.get(status, ApiError)
    return kind(status, reason, message, details)


def said_no(error: ApiError, doing: str) -> EngineUnavailable:
    """Return the sentence for an answer that stands in the way of `doing`, such as `list pods`."""
    if isinstance(error, Forbidden):
        return EngineUnavailable(
            f"The cluster does not let the platform {doing}: {error.message[:SHOWN]}; grant it what "
            "dujiang/engines/kubernetes/manifest/rbac.yaml lists."
        )
    return EngineUnavailable(f"The cluster does not {doing}: {error.message[:SHOWN]}.")
