"""What an answer of the API server means, and what it means when there is none: one sentence each."""

from __future__ import annotations

import gc
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import orjson

from dujiang.engines.contract import EngineUnavailable
from dujiang.engines.kubernetes.connecting import Access
from dujiang.engines.kubernetes.errors import SHOWN, NotFound, error_of


class Unknown(Exception):
    """The cluster does not know who asks: a token or certificate has ended, or is wrong."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


class Busy(Exception):
    """The cluster has too much to do and says when to ask again."""

    def __init__(self, sentence: str, after_s: float) -> None:
        super().__init__(sentence)
        self.sentence, self.after_s = sentence, after_s


class Foreign(EngineUnavailable):
    """Something answered that is no API server, or (on the way into a container) a kubelet did in its own words."""

    def __init__(self, server: str, what: str, content: bytes) -> None:
        self.text = " ".join(content[:SHOWN].decode(errors="replace").split())
        super().__init__(
            f"What answers at {server} is no API server of Kubernetes ({what}: {self.text[:80]!r}); see its address."
        )


async def check(server: str, answer: aiohttp.ClientResponse) -> None:
    """Read an answer that is not one of success, and raise what it means.

    Raises:
        ApiError: the cluster says no.
        Unknown, Busy: the same request may be sent again.
        Foreign: no answer of a cluster.
    """
    if answer.status < 300:
        return
    content = await answer.read()
    try:
        told = orjson.loads(content)
        assert told["kind"] == "Status"
    except (ValueError, TypeError, KeyError, AssertionError):
        # Go's own answer to a path that nothing serves. Any server says 404, and must not make Pods look gone.
        if answer.status == 404 and "Audit-Id" in answer.headers:
            raise NotFound(404, "NotFound", f"the cluster serves no {answer.url.path}") from None
        if answer.status == 401:
            raise Unknown(_unknown(server, "Unauthorized")) from None
        raise Foreign(server, f"HTTP {answer.status}", content) from None
    error = error_of(answer.status, told, server)
    if answer.status == 401:
        raise Unknown(str(error))
    if answer.status == 429 and isinstance(error, EngineUnavailable) and "Retry-After" in answer.headers:
        after = answer.headers["Retry-After"]
        raise Busy(error.sentence, min(float(after), 10.0) if after.isdigit() else 1.0)
    raise error


def object_of(content: bytes, server: str) -> dict[str, Any]:
    """Return the JSON object of an answer of success.

    Raises:
        Foreign: it is none.
    """
    try:
        told = _read(content)
    except ValueError as error:
        raise Foreign(server, "no JSON", content) from error
    if not isinstance(told, dict):
        raise Foreign(server, "no object", content)
    return told


def _read(content: bytes) -> Any:
    """Read JSON without a collection of garbage: of a page of 500 nodes those would be over half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        return orjson.loads(content)
    finally:
        if was_on:
            gc.enable()


@contextmanager
def telling(access: Access, timeout_s: float) -> Iterator[None]:
    """Turn each failure of a connection into `EngineUnavailable`."""
    server = access.server
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        why = getattr(error.certificate_error, "verify_message", "") or str(error.certificate_error)
        raise EngineUnavailable(
            f"The certificate of the cluster at {server} is not to be trusted ({why}): the {access.origin} must name "
            "the authority that signed it, and the address that it is for."
        ) from error
    except (aiohttp.ClientConnectorDNSError, aiohttp.ClientProxyConnectionError) as error:
        raise EngineUnavailable(
            f"No way leads to the cluster at {server} ({_why(error)}); see the address and DNS."
        ) from error
    except (aiohttp.ClientSSLError, ssl.SSLError) as error:
        raise EngineUnavailable(
            f"The cluster at {server} speaks no TLS with the platform ({_why(error)}): see address and client "
            f"certificate of the {access.origin}."
        ) from error
    except aiohttp.ClientConnectorError as error:
        raise EngineUnavailable(
            f"Nothing answers at {server} ({_why(error)}): see whether its API server is up and the address of the "
            f"{access.origin} is right."
        ) from error
    except TimeoutError as error:
        raise EngineUnavailable(
            f"The cluster at {server} did not answer within {timeout_s:g} s; what was asked for may have been done."
        ) from error
    except (aiohttp.ClientError, OSError) as error:
        raise EngineUnavailable(
            f"The connection to the cluster at {server} broke off ({_why(error)}); what was asked for may have been "
            "done."
        ) from error


def _unknown(server: str, message: str) -> str:
    return str(error_of(401, {"message": message}, server))


def _why(error: BaseException) -> str:
    inner = getattr(error, "os_error", None) or error
    return str(getattr(inner, "strerror", "") or inner or type(error).__name__)[:SHOWN]
