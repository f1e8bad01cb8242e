"""Roles, permissions and their reach; names, passwords and the closing of sign-in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dujiang.kit.errors import Forbidden, NotFound
from dujiang.kit.ids import is_id
from dujiang.tenancy.domain import (
    LONGEST_CLOSURE,
    OWN_PROJECTS_ONLY,
    PERMISSIONS,
    BadName,
    Failures,
    Permission,
    Role,
    TooManyAttempts,
    WeakPassword,
    after_failure,
    check_name,
    check_open,
    check_password,
)
from tests.factories import a_principal

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CHANGING = {
    Permission.PROJECT_MANAGE, Permission.USER_MANAGE, Permission.JOB_SUBMIT, Permission.JOB_CANCEL,
    Permission.POOL_OPERATE, Permission.QUOTA_MANAGE, Permission.MODEL_WRITE, Permission.DEPLOY,
    Permission.PRICE_MANAGE,
}  # fmt: skip


def test_every_role_has_a_row() -> None:
    assert set(PERMISSIONS) == set(OWN_PROJECTS_ONLY) == set(Role)
    for role in Role:
        assert OWN_PROJECTS_ONLY[role] <= PERMISSIONS[role]


def test_an_auditor_changes_nothing_and_only_an_administrator_makes_users() -> None:
    assert not PERMISSIONS[Role.AUDITOR] & CHANGING
    assert [role for role in Role if Permission.USER_MANAGE in PERMISSIONS[role]] == [Role.ADMIN]


@given(
    role=st.sampled_from(Role),
    permission=st.sampled_from(Permission),
    own=st.frozensets(st.sampled_from(["prj_a", "prj_b", "prj_c"])),
    project=st.sampled_from(["prj_a", "prj_b", "prj_c"]),
)
def test_a_refusal_never_tells_a_tenant_of_another_tenants_project(
    role: Role, permission: Permission, own: frozenset[str], project: str
) -> None:
    who = a_principal(role, *own)
    reach = who.reach(permission)
    assert who.may(permission, project) == (who.holds(permission) and (reach is None or project in reach))
    if who.may(permission, project):
        who.require(permission, project)
        return
    with pytest.raises((NotFound, Forbidden)) as refused:
        who.require(permission, project)
    sees = who.may(Permission.PROJECT_READ, project)
    assert isinstance(refused.value, Forbidden) == sees
    if role is Role.MEMBER and project not in own:
        assert isinstance(refused.value, NotFound)


def test_an_operator_works_in_their_own_projects_and_cancels_anywhere() -> None:
    who = a_principal(Role.OPERATOR, "prj_a")
    assert who.may(Permission.JOB_CANCEL, "prj_b")
    assert who.may(Permission.JOB_SUBMIT, "prj_a")
    with pytest.raises(Forbidden):
        who.require(Permission.JOB_SUBMIT, "prj_b")


@pytest.mark.parametrize("name", ["a", "a1", "vision-lab", "0day", "x" * 63, "a--b"])
def test_good_names(name: str) -> None:
    assert check_name(name, "project") == name


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "A", "a_b", "a.b", "x" * 64, "ä", "a b", "a\n", "../x", "a\0", "usr_" + "0" * 26, "名"]
)
def test_bad_names(name: str) -> None:
    with pytest.raises(BadName):
        check_name(name, "project")


@given(st.text(max_size=70))
def test_no_name_is_an_id_and_no_name_leaves_a_folder(name: str) -> None:
    try:
        check_name(name, "user")
    except BadName:
        return
    assert name == name.lower()
    assert name.isascii()
    assert not any(is_id(name, prefix) for prefix in ("usr", "prj"))
    assert "/" not in name
    assert "." not in name


@pytest.mark.parametrize(
    "password", ["correct horse battery", "xK3#mnop9!", "密码是一个很长的句子啊啊呀", "lee-2026-tunnel"]
)
def test_good_passwords(password: str) -> None:
    check_password(password, user_name="lee")


@pytest.mark.parametrize(
    "password",
    [
        "short",
        "aaaaaaaaaaaa",
        "Password123!",
        "1234567890",
        "abcabcabcabc",
        "ling-wei-2026",
        "x y" * 100,
        "lingweilingwei",
    ],
)
def test_weak_passwords(password: str) -> None:
    with pytest.raises(WeakPassword):
        check_password(password, user_name="ling-wei" if "-" in password else "lingwei")


def test_sign_in_closes_from_the_fifth_failure_and_ever_longer() -> None:
    failures: Failures | None = None
    closures = []
    now = NOW
    for _ in range(12):
        failures = after_failure(failures, now)
        closures.append((failures.closed_until or now) - now)
        now += closures[-1] + timedelta(seconds=1)
    seconds = [closure.total_seconds() for closure in closures]
    assert seconds == [0, 0, 0, 0, 30, 60, 120, 240, 480, 900, 900, 900]


@given(st.lists(st.integers(0, 4000), min_size=1, max_size=60))
def test_however_tried_few_guesses_fit_in_an_hour(waits_s: list[int]) -> None:
    """Whoever guesses as fast as the closing lets them gets at most fifteen guesses in any hour."""
    failures: Failures | None = None
    now, guessed = NOW, []
    for wait_s in waits_s:
        now += timedelta(seconds=wait_s)
        if failures is not None and failures.closed_until is not None and now < failures.closed_until:
            with pytest.raises(TooManyAttempts) as refused:
                check_open(failures, now)
            assert 0 < refused.value.facts["retry_after_s"] <= LONGEST_CLOSURE.total_seconds()
            continue
        check_open(failures, now)
        failures = after_failure(failures, now)
        guessed.append(now)
    for start in guessed:
        assert sum(start <= at < start + timedelta(hours=1) for at in guessed) <= 15


def test_failures_of_long_ago_do_not_count() -> None:
    failures = None
    for _ in range(9):
        failures = after_failure(failures, NOW)
    assert after_failure(failures, NOW + timedelta(hours=2)).count == 1
