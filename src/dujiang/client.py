"""The platform over HTTP as Python calls: where the server is, who we are, pages, streams, problems as exceptions.

Decides nothing about jobs or bills and knows no path but those it is given. The command line uses it, and so can any
program. It keeps one connection open; it is not for use from several threads.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

import httpx

from dujiang import __version__
from dujiang.kit.errors import DujiangError

DEFAULT_HOME: Final = "~/.dujiang"
SERVER_FILE, TOKEN_FILE, CREDENTIALS_FILE = "server.json", "admin.token", "credentials.json"
PAGE: Final = 500
_AGAIN_S: Final = 0.2
T = TypeVar("T")


class Unreachable(DujiangError):
    """No server answers there, or the connection broke; the call may have taken effect."""

    code, http_status, retryable, title = "unreachable", 503, True, "No server answers"


class Problem(DujiangError):
    """The server refused; `status` and `facts` say what it said."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        sentence = str(body.get("detail") or body.get("title") or f"The server answered {status}.")
        known = {"type", "title", "status", "detail"}
        super().__init__(sentence, **{name: value for name, value in body.items() if name not in known})
        self.status = status
        self.name = str(body.get("code", ""))
        """The server's `code`, a contract with clients."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the server is and who is asking."""

    url: str
    token: str | None = field(default=None, repr=False)
    found_in: str = ""
    """What told us, for people."""


def home_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder where the platform of this account keeps its state: DUJIANG_HOME, else `~/.dujiang`."""
    return Path(environ.get("DUJIANG_HOME") or DEFAULT_HOME).expanduser().absolute()


def locate(environ: Mapping[str, str] = os.environ) -> Connection | None:
    """Return how to reach the server, or None when nothing tells.

    DUJIANG_URL and DUJIANG_TOKEN win over what `dujiang login` stored, which wins over the server of this account.
    """
    home = home_folder(environ)
    stored = _read_json(home / CREDENTIALS_FILE)
    server = _read_json(home / SERVER_FILE)
    local_token = _read_text(home / TOKEN_FILE)
    url = environ.get("DUJIANG_URL")
    if url:
        token = environ.get("DUJIANG_TOKEN") or _token_for(url, stored, server, local_token)
        return Connection(url.rstrip("/"), token, "DUJIANG_URL")
    if stored.get("url"):
        token = environ.get("DUJIANG_TOKEN") or stored.get("token")
        return Connection(str(stored["url"]).rstrip("/"), token, str(home / CREDENTIALS_FILE))
    if server.get("url"):
        token = environ.get("DUJIANG_TOKEN") or local_token
        return Connection(str(server["url"]).rstrip("/"), token, str(home / SERVER_FILE))
    return None


def store_credentials(url: str, token: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Keep a credential for later commands of this account, readable by it alone; return where."""
    home = home_folder(environ)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = home / CREDENTIALS_FILE
    partial = path.with_suffix(f".{os.getpid()}")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump({"url": url.rstrip("/"), "token": token}, file)
    partial.replace(path)
    return path


def forget_credentials(environ: Mapping[str, str] = os.environ) -> bool:
    """Remove what `store_credentials` kept; say whether there was anything."""
    path = home_folder(environ) / CREDENTIALS_FILE
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One server-sent event."""

    data: str
    event: str = "message"
    id: str = ""


class Client:
    """A connection to the platform."""

    def __init__(
        self, connection: Connection, *, timeout_s: float = 60.0, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.url = connection.url
        headers = {"User-Agent": f"dujiang/{__version__}", "Accept": "application/json"}
        if connection.token:
            headers["Authorization"] = f"Bearer {connection.token}"
        try:
            self._http = httpx.Client(
                base_url=connection.url,
                headers=headers,
                timeout=httpx.Timeout(timeout_s, connect=5.0),
                transport=transport,
                trust_env=not _is_local(connection.url),  # a proxy must not be asked for this machine itself
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise Unreachable(f'"{connection.url}" is no address of a server: {error}.', no_address=True) from error

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        """Return the answer to a GET; a parameter that is None is left out.

        Raises:
            Unreachable: no answer.
            Problem: refused.
        """
        return self._call("GET", path, query=query)

    def post(self, path: str, body: Any = None, *, key: str | None = None, **query: Any) -> Any:
        """Return the answer to a POST; with an idempotency key it may be sent again and happens once.

        Raises:
            Unreachable: no answer; it may have taken effect.
            Problem: refused.
        """
        return self._call("POST", path, body=body, query=query, key=key)

    def put(self, path: str, body: Any = None, **query: Any) -> Any:
        """Return the answer to a PUT."""
        return self._call("PUT", path, body=body, query=query)

    def patch(self, path: str, body: Any = None) -> Any:
        """Return the answer to a PATCH."""
        return self._call("PATCH", path, body=body)

    def delete(self, path: str) -> Any:
        """Return the answer to a DELETE."""
        return self._call("DELETE", path)

    def items(self, path: str, *, most: int | None = None, **query: Any) -> Iterator[dict[str, Any]]:
        """Yield a listing, page after page, at most so many.

        Raises:
            Unreachable, Problem: as `get`.
        """
        left, cursor = most, None
        while left is None or left > 0:
            limit = PAGE if left is None else min(PAGE, left)
            page = self.get(path, **query, limit=limit, cursor=cursor)
            if isinstance(page, list):  # a listing without pages
                yield from page if left is None else page[:left]
                return
            yield from page["items"]
            left = None if left is None else left - len(page["items"])
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    @contextmanager
    def stream(
        self, path: str, *, accept: str = "text/plain", last_id: str = "", **query: Any
    ) -> Iterator[httpx.Response]:
        """Open a GET whose answer is read while it comes; silence for a minute counts as a broken connection.

        Raises:
            Unreachable, Problem: as `get`, also while reading.
        """
        headers = {"Accept": accept} | ({"Last-Event-ID": last_id} if last_id else {})
        with self._telling(path), self._http.stream("GET", path, params=_query(query), headers=headers) as answer:
            if answer.status_code >= 400:
                answer.read()
                raise _problem(answer)
            yield answer

    def events(self, path: str, *, last_id: str = "", **query: Any) -> Iterator[StreamEvent]:
        """Yield server-sent events until the server ends the stream.

        Raises:
            Unreachable, Problem: as `get`.
        """
        with self.stream(path, accept="text/event-stream", last_id=last_id, **query) as answer:
            kind, ident = "message", last_id
            data: list[str] = []
            for line in answer.iter_lines():
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if not line:
                    if data:
                        yield StreamEvent("\n".join(data), kind, ident)
                    kind, data = "message", []
                elif name == "data":
                    data.append(value)
                elif name == "event":
                    kind = value
                elif name == "id":
                    ident = value

    def _call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> Any:
        headers = {"Idempotency-Key": key} if key else {}
        content = None if body is None else json.dumps(body).encode()
        if content is not None:
            headers["Content-Type"] = "application/json"
        with self._telling(path):
            answer = self._http.request(method, path, params=_query(query or {}), content=content, headers=headers)
        if answer.status_code >= 400:
            raise _problem(answer)
        if answer.status_code == 204 or not answer.content:
            return None
        if "json" not in answer.headers.get("content-type", ""):
            return answer.text
        try:
            return answer.json()
        except ValueError as error:
            raise Unreachable(f"What answers at {self.url} is not this platform.") from error

    @contextmanager
    def _telling(self, path: str) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise Unreachable(f"No server answers at {self.url}.", started=False) from error
        except httpx.TimeoutException as error:
            raise Unreachable(f"The server at {self.url} took too long to answer.", started=True) from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise Unreachable(f'"{self.url}" is no address of a server: {error}.', no_address=True) from error
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise Unreachable(f"The connection to {self.url} broke: {error}.", started=True) from error


def persist(call: Callable[[], T], *, for_s: float, only_if_started: bool = False) -> T:
    """Return what the call returns, calling again while the server is away, for so many seconds.

    For calls that may be made twice: reads, and writes with an idempotency key.

    Args:
        only_if_started: give up at once where nobody listened at all, so that a person is not kept waiting.

    Raises:
        Unreachable: still away.
    """
    end = time.monotonic() + for_s
    while True:
        try:
            return call()
        except Unreachable as error:
            if time.monotonic() > end or (only_if_started and not error.facts.get("started")):
                raise
        except Problem as error:
            if error.status != 503 or time.monotonic() > end:
                raise
        time.sleep(_AGAIN_S)


def segment(text: str) -> str:
    """Return text as one segment of a path."""
    return quote(text, safe="") if text not in {"", ".", ".."} else "%20"


def _query(query: Mapping[str, Any]) -> dict[str, Any]:
    shown = {True: "true", False: "false"}
    return {
        name: shown[value] if isinstance(value, bool) else value
        for name, value in query.items()
        if value is not None and value != []
    }


def _problem(answer: httpx.Response) -> Problem:
    body: Any = None
    with suppress(ValueError):
        body = answer.json()
    if not isinstance(body, dict):
        body = {"detail": f"The server answered {answer.status_code} {answer.reason_phrase}."}
    return Problem(answer.status_code, body)


def _token_for(url: str, stored: Mapping[str, Any], server: Mapping[str, Any], local_token: str | None) -> str | None:
    """Return the token that belongs to a server: no other server is shown it."""
    wanted = url.rstrip("/")
    if str(stored.get("url", "")).rstrip("/") == wanted:
        return str(stored["token"])
    return local_token if str(server.get("url", "")).rstrip("/") == wanted else None


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in {"localhost", "::1"} or host.startswith("127.")


def _read_json(path: Path) -> dict[str, Any]:
    text = _read_text(path)
    with suppress(ValueError):
        value = json.loads(text or "{}")
        if isinstance(value, dict):
            return value
    return {}


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except (OSError, UnicodeDecodeError):
        return None
