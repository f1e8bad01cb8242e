"""Reservations and maintenance: made, changed, taken back, and turned by the clock."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from dujiang.engines.contract import AttemptKey
from dujiang.kit import journal
from dujiang.kit.errors import Stale
from dujiang.pool import reservations_api
from dujiang.pool.domain import UnknownCluster, UnknownNode
from dujiang.pool.domain.reservations import (
    BadReservation,
    Reservation,
    ReservationExists,
    ReservationOver,
    ReservationState,
    UnknownReservation,
)
from dujiang.pool.loop import InventoryLoop
from dujiang.pool.reserving import Wanted
from tests.pool.served import as_, serving
from tests.pool.worlds import World, a_grant, a_node, a_rank, world

HOUR = timedelta(hours=1)


def wanted(w: World, name: str = "fans", *, begins_h: float = 1, lasts_h: float = 2, **more: Any) -> Wanted:
    begins_at = w.clock.now() + begins_h * HOUR
    return Wanted(name, begins_at, begins_at + lasts_h * HOUR, **more)


async def make(w: World, want: Wanted) -> tuple[Reservation, list[str]]:
    async with w.db.transaction(actor="user:usr_o") as tx:
        return await w.reservations.make(tx, want)


async def turn(w: World) -> bool:
    """Let the loop of the pool look once."""
    woken: list[bool] = []
    loop = InventoryLoop(
        db=w.db, pool=w.pool, reservations=w.reservations, clusters={}, clock=w.clock,
        wake=lambda: woken.append(True),
    )  # fmt: skip
    await loop.tick()
    return bool(woken)


async def version(w: World) -> int:
    async with w.db.reading() as tx:
        return await w.pool.version(tx)


async def test_a_window_goes_from_planned_to_active_to_ended_and_moves_the_version_each_time() -> None:
    async with world() as w:
        await w.sync(a_node("n1"), a_node("n2"))
        seen = [await version(w)]
        made, told = await make(w, wanted(w, nodes=("n2", "n1", "n2"), reason="fans"))
        assert (made.nodes, made.cluster, made.is_maintenance, made.made_by, told) == (
            ("n1", "n2"), "here", True, "user:usr_o", [],
        )  # fmt: skip
        seen.append(await version(w))
        assert not await turn(w), "nothing has begun"
        assert await version(w) == seen[-1]
        for hours, state in ((1, ReservationState.ACTIVE), (2, ReservationState.ENDED)):
            w.clock.advance(hours * 3600)
            assert await turn(w)
            assert not await turn(w), "once"
            seen.append(await version(w))
            async with w.db.reading() as tx:
                assert (await w.reservations.reservation(tx, "fans")).state is state
                windows = await w.pool.windows(tx)
            assert [each.name for each in windows] == (["fans"] if state is ReservationState.ACTIVE else [])
        assert seen == sorted(set(seen)), "every plan made before is refused"


async def test_a_plan_made_before_a_window_is_stale() -> None:
    async with world() as w:
        await w.sync(a_node())
        before = await version(w)
        await make(w, wanted(w, begins_h=0))
        with pytest.raises(Stale):
            async with w.db.transaction() as tx:
                await w.pool.allocate_many(tx, [a_grant("job_1")], before)


async def test_what_happens_is_told() -> None:
    async with world() as w:
        await w.sync(a_node())
        made, _ = await make(w, wanted(w, begins_h=0))
        await turn(w)
        async with w.db.transaction() as tx:
            await w.reservations.change(tx, made.id, ends_at=made.ends_at + HOUR)
        async with w.db.transaction() as tx:
            await w.reservations.drop(tx, "fans")
        async with w.db.reading() as tx:
            kinds = [each.type for each in await journal.read(tx.connection) if each.subject == made.id]
        assert kinds == ["ReservationMade", "ReservationBegan", "ReservationChanged", "ReservationDropped"]


async def test_one_that_is_put_off_begins_again_later() -> None:
    async with world() as w:
        await w.sync(a_node())
        await make(w, wanted(w, begins_h=0, lasts_h=4))
        await turn(w)
        async with w.db.transaction() as tx:
            changed, _ = await w.reservations.change(tx, "fans", begins_at=tx.now + HOUR)
        assert changed.state is ReservationState.PLANNED
        w.clock.advance(3600)
        assert await turn(w)
        async with w.db.reading() as tx:
            assert (await w.reservations.reservation(tx, "fans")).state is ReservationState.ACTIVE


@pytest.mark.parametrize(
    ("begins_h", "lasts_h", "more", "error", "says"),
    [
        (-3, 2, {}, BadReservation, "would have ended already"),
        (1, 0, {}, BadReservation, "not after it begins"),
        (1, 100_000, {}, BadReservation, "more than 10 years from now"),
        (-100_000, 100_001, {}, BadReservation, "more than 10 years from now"),
        (1, -1, {}, BadReservation, "not after it begins"),
        (1, 1, {"name": "Fans!"}, BadReservation, "lower-case letters"),
        (1, 1, {"cluster": "her"}, UnknownCluster, 'Did you mean "here"'),
        (1, 1, {"nodes": ("n1", "n11")}, UnknownNode, 'Did you mean "n1"'),
    ],
)
async def test_one_that_cannot_be_says_why(
    begins_h: float, lasts_h: float, more: dict[str, Any], error: type[Exception], says: str
) -> None:
    async with world() as w:
        await w.sync(a_node())
        with pytest.raises(error, match=says):
            await make(w, wanted(w, begins_h=begins_h, lasts_h=lasts_h, **more))
        async with w.db.reading() as tx:
            assert await w.pool.windows(tx) == []


async def test_overlaps_and_work_that_is_there_are_warned_of() -> None:
    async with world() as w:
        await w.sync(a_node("n1"), a_node("n2"))
        async with w.db.transaction() as tx:
            await w.pool.allocate_many(tx, [a_grant("job_1", a_rank("n1"))])
        _, told = await make(w, wanted(w, nodes=("n1",)))
        assert [text.split(" has")[0] for text in told] == ["1 attempt"]
        _, told = await make(w, wanted(w, "apart", nodes=("n2",)))
        assert told == []
        _, told = await make(w, wanted(w, "all", begins_h=2, projects=("prj_a",)))
        assert [text.split(" (")[0] for text in told[:2]] == ['It overlaps "apart"', 'It overlaps "fans"']
        assert "for nobody" in told[0]
        _, told = await make(w, wanted(w, "later", begins_h=10))
        assert len(told) == 1, "only the work: another time is no overlap"
        async with w.db.transaction() as tx:
            await w.pool.release(tx, AttemptKey("job_1", 1))


async def test_a_name_is_free_again_once_its_window_has_ended() -> None:
    async with world() as w:
        await w.sync(a_node())
        first, _ = await make(w, wanted(w, begins_h=0, lasts_h=1))
        with pytest.raises(ReservationExists):
            await make(w, wanted(w))
        w.clock.advance(3600)
        with pytest.raises(ReservationOver):
            async with w.db.transaction() as tx:
                await w.reservations.change(tx, "fans", ends_at=tx.now + HOUR)
        second, _ = await make(w, wanted(w))
        assert second.id != first.id
        async with w.db.reading() as tx:
            with pytest.raises(UnknownReservation):
                await w.reservations.reservation(tx, first.id)
            with pytest.raises(UnknownReservation, match="fans"):
                await w.reservations.reservation(tx, "fan")


async def test_the_routes() -> None:
    async with world() as w, serving(w, lambda tenancy: reservations_api.router(w.reservations, tenancy)) as client:
        await w.sync(a_node("n1"), a_node("n2"))
        end = (w.clock.now() + HOUR).isoformat()
        body = {"name": "course", "nodes": ["n1"], "ends_at": end, "projects": ["a", "b"], "reason": "teaching"}
        assert (await client.post("/v1/reservations", json=body, headers=as_("member"))).status_code == 403
        made = await client.post("/v1/reservations", json=body, headers=as_("operator"))
        assert made.status_code == 201
        assert {k: made.json()[k] for k in ("state", "nodes", "projects", "maintenance", "all_nodes")} == {
            "state": "ACTIVE", "nodes": ["n1"], "projects": ["a", "b"], "maintenance": False, "all_nodes": False,
        }  # fmt: skip
        seen = (await client.get("/v1/reservations/course", headers=as_("member"))).json()
        assert seen["projects"] == ["a"], "of others' projects a tenant learns nothing"
        both = await client.post("/v1/reservations", json={**body, "all_nodes": True}, headers=as_("operator"))
        neither = await client.post("/v1/reservations", json={**body, "nodes": []}, headers=as_("operator"))
        assert (both.status_code, neither.status_code) == (422, 422)
        for far in ("9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"):
            answer = await client.post("/v1/reservations", json={**body, "ends_at": far}, headers=as_("operator"))
            assert answer.status_code in (409, 422), far
        naive = await client.post(
            "/v1/reservations", json={**body, "name": "x", "ends_at": "2030-01-01T00:00:00"}, headers=as_("operator")
        )
        assert naive.status_code == 422
        assert "zone" in naive.json()["detail"]
        nobody = await client.post(
            "/v1/reservations", json={**body, "name": "x", "projects": ["no-such"]}, headers=as_("operator")
        )
        assert nobody.status_code == 404
        later = (w.clock.now() + 2 * HOUR).isoformat()
        changed = await client.patch("/v1/reservations/course", json={"ends_at": later}, headers=as_("operator"))
        assert changed.json()["ends_at"] != made.json()["ends_at"]
        assert (await client.delete("/v1/reservations/course", headers=as_("member"))).status_code == 403
        w.clock.advance(3 * 3600)

        async def names(query: str = "") -> list[str]:
            answer = await client.get(f"/v1/reservations{query}", headers=as_("member"))
            return [row["name"] for row in answer.json()["items"]]

        assert (await names(), await names("?ended=true")) == ([], ["course"])
        assert (await client.delete("/v1/reservations/course", headers=as_("operator"))).status_code == 204
        assert (await client.delete("/v1/reservations/course", headers=as_("operator"))).status_code == 404
