"""The HTTP side: a bare ASGI application that routes the Open Inference Protocol V2 to models.

Decides paths, statuses and headers. Reads no tensor itself (`protocol`), waits for no model itself (`batching`).
Bare ASGI because the work per request is some tens of microseconds, which a framework would double.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from dujiang.kit import log
from dujiang.kit.errors import DujiangError, did_you_mean
from dujiang.models.serving.batching import Batcher, Limits, RunTimes
from dujiang.models.serving.errors import BadRequest, CallerGone, NotServed, TooLarge, WrongMediaType, WrongMethod
from dujiang.models.serving.metrics import Exposition, ModelFigures
from dujiang.models.serving.protocol import (
    BINARY,
    HEADER_LENGTH,
    JSON,
    Signature,
    decode_request,
    encode_error,
    encode_response,
)
from dujiang.models.serving.runtime import OnnxModel, metadata

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Handler = Callable[[Scope, Receive, Send], Awaitable[None]]

TEXT = b"text/plain; version=0.0.4; charset=utf-8"
MAX_BODY_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Served:
    """One version of a model in service."""

    name: str
    version: str
    signature: Signature
    batcher: Batcher
    figures: ModelFigures


def serve_model(
    name: str, version: str, model: OnnxModel, limits: Limits, *, monotonic_s: Callable[[], float]
) -> Served:
    """Put a loaded model into service, with a queue and figures of its own."""
    figures = ModelFigures(name, version)
    batcher = Batcher(model, limits, monotonic_s=monotonic_s, observe_batch=figures.ran, times=RunTimes())
    return Served(name, version, model.signature, batcher, figures)


class ServingApp:
    """The ASGI application of one process."""

    def __init__(
        self,
        models: Sequence[Served],
        *,
        monotonic_s: Callable[[], float],
        server_version: str = "0",
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        """Lay out the paths.

        Args:
            models: one or more; of several versions of a name the newest answers requests that name none.
            max_body_bytes: longest body taken; a JSON tensor needs about 10 bytes a number.
        """
        self._monotonic_s, self._max_body_bytes = monotonic_s, max_body_bytes
        self._server_version = server_version
        self._models: dict[str, dict[str, Served]] = {}
        for served in sorted(models, key=lambda served: version_order(served.version)):
            self._models.setdefault(served.name, {})[served.version] = served
        self._nobody = ModelFigures("", "")
        self._exposition = Exposition(
            [(self._nobody, lambda: 0), *((served.figures, served.batcher.__len__) for served in models)]
        )
        self._stopping = False
        self._infer_paths: dict[str, Served] = {}
        self._pages: dict[str, Callable[[], tuple[int, bytes, bytes]]] = {}
        self._lay_out()

    def stop(self) -> None:
        """Say not ready from now on; what is asked is still answered."""
        self._stopping = True

    def close(self) -> None:
        """Give the models' threads back."""
        for served in self._all():
            served.batcher.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        served = self._infer_paths.get(scope["path"])
        if served is not None and scope["method"] == "POST":
            await self._infer(served, scope, receive, send)
            return
        try:
            status, media_type, body = self._page(scope["path"], scope["method"])
            await _answer(send, status, body, media_type)
        except DujiangError as error:
            if scope["path"].endswith("/infer"):
                self._nobody.answered(error.http_status, 0.0)
            await _refuse(send, error)

    async def _infer(self, served: Served, scope: Scope, receive: Receive, send: Send) -> None:
        started_s = self._monotonic_s()
        status = 200
        try:
            json_length = _check_headers(scope["headers"], self._max_body_bytes)
            body = await _read(receive, self._max_body_bytes)
            request = decode_request(body, served.signature, json_length=json_length)
            ticket = served.batcher.submit(request.inputs, request.outputs)
            watch = asyncio.ensure_future(_until_gone(receive, ticket.answer)) if served.batcher.is_slow else None
            try:
                tensors = await ticket.answer
            finally:
                if watch is not None:
                    watch.cancel()
            answer, json_part = encode_response(served.name, served.version, request, tensors, served.signature)
            extra = [] if json_part is None else [(HEADER_LENGTH, b"%d" % json_part)]
            await _answer(send, 200, answer, JSON if json_part is None else BINARY, extra)
        except DujiangError as error:
            status = error.http_status
            await _refuse(send, error)
        except asyncio.CancelledError:  # the grace after SIGTERM is over
            status = 503
            raise
        except Exception:
            status = 500
            log.get(__name__).exception("inference request failed", model=served.name, version=served.version)
            await _answer(send, 500, encode_error("The serving process failed on this request; its log says why."))
        finally:
            served.figures.answered(status, self._monotonic_s() - started_s)

    def _page(self, path: str, method: str) -> tuple[int, bytes, bytes]:
        if path in self._infer_paths:
            raise WrongMethod(f"{path} takes POST, not {method}.", allow="POST")
        page = self._pages.get(path)
        if page is None:
            raise self._unknown(path)
        if method not in ("GET", "HEAD"):
            raise WrongMethod(f"{path} takes GET, not {method}.", allow="GET, HEAD")
        return page()

    def _lay_out(self) -> None:
        self._pages["/metrics"] = lambda: (200, TEXT, self._exposition.render())
        self._pages["/v2"] = _fixed(
            {"name": "dujiang", "version": self._server_version, "extensions": ["binary_tensor_data"]}
        )
        self._pages["/v2/health/live"] = _fixed({"live": True})
        self._pages["/v2/health/ready"] = lambda: self._ready({})
        for name, versions in self._models.items():
            newest = next(reversed(versions.values()))
            for base, served in [
                (f"/v2/models/{name}", newest),
                *((f"/v2/models/{name}/versions/{version}", served) for version, served in versions.items()),
            ]:
                self._infer_paths[f"{base}/infer"] = served
                self._pages[base] = _fixed(metadata(name, list(versions), served.signature))
                self._pages[f"{base}/ready"] = lambda name=name: self._ready({"name": name})  # type: ignore[misc]

    def _ready(self, about: Mapping[str, Any]) -> tuple[int, bytes, bytes]:
        ready = not self._stopping
        return (200 if ready else 503), JSON, orjson.dumps({**about, "ready": ready})

    def _unknown(self, path: str) -> NotServed:
        shown = path[:200]
        match = re.fullmatch(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(?:infer|ready))?", path)
        if match is None:
            return NotServed(
                f"There is nothing at {shown}. This server has /v2, /v2/health/live, /v2/health/ready, "
                "/v2/models/NAME[/versions/VERSION], the same with /ready or /infer, and /metrics."
            )
        name, version = match[1], match[2]
        if name not in self._models:
            known = ", ".join(f'"{known}"' for known in self._models)
            return NotServed(
                f'No model "{name[:200]}" is served here. Served: {known}.{did_you_mean(name, self._models)}'
            )
        versions = ", ".join(self._models[name])
        return NotServed(f'Model "{name}" has no version "{(version or "")[:200]}" here. Served: {versions}.')

    def _all(self) -> Iterable[Served]:
        return (served for versions in self._models.values() for served in versions.values())


def version_order(version: str) -> tuple[tuple[int, str], ...]:
    """Return a sort key: numbers as numbers (1.10.0 after 1.9.0), a release after its own pre-releases."""
    release, dash, before = version.partition("-")
    parts = [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"[.+]", release.lstrip("v"))]
    return (*parts, (-2, before) if dash else (-1, ""))


def _fixed(document: Mapping[str, Any]) -> Callable[[], tuple[int, bytes, bytes]]:
    page = (200, JSON, orjson.dumps(document))
    return lambda: page


def _check_headers(headers: Iterable[tuple[bytes, bytes]], max_body_bytes: int) -> int | None:
    """Refuse what the headers alone rule out; return the length of the JSON part where one is given."""
    json_length: int | None = None
    for name, value in headers:
        if name == b"content-type":
            media_type = value.partition(b";")[0].strip().lower()
            if media_type not in (JSON, BINARY, b""):
                shown = media_type.decode("latin-1")[:100]
                raise WrongMediaType(f"The body is {shown}; send application/json, or application/octet-stream.")
        elif name == b"content-encoding" and value.strip().lower() not in (b"identity", b""):
            raise WrongMediaType("A compressed body is not taken; send it as it is.")
        elif name == b"content-length" and int(value) > max_body_bytes:
            raise _too_large(int(value), max_body_bytes)
        elif name == HEADER_LENGTH:
            if not value.isdigit():
                raise BadRequest("Inference-Header-Content-Length must be a number of bytes.")
            json_length = int(value[:20])
    return json_length


async def _read(receive: Receive, max_body_bytes: int) -> bytes:
    chunks: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CallerGone("The caller left before its request was whole.")
        chunks.append(message.get("body", b""))
        length += len(chunks[-1])
        if length > max_body_bytes:  # sent in chunks, so only counting finds out
            raise _too_large(length, max_body_bytes, close=True)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _until_gone(receive: Receive, answer: asyncio.Future[Any]) -> None:
    """Settle the answer when the caller leaves: a slow model should not run for nobody."""
    while (await receive())["type"] != "http.disconnect":
        pass
    if not answer.done():
        answer.set_exception(CallerGone("The caller left before the answer."))


def _too_large(length: int, limit: int, *, close: bool = False) -> TooLarge:
    seen = f"more than {limit}" if close else str(length)
    return TooLarge(f"The body has {seen} bytes; this server takes {limit}. Send fewer rows at a time.", close=close)


async def _refuse(send: Send, error: DujiangError) -> None:
    extra: list[tuple[bytes, bytes]] = []
    if error.http_status == 503:
        extra.append((b"retry-after", b"1"))
    if "allow" in error.facts:
        extra.append((b"allow", str(error.facts["allow"]).encode()))
    if error.facts.get("close"):  # the rest of the body has no known end, so the connection cannot be used again
        extra.append((b"connection", b"close"))
    await _answer(send, error.http_status, encode_error(error.sentence), JSON, extra)


async def _answer(
    send: Send, status: int, body: bytes, media_type: bytes = JSON, extra: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    headers = [(b"content-type", media_type), (b"content-length", b"%d" % len(body)), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
