"""Takes away the tombstones of attempts that were forgotten long ago."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from dujiang.engines.contract import EngineUnavailable
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.errors import ApiError
from dujiang.engines.kubernetes.records import FORGOTTEN, MARK
from dujiang.kit.clock import Clock

KEPT: Final = timedelta(days=7)
"""For how long a late submit of a forgotten attempt still does nothing."""
_EVERY_S: Final = 3600.0


class Sweeper:
    """Sweeps one platform's tombstones in a cluster."""

    def __init__(self, api: Api, mark: str, clock: Clock) -> None:
        self._api, self._mark, self._clock = api, mark, clock
        self._swept_s = -_EVERY_S

    async def sweep(self) -> None:
        """Look for them, once an hour at most; what fails is found the next time."""
        now_s = self._clock.monotonic_s()
        if now_s - self._swept_s < _EVERY_S:
            return
        self._swept_s = now_s
        oldest = (self._clock.now() - KEPT).strftime("%Y%m%d")

        def old(obj: Mapping[str, Any]) -> tuple[str, str] | None:
            meta = obj["metadata"]
            if meta["labels"][FORGOTTEN] >= oldest:
                return None
            return f"/api/v1/namespaces/{meta['namespace']}/configmaps/{meta['name']}", meta["uid"]

        with contextlib.suppress(ApiError, EngineUnavailable):
            found, _ = await self._api.list("/api/v1/configmaps", old, labels=f"{MARK}={self._mark},{FORGOTTEN}")
            for path, uid in found:
                await self._api.delete(path, uid=uid)
