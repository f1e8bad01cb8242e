"""A server that answers as a test says: for what a real API server cannot be made to do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def answering(handler: Handler) -> AsyncIterator[str]:
    """Answer every request by the handler; gives the address."""
    server = web.Server(handler, access_log=None)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def kubeconfig(folder: Path, server: str, *, cluster: dict[str, Any] | None = None, **user: Any) -> str:
    """Write a kubeconfig of one context; returns its path.

    Args:
        folder: where.
        server: address.
        cluster: more of the cluster.
        user: how it signs in, with `_` for `-`.
    """
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "tests",
        "clusters": [{"name": "tests", "cluster": {"server": server, **(cluster or {})}}],
        "users": [{"name": "me", "user": {key.replace("_", "-"): value for key, value in user.items()}}],
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "me"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(content))
    return str(path)


def status(code: int, reason: str, message: str = "no", **more: Any) -> web.Response:
    """Return what Kubernetes says when it says no."""
    headers = more.pop("headers", None)
    told = {"kind": "Status", "apiVersion": "v1", "code": code, "reason": reason, "message": message, **more}
    return web.json_response(told, status=code, headers=headers)
