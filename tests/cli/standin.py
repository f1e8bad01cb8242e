"""A small HTTP server on the loopback that answers as the platform's API does, for tests of the command line."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class Asked:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: Any


@dataclass
class Answer:
    """What to answer; `cut_after` breaks the connection after so many bytes."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None


Route = Callable[[Asked], Answer | Any]


class StandIn:
    """Routes by `METHOD path`, and what was asked."""

    def __init__(self) -> None:
        self.routes: dict[str, Route | Any] = {}
        self.asked: list[Asked] = []
        self.url = ""

    def on(self, route: str, answer: Route | Any) -> None:
        """Answer `GET /v1/...` with a value, or with what a function makes of the request."""
        self.routes[route] = answer

    def problem(self, status: int, code: str, detail: str, **facts: Any) -> Answer:
        """Return a refusal as the API writes it."""
        return Answer({"title": code, "status": status, "code": code, "detail": detail, **facts}, status)

    def asked_for(self, route: str) -> list[Asked]:
        """Return the requests of one route."""
        return [one for one in self.asked if f"{one.method} {one.path}" == route]

    def answer(self, asked: Asked) -> Answer:
        """Return what the routes say."""
        self.asked.append(asked)
        route = self.routes.get(f"{asked.method} {asked.path}")
        if route is None:
            return self.problem(404, "not_found", f"There is nothing at {asked.path}.")
        made = route(asked) if callable(route) else route
        return made if isinstance(made, Answer) else Answer(made)


@contextmanager
def serving() -> Iterator[StandIn]:
    """Serve a stand-in on a free port of the loopback."""
    stand_in = StandIn()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = json.loads(raw) if raw else None
            made = stand_in.answer(Asked(self.command, parts.path, parse_qs(parts.query), headers, body))
            self._send(made)

        def _send(self, made: Answer) -> None:
            plain = isinstance(made.body, str | bytes)
            data = made.body if plain else b"" if made.body is None else json.dumps(made.body)
            data = data.encode() if isinstance(data, str) else data
            self.send_response(made.status)
            kind = "text/plain" if plain else "application/problem+json" if made.status >= 400 else "application/json"
            for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **made.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if made.cut_after is None:
                self.wfile.write(data)
            else:
                self.wfile.write(data[: made.cut_after])
                self.wfile.flush()
                self.close_connection = True

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stand_in.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield stand_in
    finally:
        server.shutdown()
        server.server_close()
