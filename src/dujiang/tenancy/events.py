"""What happened to users, projects and tokens, and calls that left no other record."""

from __future__ import annotations

from dataclasses import dataclass

from dujiang.kit.journal import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class CallMade(Event):
    """A mutating call succeeded and changed nothing that an event tells; the subject is the user who made it."""

    method: str
    route: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRefused(Event):
    """A mutating call was refused or failed; the subject is the path that was asked for."""

    method: str
    route: str
    status: int
    code: str
    unrecorded: int = 0
    """Refusals of unknown callers since the record before that were counted and not written, to bound the journal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserCreated(Event):
    """An account came to be."""

    name: str
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UserChanged(Event):
    """An account was changed; only what changed is named."""

    changes: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class UserDisabled(Event):
    """An account was closed: its tokens are revoked, its memberships stay on record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserEnabled(Event):
    """A closed account was opened again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordChanged(Event):
    """An account's password was set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedIn(Event):
    """A user signed in by password and got a token."""

    token_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SignInFailed(Event):
    """A wrong password was given for an existing account."""

    failures: int
    """In a row, within the window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCreated(Event):
    """A token was made; the subject is the token."""

    user_id: str
    name: str
    expires_at: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRevoked(Event):
    """A token was revoked before its time."""

    user_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectCreated(Event):
    """A project came to be."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectChanged(Event):
    """A project was changed; only what changed is named."""

    changes: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectArchived(Event):
    """A project was closed to new work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectRestored(Event):
    """An archived project was opened again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberAdded(Event):
    """A user may work in the project, which is the subject."""

    user_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRemoved(Event):
    """A user may no longer work in the project, which is the subject."""

    user_id: str
