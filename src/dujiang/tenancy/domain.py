"""Who may do what: roles, permissions and their reach, and the values of users, projects and tokens.

Decides by role and membership only. What a permission protects is for the context that owns the object; limits on how
much (quotas) are for `scheduling`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import ClassVar, Final

from dujiang.kit.errors import Conflict, DujiangError, Forbidden, Invalid, NotFound, Unauthenticated


class Role(StrEnum):
    """What a person is to the centre; one per user."""

    ADMIN = "admin"
    """May do everything."""
    OPERATOR = "operator"
    """Keeps the fleet running: sees all, cancels and drains anywhere."""
    MANAGER = "manager"
    """Divides the centre: projects, quotas and prices."""
    MEMBER = "member"
    """A tenant: works in the projects they are a member of, and knows of no other."""
    AUDITOR = "auditor"
    """Sees everything, changes nothing."""


class Permission(StrEnum):
    """What a route asks of its caller."""

    PROJECT_READ = "project:read"
    PROJECT_MANAGE = "project:manage"
    USER_READ = "user:read"
    USER_MANAGE = "user:manage"
    TOKEN_OWN = "token:own"
    JOB_READ = "job:read"
    JOB_SUBMIT = "job:submit"
    JOB_CANCEL = "job:cancel"
    POOL_READ = "pool:read"
    POOL_OPERATE = "pool:operate"
    QUEUE_READ = "queue:read"
    QUOTA_MANAGE = "quota:manage"
    MODEL_READ = "model:read"
    MODEL_WRITE = "model:write"
    DEPLOY = "deploy"
    BILL_READ = "bill:read"
    PRICE_MANAGE = "price:manage"
    AUDIT_READ = "audit:read"
    PLATFORM_VERIFY = "platform:verify"
    EVENTS_READ = "events:read"


_P = Permission
_WORK: Final = frozenset({_P.JOB_SUBMIT, _P.MODEL_WRITE, _P.DEPLOY})
_LOOK: Final = frozenset(
    {
        _P.PROJECT_READ, _P.TOKEN_OWN, _P.JOB_READ, _P.POOL_READ, _P.QUEUE_READ, _P.MODEL_READ, _P.EVENTS_READ,
    }
)  # fmt: skip

PERMISSIONS: Final[Mapping[Role, frozenset[Permission]]] = {
    Role.ADMIN: frozenset(Permission),
    Role.OPERATOR: _LOOK | _WORK | {_P.USER_READ, _P.JOB_CANCEL, _P.POOL_OPERATE, _P.PLATFORM_VERIFY},
    Role.MANAGER: _LOOK | _WORK | {
        _P.USER_READ, _P.JOB_CANCEL, _P.PROJECT_MANAGE, _P.QUOTA_MANAGE, _P.BILL_READ, _P.PRICE_MANAGE,
    },
    Role.MEMBER: _LOOK | _WORK | {_P.JOB_CANCEL, _P.BILL_READ},
    Role.AUDITOR: _LOOK | {_P.USER_READ, _P.BILL_READ, _P.AUDIT_READ, _P.PLATFORM_VERIFY},
}  # fmt: skip

OWN_PROJECTS_ONLY: Final[Mapping[Role, frozenset[Permission]]] = {
    Role.ADMIN: frozenset(),
    Role.OPERATOR: _WORK,
    Role.MANAGER: _WORK | {_P.JOB_CANCEL},
    Role.MEMBER: PERMISSIONS[Role.MEMBER],
    Role.AUDITOR: frozenset(),
}
"""Where a permission reaches only into projects the user is a member of; everywhere else it reaches all projects."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking, as known at the time of the request."""

    user_id: str
    name: str
    role: Role
    project_ids: frozenset[str] = frozenset()
    """Projects the user is a member of; see `reach` for where a permission applies."""
    token_id: str = ""
    """The token that the request came with."""

    @property
    def actor(self) -> str:
        """Return how the journal names this user."""
        return f"user:{self.user_id}"

    def holds(self, permission: Permission) -> bool:
        """Say whether the role has the permission anywhere at all."""
        return permission in PERMISSIONS[self.role]

    def reach(self, permission: Permission) -> frozenset[str] | None:
        """Return the projects in which the permission applies; None is every project."""
        if not self.holds(permission):
            return frozenset()
        return self.project_ids if permission in OWN_PROJECTS_ONLY[self.role] else None

    def may(self, permission: Permission, project_id: str | None = None) -> bool:
        """Say whether this may be done, in that project when one is named."""
        reach = self.reach(permission)
        if project_id is None:
            return self.holds(permission)
        return reach is None or project_id in reach

    def require(self, permission: Permission, project_id: str | None = None) -> None:
        """Let pass who may do this.

        Raises:
            NotFound: the caller may not even know of the project.
            Forbidden: the caller sees the project and may not do this in it.
        """
        if self.may(permission, project_id):
            return
        if project_id is not None and not self.may(Permission.PROJECT_READ, project_id):
            raise NotFound("There is no such object, or none that you may see.")
        raise Forbidden(
            f"Your role, {self.role}, does not include {permission}{' in this project' if project_id else ''}; "
            "ask an administrator.",
            permission=str(permission),
        )


@dataclass(frozen=True, slots=True)
class User:
    """A person or a robot with an account."""

    id: str
    name: str
    display_name: str
    role: Role
    has_password: bool
    disabled_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Project:
    """A tenant: what jobs, models and bills belong to."""

    id: str
    name: str
    description: str
    archived_at: datetime | None
    created_at: datetime


class TokenKind(StrEnum):
    """What a token was made for."""

    API = "api"
    """By a user, for programs."""
    SESSION = "session"
    """By signing in; ends when the password is changed."""
    LOCAL = "local"
    """At start, for the commands of the account that runs the platform."""


@dataclass(frozen=True, slots=True)
class Member:
    """A user's membership of a project."""

    user_id: str
    name: str
    display_name: str
    role: Role
    added_at: datetime


@dataclass(frozen=True, slots=True)
class Token:
    """An API token, without its secret."""

    id: str
    user_id: str
    kind: TokenKind
    name: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


class NoSuchUser(NotFound):
    """No user of that id or name."""

    code: ClassVar[str] = "no_such_user"


class NoSuchProject(NotFound):
    """No project of that id or name, or none that the caller may know of."""

    code: ClassVar[str] = "no_such_project"


class NoSuchToken(NotFound):
    """No token of that id among the user's own."""

    code: ClassVar[str] = "no_such_token"


class WrongPassword(Invalid):
    """The current password, asked for before a new one is set, is wrong."""

    code: ClassVar[str] = "wrong_password"
    title: ClassVar[str] = "Wrong password"


class NameTaken(Conflict):
    """Another user or project has the name."""

    code: ClassVar[str] = "name_taken"
    title: ClassVar[str] = "The name is taken"


class ArchivedProject(Conflict):
    """The project is archived: it can be looked at, nothing can be started in it."""

    code: ClassVar[str] = "project_archived"
    title: ClassVar[str] = "The project is archived"


class LastAdmin(Conflict):
    """The change would leave the platform without an administrator."""

    code: ClassVar[str] = "last_admin"
    title: ClassVar[str] = "The last administrator"


class BadName(Invalid):
    """Not a name that a user or project can have."""

    code: ClassVar[str] = "bad_name"


class WeakPassword(Invalid):
    """The password is too short, too long or too easy to guess."""

    code: ClassVar[str] = "weak_password"
    title: ClassVar[str] = "Choose another password"


class SignInRefused(Unauthenticated):
    """The name or the password is wrong; which of them is not said."""

    code: ClassVar[str] = "sign_in_refused"
    title: ClassVar[str] = "Sign-in refused"


class TokenRefused(Unauthenticated):
    """The token is unknown, expired, revoked or of a disabled user."""

    code: ClassVar[str] = "token_refused"


class TooManyAttempts(DujiangError):
    """Sign-in to this account is closed for a while after failed attempts."""

    code: ClassVar[str] = "too_many_attempts"
    http_status: ClassVar[int] = 429
    retryable: ClassVar[bool] = True
    title: ClassVar[str] = "Too many failed sign-ins"


# A DNS label, so that it can name a namespace, an account and a folder on every engine; an id has an underscore, so no
# name can be taken for one.
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def is_name(text: str) -> bool:
    """Say whether a user or project could have this name."""
    return _NAME.fullmatch(text) is not None


def check_name(name: str, what: str) -> str:
    """Return the name of a user or project if it is one.

    Raises:
        BadName: not 1 to 63 lower-case letters, digits and hyphens between letters or digits.
    """
    if not is_name(name):
        raise BadName(
            f"{name[:70]!r} cannot name a {what}; use 1 to 63 lower-case letters, digits and hyphens, "
            "starting and ending with a letter or digit."
        )
    return name


MIN_PASSWORD: Final = 10
MAX_PASSWORD: Final = 256
_COMMON: Final = frozenset(
    {
        "password", "passw0rd", "qwertyuiop", "1234567890", "0123456789", "letmein", "welcome", "administrator",
        "iloveyou", "changeme", "qwerty123456", "dujiang", "secret",
    }
)  # fmt: skip


def check_password(password: str, *, user_name: str) -> None:
    """Let pass a password that is not trivially guessed: length first, no character classes (NIST SP 800-63B).

    Raises:
        WeakPassword: shorter than 10, longer than 256, few distinct characters, a common one or built on the user name.
    """
    folded = password.casefold()
    bare = folded.strip("0123456789!@#$%^&*().,-_ ")
    if len(password) < MIN_PASSWORD:
        raise WeakPassword(f"A password has at least {MIN_PASSWORD} characters; a few words make a good one.")
    if len(password) > MAX_PASSWORD:
        raise WeakPassword(f"A password has at most {MAX_PASSWORD} characters.")
    if len(set(folded)) < 5:
        raise WeakPassword("This password has too few different characters.")
    if folded in _COMMON or bare in _COMMON or bare == user_name or folded.replace(user_name, "") == "":
        raise WeakPassword("This password is among the first that are guessed.")


@dataclass(frozen=True, slots=True)
class Failures:
    """Failed sign-ins of one account in a row."""

    count: int
    since: datetime
    closed_until: datetime | None


FREE_FAILURES: Final = 5
FAILURE_WINDOW: Final = timedelta(minutes=15)
FIRST_CLOSURE: Final = timedelta(seconds=30)
LONGEST_CLOSURE: Final = timedelta(minutes=15)


def after_failure(before: Failures | None, now: datetime) -> Failures:
    """Count one more failure: from the fifth on, sign-in closes for 30 s, then twice as long each time, up to 15 min.

    An hour of guessing tests about ten passwords; a person who mistypes waits half a minute. Tokens work on meanwhile,
    so nobody is locked out of running work by a stranger's guesses.
    """
    if before is None or now - before.since > FAILURE_WINDOW + LONGEST_CLOSURE:
        return Failures(1, now, None)
    count = before.count + 1
    if count < FREE_FAILURES:
        return Failures(count, now, None)
    closure = min(FIRST_CLOSURE * 2 ** min(count - FREE_FAILURES, 10), LONGEST_CLOSURE)
    return Failures(count, now, now + closure)


def check_open(failures: Failures | None, now: datetime) -> None:
    """Let a sign-in be tried.

    Raises:
        TooManyAttempts: closed after failures; `retry_after_s` says for how long.
    """
    if failures is None or failures.closed_until is None or failures.closed_until <= now:
        return
    wait_s = math.ceil((failures.closed_until - now).total_seconds())
    raise TooManyAttempts(
        f"Sign-in to this account is closed for {wait_s} s after {failures.count} failed attempts; tokens work on.",
        retry_after_s=wait_s,
    )
