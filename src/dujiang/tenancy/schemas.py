"""What the routes of tenancy take and give."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field, SecretStr

from dujiang.kit.http import Flag, Model
from dujiang.tenancy.domain import MAX_PASSWORD, Permission, Role, TokenKind

Name = Annotated[str, Field(max_length=63, description="Lower-case letters, digits and hyphens.", examples=["vision"])]
Label = Annotated[str, Field(max_length=200)]
Password = Annotated[SecretStr, Field(max_length=MAX_PASSWORD, description="At least 10 characters.")]

MAX_TOKEN_LIFE_S = 5 * 366 * 86400


class UserView(Model):
    """An account."""

    id: str
    name: str
    display_name: str
    role: Role
    has_password: bool
    disabled_at: datetime | None
    created_at: datetime


class UserNew(Model):
    """An account to create; without a password nobody can sign in to it until one is set."""

    name: Name
    display_name: Label = ""
    role: Role = Role.MEMBER
    password: Password | None = None
    projects: Annotated[tuple[str, ...], Field(max_length=100, description="Projects to join, by name or id.")] = ()


class UserChange(Model):
    """What to change of an account; what is left out stays."""

    display_name: Label | None = None
    role: Role | None = None
    disabled: Flag | None = None
    password: Password | None = None


class ProjectView(Model):
    """A project."""

    id: str
    name: str
    description: str
    archived_at: datetime | None
    created_at: datetime


class ProjectNew(Model):
    """A project to create."""

    name: Name
    description: Annotated[str, Field(max_length=2000)] = ""


class ProjectChange(Model):
    """What to change of a project; what is left out stays."""

    description: Annotated[str, Field(max_length=2000)] | None = None
    archived: Flag | None = None


class MemberView(Model):
    """A user's membership of a project."""

    user_id: str
    name: str
    display_name: str
    role: Role
    added_at: datetime


class MemberNew(Model):
    """Who joins."""

    user: Annotated[str, Field(max_length=63, description="Name or id.")]


class MeView(Model):
    """The caller, and what they may do."""

    user: UserView
    permissions: list[Permission]
    everywhere: list[Permission]
    """Permissions that reach into every project; the others reach into `projects`."""
    projects: list[ProjectView]


class PasswordChange(Model):
    """A new password of one's own."""

    current: Password | None = None
    new: Password


class Login(Model):
    """Who signs in."""

    name: Annotated[str, Field(max_length=200)]
    password: Password


class TokenView(Model):
    """A token, without its secret."""

    id: str
    user_id: str
    kind: TokenKind
    name: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    """To some ten minutes."""
    revoked_at: datetime | None


class TokenNew(Model):
    """A token to make."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    expires_in_s: Annotated[int, Field(ge=60, le=MAX_TOKEN_LIFE_S, description="Null never expires.")] | None = (
        90 * 86400
    )


class TokenMade(TokenView):
    """A new token with its text, which is shown this once."""

    token: str


class SignedIn(Model):
    """A session."""

    token: str
    token_id: str
    expires_at: datetime
    user: UserView


class RecordView(Model):
    """One record of the audit trail."""

    seq: int
    at: datetime
    actor: str
    actor_name: str | None
    cause: str
    """Identifier of the request, its method and its route; or what else made the platform act."""
    type: str
    subject: str
    project_id: str | None
    payload: dict[str, Any]
    hash: str


class BreakView(Model):
    """Where the chain does not hold."""

    seq: int
    why: str


class ProofView(Model):
    """What a walk over the whole chain found."""

    holds: bool
    records: int
    breaks: list[BreakView]
    seq: int
    hash: str
    """Of the newest record. Keep it with `seq` somewhere else and give both to the next check."""
