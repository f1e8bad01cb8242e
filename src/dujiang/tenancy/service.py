"""Users, projects, memberships, sign-in and tokens: the door for other contexts and for the routes.

Every function that takes `tx` works in the caller's transaction. Whether the caller may is decided before, by
`tenancy.access` and `Principal.require`; only `project_for` does both, because every context needs it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, Final

from dujiang.kit.clock import Clock
from dujiang.kit.db import Database, Tx
from dujiang.kit.errors import Forbidden, Invalid, NotFound
from dujiang.kit.ids import Ids
from dujiang.tenancy import events, store
from dujiang.tenancy.credentials import Passwords, make_token
from dujiang.tenancy.domain import (
    FAILURE_WINDOW,
    LONGEST_CLOSURE,
    ArchivedProject,
    LastAdmin,
    Member,
    NameTaken,
    NoSuchProject,
    NoSuchToken,
    NoSuchUser,
    Permission,
    Principal,
    Project,
    Role,
    SignInRefused,
    Token,
    TokenKind,
    User,
    WrongPassword,
    after_failure,
    check_name,
    check_open,
    check_password,
    is_name,
)
from dujiang.tenancy.tokens import TokenMemory

FIRST_ADMIN: Final = "admin"
DEFAULT_PROJECT: Final = "default"
SESSION: Final = timedelta(hours=12)
LOCAL_OVERLAP: Final = timedelta(hours=1)
ENDED_TOKENS_KEPT: Final = timedelta(days=90)


class Tenancy:
    """The use cases of tenancy."""

    def __init__(self, *, db: Database, clock: Clock, ids: Ids, passwords: Passwords | None = None) -> None:
        self._db, self._clock, self._ids = db, clock, ids
        self._passwords = passwords or Passwords()
        self._memory = TokenMemory(db, clock)

    # -- who is calling ------------------------------------------------------------------------------------------

    async def authenticate(self, token: str) -> Principal:
        """Return the owner of a good token; see `TokenMemory.authenticate`."""
        return await self._memory.authenticate(token)

    async def sign_in(self, name: str, password: str, *, cause: str = "") -> tuple[User, Token, str]:
        """Check a password and make a token of twelve hours.

        No transaction is open while the password is hashed. A wrong name takes as long as a wrong password and is
        answered alike.

        Returns:
            The user, the token and its text, which is not kept.

        Raises:
            SignInRefused: the name or the password is wrong, or the account is closed.
            TooManyAttempts: too many failures before this one.
        """
        started_s = self._clock.monotonic_s()
        user = await self._check(name, password, cause=cause)
        if user is None:
            await self._clock.sleep(_rest_s(self._clock.monotonic_s() - started_s))
            raise SignInRefused("The name or the password is wrong.")
        async with self._db.transaction(actor=f"user:{user.id}", cause=cause) as tx:
            token, text = await self.make_token(
                tx, user.id, name="sign-in", kind=TokenKind.SESSION, expires_at=tx.now + SESSION
            )
            tx.emit(events.SignedIn(subject=user.id, token_id=token.id))
        return user, token, text

    async def prepare_password(self, password: str, *, user_name: str) -> str:
        """Return the hash of a new password, made before the transaction that keeps it is opened.

        Raises:
            WeakPassword: it is too easily guessed.
        """
        check_password(password, user_name=user_name)
        return await self._passwords.hash(password)

    async def change_password(self, principal: Principal, current: str | None, new: str, *, cause: str = "") -> None:
        """Set the caller's own password; their sign-ins elsewhere end, their API tokens stay.

        Raises:
            WrongPassword: the account has a password and `current` is not it.
            WeakPassword, TooManyAttempts: as they say.
        """
        async with self._db.reading() as tx:
            has_one = (await self.user(tx, principal.user_id)).has_password
        if has_one and await self._check(principal.name, current or "", cause=cause) is None:
            raise WrongPassword("The current password is wrong.")
        kept = await self.prepare_password(new, user_name=principal.name)
        async with self._db.transaction(actor=principal.actor, cause=cause) as tx:
            await self.keep_password(tx, principal.user_id, kept)

    async def keep_password(self, tx: Tx, user_id: str, password_hash: str) -> None:
        """Keep a prepared password; sign-ins made with the one before end."""
        await store.change_user(tx, user_id, {"password_hash": password_hash})
        await store.revoke_tokens(tx, user_id, at=tx.now, kinds=[TokenKind.SESSION])
        tx.emit(events.PasswordChanged(subject=user_id))
        self._memory.forget_after(tx)

    async def _check(self, name: str, password: str, *, cause: str) -> User | None:
        account = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()
        async with self._db.reading() as tx:
            check_open(await store.failures(tx, account), tx.now)
            user = await store.user(tx, name) if is_name(name) else None
            kept = await store.password_hash(tx, user.id) if user else None
        good = await self._passwords.matches(password, kept)
        if good and user is not None and user.disabled_at is None:
            await self._settle(account, user.id, password, kept or "")
            return user
        async with self._db.transaction(actor="anonymous", cause=cause) as tx:
            before = await store.lock_failures(tx, account)
            check_open(before, tx.now)  # others failed while this one waited for its turn to hash
            failures = after_failure(before, tx.now)
            await store.keep_failures(tx, account, failures)
            await store.drop_old_failures(tx, before=tx.now - FAILURE_WINDOW - LONGEST_CLOSURE)
            if user is not None:
                tx.emit(events.SignInFailed(subject=user.id, failures=failures.count))
        return None

    async def _settle(self, account: str, user_id: str, password: str, kept: str) -> None:
        renewed = await self._passwords.hash(password) if self._passwords.is_outdated(kept) else None
        async with self._db.transaction() as tx:
            check_open(await store.failures(tx, account, lock=True), tx.now)
            await store.clear_failures(tx, account)
            if renewed is not None:
                await store.change_user(tx, user_id, {"password_hash": renewed})

    # -- tokens --------------------------------------------------------------------------------------------------

    async def make_token(
        self, tx: Tx, user_id: str, *, name: str, kind: TokenKind = TokenKind.API, expires_at: datetime | None = None
    ) -> tuple[Token, str]:
        """Make a token; return it and its text, which is not kept and cannot be shown again."""
        if expires_at is not None and expires_at <= tx.now:
            raise Invalid("A token must expire in the future.")
        token = Token(self._ids.new("tok"), user_id, kind, name, tx.now, expires_at, None, None)
        text, digest = make_token(token.id)
        await store.add_token(tx, token, digest)
        tx.emit(
            events.TokenCreated(
                subject=token.id, user_id=user_id, name=name, expires_at=expires_at.isoformat() if expires_at else None
            )
        )
        return token, text

    async def tokens(self, tx: Tx, user_id: str, *, after: str | None = None, limit: int = 500) -> list[Token]:
        """Return a user's tokens that are not revoked, the newest first, after an id."""
        return await store.token_page(tx, user_id, after=after, limit=limit)

    async def revoke_token(self, tx: Tx, principal: Principal, token_id: str) -> None:
        """Revoke a token of the caller, or anyone's for who manages users.

        Raises:
            NoSuchToken: there is none, it ended, or it is someone else's.
        """
        found = await store.token_owner(tx, token_id)
        owner = found[0].user_id if found else principal.user_id
        allowed = owner == principal.user_id or principal.may(Permission.USER_MANAGE)
        if not allowed or not await store.revoke_tokens(tx, owner, at=tx.now, token_id=token_id):
            raise NoSuchToken("You have no such token; it may have been revoked already.")
        tx.emit(events.TokenRevoked(subject=token_id, user_id=owner))
        self._memory.forget_after(tx)

    async def prune(self, tx: Tx) -> int:
        """Delete tokens that ended more than ninety days ago; a loop calls this now and then."""
        return await store.drop_ended_tokens(tx, before=tx.now - ENDED_TOKENS_KEPT)

    # -- users ---------------------------------------------------------------------------------------------------

    async def user(self, tx: Tx, ref: str) -> User:
        """Return the user of an id or a name.

        Raises:
            NoSuchUser: there is none.
        """
        found = await store.user(tx, ref)
        if found is None:
            raise NoSuchUser(f"There is no user {ref[:70]!r}.")
        return found

    async def principal(self, tx: Tx, user_id: str) -> Principal:
        """Return a user as one who calls, for what is done in their name while they are away.

        Raises:
            NoSuchUser: there is none.
            Forbidden: the account is closed.
        """
        user = await self.user(tx, user_id)
        if user.disabled_at is not None:
            raise Forbidden(f"The account {user.name} is closed.")
        return await store.principal(tx, user, "")

    async def users(self, tx: Tx, *, after: str | None = None, limit: int = 500) -> list[User]:
        """Return users by name, after a name."""
        return await store.user_page(tx, after=after, limit=limit)

    async def names(self, tx: Tx, user_ids: Collection[str]) -> dict[str, str]:
        """Return the names of users by id; unknown ids are left out."""
        return await store.names(tx, user_ids)

    async def create_user(
        self, tx: Tx, *, name: str, display_name: str = "", role: Role = Role.MEMBER, password_hash: str | None = None
    ) -> User:
        """Create an account; without a password it can only be used by tokens.

        Raises:
            BadName, NameTaken: as they say.
        """
        check_name(name, "user")
        if await store.user(tx, name) is not None:
            raise NameTaken(f"There is a user {name!r} already.")
        user = User(self._ids.new("usr"), name, display_name or name, role, password_hash is not None, None, tx.now)
        await store.add_user(tx, user, password_hash)
        tx.emit(events.UserCreated(subject=user.id, name=name, role=role))
        return user

    async def change_user(
        self, tx: Tx, ref: str, *, display_name: str | None = None, role: Role | None = None,
        disabled: bool | None = None,
    ) -> User:  # fmt: skip
        """Change what is given; closing an account revokes its tokens.

        Raises:
            NoSuchUser: there is none.
            LastAdmin: nobody would be left to administer.
        """
        user = await self.user(tx, ref)
        losing = user.role is Role.ADMIN and ((role or user.role) is not Role.ADMIN or disabled is True)
        if losing and not [one for one in await store.admins(tx) if one.id != user.id]:
            raise LastAdmin(f"{user.name!r} is the last administrator; make another one first.")
        changes: dict[str, Any] = {}
        if display_name is not None and display_name != user.display_name:
            changes["display_name"] = display_name
        if role is not None and role is not user.role:
            changes["role"] = str(role)
        if changes:
            await store.change_user(tx, user.id, changes)
            tx.emit(events.UserChanged(subject=user.id, changes=changes))
        if disabled is not None and disabled != (user.disabled_at is not None):
            await store.change_user(tx, user.id, {"disabled_at": tx.now if disabled else None})
            if disabled:
                await store.revoke_tokens(tx, user.id, at=tx.now)
            tx.emit(events.UserDisabled(subject=user.id) if disabled else events.UserEnabled(subject=user.id))
        self._memory.forget_after(tx)
        return await self.user(tx, user.id)

    # -- projects ------------------------------------------------------------------------------------------------

    async def project(self, tx: Tx, ref: str) -> Project:
        """Return the project of an id or a name, whoever asks.

        Raises:
            NoSuchProject: there is none.
        """
        found = await store.project(tx, ref)
        if found is None:
            raise _no_project(ref)
        return found

    async def project_for(
        self, tx: Tx, principal: Principal, ref: str | None, permission: Permission, *, active: bool = False
    ) -> Project:
        """Return the project in which the caller may do this.

        Args:
            tx: the transaction.
            principal: who wants to.
            ref: id or name; None is the caller's only project, or the one named `default`.
            permission: what for.
            active: refuse an archived project.

        Raises:
            NoSuchProject: there is none, or none that the caller may know of.
            Forbidden: the caller sees it and may not do this in it.
            ArchivedProject: it is archived.
            Invalid: none was named and which one is meant is not clear.
        """
        found = await store.project(tx, ref) if ref is not None else await self._usual_project(tx, principal)
        if found is None:
            raise _no_project(ref or "")
        try:
            principal.require(permission, found.id)
        except NotFound as error:
            raise _no_project(ref or found.name) from error
        if active and found.archived_at is not None:
            raise ArchivedProject(f"The project {found.name!r} is archived; restore it, or use another.")
        return found

    async def projects(
        self, tx: Tx, *, ids: Collection[str] | None = None, archived: bool = False, after: str | None = None,
        limit: int = 500,
    ) -> list[Project]:  # fmt: skip
        """Return projects by name, after a name; among those ids when given."""
        return await store.project_page(tx, ids=ids, archived=archived, after=after, limit=limit)

    async def create_project(self, tx: Tx, *, name: str, description: str = "") -> Project:
        """Create a project.

        Raises:
            BadName, NameTaken: as they say.
        """
        check_name(name, "project")
        if await store.project(tx, name) is not None:
            raise NameTaken(f"There is a project {name!r} already.")
        project = Project(self._ids.new("prj"), name, description, None, tx.now)
        await store.add_project(tx, project)
        tx.emit(events.ProjectCreated(subject=project.id, project_id=project.id, name=name))
        return project

    async def change_project(
        self, tx: Tx, ref: str, *, description: str | None = None, archived: bool | None = None
    ) -> Project:
        """Change what is given; an archived project takes no new work, what runs in it goes on."""
        project = await self.project(tx, ref)
        where = {"subject": project.id, "project_id": project.id}
        if description is not None and description != project.description:
            await store.change_project(tx, project.id, {"description": description})
            tx.emit(events.ProjectChanged(**where, changes={"description": description[:200]}))
        if archived is not None and archived != (project.archived_at is not None):
            await store.change_project(tx, project.id, {"archived_at": tx.now if archived else None})
            tx.emit(events.ProjectArchived(**where) if archived else events.ProjectRestored(**where))
        return await self.project(tx, project.id)

    async def members(self, tx: Tx, project_id: str, *, after: str | None = None, limit: int = 500) -> list[Member]:
        """Return a project's members by name, after a name."""
        return await store.member_page(tx, project_id, after=after, limit=limit)

    async def add_member(self, tx: Tx, project_id: str, user_ref: str) -> Member:
        """Let a user work in a project; a member stays one.

        Raises:
            NoSuchUser: there is none.
        """
        user = await self.user(tx, user_ref)
        if await store.add_member(tx, project_id, user.id, tx.now):
            tx.emit(events.MemberAdded(subject=project_id, project_id=project_id, user_id=user.id))
            self._memory.forget_after(tx)
        (member,) = await store.member_page(tx, project_id, user_id=user.id, limit=1)
        return member

    async def remove_member(self, tx: Tx, project_id: str, user_ref: str) -> None:
        """End a membership; the user's jobs in the project go on.

        Raises:
            NoSuchUser: no such user is a member.
        """
        user = await store.user(tx, user_ref)
        if user is None or not await store.remove_member(tx, project_id, user.id):
            raise NoSuchUser(f"{user_ref[:70]!r} is not a member of this project.")
        tx.emit(events.MemberRemoved(subject=project_id, project_id=project_id, user_id=user.id))
        self._memory.forget_after(tx)

    async def _usual_project(self, tx: Tx, principal: Principal) -> Project:
        own = await store.project_page(tx, ids=principal.project_ids, archived=False, after=None, limit=10)
        if len(own) == 1:
            return own[0]
        for project in own:
            if project.name == DEFAULT_PROJECT:
                return project
        if not own:
            raise Forbidden("You are a member of no project; ask an administrator to add you to one.")
        raise Invalid(f"Name a project: you are a member of {', '.join(project.name for project in own)}.")

    # -- the first start -----------------------------------------------------------------------------------------

    async def ensure_first_admin(self, tx: Tx) -> tuple[User, str]:
        """Return the first administrator and the text of a new local token; create both they and `default` when new.

        Local tokens made before end within the hour, so that a command that read one just now still gets its answer.
        """
        admins = await store.admins(tx)
        user = admins[0] if admins else await self.create_user(tx, name=FIRST_ADMIN, role=Role.ADMIN)
        if not admins:
            project = await store.project(tx, DEFAULT_PROJECT) or await self.create_project(tx, name=DEFAULT_PROJECT)
            await self.add_member(tx, project.id, user.id)
        await store.lapse_tokens(tx, user.id, TokenKind.LOCAL, by=tx.now + LOCAL_OVERLAP)
        _, text = await self.make_token(tx, user.id, name="local", kind=TokenKind.LOCAL)
        self._memory.forget_after(tx)
        return user, text


def _rest_s(elapsed_s: float) -> float:
    """Round a refusal up to the next tenth of a second: a failure of a real account also writes a record."""
    return -elapsed_s % 0.1


def _no_project(ref: str) -> NoSuchProject:
    return NoSuchProject(f"There is no project {ref[:70]!r}, or none that you may see.")
