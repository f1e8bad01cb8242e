"""Asks the cluster a short question now and then, beside what the mirrors show.

A mirror whose watch is interrupted goes on telling what it saw last for `stale_after_s`, so a hiccup hides nothing;
and one whose connection died without a word does not even know. Whether new work may be put there is decided here.
"""

from __future__ import annotations

import asyncio
from typing import Final

from dujiang.engines.contract import EngineUnavailable
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.errors import ApiError
from dujiang.kit.clock import Clock

_EVERY_S: Final = 3.0
"""One small request in three seconds costs a cluster nothing, and a dead one is noticed at the second look at it."""
_WITHIN_S: Final = 5.0


class Probe:
    """Says whether the cluster answers."""

    def __init__(self, api: Api, clock: Clock) -> None:
        self._api, self._clock = api, clock
        self._answered_s = float("-inf")

    async def check(self) -> None:
        """Return where the cluster answers, or did a moment ago.

        Raises:
            EngineUnavailable: it does not.
        """
        if self._clock.monotonic_s() - self._answered_s < _EVERY_S:
            return
        try:
            async with asyncio.timeout(_WITHIN_S):
                await self._api.version()
        except TimeoutError as error:
            raise EngineUnavailable(
                f"The cluster has not even told its version within {_WITHIN_S:g} s; look at its API server, and at the"
                " network on the way to it."
            ) from error
        except ApiError:
            pass  # an answer is an answer
        self._answered_s = self._clock.monotonic_s()
