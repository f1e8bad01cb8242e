"""Commands in containers, over the WebSocket protocol that kubectl speaks too (v5.channel.k8s.io, else v4)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import orjson

from dujiang.engines.contract import EngineUnavailable
from dujiang.engines.kubernetes.answers import Foreign
from dujiang.engines.kubernetes.connection import Connection
from dujiang.engines.kubernetes.errors import SHOWN, Invalid, NotFound

_STDIN, _STDOUT, _STDERR, _STATUS, _CLOSE = 0, 1, 2, 3, 255
_NO_PROGRAM = 127
"""As a shell says it."""
_PIECE = 32 * 1024
_V5, _V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"


async def execute(
    connection: Connection,
    namespace: str,
    pod: str,
    container: str,
    command: Sequence[str],
    *,
    stdin: bytes,
    timeout_s: float,
) -> tuple[int, bytes, bytes]:
    """Run a command in a container and return its exit code and what it wrote; `Api.exec` says more."""
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/exec"
    asked = [("container", container), ("stdout", "true"), ("stderr", "true")]
    asked += [("stdin", "true")] if stdin else []
    asked += [("command", word) for word in command]
    try:
        async with asyncio.timeout(timeout_s), connection.websocket(path, asked, (_V5, _V4)) as socket:
            return await _run(socket, stdin)
    except Invalid as error:  # "container X is not valid for pod Y"
        raise NotFound(404, "NotFound", error.message, error.details) from error
    except Foreign as error:  # a kubelet's own words: "container not found"
        raise _refusal(error.text, {}) from error
    except TimeoutError as error:
        raise EngineUnavailable(
            f"{command[0]} in {container} of Pod {namespace}/{pod} took longer than {timeout_s:g} s; it may go on."
        ) from error


async def _run(socket: aiohttp.ClientWebSocketResponse, stdin: bytes) -> tuple[int, bytes, bytes]:
    if stdin and socket.protocol != _V5:
        raise EngineUnavailable("The cluster is too old to end a command's input (v5.channel.k8s.io, Kubernetes 1.31).")
    sending = asyncio.create_task(_send(socket, stdin)) if stdin else None
    written: dict[int, list[bytes]] = {_STDOUT: [], _STDERR: []}
    try:
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                continue
            channel, data = message.data[0], message.data[1:]
            if channel == _STATUS:
                return _exit_code(data), b"".join(written[_STDOUT]), b"".join(written[_STDERR])
            if channel in written:
                written[channel].append(data)
    finally:
        if sending:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
    raise EngineUnavailable("The connection to a container broke off before its command ended; it may have run.")


async def _send(socket: aiohttp.ClientWebSocketResponse, stdin: bytes) -> None:
    for start in range(0, len(stdin), _PIECE):
        await socket.send_bytes(bytes((_STDIN,)) + stdin[start : start + _PIECE])
    await socket.send_bytes(bytes((_CLOSE, _STDIN)))


def _exit_code(status: bytes) -> int:
    """Return the exit code of the status that ends a command.

    Raises:
        NotFound: the container is gone or does not run.
        EngineUnavailable: it could not be run for another reason.
    """
    told = orjson.loads(status)
    if told.get("status") == "Success":
        return 0
    details = told.get("details") or {}
    for cause in details.get("causes") or ():
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    if "executable file" in str(told) or "no such file or directory" in str(told):
        return _NO_PROGRAM
    raise _refusal(str(told.get("message") or "no reason given").strip(), details)


def _refusal(message: str, details: Mapping[str, Any]) -> NotFound | EngineUnavailable:
    lowered = message.lower()
    if "not found" in lowered or "not running" in lowered or "does not exist" in lowered:
        return NotFound(404, "NotFound", message, details)
    return EngineUnavailable(f"A command could not be run in a container: {message[:SHOWN].rstrip('.')}.")
