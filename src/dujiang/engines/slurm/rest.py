"""Asks slurmrestd over HTTP, and tells one that is away, or a controller behind it that is, from one that says no.

Its answers mislead: an expired token is a 500, a job that is not there a 500 or a 404, a refusal may come with 200. So
`errors` is read first, the status last, and what is no whole JSON object is no answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import httpx

from dujiang.engines.contract import EngineRefused, EngineUnavailable
from dujiang.engines.slurm.commands import AWAY
from dujiang.engines.slurm.settings import SlurmSettings
from dujiang.engines.slurm.tokens import Tokens

VERSIONS: Final = ("v0.0.42", "v0.0.41", "v0.0.40", "v0.0.38", "v0.0.37", "v0.0.36")
"""Of the API, the newest first: those that were tried."""
_COMMUNICATION = range(1000, 2000)
_AUTHENTICATION = range(5000, 7000)
_UNKNOWN: Final = -1
"""What slurmrestd says when it did not hear why: a controller that is away and a token that is refused look alike."""
_CODES: Final = ("error_number", "error_code", "errno", "code")
"""One word for each version, and each place in it."""
_DENIED = frozenset({401, 403})


class Denied(Exception):
    """Slurm heard the question and says no."""

    def __init__(self, said: str, codes: frozenset[int]) -> None:
        super().__init__(said)
        self.said, self.codes = said, codes


class Rest:
    """One slurmrestd."""

    def __init__(
        self, settings: SlurmSettings, tokens: Tokens, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:  # fmt: skip
        url = settings.rest_url
        socket = url.removeprefix("unix:") if url.startswith("unix:") else None
        if socket is None and not url.startswith(("http://", "https://")):
            raise EngineRefused(f"`rest_url` is http://HOST:PORT, https://HOST:PORT or unix:/path, not {url!r}")
        if socket is None and not settings.rest_token_file and not settings.rest_key_file:
            raise EngineRefused("slurmrestd over HTTP wants a token: set `rest_token_file` (or `rest_key_file`)")
        self._url, self._tokens = url, tokens
        self._wanted, self._version, self._paths = settings.rest_version, "", frozenset[str]()
        self._client = httpx.AsyncClient(
            base_url="http://slurmrestd" if socket else url, timeout=settings.command_timeout_s, trust_env=False,
            transport=transport or (httpx.AsyncHTTPTransport(uds=socket) if socket else None),
        )  # fmt: skip

    async def version(self) -> str:
        """Return the version of the API that is spoken: the newest that it serves, found once."""
        if not self._version:
            paths = frozenset((await self._ask("GET", "/openapi/v3")).get("paths", {}))
            served = [name for name in VERSIONS if any(path.startswith(f"/slurm/{name}/") for path in paths)]
            if self._wanted != "auto":
                served = [name for name in served if name == self._wanted]
            if not served:
                raise EngineUnavailable(
                    f"slurmrestd at {self._url} serves none of {', '.join(VERSIONS)} (`rest_version` is {self._wanted})"
                )
            self._version, self._paths = served[0], paths
        return self._version

    async def serves(self, path: str) -> bool:
        """Say whether the version has a path, such as `/jobs/state/`."""
        version = await self.version()
        return f"/slurm/{version}{path}" in self._paths

    async def call(
        self, method: str, path: str, *, body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None, user: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        """Ask, and return the answer; as another user than ours where one is named.

        Raises:
            Denied: Slurm says no.
            EngineUnavailable: no answer, or none that can be trusted; what was asked for may have happened.
        """
        return await self._ask(method, f"/slurm/{await self.version()}{path}", body=body, query=query, user=user)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()

    async def _ask(
        self, method: str, path: str, *, body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None, user: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        headers = self._tokens.headers(user)
        try:
            heard = await self._client.request(method, path, json=body, params=query, headers=headers)
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise EngineUnavailable(f"slurmrestd at {self._url} does not answer: {why}") from error
        told = _object(heard)
        if told is not None:
            _refuse_errors(told)
        if heard.status_code in _DENIED:
            raise EngineUnavailable(f"slurmrestd at {self._url} does not accept our token ({heard.status_code})")
        if told is None or heard.status_code >= 400:
            self._version = ""  # it may have become another one
            raise EngineUnavailable(
                f"slurmrestd at {self._url} answers {heard.status_code} with half an answer, or none that is JSON:"
                f" {heard.text[:100]!r}"
            )
        return told


def _refuse_errors(told: Mapping[str, Any]) -> None:
    if told.get("job_id"):
        return  # a job was made: it only has to wait, such as for a node that is closed, and that stands under `errors`
    errors = [each for each in told.get("errors") or [] if isinstance(each, dict)]
    # From 24.05 on, what becomes of a signal is told job by job.
    errors += [each["error"] for each in told.get("status") or [] if isinstance(each, dict) and each.get("error")]
    if not errors:
        return
    codes = frozenset(int(next((each[name] for name in _CODES if each.get(name)), 0)) for each in errors)
    words = [str(each.get(name, "")) for each in errors for name in ("description", "error", "message")]
    said = "; ".join(dict.fromkeys(word for word in words if word))[:500]
    if _UNKNOWN in codes and not codes - {_UNKNOWN, 0}:
        raise EngineUnavailable(f"Slurm does not answer slurmrestd, or refuses our token: {said}")
    if any(code in _COMMUNICATION or code in _AUTHENTICATION for code in codes) or AWAY.search(said):
        raise EngineUnavailable(f"Slurm does not answer: {said}")
    if codes - {0} or said:
        raise Denied(said, codes)


def _object(heard: httpx.Response) -> dict[str, Any] | None:
    try:
        told = heard.json()
    except ValueError:
        return None
    return told if isinstance(told, dict) else None
