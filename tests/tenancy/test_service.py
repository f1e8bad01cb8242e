"""Users, projects, members, sign-in and tokens on both databases."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import select

from dujiang.kit import journal
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.errors import Conflict, Forbidden, Invalid
from dujiang.kit.ids import Ids
from dujiang.tenancy import store
from dujiang.tenancy.credentials import make_token, read_token
from dujiang.tenancy.domain import (
    ArchivedProject,
    BadName,
    LastAdmin,
    NameTaken,
    NoSuchProject,
    NoSuchToken,
    NoSuchUser,
    Permission,
    Principal,
    Project,
    Role,
    SignInRefused,
    TokenKind,
    TokenRefused,
    TooManyAttempts,
    User,
    WeakPassword,
    WrongPassword,
)
from dujiang.tenancy.service import LOCAL_OVERLAP, SESSION, Tenancy
from dujiang.tenancy.tokens import REMEMBERED_S, TOUCHED_EVERY
from tests.factories import a_tenancy

PASSWORD = "a river divided fairly"


@pytest.fixture
def tenancy(database: Database, clock: ManualClock, ids: Ids) -> Tenancy:
    return a_tenancy(database, clock, ids)


async def a_user(
    database: Database, tenancy: Tenancy, name: str = "lee", role: Role = Role.MEMBER, password: str | None = PASSWORD
) -> User:
    kept = await tenancy.prepare_password(password, user_name=name) if password else None
    async with database.transaction() as tx:
        return await tenancy.create_user(tx, name=name, role=role, password_hash=kept)


async def a_project(database: Database, tenancy: Tenancy, name: str, *members: User) -> Project:
    async with database.transaction() as tx:
        project = await tenancy.create_project(tx, name=name)
        for member in members:
            await tenancy.add_member(tx, project.id, member.id)
        return project


async def a_token(database: Database, tenancy: Tenancy, user: User, life: timedelta | None = None) -> tuple[str, str]:
    async with database.transaction() as tx:
        token, text = await tenancy.make_token(
            tx, user.id, name="t", expires_at=None if life is None else tx.now + life
        )
        return token.id, text


async def recorded(database: Database) -> list[str]:
    async with database.reading() as tx:
        return [record.type for record in await journal.read(tx.connection)]


async def test_the_first_start_makes_an_administrator_a_project_and_a_token(
    database: Database, tenancy: Tenancy
) -> None:
    async with database.transaction() as tx:
        user, text = await tenancy.ensure_first_admin(tx)
    who = await tenancy.authenticate(text)
    assert (who.user_id, who.name, who.role) == (user.id, "admin", Role.ADMIN)
    async with database.reading() as tx:
        project = await tenancy.project(tx, "default")
        assert who.project_ids == {project.id}
        assert await tenancy.project_for(tx, who, None, Permission.JOB_SUBMIT) == project


async def test_a_later_start_makes_only_a_token_and_the_one_before_ends_soon(
    database: Database, tenancy: Tenancy, clock: ManualClock
) -> None:
    async with database.transaction() as tx:
        user, first = await tenancy.ensure_first_admin(tx)
    clock.advance(3600)
    async with database.transaction() as tx:
        again, second = await tenancy.ensure_first_admin(tx)
    assert again.id == user.id
    assert (await tenancy.authenticate(first)).user_id == (await tenancy.authenticate(second)).user_id
    clock.advance(LOCAL_OVERLAP.total_seconds())
    with pytest.raises(TokenRefused, match="expired"):
        await tenancy.authenticate(first)
    await tenancy.authenticate(second)
    assert (await recorded(database)).count("UserCreated") == 1


async def test_signing_in_gives_a_token_that_ends(database: Database, tenancy: Tenancy, clock: ManualClock) -> None:
    user = await a_user(database, tenancy)
    signed_in, token, text = await tenancy.sign_in("lee", PASSWORD)
    assert (signed_in.id, token.kind) == (user.id, TokenKind.SESSION)
    assert (await tenancy.authenticate(text)).user_id == user.id
    clock.advance(SESSION.total_seconds())
    with pytest.raises(TokenRefused, match="expired"):
        await tenancy.authenticate(text)


async def test_wrong_names_and_passwords_are_refused_alike(database: Database, tenancy: Tenancy) -> None:
    await a_user(database, tenancy)
    await a_user(database, tenancy, "robot", password=None)
    closed = await a_user(database, tenancy, "gone")
    async with database.transaction() as tx:
        await tenancy.change_user(tx, closed.id, disabled=True)
    told = set()
    for name, password in [
        ("lee", "wrong"), ("nobody", PASSWORD), ("robot", ""), ("robot", PASSWORD), ("gone", PASSWORD),
        (closed.id, PASSWORD), ("", ""), ("a\0b", PASSWORD), ("\ud800", PASSWORD), ("x" * 5000, PASSWORD),
    ]:  # fmt: skip
        with pytest.raises(SignInRefused) as refused:
            await tenancy.sign_in(name, password)
        told.add(refused.value.sentence)
    assert len(told) == 1


async def test_failures_close_the_account_for_a_while_and_a_success_opens_it(
    database: Database, tenancy: Tenancy, clock: ManualClock
) -> None:
    await a_user(database, tenancy)
    for name in ("lee", "nobody"):  # a name that nobody has is closed too, or closing would tell who exists
        for _ in range(5):
            with pytest.raises(SignInRefused):
                await tenancy.sign_in(name, "wrong")
        with pytest.raises(TooManyAttempts) as refused:
            await tenancy.sign_in(name, PASSWORD)
        assert 1 <= refused.value.facts["retry_after_s"] <= 30
    clock.advance(31)
    await tenancy.sign_in("lee", PASSWORD)
    for _ in range(4):
        with pytest.raises(SignInRefused):
            await tenancy.sign_in("lee", "wrong")
    await tenancy.sign_in("lee", PASSWORD)


async def test_guesses_in_parallel_are_counted_one_by_one(database: Database, tenancy: Tenancy) -> None:
    await a_user(database, tenancy)
    answers = await asyncio.gather(*(tenancy.sign_in("lee", f"guess {n}") for n in range(40)), return_exceptions=True)
    kinds = [type(answer) for answer in answers]
    assert kinds.count(SignInRefused) <= 5
    assert kinds.count(TooManyAttempts) >= 35
    async with database.reading() as tx:
        failed = await journal.read(tx.connection, types=["SignInFailed"])
    assert len(failed) <= 5


async def test_a_right_guess_among_many_in_parallel_does_not_get_in_after_the_closing(
    database: Database, tenancy: Tenancy
) -> None:
    await a_user(database, tenancy)
    for _ in range(4):
        with pytest.raises(SignInRefused):
            await tenancy.sign_in("lee", "wrong")
    wrong = [tenancy.sign_in("lee", "wrong") for _ in range(6)]
    answers = await asyncio.gather(*wrong, tenancy.sign_in("lee", PASSWORD), return_exceptions=True)
    # One more guess is looked at, whichever comes first: perhaps the right one, where transactions run side by side.
    assert sum(not isinstance(answer, TooManyAttempts) for answer in answers) == 1


async def test_changing_the_password_ends_sign_ins_and_keeps_api_tokens(database: Database, tenancy: Tenancy) -> None:
    user = await a_user(database, tenancy)
    _, api = await a_token(database, tenancy, user)
    _, _, session = await tenancy.sign_in("lee", PASSWORD)
    who = await tenancy.authenticate(session)
    with pytest.raises(WrongPassword):
        await tenancy.change_password(who, "wrong", "another good phrase")
    with pytest.raises(WrongPassword):
        await tenancy.change_password(who, None, "another good phrase")
    with pytest.raises(WeakPassword):
        await tenancy.change_password(who, PASSWORD, "short")
    await tenancy.change_password(who, PASSWORD, "another good phrase")
    with pytest.raises(TokenRefused, match="revoked"):
        await tenancy.authenticate(session)
    await tenancy.authenticate(api)
    with pytest.raises(SignInRefused):
        await tenancy.sign_in("lee", PASSWORD)
    await tenancy.sign_in("lee", "another good phrase")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dj_",
        "dj_x_y",
        "Bearer x",
        "dj_" + "0" * 26 + "_" + "f" * 64,
        "dj_" + "0" * 26 + "_" + "F" * 64,
        "é",
        "a" * 10_000,
    ],
)
async def test_what_is_no_token_is_refused(tenancy: Tenancy, text: str) -> None:
    with pytest.raises(TokenRefused):
        await tenancy.authenticate(text)


async def test_a_token_with_another_secret_is_refused(database: Database, tenancy: Tenancy) -> None:
    user = await a_user(database, tenancy)
    token_id, text = await a_token(database, tenancy, user)
    forged, _ = make_token(token_id)
    with pytest.raises(TokenRefused):
        await tenancy.authenticate(forged)
    await tenancy.authenticate(text)
    with pytest.raises(TokenRefused):
        await tenancy.authenticate(forged)


async def test_secrets_are_not_kept(database: Database, tenancy: Tenancy) -> None:
    user = await a_user(database, tenancy)
    _, text = await a_token(database, tenancy, user)
    read = read_token(text)
    assert read is not None
    async with database.reading() as tx:
        everything = [str(row) for row in await tx.execute(select(store.tokens))]
        everything += [str(row) for row in await tx.execute(select(store.users))]
        everything += [str(row) for row in await tx.execute(select(journal.journal))]
    kept = "\n".join(everything)
    assert read.digest in kept
    assert text.rsplit("_", 1)[1] not in kept
    assert PASSWORD not in kept


async def test_revoking_shows_at_once_here_and_soon_elsewhere(
    database: Database, tenancy: Tenancy, clock: ManualClock, ids: Ids
) -> None:
    replica = a_tenancy(database, clock, ids)
    user = await a_user(database, tenancy)
    token_id, text = await a_token(database, tenancy, user)
    who = await tenancy.authenticate(text)
    await replica.authenticate(text)
    async with database.transaction() as tx:
        await tenancy.revoke_token(tx, who, token_id)
    with pytest.raises(TokenRefused, match="revoked"):
        await tenancy.authenticate(text)
    await replica.authenticate(text)  # remembered for some seconds
    clock.advance(REMEMBERED_S)
    with pytest.raises(TokenRefused, match="revoked"):
        await replica.authenticate(text)
    with pytest.raises(NoSuchToken):
        async with database.transaction() as tx:
            await tenancy.revoke_token(tx, who, token_id)


async def test_a_revocation_rolled_back_revokes_nothing(database: Database, tenancy: Tenancy) -> None:
    user = await a_user(database, tenancy)
    token_id, text = await a_token(database, tenancy, user)
    who = await tenancy.authenticate(text)

    async def fail() -> None:
        async with database.transaction() as tx:
            await tenancy.revoke_token(tx, who, token_id)
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    await tenancy.authenticate(text)


async def test_nobody_revokes_someone_elses_token_but_an_administrator(database: Database, tenancy: Tenancy) -> None:
    user, other = await a_user(database, tenancy), await a_user(database, tenancy, "kim")
    token_id, text = await a_token(database, tenancy, user)
    stranger = Principal(other.id, "kim", Role.MANAGER)
    with pytest.raises(NoSuchToken):
        async with database.transaction() as tx:
            await tenancy.revoke_token(tx, stranger, token_id)
    await tenancy.authenticate(text)
    async with database.transaction() as tx:
        await tenancy.revoke_token(tx, Principal("usr_a", "admin", Role.ADMIN), token_id)
    with pytest.raises(TokenRefused):
        await tenancy.authenticate(text)


async def test_the_last_use_is_noted_now_and_then(database: Database, tenancy: Tenancy, clock: ManualClock) -> None:
    user = await a_user(database, tenancy)
    _, text = await a_token(database, tenancy, user)

    async def last_used_at() -> object:
        async with database.reading() as tx:
            return (await tenancy.tokens(tx, user.id))[0].last_used_at

    assert await last_used_at() is None
    await tenancy.authenticate(text)
    first = await last_used_at()
    assert first == clock.now()
    clock.advance(60)
    await tenancy.authenticate(text)
    assert await last_used_at() == first
    clock.advance(TOUCHED_EVERY.total_seconds())
    await tenancy.authenticate(text)
    assert await last_used_at() == clock.now()


async def test_ended_tokens_are_dropped_after_a_while(database: Database, tenancy: Tenancy, clock: ManualClock) -> None:
    user = await a_user(database, tenancy)
    await a_token(database, tenancy, user, timedelta(hours=1))
    _, kept = await a_token(database, tenancy, user)
    clock.advance(91 * 86400)
    async with database.transaction() as tx:
        assert await tenancy.prune(tx) == 1
    await tenancy.authenticate(kept)


async def test_a_token_cannot_end_before_it_begins(database: Database, tenancy: Tenancy) -> None:
    user = await a_user(database, tenancy)
    with pytest.raises(Invalid):
        await a_token(database, tenancy, user, timedelta(0))


async def test_roles_and_memberships_change_at_once(database: Database, tenancy: Tenancy) -> None:
    user = await a_user(database, tenancy)
    project = await a_project(database, tenancy, "vision")
    _, text = await a_token(database, tenancy, user)
    assert (await tenancy.authenticate(text)).project_ids == frozenset()
    async with database.transaction() as tx:
        await tenancy.add_member(tx, project.id, "lee")
        await tenancy.add_member(tx, project.id, "lee")  # twice is once
    assert (await tenancy.authenticate(text)).project_ids == {project.id}
    async with database.transaction() as tx:
        await tenancy.change_user(tx, "lee", role=Role.OPERATOR)
        await tenancy.remove_member(tx, project.id, "lee")
    who = await tenancy.authenticate(text)
    assert (who.role, who.project_ids) == (Role.OPERATOR, frozenset())
    with pytest.raises(NoSuchUser):
        async with database.transaction() as tx:
            await tenancy.remove_member(tx, project.id, "lee")
    kinds = await recorded(database)
    assert (kinds.count("MemberAdded"), kinds.count("MemberRemoved"), kinds.count("UserChanged")) == (1, 1, 1)


async def test_closing_an_account_ends_its_tokens(database: Database, tenancy: Tenancy) -> None:
    user = await a_user(database, tenancy)
    _, text = await a_token(database, tenancy, user)
    await tenancy.authenticate(text)
    async with database.transaction() as tx:
        assert (await tenancy.change_user(tx, "lee", disabled=True)).disabled_at is not None
    with pytest.raises(TokenRefused):
        await tenancy.authenticate(text)
    async with database.transaction() as tx:
        await tenancy.change_user(tx, "lee", disabled=False)
    with pytest.raises(TokenRefused):  # it was revoked, not suspended
        await tenancy.authenticate(text)
    await tenancy.sign_in("lee", PASSWORD)


@pytest.mark.parametrize("change", [{"role": Role.MEMBER}, {"disabled": True}])
async def test_the_last_administrator_stays(database: Database, tenancy: Tenancy, change: dict[str, object]) -> None:
    first = await a_user(database, tenancy, "one", Role.ADMIN)
    with pytest.raises(LastAdmin):
        async with database.transaction() as tx:
            await tenancy.change_user(tx, first.id, **change)  # type: ignore[arg-type]
    await a_user(database, tenancy, "two", Role.ADMIN)
    async with database.transaction() as tx:
        await tenancy.change_user(tx, first.id, **change)  # type: ignore[arg-type]


async def test_two_administrators_cannot_close_one_another_at_once(database: Database, tenancy: Tenancy) -> None:
    one, two = await a_user(database, tenancy, "one", Role.ADMIN), await a_user(database, tenancy, "two", Role.ADMIN)

    async def close(user: User) -> None:
        async with database.transaction() as tx:
            await tenancy.change_user(tx, user.id, disabled=True)

    await asyncio.gather(close(one), close(two), return_exceptions=True)
    async with database.reading() as tx:
        left = [user for user in await tenancy.users(tx) if user.disabled_at is None]
    assert len(left) == 1


async def test_names_are_unique_and_slugs(database: Database, tenancy: Tenancy) -> None:
    await a_user(database, tenancy)
    await a_project(database, tenancy, "lee")  # a project may be named like a user
    with pytest.raises(NameTaken):
        await a_user(database, tenancy)
    with pytest.raises(NameTaken):
        await a_project(database, tenancy, "lee")
    for bad in ("Lee", "le e", ""):
        with pytest.raises(BadName):
            await a_project(database, tenancy, bad)


async def test_the_same_name_twice_at_once_is_one_user(database: Database, tenancy: Tenancy) -> None:
    answers = await asyncio.gather(
        *(a_user(database, tenancy, "kim", password=None) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(answer, User) for answer in answers) == 1
    assert sum(isinstance(answer, Conflict) for answer in answers) == 4


async def test_projects_are_found_by_name_and_id_by_who_may_see_them(database: Database, tenancy: Tenancy) -> None:
    user = await a_user(database, tenancy)
    own, other = await a_project(database, tenancy, "own", user), await a_project(database, tenancy, "other")
    member = Principal(user.id, "lee", Role.MEMBER, frozenset({own.id}))
    auditor = Principal("usr_x", "x", Role.AUDITOR)
    async with database.transaction() as tx:
        for ref in ("own", own.id):
            assert await tenancy.project_for(tx, member, ref, Permission.JOB_SUBMIT) == own
        for ref in ("other", other.id, "absent", "prj_absent", "", "\ud7ff", "own "):
            with pytest.raises(NoSuchProject):
                await tenancy.project_for(tx, member, ref, Permission.JOB_READ)
        assert await tenancy.project_for(tx, auditor, "other", Permission.JOB_READ) == other
        with pytest.raises(Forbidden):
            await tenancy.project_for(tx, auditor, "other", Permission.JOB_SUBMIT)
        await tenancy.change_project(tx, "own", archived=True)
        await tenancy.project_for(tx, member, "own", Permission.JOB_READ)
        with pytest.raises(ArchivedProject):
            await tenancy.project_for(tx, member, "own", Permission.JOB_SUBMIT, active=True)
        assert [one.name for one in await tenancy.projects(tx)] == ["other"]
        assert [one.name for one in await tenancy.projects(tx, archived=True)] == ["other", "own"]
        assert [one.name for one in await tenancy.projects(tx, ids=member.project_ids, archived=True)] == ["own"]
        await tenancy.change_project(tx, "own", archived=False)
        await tenancy.project_for(tx, member, "own", Permission.JOB_SUBMIT, active=True)


async def test_the_project_meant_when_none_is_named(database: Database, tenancy: Tenancy) -> None:
    user = await a_user(database, tenancy)

    async def meant(*projects: Project) -> str:
        who = Principal(user.id, "lee", Role.MEMBER, frozenset(project.id for project in projects))
        async with database.reading() as tx:
            return (await tenancy.project_for(tx, who, None, Permission.JOB_SUBMIT)).name

    a, b = await a_project(database, tenancy, "a"), await a_project(database, tenancy, "b")
    default = await a_project(database, tenancy, "default")
    assert await meant(b) == "b"
    assert await meant(a, default) == "default"
    with pytest.raises(Invalid, match="a, b"):
        await meant(a, b)
    with pytest.raises(Forbidden):
        await meant()
