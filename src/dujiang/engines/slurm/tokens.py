"""The tokens (JWT) by which slurmrestd knows who asks: read from a file that something else renews, or made here.

A token of root, or the cluster's key, lets whoever reads it run anything as anyone on every node. So the file must be
readable by this user alone, and neither ever stands in a sentence or a log.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import stat

from dujiang.engines.contract import EngineRefused, EngineUnavailable
from dujiang.kit.clock import Clock

_LASTS_S = 600
_RENEWED_S = 120
"""Before its end a token of ours is replaced: the clocks of both sides may differ."""
_LONGEST_BYTES = 64 * 1024


class Tokens:
    """What is sent with each request."""

    def __init__(self, *, user: str, token_file: str, key_file: str, clock: Clock) -> None:
        self._user, self._token_file, self._key_file, self._clock = user, token_file, key_file, clock
        self._made: dict[str, tuple[str, float]] = {}

    def __repr__(self) -> str:
        return f"Tokens of {self._user}"

    def headers(self, user: str = "") -> dict[str, str]:
        """Return the headers of a request; none where the socket itself says who asks.

        Args:
            user: as whom it is asked, where that is another: a token in a file must then be one that may do that.

        Raises:
            EngineUnavailable: the file is not there, not kept from others, or its token has expired.
        """
        if not self._token_file and not self._key_file:
            if user:
                raise EngineRefused(f"slurmrestd cannot be asked as user {user!r} without `rest_token_file` or a key")
            return {}
        user = user or self._user
        token = self._read_token() if self._token_file else self._make_token(user)
        return {"X-SLURM-USER-NAME": user, "X-SLURM-USER-TOKEN": token}

    def _read_token(self) -> str:
        text = read_guarded(self._token_file).decode(errors="replace").strip()
        token = text.removeprefix("SLURM_JWT=").strip()
        if not token.isascii() or not token or any(sign.isspace() for sign in token):
            raise EngineUnavailable(f"{self._token_file} holds no token: put what `scontrol token` prints there")
        until_s = _expiry_s(token)
        if until_s is not None and until_s <= self._clock.now().timestamp():
            raise EngineUnavailable(f"the token in {self._token_file} has expired: renew it before it does")
        return token

    def _make_token(self, user: str) -> str:
        now_s = self._clock.now().timestamp()
        made, until_s = self._made.get(user, ("", 0.0))
        if now_s > until_s - _RENEWED_S:
            until_s = now_s + _LASTS_S
            made = minted(read_guarded(self._key_file), user, int(now_s), int(until_s))
            self._made[user] = made, until_s
        return made


def minted(key: bytes, user: str, now_s: int, until_s: int) -> str:
    """Return a token of a user, signed with the cluster's key (HS256, RFC 7515)."""
    parts = ({"alg": "HS256", "typ": "JWT"}, {"iat": now_s, "exp": until_s, "sun": user})
    text = ".".join(_base64(json.dumps(part, separators=(",", ":")).encode()) for part in parts)
    return f"{text}.{_base64(hmac.digest(key, text.encode(), hashlib.sha256))}"


def read_guarded(path: str) -> bytes:
    """Return what a secret file holds.

    Raises:
        EngineUnavailable: it cannot be read, or others can.
    """
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077 or found.st_uid not in (0, os.geteuid()):
                raise EngineUnavailable(f"{path} is not kept from others: `chmod 600 {path}`, as its only reader's")
            return file.read(_LONGEST_BYTES)
    except OSError as error:
        raise EngineUnavailable(f"{path} cannot be read: {error.strerror}") from error


def _expiry_s(token: str) -> float | None:
    """Return when a token ends by its own word, None where it does not say."""
    try:
        body = token.split(".")[1]
        said = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return float(said["exp"])
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return None


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
