"""Asks the cluster a short question now and then, beside what the mirrors show.

A mirror whose watch is interrupted goes on telling what it saw last for `stale_after_s`, so a hiccup hides nothing;
and one whose connection died without a word does not even know. An API server whose etcd is dead goes on answering what
it knows by heart, such as its version. Whether new work may be put there is decided here.

What is asked is `/readyz`, which every account may read unless a cluster has taken that away (its own role
`system:public-info-viewer`), and which asks etcd.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
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
        self.trouble = ""
        """What is the matter though it answers, in a sentence."""

    async def check(self) -> None:
        """Return where the cluster answers and has its memory, or did a moment ago.

        Raises:
            EngineUnavailable: it does not.
        """
        if self._clock.monotonic_s() - self._answered_s < _EVERY_S:
            return
        try:
            async with asyncio.timeout(_WITHIN_S):
                failing = await self._failing()
        except TimeoutError as error:
            raise EngineUnavailable(
                f"The cluster has not even told whether it is ready within {_WITHIN_S:g} s; look at its API server, and"
                " at the network on the way to it."
            ) from error
        if any(name.startswith("etcd") for name in failing):
            raise EngineUnavailable(
                "The cluster's API server answers, and its etcd does not, by its own word (/readyz): nothing can be"
                " read or written there; look at etcd, and at the disk that it writes to."
            )
        names = ", ".join(failing[:5])
        self.trouble = f"Its API server says that it is not ready (/readyz): {names} failed." if names else ""
        self._answered_s = self._clock.monotonic_s()

    async def _failing(self) -> tuple[str, ...]:
        """Return which checks of its readiness fail; where it does not tell us, it is enough that it answers."""
        try:
            return await self._api.failing()
        except ApiError:
            with suppress(ApiError):
                await self._api.version()
            return ()
