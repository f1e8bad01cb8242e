"""Labels, taints and places of nodes."""

from __future__ import annotations

import pytest

from dujiang.pool import api
from dujiang.pool.domain.marks import MAX_OWN, BadMark, domains, labelled, places, tainted
from tests.pool.served import as_, serving
from tests.pool.worlds import a_node, world


@pytest.mark.parametrize(
    ("own", "given", "removed", "engine", "after"),
    [
        ({}, {"a": "1"}, [], {}, {"a": "1"}),
        ({"a": "1", "b": "2"}, {"a": "3"}, ["b"], {}, {"a": "3"}),
        ({"a": "1"}, {}, ["a"], {"a": "0"}, {}),
        ({}, {}, ["never"], {}, {}),
        ({}, {"dujiang.io/rack": "r-7_x:1"}, [], {}, {"dujiang.io/rack": "r-7_x:1"}),
        ({}, {"a": ""}, [], {}, {"a": ""}),
    ],
)
def test_labels_change_as_asked(
    own: dict[str, str], given: dict[str, str], removed: list[str], engine: dict[str, str], after: dict[str, str]
) -> None:
    assert labelled(own, given, removed, engine) == after


@pytest.mark.parametrize(
    ("given", "removed", "engine", "says"),
    [
        ({"a": "1"}, ["a"], {}, "both set and removed"),
        ({}, ["arch"], {"arch": "x86"}, "comes from the engine; set another value"),
        ({"-a": "1"}, [], {}, "not the key of a label"),
        ({"a": "two words"}, [], {}, "not the value of a label"),
        ({"a": "1,2"}, [], {}, "not the value of a label"),
        ({f"k{n}": "1" for n in range(MAX_OWN + 1)}, [], {}, "at most 64"),
    ],
)
def test_a_label_that_cannot_be_says_why(
    given: dict[str, str], removed: list[str], engine: dict[str, str], says: str
) -> None:
    with pytest.raises(BadMark, match=says):
        labelled({}, given, removed, engine)


@pytest.mark.parametrize(
    ("own", "given", "removed", "after"),
    [
        ((), ["gpu"], [], ("gpu",)),
        (("gpu=a",), ["gpu=b"], [], ("gpu=b",)),
        (("gpu=a", "z"), [], ["gpu"], ("z",)),
        ((), ["gpu="], [], ("gpu",)),
    ],
)
def test_taints_change_as_asked(own: tuple[str, ...], given: list[str], removed: list[str], after: object) -> None:
    assert tainted(own, given, removed, ()) == after


@pytest.mark.parametrize(
    ("given", "removed", "says"),
    [
        (["a=1:NoSchedule"], [], "ends in an effect"),
        (["a", "a=1"], [], "given twice"),
        (["a=1"], ["a"], "both set and removed"),
        ([], ["broken"], "comes from the engine; remove it there"),
        (["=x"], [], "not the key of a taint"),
    ],
)
def test_a_taint_that_cannot_be_says_why(given: list[str], removed: list[str], says: str) -> None:
    with pytest.raises(BadMark, match=says):
        tainted((), given, removed, ("broken=fan",))


def test_places_come_from_well_known_labels_and_our_own_come_first() -> None:
    labels = {
        "topology.kubernetes.io/zone": "z1", "network.topology.nvidia.com/leaf": "leaf-3", "dujiang.io/rack": "7",
        "topology.kubernetes.io/rack": "wrong",
    }  # fmt: skip
    assert places(labels) == {"switch": "leaf-3", "rack": "7", "site": "z1"}
    assert domains(labels) == {"switch": "z1/leaf-3", "rack": "z1/7", "site": "z1"}, "two sites may each have a rack 7"
    assert domains({"dujiang.io/rack": "7"}) == {"rack": "7"}
    assert places({"dujiang.io/site": ""}) == {}


async def test_an_operators_labels_and_taints_outlive_a_new_look_and_stand_in_the_columns() -> None:
    async with world() as w:
        facts = a_node(labels={"arch": "x86", "dujiang.io/rack": "old"}, taints=("flaky",))
        await w.sync(facts)
        async with w.db.transaction() as tx:
            before = await w.pool.version(tx)
            node = await w.pool.label(tx, "n1", {"dujiang.io/rack": "r1", "tier": "a"}, [])
            node = await w.pool.taint(tx, "n1", ["team=vision"], [])
            assert (await w.pool.version(tx)) == before + 2, "a plan made before is refused"
        await w.sync(facts)
        async with w.db.reading() as tx:
            node = await w.pool.node(tx, "n1")
            columns = (await w.pool.placeable(tx)).columns
        assert node.labels == {"arch": "x86", "dujiang.io/rack": "r1", "tier": "a"}
        assert columns.node_taints == (("flaky", "team=vision"),)
        assert columns.node_domains == ({"rack": "r1"},)
        async with w.db.transaction() as tx:
            await w.pool.label(tx, "n1", {}, ["dujiang.io/rack", "tier"])
            node = await w.pool.taint(tx, "n1", [], ["team"])
        assert (node.labels["dujiang.io/rack"], node.taints) == ("old", ("flaky",))
        w.pool._kept = None  # as another process reads it
        async with w.db.reading() as tx:
            assert await w.pool.node(tx, "n1") == node


async def test_setting_what_is_set_changes_nothing() -> None:
    async with world() as w:
        await w.sync(a_node())
        async with w.db.transaction() as tx:
            await w.pool.label(tx, "n1", {"a": "1"}, [])
        async with w.db.transaction() as tx:
            before = await w.pool.version(tx)
            await w.pool.label(tx, "n1", {"a": "1"}, [])
            await w.pool.taint(tx, "n1", [], ["nothing"])
            assert await w.pool.version(tx) == before


async def test_the_routes_mark_a_node_for_operators_alone() -> None:
    async with world() as w, serving(w, lambda tenancy: api.router(w.pool, tenancy)) as client:
        await w.sync(a_node())
        body = {"set": {"dujiang.io/switch": "s1"}, "remove": []}
        assert (await client.post("/v1/nodes/n1/labels", json=body, headers=as_("member"))).status_code == 403
        told = (await client.post("/v1/nodes/n1/labels", json=body, headers=as_("operator"))).json()
        assert (told["own_labels"], told["switch"], told["rack"]) == ({"dujiang.io/switch": "s1"}, "s1", None)
        told = (await client.post("/v1/nodes/n1/taints", json={"set": ["a=b"]}, headers=as_("operator"))).json()
        assert (told["taints"], told["own_taints"]) == (["a=b"], ["a=b"])
        wrong = await client.post("/v1/nodes/n1/taints", json={"set": ["a b"]}, headers=as_("operator"))
        assert (wrong.status_code, wrong.json()["code"]) == (422, "bad_mark")
        assert (await client.post("/v1/nodes/n9/taints", json={}, headers=as_("operator"))).status_code == 404
