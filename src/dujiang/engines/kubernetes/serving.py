"""The Service of a job of kind service: one name in the cluster for whichever attempt of it runs.

It is the job's and not an attempt's: an attempt that follows another finds it there, so name and address stay. It
selects Pods by a label, and theirs is the port by name, as each attempt has a number of its own. A Pod is behind it
when it answers. No attempt owns it, so it is taken away here, when its job has had no attempt for a while; and one that
is missing is made again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import structlog

from dujiang.engines.contract import AttemptKey, EngineUnavailable
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.errors import AlreadyExists, ApiError, Forbidden
from dujiang.engines.kubernetes.records import KIND, MARK, SERVED, Record, job_labels_of, job_name_of
from dujiang.kit.clock import Clock

SERVES: Final = "serves"
"""In the launch of a record: its job has a Service."""
FIRST_PORT: Final = 80
"""Of the Service, which leads to PORT; 81 leads to PORT1, and so on."""
LINGER_S: Final = 300.0
"""For how long a Service stays whose job has no attempt: most that are tried again have one by then."""
_EVERY_S: Final = 60.0
_EVERY_WITHOUT_S: Final = 3600.0
"""How often Services are looked for where there were none, and no attempt has one."""
_SERVICE: Final = "service"
_PERIOD_S, _WITHIN_S, _FAILURES = 2, 2, 3
"""Of the readiness probe: a connection each two seconds, and out after three that fail."""

_log = structlog.get_logger()


def service(record: Record, mark: str) -> dict[str, Any]:
    """Return the Service of a record's job."""
    job_id, name = record.key.job_id, job_name_of(record.key.job_id)
    ports = [
        {"name": _port(nth), "port": FIRST_PORT + nth, "targetPort": _port(nth), "protocol": "TCP"}
        for nth in range(len(record.launch["ports"]))
    ]
    labels = {**job_labels_of(mark, job_id), KIND: _SERVICE}
    return {
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": record.namespace, "labels": labels},
        "spec": {"selector": {MARK: mark, **label(record.key)}, "ports": ports},
    }  # fmt: skip


def label(key: AttemptKey) -> dict[str, str]:
    """Return the label by which the Service of its job selects the Pods of an attempt."""
    return {SERVED: job_name_of(key.job_id)}


def container(ports: Sequence[int], plain: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return what the container of a Pod has that answers behind a Service.

    Args:
        ports: of the job.
        plain: what the container says of its ports otherwise.
    """
    own = [{"containerPort": port, "protocol": "TCP", "name": _port(nth)} for nth, port in enumerate(ports)]
    return {
        "ports": [*(one for one in plain if one["containerPort"] not in ports), *own],
        "readinessProbe": {
            "tcpSocket": {"port": _port(0)}, "periodSeconds": _PERIOD_S, "timeoutSeconds": _WITHIN_S,
            "failureThreshold": _FAILURES,
        },
    }  # fmt: skip


def _port(nth: int) -> str:
    """Return the name of a port: as its variable, in the letters that Kubernetes takes."""
    return f"port{nth or ''}"


class Services:
    """Takes away the Services of jobs that have no attempt any more, and makes again what is missing."""

    def __init__(
        self, api: Api, mark: str, clock: Clock, *, linger_s: float = LINGER_S, every_s: float = _EVERY_S
    ) -> None:
        """Look at nothing yet."""
        self._api, self._mark, self._clock, self._linger_s, self._every_s = api, mark, clock, linger_s, every_s
        self._looked_s = float("-inf")
        self._idle: dict[str, float] = {}
        self._has_some = True
        self.forbidden = ""
        """Why Services cannot be looked at, where the account may not."""

    async def sweep(self, known: Callable[[], Awaitable[Mapping[AttemptKey, Record]]]) -> None:
        """Look at them, once a minute at most; what fails is found the next time.

        Args:
            known: tells the records of all attempts that are not forgotten.

        Raises:
            EngineUnavailable: those cannot be told.
        """
        now_s = self._clock.monotonic_s()
        if now_s - self._looked_s < self._every_s:
            return
        wanted = _wanted(await known())
        if not (wanted or self._has_some) and now_s - self._looked_s < _EVERY_WITHOUT_S:
            return
        self._looked_s = now_s
        with contextlib.suppress(ApiError, EngineUnavailable):
            found = await self._list()
            if found is None:
                return
            self._has_some = bool(found)
            await self._take_away(found, wanted, known)
            for path in wanted.keys() - found.keys():
                await self._make_again(wanted[path])

    async def _list(self) -> dict[str, str] | None:
        """Return the uid of each Service by its path; None where that may not be known."""

        def each(obj: Mapping[str, Any]) -> tuple[str, str]:
            meta = obj["metadata"]
            return f"/api/v1/namespaces/{meta['namespace']}/services/{meta['name']}", meta["uid"]

        try:
            found, _ = await self._api.list("/api/v1/services", each, labels=f"{MARK}={self._mark},{KIND}={_SERVICE}")
        except Forbidden as error:
            self.forbidden = error.message
            return None
        self.forbidden = ""
        return dict(found)

    async def _take_away(
        self, found: Mapping[str, str], wanted: Mapping[str, Record],
        known: Callable[[], Awaitable[Mapping[AttemptKey, Record]]],
    ) -> None:  # fmt: skip
        now_s = self._clock.monotonic_s()
        self._idle = {path: self._idle.get(path, now_s) for path in found if path not in wanted}
        for path, since_s in self._idle.items():
            if now_s - since_s >= self._linger_s and path not in _wanted(await known()):  # an attempt may have come
                await self._api.delete(path, uid=found[path])

    async def _make_again(self, record: Record) -> None:
        """Make a Service that somebody has deleted, or that was taken away just as an attempt came."""
        if not record.is_made or record.stop is not None or record.verdict is not None:
            return
        with contextlib.suppress(AlreadyExists):
            await self._api.create(f"/api/v1/namespaces/{record.namespace}/services", service(record, self._mark))
            _log.info("service_made_again", attempt=str(record.key))


def _wanted(known: Mapping[AttemptKey, Record]) -> dict[str, Record]:
    """Return by the path of its Service the newest record of each job that has one."""
    found: dict[str, Record] = {}
    for key in sorted(key for key, record in known.items() if record.launch.get(SERVES)):
        record = known[key]
        found[f"/api/v1/namespaces/{record.namespace}/services/{job_name_of(key.job_id)}"] = record
    return found
