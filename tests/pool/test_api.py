"""The pool's routes, asked over HTTP."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import httpx

from dujiang.pool import api
from tests.pool.served import as_, serving
from tests.pool.worlds import GIB, World, a_grant, a_node, a_rank, world


def asking(w: World) -> AbstractAsyncContextManager[httpx.AsyncClient]:
    """Serve the pool's routes of a world."""
    return serving(w, lambda tenancy: api.router(w.pool, tenancy))


async def test_nodes_are_listed_page_by_page_with_what_is_left_of_them() -> None:
    async with world() as w, asking(w) as client:
        await w.sync(a_node("n2", devices=1), a_node("n1"), a_node("n3"), simulated=True)
        async with w.db.transaction() as tx:
            await w.pool.allocate_many(tx, [a_grant("job_1", a_rank("n2", shares={0: 125}, device_memory_bytes=GIB))])
        first = (await client.get("/v1/nodes?limit=2", headers=as_("member"))).json()
        assert [node["name"] for node in first["items"]] == ["n1", "n2"]
        n2 = first["items"][1]
        assert (n2["free_cpu_milli"], n2["state"], n2["simulated"]) == (7000, "READY", True)
        assert n2["devices"][0]["free_gpu_milli"] == 875
        rest = (await client.get(f"/v1/nodes?limit=2&cursor={first['next_cursor']}", headers=as_("member"))).json()
        assert [node["name"] for node in rest["items"]] == ["n3"]
        assert rest["next_cursor"] is None
        with_gpu = (await client.get("/v1/nodes?vendor=nvidia&model=H100", headers=as_("member"))).json()
        assert [node["name"] for node in with_gpu["items"]] == ["n2"]
        assert (await client.get("/v1/nodes?state=CORDONED", headers=as_("member"))).json()["items"] == []
        assert (await client.get("/v1/nodes?label=broken", headers=as_("member"))).status_code == 422
        assert len((await client.get("/v1/nodes?cluster=here", headers=as_("member"))).json()["items"]) == 3
        none = await client.get("/v1/nodes?cluster=hree", headers=as_("member"))
        assert none.status_code == 404
        assert none.json()["detail"] == 'There is no cluster "hree". Did you mean "here"?'
        none = await client.get("/v1/nodes?cluster=zzz", headers=as_("member"))
        assert none.json()["detail"] == 'There is no cluster "zzz". There are here.'
        assert (await client.get("/v1/nodes/nowhere", headers=as_("member"))).status_code == 404
        assert (await client.get("/v1/nodes/n2?cluster=here", headers=as_("member"))).json()["id"] == n2["id"]


async def test_an_operator_cordons_drains_and_opens_a_node_and_a_member_does_not() -> None:
    async with world() as w, asking(w) as client:
        await w.sync(a_node())
        assert (await client.post("/v1/nodes/n1/cordon", json={}, headers=as_("member"))).status_code == 403
        told = await client.post("/v1/nodes/n1/cordon", json={"reason": "fan"}, headers=as_("operator"))
        assert (told.json()["state"], told.json()["reason"], told.json()["intent_by"]) == (
            "CORDONED", "fan", "user:usr_o",
        )  # fmt: skip
        told = await client.post("/v1/nodes/n1/drain", json={"reason": "disk"}, headers=as_("operator"))
        assert told.json()["state"] == "DRAINED"
        told = await client.post("/v1/nodes/n1/uncordon", json={}, headers=as_("operator"))
        assert told.json()["state"] == "READY"
        assert told.json()["schedulable"] is True
        long = await client.post("/v1/nodes/n1/cordon", json={"reason": "x" * 501}, headers=as_("operator"))
        assert long.status_code == 422


async def test_the_pool_in_figures() -> None:
    async with world() as w, asking(w) as client:
        await w.sync(a_node(devices=2), a_node("n2", devices=1))
        async with w.db.transaction() as tx:
            await w.pool.allocate_many(tx, [a_grant("job_1", a_rank(shares={0: 400}))])
            await w.pool.cordon(tx, "n2", "fan")
        pool = (await client.get("/v1/pool", headers=as_("member"))).json()
        (kind,) = pool["devices"]
        assert kind["gpu_milli"] == {"total": 3000, "allocated": 400, "free": 1600}
        assert (kind["largest_free_milli"], kind["devices_untouched"], kind["most_untouched_on_a_node"]) == (1000, 1, 1)
        assert pool["hosts"][0]["cpu_milli"] == {"total": 16000, "allocated": 1000, "free": 7000}
        assert pool["node_states"] == {"CORDONED": 1, "READY": 1}
        assert pool["simulated"] is False


async def test_a_tenant_sees_the_ledger_of_their_own_projects_only() -> None:
    async with world() as w, asking(w) as client:
        await w.sync(a_node())
        async with w.db.transaction() as tx:
            await w.pool.allocate_many(
                tx, [a_grant("job_1", project=w.projects["a"]), a_grant("job_2", project=w.projects["b"])]
            )
        async with w.db.transaction() as tx:
            await w.pool.release(tx, (await w.pool.live(tx))[0])

        async def jobs(who: str, query: str = "") -> list[str]:
            answer = await client.get(f"/v1/allocations?{query}", headers=as_(who))
            return [row["job_id"] for row in answer.json()["items"]]

        assert await jobs("operator") == ["job_1", "job_2"]
        assert await jobs("operator", "live=true") == ["job_2"]
        assert await jobs("operator", "live=false&node=n1") == ["job_1"]
        assert await jobs("operator", "until=2025-01-01T00:00:00Z") == []
        assert await jobs("operator", "since=2027-01-01T00:00:00Z") == ["job_2"]
        assert await jobs("member") == ["job_1"]
        assert await jobs("member", "job=job_2") == []
        assert (await client.get("/v1/allocations?project=b", headers=as_("member"))).status_code == 404
        assert await jobs("stranger", "project=b") == ["job_2"]
        assert (await client.get("/v1/allocations?since=2026-01-01T00:00:00", headers=as_("member"))).status_code == 422
        assert (await client.get("/v1/allocations")).status_code == 401
