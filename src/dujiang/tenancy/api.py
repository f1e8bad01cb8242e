"""Routes of users, projects, members, sign-in, tokens and the audit trail."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Body, Depends, Path, Query, Request, Response

from dujiang.kit.db import Tx
from dujiang.kit.errors import Invalid
from dujiang.kit.http import INT64_MAX, Moment, Page, Paged
from dujiang.tenancy.access import JOURNALED, Caller, cause_of, needs
from dujiang.tenancy.audit import Audit, Question
from dujiang.tenancy.domain import Permission
from dujiang.tenancy.schemas import (
    Login,
    MemberNew,
    MemberView,
    MeView,
    PasswordChange,
    ProjectChange,
    ProjectNew,
    ProjectView,
    ProofView,
    RecordView,
    SignedIn,
    TokenMade,
    TokenNew,
    TokenView,
    UserChange,
    UserNew,
    UserView,
)
from dujiang.tenancy.service import Tenancy

Ref = Annotated[str, Path(max_length=63, description="Name or id.")]
_P = Permission


def router(tenancy: Tenancy, audit: Audit) -> APIRouter:
    """Return the routes."""
    routes = APIRouter()
    _sign_in(routes, tenancy)
    _tokens(routes, tenancy)
    _users(routes, tenancy)
    _projects(routes, tenancy)
    _members(routes, tenancy)
    _audit(routes, tenancy, audit)
    return routes


def _sign_in(routes: APIRouter, tenancy: Tenancy) -> None:
    @routes.post("/v1/login", tags=["sign-in"])
    async def login(request: Request, body: Login) -> SignedIn:
        """Sign in by name and password; gives a token of twelve hours."""
        user, token, text = await tenancy.sign_in(
            body.name, body.password.get_secret_value(), cause=cause_of(request.scope)
        )
        request.scope[JOURNALED] = True
        return SignedIn(
            token=text,
            token_id=token.id,
            expires_at=token.expires_at or token.created_at,
            user=UserView.model_validate(user),
        )

    @routes.post("/v1/logout", tags=["sign-in"], status_code=204)
    async def logout(caller: Annotated[Caller, Depends(needs(_P.TOKEN_OWN))]) -> None:
        """Revoke the token that this request came with."""
        async with caller.transaction() as tx:
            await tenancy.revoke_token(tx, caller.principal, caller.principal.token_id)

    @routes.get("/v1/me", tags=["sign-in"])
    async def show_me(caller: Annotated[Caller, Depends(needs(_P.TOKEN_OWN))]) -> MeView:
        """Say who the caller is and what they may do."""
        who = caller.principal
        async with caller.reading() as tx:
            user = await tenancy.user(tx, who.user_id)
            projects = await tenancy.projects(tx, ids=who.project_ids)
        held = [permission for permission in Permission if who.holds(permission)]
        return MeView(
            user=UserView.model_validate(user),
            permissions=held,
            everywhere=[permission for permission in held if who.reach(permission) is None],
            projects=[ProjectView.model_validate(project) for project in projects],
        )

    @routes.put("/v1/me/password", tags=["sign-in"], status_code=204)
    async def change_password(body: PasswordChange, caller: Annotated[Caller, Depends(needs(_P.TOKEN_OWN))]) -> None:
        """Set one's own password; sign-ins made with the one before end, this one too."""
        current = body.current.get_secret_value() if body.current else None
        scope = caller.request.scope
        await tenancy.change_password(caller.principal, current, body.new.get_secret_value(), cause=cause_of(scope))
        scope[JOURNALED] = True


def _tokens(routes: APIRouter, tenancy: Tenancy) -> None:
    @routes.get("/v1/tokens", tags=["tokens"])
    async def list_tokens(
        caller: Annotated[Caller, Depends(needs(_P.TOKEN_OWN))],
        paging: Paged,
        user: Annotated[str | None, Query(max_length=63, description="Whose; for who manages users.")] = None,
    ) -> Page[TokenView]:
        """List tokens that are not revoked, the newest first."""
        async with caller.reading() as tx:
            owner = caller.principal.user_id
            if user is not None:
                caller.require(_P.USER_MANAGE)
                owner = (await tenancy.user(tx, user)).id
            after = paging.after(str)
            rows = await tenancy.tokens(tx, owner, after=after[0] if after else None, limit=paging.limit + 1)
        items, cursor = paging.page(rows, lambda token: (token.id,))
        return Page(items=[TokenView.model_validate(token) for token in items], next_cursor=cursor)

    @routes.post("/v1/tokens", tags=["tokens"], status_code=201)
    async def create_token(body: TokenNew, caller: Annotated[Caller, Depends(needs(_P.TOKEN_OWN))]) -> TokenMade:
        """Make a token. Its text is shown this once and is not kept, so an Idempotency-Key does not replay it."""
        async with caller.transaction() as tx:
            life = None if body.expires_in_s is None else timedelta(seconds=body.expires_in_s)
            token, text = await tenancy.make_token(
                tx, caller.principal.user_id, name=body.name, expires_at=None if life is None else tx.now + life
            )
        return TokenMade(token=text, **TokenView.model_validate(token).model_dump())

    @routes.delete("/v1/tokens/{token}", tags=["tokens"], status_code=204)
    async def revoke_token(token: Ref, caller: Annotated[Caller, Depends(needs(_P.TOKEN_OWN))]) -> None:
        """Revoke a token at once."""
        async with caller.transaction() as tx:
            await tenancy.revoke_token(tx, caller.principal, token)


def _users(routes: APIRouter, tenancy: Tenancy) -> None:
    @routes.get("/v1/users", tags=["users"])
    async def list_users(caller: Annotated[Caller, Depends(needs(_P.USER_READ))], paging: Paged) -> Page[UserView]:
        """List accounts by name."""
        async with caller.reading() as tx:
            after = paging.after(str)
            rows = await tenancy.users(tx, after=after[0] if after else None, limit=paging.limit + 1)
        items, cursor = paging.page(rows, lambda user: (user.name,))
        return Page(items=[UserView.model_validate(user) for user in items], next_cursor=cursor)

    @routes.post("/v1/users", tags=["users"], status_code=201, response_model=UserView)
    async def create_user(body: UserNew, caller: Annotated[Caller, Depends(needs(_P.USER_MANAGE))]) -> Response:
        """Create an account."""
        kept = None
        if body.password is not None:
            kept = await tenancy.prepare_password(body.password.get_secret_value(), user_name=body.name)

        async def make(tx: Tx) -> UserView:
            user = await tenancy.create_user(
                tx, name=body.name, display_name=body.display_name, role=body.role, password_hash=kept
            )
            for ref in body.projects:
                await tenancy.add_member(tx, (await tenancy.project(tx, ref)).id, user.id)
            return UserView.model_validate(user)

        return await caller.once(make)

    @routes.get("/v1/users/{user}", tags=["users"])
    async def show_user(user: Ref, caller: Annotated[Caller, Depends(needs(_P.USER_READ))]) -> UserView:
        """Show an account."""
        async with caller.reading() as tx:
            return UserView.model_validate(await tenancy.user(tx, user))

    @routes.patch("/v1/users/{user}", tags=["users"])
    async def change_user(
        user: Ref, body: UserChange, caller: Annotated[Caller, Depends(needs(_P.USER_MANAGE))]
    ) -> UserView:
        """Change an account, close it or open it again; closing revokes its tokens."""
        kept = None
        if body.password is not None:
            async with caller.reading() as tx:
                name = (await tenancy.user(tx, user)).name
            kept = await tenancy.prepare_password(body.password.get_secret_value(), user_name=name)
        async with caller.transaction() as tx:
            changed = await tenancy.change_user(
                tx, user, display_name=body.display_name, role=body.role, disabled=body.disabled
            )
            if kept is not None:
                await tenancy.keep_password(tx, changed.id, kept)
            return UserView.model_validate(await tenancy.user(tx, changed.id))

    @routes.delete("/v1/users/{user}", tags=["users"], status_code=204)
    async def close_user(user: Ref, caller: Annotated[Caller, Depends(needs(_P.USER_MANAGE))]) -> None:
        """Close an account. It stays on record, since jobs, bills and the audit trail name it."""
        async with caller.transaction() as tx:
            await tenancy.change_user(tx, user, disabled=True)


def _projects(routes: APIRouter, tenancy: Tenancy) -> None:
    @routes.get("/v1/projects", tags=["projects"])
    async def list_projects(
        caller: Annotated[Caller, Depends(needs(_P.PROJECT_READ))],
        paging: Paged,
        archived: Annotated[bool, Query(description="Archived ones too.")] = False,
    ) -> Page[ProjectView]:
        """List the projects that the caller may see, by name."""
        async with caller.reading() as tx:
            after = paging.after(str)
            rows = await tenancy.projects(
                tx,
                ids=caller.reach(_P.PROJECT_READ),
                archived=archived,
                after=after[0] if after else None,
                limit=paging.limit + 1,
            )
        items, cursor = paging.page(rows, lambda project: (project.name,))
        return Page(items=[ProjectView.model_validate(project) for project in items], next_cursor=cursor)

    @routes.post("/v1/projects", tags=["projects"], status_code=201, response_model=ProjectView)
    async def create_project(
        body: ProjectNew, caller: Annotated[Caller, Depends(needs(_P.PROJECT_MANAGE))]
    ) -> Response:
        """Create a project."""

        async def make(tx: Tx) -> ProjectView:
            project = await tenancy.create_project(tx, name=body.name, description=body.description)
            return ProjectView.model_validate(project)

        return await caller.once(make)

    @routes.get("/v1/projects/{project}", tags=["projects"])
    async def show_project(project: Ref, caller: Annotated[Caller, Depends(needs(_P.PROJECT_READ))]) -> ProjectView:
        """Show a project."""
        async with caller.reading() as tx:
            found = await tenancy.project_for(tx, caller.principal, project, _P.PROJECT_READ)
            return ProjectView.model_validate(found)

    @routes.patch("/v1/projects/{project}", tags=["projects"])
    async def change_project(
        project: Ref, body: ProjectChange, caller: Annotated[Caller, Depends(needs(_P.PROJECT_MANAGE))]
    ) -> ProjectView:
        """Change a project, archive it or restore it."""
        async with caller.transaction() as tx:
            found = await tenancy.project_for(tx, caller.principal, project, _P.PROJECT_MANAGE)
            changed = await tenancy.change_project(tx, found.id, description=body.description, archived=body.archived)
            return ProjectView.model_validate(changed)

    @routes.delete("/v1/projects/{project}", tags=["projects"], status_code=204)
    async def archive_project(project: Ref, caller: Annotated[Caller, Depends(needs(_P.PROJECT_MANAGE))]) -> None:
        """Archive a project: it takes no new work. It stays on record, since jobs and bills name it."""
        async with caller.transaction() as tx:
            found = await tenancy.project_for(tx, caller.principal, project, _P.PROJECT_MANAGE)
            await tenancy.change_project(tx, found.id, archived=True)


def _members(routes: APIRouter, tenancy: Tenancy) -> None:
    @routes.get("/v1/projects/{project}/members", tags=["projects"])
    async def list_members(
        project: Ref, caller: Annotated[Caller, Depends(needs(_P.PROJECT_READ))], paging: Paged
    ) -> Page[MemberView]:
        """List the members of a project by name."""
        async with caller.reading() as tx:
            found = await tenancy.project_for(tx, caller.principal, project, _P.PROJECT_READ)
            after = paging.after(str)
            rows = await tenancy.members(tx, found.id, after=after[0] if after else None, limit=paging.limit + 1)
        items, cursor = paging.page(rows, lambda member: (member.name,))
        return Page(items=[MemberView.model_validate(member) for member in items], next_cursor=cursor)

    @routes.post("/v1/projects/{project}/members", tags=["projects"], status_code=201, response_model=MemberView)
    async def add_member(
        project: Ref, body: MemberNew, caller: Annotated[Caller, Depends(needs(_P.PROJECT_MANAGE))]
    ) -> Response:
        """Let a user work in a project."""

        async def make(tx: Tx) -> MemberView:
            found = await tenancy.project_for(tx, caller.principal, project, _P.PROJECT_MANAGE, active=True)
            return MemberView.model_validate(await tenancy.add_member(tx, found.id, body.user))

        return await caller.once(make)

    @routes.delete("/v1/projects/{project}/members/{user}", tags=["projects"], status_code=204)
    async def remove_member(
        project: Ref, user: Ref, caller: Annotated[Caller, Depends(needs(_P.PROJECT_MANAGE))]
    ) -> None:
        """End a membership; the user's jobs in the project go on."""
        async with caller.transaction() as tx:
            found = await tenancy.project_for(tx, caller.principal, project, _P.PROJECT_MANAGE)
            await tenancy.remove_member(tx, found.id, user)


Text = Annotated[str | None, Query(max_length=200)]
Number = Annotated[int | None, Query(ge=1, le=INT64_MAX, description="`seq` that an earlier check gave.")]
Hash = Annotated[str | None, Query(pattern="^[0-9a-f]{64}$", description="`hash` that an earlier check gave.")]


def _audit(routes: APIRouter, tenancy: Tenancy, audit: Audit) -> None:
    @routes.get("/v1/audit", tags=["audit"])
    async def list_audit(
        caller: Annotated[Caller, Depends(needs(_P.AUDIT_READ))],
        paging: Paged,
        actor: Text = None,
        subject: Text = None,
        type: Annotated[list[str] | None, Query(max_length=20, description="Of record; may be repeated.")] = None,
        project: Annotated[str | None, Query(max_length=63, description="Name or id.")] = None,
        since: Moment | None = None,
        until: Moment | None = None,
        order: Literal["newest", "oldest"] = "newest",
    ) -> Page[RecordView]:
        """List the records of the audit trail; `since` is taken in, `until` is left out."""
        after = paging.after(int)
        async with caller.reading() as tx:
            project_id = None if project is None else (await tenancy.project(tx, project)).id
            question = Question(actor, subject, type, project_id, _utc(since), _utc(until))
            records, names = await audit.trail(
                tx,
                question,
                edge=after[0] if after else None,
                limit=paging.limit + 1,
                newest_first=order == "newest",
            )
        items, cursor = paging.page(records, lambda record: (record.seq,))
        views = [
            RecordView(
                seq=one.seq, at=one.at, actor=one.actor, actor_name=names.get(one.actor), cause=one.cause,
                type=one.type, subject=one.subject, project_id=one.project_id, payload=one.payload, hash=one.hash,
            )
            for one in items
        ]  # fmt: skip
        return Page(items=views, next_cursor=cursor)

    @routes.get("/v1/audit/verify", tags=["audit"])
    async def verify_audit(
        caller: Annotated[Caller, Depends(needs(_P.PLATFORM_VERIFY))], seq: Number = None, hash: Hash = None
    ) -> ProofView:
        """Walk the chain of hashes over the whole trail and say where it breaks."""
        return await _prove(audit, seq, hash)

    @routes.post("/v1/audit/verify", tags=["audit"])
    async def verify_audit_on_record(
        caller: Annotated[Caller, Depends(needs(_P.PLATFORM_VERIFY))],
        seq: Annotated[int | None, Body(ge=1, le=INT64_MAX, strict=True)] = None,
        hash: Annotated[str | None, Body(pattern="^[0-9a-f]{64}$")] = None,
    ) -> ProofView:
        """Walk the chain as the GET does, and leave a record that the caller did."""
        async with caller.transaction():
            pass
        return await _prove(audit, seq, hash)


async def _prove(audit: Audit, seq: int | None, noted: str | None) -> ProofView:
    if (seq is None) != (noted is None):
        raise Invalid("Give seq and hash together, as an earlier check gave them.")
    proof = await audit.prove(None if seq is None or noted is None else {seq: noted})
    return ProofView.model_validate(proof)


def _utc(at: datetime | None) -> datetime | None:
    if at is not None and at.tzinfo is None:
        raise Invalid("A time needs its zone: 2026-01-31T12:00:00Z.")
    return at
