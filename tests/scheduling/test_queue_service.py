"""Queues and fair shares as they are kept and asked for over HTTP."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dujiang.engines.contract import AttemptKey
from dujiang.kit import journal
from dujiang.kit.clock import ManualClock, from_micros
from dujiang.kit.db import Database, Tx
from dujiang.kit.ids import Ids
from dujiang.pool.domain import Grant, LedgerFilter
from dujiang.pool.service import PoolService
from dujiang.scheduling import fairness, queues_api
from dujiang.scheduling.domain.queue_document import document_of, parse_queues
from dujiang.scheduling.domain.queues import NO_QUEUES, Queue, QueueTree
from dujiang.scheduling.domain.shares import decayed
from dujiang.scheduling.service import SchedulingService
from dujiang.scheduling.settings import SchedulingSettings
from dujiang.tenancy.domain import Role
from tests.factories import Platform, a_platform
from tests.pool.worlds import World, a_grant, a_node, a_rank, some_capabilities, world

EXAMPLE = Path(__file__).parents[2] / "examples" / "queues" / "centre.yaml"
DAY = 86_400.0
TREE = QueueTree(
    [Queue("top"), Queue("a", "top", weight=3, projects=("prj_a",)), Queue("b", "top", projects=("prj_b",))]
)


async def test_a_tree_is_kept_changed_and_taken_away(database: Database) -> None:
    service = SchedulingService()
    async with database.transaction(actor="user:usr_1") as tx:
        assert await service.queues(tx) is NO_QUEUES
        assert len(await service.set_queues(tx, TREE)) == 8
        assert await service.set_queues(tx, TREE) == ()
    async with database.reading() as tx:
        assert await SchedulingService().queues(tx) == TREE
        assert await service.queues(tx) is await service.queues(tx)
    async with database.transaction() as tx:
        assert str((await service.set_queues(tx, NO_QUEUES))[0]) == "- queues: top, a, b"
    async with database.reading() as tx:
        assert not await service.queues(tx)
        records = await journal.read(tx.connection, types=["QueuesSet"])
    assert [record.payload["difference_count"] for record in records] == [8, 8]
    assert "+ queues.a.projects: prj_a" in records[0].payload["differences"]


async def test_a_tree_that_was_never_committed_is_forgotten(sqlite: Database) -> None:
    service = SchedulingService()

    async def set_and_fail() -> None:
        async with sqlite.transaction() as tx:
            await service.set_queues(tx, TREE)
            assert await service.queues(tx) == TREE
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await set_and_fail()
    async with sqlite.reading() as tx:
        assert not await service.queues(tx)


# Fair shares


async def _hold(w: World, project: str, job: str, seconds: float, *, device: int, milli: int = 1000) -> None:
    """Let a project hold a device of n1 for a time."""
    async with w.db.transaction() as tx:
        await w.pool.allocate_many(tx, [a_grant(job, a_rank("n1", shares={device: milli}), project=project)])
    w.clock.advance(seconds)
    async with w.db.transaction() as tx:
        await w.pool.release(tx, AttemptKey(job, 1))


async def _shares(w: World, service: SchedulingService, *projects: str) -> Any:
    async with w.db.reading() as tx:
        rows = await w.pool.allocations(tx, LedgerFilter(live=True))
        return await service.shares(tx, await service.queues(tx), rows, projects or None)


async def test_shares_equal_the_closed_form_over_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "AT_ONCE", 3)  # several looks, some ending inside a job
    async with world() as w:
        service = SchedulingService(w.pool, SchedulingSettings(fair_share_half_life_s=DAY))
        await w.sync(a_node("n1", devices=2))
        for number in range(6):
            await _hold(
                w, "prj_a" if number % 3 else "prj_b", f"job_{number}", 1800.0 * (number + 1), device=number % 2
            )
            await _shares(w, service)
        async with w.db.transaction() as tx:
            await w.pool.allocate_many(tx, [a_grant("job_live", a_rank("n1", shares={0: 250}), project="prj_b")])
        w.clock.advance(5000)
        for _ in range(6):
            shares = await _shares(w, service, "prj_new")
        async with w.db.reading() as tx:
            rows = await w.pool.allocations(tx, LedgerFilter())
        expected: dict[str, float] = {}
        for row in rows:
            used = decayed(row.share.gpu_milli, row.started_at, row.ended_at, w.clock.now(), DAY)
            expected[row.share.project_id] = expected.get(row.share.project_id, 0.0) + used
        assert {name: one.usage_gpu_s for name, one in shares.items()} == pytest.approx({**expected, "prj_new": 0})
        assert shares["prj_new"].factor == 1
        again = SchedulingService(w.pool, SchedulingSettings(fair_share_half_life_s=DAY))  # as after a restart
        for _ in range(6):
            anew = await _shares(w, again, "prj_new")
        assert {k: v.usage_gpu_s for k, v in anew.items()} == pytest.approx(
            {k: v.usage_gpu_s for k, v in shares.items()}
        )


async def test_the_ledger_is_read_in_the_order_in_which_it_closed(
    database: Database, clock: ManualClock, ids: Ids
) -> None:
    pool = PoolService(ids)
    async with database.transaction() as tx:
        await pool.sync(tx, "here", some_capabilities(), [a_node("n1", devices=3)])
        for number in range(3):
            await pool.allocate_many(tx, [replace(_grant(number), cluster="here")])
    for number in (2, 0, 1):
        clock.advance(60)
        async with database.transaction() as tx:
            await pool.release(tx, AttemptKey(f"job_{number}", 1))
    async with database.reading() as tx:
        whole = await pool.closed_uses(tx, -1)
        parts: list[Any] = []
        place = (-1, "")
        while rows := await pool.closed_uses(tx, *place, limit=2):
            parts += rows
            place = rows[-1][0], rows[-1][1]
        closed = await pool.closed_after(tx, -1)
    assert parts == list(whole)
    assert [(row[1], row[2], row[3], from_micros(row[4]), from_micros(row[5])) for row in whole] == [
        (row.id, row.share.project_id, row.share.gpu_milli, row.started_at, row.ended_at) for row in closed
    ]
    assert [row[2] for row in whole if row[3]] == ["prj_2", "prj_0", "prj_1"]


def _grant(number: int) -> Grant:
    return a_grant(f"job_{number}", a_rank("n1", shares={number: 1000}), project=f"prj_{number}")


async def test_shares_are_kept_for_a_while_and_made_anew_for_a_new_project_or_tree() -> None:
    async with world() as w:
        service = SchedulingService(w.pool, SchedulingSettings())
        await w.sync(a_node("n1", devices=1))
        await _hold(w, "prj_a", "job_1", 3600.0, device=0)
        first = await _shares(w, service, "prj_a", "prj_b")
        w.clock.advance(29)
        assert await _shares(w, service, "prj_b") is first
        assert await _shares(w, service) is first
        assert (await _shares(w, service, "prj_c"))["prj_c"].share == pytest.approx(1 / 2)
        async with w.db.transaction() as tx:
            await service.set_queues(tx, TREE)
        shares = await _shares(w, service)
        assert (shares["prj_a"].share, shares["prj_b"].share, shares["prj_c"].share) == (0.75, 0.25, 0)
        second = shares
        w.clock.advance(31)
        assert await _shares(w, service) is not second


async def test_without_a_half_life_there_are_no_shares() -> None:
    async with world() as w:
        for off in (None, 0.0):
            service = SchedulingService(w.pool, SchedulingSettings(fair_share_half_life_s=off))
            assert await _shares(w, service, "prj_a") == {}


# Over HTTP


async def _nobody_names(tx: Tx) -> dict[str, str]:
    return {}


async def _centre(database: Database, clock: ManualClock, ids: Ids) -> tuple[Platform, SchedulingService, PoolService]:
    """A platform with the projects of the example, and work of two of them on a node with four H100."""
    pool = PoolService(ids)
    service = SchedulingService(pool)
    platform = await a_platform(database, clock, ids)
    platform.app.include_router(queues_api.router(service, platform.tenancy, pool, _nobody_names))
    async with database.transaction() as tx:
        for name in ("vision", "speech", "courses"):
            platform.projects[name] = (await platform.tenancy.create_project(tx, name=name)).id
        await platform.tenancy.add_member(tx, platform.projects["vision"], platform.users[Role.MEMBER])
        await pool.sync(tx, "here", some_capabilities(), [a_node("n1", devices=4)])
        grants = [
            a_grant("job_1", a_rank("n1", shares={0: 1000, 1: 1000}), project=platform.projects["own"]),
            a_grant("job_2", a_rank("n1", shares={2: 500}, cpu_milli=2000), project=platform.projects["vision"]),
        ]
        await pool.allocate_many(tx, grants)
    clock.advance(3600)
    return platform, service, pool


async def test_the_example_is_applied_shown_and_given_back(sqlite: Database, clock: ManualClock, ids: Ids) -> None:
    platform, _, _ = await _centre(sqlite, clock, ids)
    document = document_of(parse_queues(EXAMPLE.read_text()))
    async with platform.client(Role.MANAGER) as manager:
        dry = await manager.put("/v1/queues?dry_run=true", json={"document": document})
        assert dry.status_code == 200, dry.text
        assert (dry.json()["applied"], dry.json()["in_no_queue"]) == (False, [])
        assert (await manager.get("/v1/queues")).json()["queues"] == []
        done = (await manager.put("/v1/queues", json={"document": document})).json()
        assert done["applied"] is True
        assert done["differences"] == dry.json()["differences"]
        assert {"what": "queues.vision.projects", "before": None, "after": "vision"} in done["differences"]
        shown = (await manager.get("/v1/queues")).json()
        assert shown["document"] == document
        assert (await manager.put("/v1/queues", json={"document": shown["document"]})).json()["differences"] == []
    queues = {queue["name"]: queue for queue in shown["queues"]}
    assert [(queue["depth"], queue["name"]) for queue in shown["queues"]] == [
        (0, "centre"), (1, "research"), (2, "vision"), (2, "speech"), (1, "teaching"), (1, "default")]  # fmt: skip
    vision = {line["flavor"]: line for line in queues["vision"]["quota"]}["h100"]
    assert vision["held"]["gpu_milli"] == 500
    guests = {line["flavor"]: line for line in queues["default"]["quota"]}["h100"]
    assert vision["available"] == {  # the top's 2, its own 8 and 2 of speech's, less what is held
        "gpu_milli": 12_000 - 2500, "gpu_memory_bytes": None, "cpu_milli": None, "memory_bytes": None,
    }  # fmt: skip
    assert (guests["held"]["gpu_milli"], guests["borrowed"]["gpu_milli"]) == (2000, 2000)
    loans = {loan["lender"]: loan["amounts"]["gpu_milli"] for loan in guests["lenders"]}
    assert loans == {"centre": 2000}
    assert queues["vision"]["share"] == pytest.approx(3 / 8)
    own = {one["project"]: one for one in queues["default"]["projects"]}["own"]
    assert own["factor"] == pytest.approx(2 ** -(own["used_part"] / own["share"]))
    assert "It has used 1.996 of 2.495 gpu-hours" in own["arithmetic"]


async def test_members_see_the_tree_and_their_own_projects_only(sqlite: Database, clock: ManualClock, ids: Ids) -> None:
    platform, _, _ = await _centre(sqlite, clock, ids)
    document = document_of(parse_queues(EXAMPLE.read_text()))
    async with platform.client(Role.MANAGER) as manager, platform.client(Role.MEMBER) as member:
        await manager.put("/v1/queues", json={"document": document})
        assert (await member.put("/v1/queues", json={"document": document})).status_code == 403
        shown = (await member.get("/v1/queues")).json()
    assert len(shown["queues"]) == 6
    assert {one["project"] for queue in shown["queues"] for one in queue["projects"]} == {"own", "vision"}
    assert [queue.get("projects") for queue in shown["document"]["queues"]] == [
        None,
        None,
        ["vision"],
        None,
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"queues": [{"name": "a", "projects": ["visoin"]}]}, 'There is no project "visoin". Did you mean "vision"?'),
        ({"queues": [{"name": "a", "guests": ["nobody"]}]}, 'There is no project "nobody".'),
        ({"queues": [{"name": "a", "parent": "b"}]}, 'There is no queue "b".'),
        ({"queues": 3}, "stands where a list of queues belongs"),
        ({}, 'needs the field "queues"'),
        ({"queues": [{"name": "a", "projects": ["vision", "PRJ"]}]}, "in queue"),
    ],
)
async def test_a_wrong_document_is_refused_and_changes_nothing(
    sqlite: Database, clock: ManualClock, ids: Ids, document: dict[str, Any], told: str
) -> None:
    platform, service, _ = await _centre(sqlite, clock, ids)
    for queue in document["queues"] if isinstance(document.get("queues"), list) else []:
        if "PRJ" in queue.get("projects", ()):  # the same project by name and by id
            queue["projects"] = ["vision", platform.projects["vision"]]
    async with platform.client(Role.ADMIN) as admin:
        answer = await admin.put("/v1/queues", json={"document": document})
        assert answer.status_code == 422
        assert told in answer.json()["detail"]
        assert (await admin.put("/v1/queues", json={"queues": []})).status_code == 422
    async with sqlite.reading() as tx:
        assert not await service.queues(tx)


async def test_projects_without_a_queue_are_told(sqlite: Database, clock: ManualClock, ids: Ids) -> None:
    platform, _, _ = await _centre(sqlite, clock, ids)
    document = {"queues": [{"name": "a", "projects": ["vision"]}]}
    async with platform.client(Role.ADMIN) as admin, platform.client(Role.MEMBER) as member:
        done = (await admin.put("/v1/queues", json={"document": document})).json()
        assert done["in_no_queue"] == ["courses", "other", "own", "speech"]
        assert [one["project"] for one in (await member.get("/v1/queues")).json()["in_no_queue"]] == ["own"]


async def test_who_set_the_queues_is_in_the_journal(sqlite: Database, clock: ManualClock, ids: Ids) -> None:
    platform, _, _ = await _centre(sqlite, clock, ids)
    async with platform.client(Role.MANAGER) as manager:
        await manager.put("/v1/queues", json={"document": {"queues": [{"name": "a"}]}})
    async with sqlite.reading() as tx:
        (record,) = await journal.read(tx.connection, types=["QueuesSet"])
    assert platform.users[Role.MANAGER] in record.actor
    assert record.payload["differences"] == ["+ queues: a", "+ queues.a.weight: 1"]
