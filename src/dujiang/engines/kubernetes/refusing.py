"""What it means when the cluster takes no object of an attempt: pure."""

from __future__ import annotations

import re
from typing import Final

from dujiang.engines.contract import EngineRefused, EngineUnavailable
from dujiang.engines.kubernetes.errors import SHOWN, ApiError, Forbidden, Invalid
from dujiang.engines.kubernetes.quantities import milli_of
from dujiang.kit.units import BadQuantity

_QUOTA: Final = "exceeded quota"
_PART = re.compile(r"(requested|limited): (.*?)(?=, (?:requested|used|limited): |$)")
_FOR_EVER: Final = ("violates PodSecurity", "admission webhook", "usage per", "unable to validate against any security")
"""Of what an admission says no to, and says again: Pod security, webhooks (policies), limit ranges."""


def refusal_of(error: ApiError) -> EngineRefused | EngineUnavailable:
    """Return whether an attempt that the cluster does not take is refused for good, or may be taken later."""
    said = error.message[:SHOWN]
    if isinstance(error, Invalid):
        return EngineRefused(f"Kubernetes does not take the job: {said}.")
    if isinstance(error, Forbidden) and _QUOTA in error.message:
        if quota_is_short_for_ever(error.message):
            return EngineRefused(f"The quota of the project's namespace could never hold the job: {said}.")
        return EngineUnavailable(f"The quota of the project's namespace is used up for now: {said}.")
    if isinstance(error, Forbidden) and any(word in error.message for word in _FOR_EVER):
        return EngineRefused(f"Kubernetes refuses the job: {said}.")
    return EngineUnavailable(f"Kubernetes does not take the job now: {said}.")


def quota_is_short_for_ever(message: str) -> bool:
    """Say whether a quota refuses what it could never hold: more is asked than its limit is.

    Args:
        message: `exceeded quota: q, requested: cpu=2,pods=1, used: cpu=0,pods=3, limited: cpu=1,pods=9`.
    """
    parts = {name: _amounts(text) for name, text in _PART.findall(message)}
    limits = parts.get("limited", {})
    return any(asked > limits[name] for name, asked in parts.get("requested", {}).items() if name in limits)


def _amounts(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for pair in text.split(","):
        name, _, value = pair.partition("=")
        try:
            found[name.strip()] = milli_of(value.strip())
        except BadQuantity:
            continue
    return found
