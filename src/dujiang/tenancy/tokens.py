"""Whose token is this, asked by every request: a short-lived memory in front of the database.

What this process itself changes (a token revoked, a role, a membership) shows at once; what another replica changes
shows within `REMEMBERED_S`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from dujiang.kit.clock import Clock
from dujiang.kit.db import Database, Tx
from dujiang.kit.errors import Unavailable
from dujiang.tenancy import store
from dujiang.tenancy.credentials import ReadToken, read_token, same
from dujiang.tenancy.domain import Principal, TokenRefused

REMEMBERED_S: Final = 5.0
TOUCHED_EVERY: Final = timedelta(minutes=10)
_MOST: Final = 4096


@dataclass(frozen=True, slots=True)
class _Known:
    principal: Principal
    until_s: float
    expires_at: datetime | None


class TokenMemory:
    """Authenticates tokens; about 5 µs for one seen in the last seconds, one read of the database otherwise."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db, self._clock = db, clock
        self._known: dict[ReadToken, _Known] = {}
        self._age = 0

    def forget(self) -> None:
        """Ask the database again for every token; call this after the commit of any change to what tokens may do."""
        self._known.clear()
        self._age += 1

    def forget_after(self, tx: Tx) -> None:
        """Forget when the transaction is committed."""
        tx.afterwards(self.forget)

    async def authenticate(self, text: str) -> Principal:
        """Return the owner of a good token.

        Raises:
            TokenRefused: unknown, expired, revoked, or its user is disabled.
        """
        token = read_token(text)
        if token is None:
            raise TokenRefused("This is not a token of Dujiang; it would start with dj_. Sign in again.")
        known = self._known.get(token)
        if known is not None and self._clock.monotonic_s() < known.until_s:
            self._check_expiry(known.expires_at)
            return known.principal
        return await self._ask(token)

    async def _ask(self, token: ReadToken) -> Principal:
        age = self._age
        async with self._db.reading() as tx:
            found = await store.token_owner(tx, token.id)
            if found is None or not same(found[1], token.digest):
                raise TokenRefused("This token is not known here; sign in again.")
            kept, _, owner = found
            if kept.revoked_at is not None:
                raise TokenRefused("This token was revoked; sign in again.")
            if owner.disabled_at is not None:
                raise TokenRefused("This account is closed; ask an administrator.")
            self._check_expiry(kept.expires_at)
            principal = await store.principal(tx, owner, token.id)
        if age == self._age:  # else something changed while we read: do not remember what may be the old state
            if len(self._known) >= _MOST:
                self._known.clear()
            until_s = self._clock.monotonic_s() + REMEMBERED_S
            self._known[token] = _Known(principal, until_s, kept.expires_at)
        await self._touch(token.id, kept.last_used_at)
        return principal

    def _check_expiry(self, expires_at: datetime | None) -> None:
        if expires_at is not None and expires_at <= self._clock.now():
            raise TokenRefused(f"This token expired at {expires_at:%Y-%m-%d %H:%M} UTC; sign in again.")

    async def _touch(self, token_id: str, last_used_at: datetime | None) -> None:
        now = self._clock.now()
        if last_used_at is not None and now - last_used_at < TOUCHED_EVERY:
            return
        try:
            async with self._db.transaction() as tx:
                await store.touch_token(tx, token_id, now)
        except Unavailable:  # locked or full: not worth refusing a reader for
            return
