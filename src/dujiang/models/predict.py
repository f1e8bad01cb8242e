"""Passes Open Inference requests on to a service and its answers back, without holding them whole.

Decides what a caller is told when the service refuses, breaks or does not answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Final

import httpx
import orjson
from starlette.responses import Response, StreamingResponse

from dujiang.kit.errors import DujiangError
from dujiang.kit.http import BodyTooLarge
from dujiang.models.domain import (
    BadPrediction,
    Deployment,
    DeploymentState,
    NotServing,
    ServiceBusy,
    ServiceFailed,
    ServiceGone,
    ServiceTooSlow,
)

_HEADER_LENGTH: Final = "inference-header-content-length"
_PASSED_IN: Final = ("content-type", _HEADER_LENGTH)
_PASSED_OUT: Final = ("content-type", "content-length", _HEADER_LENGTH)
_LONGEST_MESSAGE: Final = 64 * 1024
_CONNECT_S: Final = 2.0


class Predictor:
    """Asks services."""

    def __init__(self, http: httpx.AsyncClient, *, within_s: float) -> None:
        """Take a client that follows no redirect and asks no proxy.

        Args:
            http: handed in; its own time limits are not used.
            within_s: how long a service may be silent.
        """
        self._http = http
        self._timeout = httpx.Timeout(within_s, connect=_CONNECT_S)

    async def ask(self, one: Deployment, body: bytes, headers: Mapping[str, str]) -> Response:
        """Return the service's answer.

        Raises:
            NotServing: the deployment is not READY.
            BadPrediction, BodyTooLarge: the service refuses the request.
            ServiceBusy, ServiceGone, ServiceTooSlow: the same may succeed later.
            ServiceFailed: the model broke on it.
        """
        if one.state is not DeploymentState.READY or not one.url:
            raise _not_ready(one)
        passed = {name: headers[name] for name in _PASSED_IN if name in headers}
        request = self._http.build_request(
            "POST", f"{one.url}/infer", content=body, timeout=self._timeout,
            headers={"content-type": "application/json", **passed, "accept-encoding": "identity"},
        )  # fmt: skip
        try:
            answer = await self._http.send(request, stream=True)
        except httpx.TimeoutException as error:
            if isinstance(error, httpx.ConnectTimeout):
                raise _gone(one) from error
            raise ServiceTooSlow(
                f'"{one.name}" did not answer within {self._timeout.read:g} s; send fewer rows at a time.'
            ) from error
        except httpx.HTTPError as error:
            raise _gone(one) from error
        if answer.status_code != 200:
            raise await _refusal(one, answer)
        told = {name: answer.headers[name] for name in _PASSED_OUT if name in answer.headers}
        return StreamingResponse(_through(answer), headers=told)


async def _through(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.aiter_raw():
            yield piece
    finally:
        await answer.aclose()


async def _refusal(one: Deployment, answer: httpx.Response) -> DujiangError:
    """Return what the caller is told; the service's own sentence where it gave one."""
    told = await _message(answer)
    match answer.status_code:
        case 413:
            return BodyTooLarge(told or "The body is larger than the service takes; send fewer rows at a time.")
        case 503:
            return ServiceBusy(told or f'"{one.name}" is busy; try again.', retry_after_s=1)
        case status if 400 <= status < 500:
            return BadPrediction(told or f'"{one.name}" refused the request with status {status}.')
        case status:
            return ServiceFailed(told or f'"{one.name}" failed on this request with status {status}.')


async def _message(answer: httpx.Response) -> str:
    read = b""
    try:
        async for piece in answer.aiter_raw():
            read += piece
            if len(read) > _LONGEST_MESSAGE:
                return ""
        document = orjson.loads(read)
    except (httpx.HTTPError, orjson.JSONDecodeError):
        return ""
    finally:
        await answer.aclose()
    told = document.get("error") if isinstance(document, dict) else None
    return told[:2000] if isinstance(told, str) else ""


def _not_ready(one: Deployment) -> NotServing:
    why = f": {one.sentence}" if one.sentence else f" ({one.reason})"
    advice = (
        "`dujiang deploy` starts it again"
        if one.state in (DeploymentState.FAILED, DeploymentState.STOPPING, DeploymentState.REMOVED)
        else "try again in a moment"
    )
    return NotServing(f'"{one.name}" is {one.state}{why.rstrip(".")}; {advice}.', state=str(one.state), retry_after_s=1)


def _gone(one: Deployment) -> ServiceGone:
    return ServiceGone(
        f'The service of "{one.name}" does not answer at the moment; it is started again if it has ended. Try again.',
        job=one.service.job_id, retry_after_s=1,
    )  # fmt: skip
