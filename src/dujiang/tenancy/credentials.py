"""Passwords and tokens: how they are made, kept and compared.

A password is kept as an argon2id hash (RFC 9106). A token is `dj_<id>_<secret>` with a secret of 256 bits, kept as its
SHA-256: a random secret of that length needs no slow hash, and every request pays for the check.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

# 19 MiB, two passes, one lane: OWASP's recommendation; 25 ms on a server core, and small beside the platform's memory.
DEFAULT_HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_AT_ONCE: Final = 2
_TOKEN = re.compile(r"dj_([0-9a-z]{26})_([0-9a-f]{64})")


class Passwords:
    """Hashes and checks passwords off the event loop, a few at a time, in the same time for known and unknown users."""

    def __init__(self, hasher: PasswordHasher = DEFAULT_HASHER) -> None:
        self._hasher = hasher
        self._turn = asyncio.Semaphore(_AT_ONCE)
        self._decoy = hasher.hash(secrets.token_hex(16))

    async def hash(self, password: str) -> str:
        """Return the hash to keep."""
        async with self._turn:
            return await asyncio.to_thread(self._hasher.hash, password)

    async def matches(self, password: str, kept: str | None) -> bool:
        """Say whether the password is the one of the hash; None (no such user, no password) costs the same time."""
        async with self._turn:
            good = await asyncio.to_thread(self._verify, kept or self._decoy, password)
        return good and kept is not None

    def is_outdated(self, kept: str) -> bool:
        """Say whether the hash was made with other parameters than are used now."""
        return self._hasher.check_needs_rehash(kept)

    def _verify(self, kept: str, password: str) -> bool:
        try:
            return self._hasher.verify(kept, password)
        except (VerificationError, InvalidHashError):
            return False


@dataclass(frozen=True, slots=True)
class ReadToken:
    """A token as it came in."""

    id: str
    digest: str


def make_token(token_id: str) -> tuple[str, str]:
    """Return the text of a new token for an identifier `tok_...`, and the digest to keep."""
    secret = secrets.token_hex(32)
    return f"dj_{token_id.removeprefix('tok_')}_{secret}", _digest(secret)


def read_token(text: str) -> ReadToken | None:
    """Return the identifier and digest of a token, or None for what is not one."""
    match = _TOKEN.fullmatch(text)
    return ReadToken(f"tok_{match[1]}", _digest(match[2])) if match else None


def same(a: str, b: str) -> bool:
    """Compare two digests in a time that does not depend on where they differ."""
    return hmac.compare_digest(a, b)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
