from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dujiang.engines.simulated import FleetSpec, NodeGroup, parse_fleet
from dujiang.engines.simulated.fleet import BadFleet, Places


def test_the_short_form_gives_nodes_and_devices_that_say_what_they_are() -> None:
    nodes = parse_fleet("64x8").build()
    assert [nodes[0].name, nodes[63].name, len(nodes)] == ["sim-0001", "sim-0064", 64]
    assert {len(node.devices) for node in nodes} == {8}
    assert all(node.labels["simulated"] == "true" for node in nodes)
    assert all(device.labels["simulated"] == "true" for node in nodes for device in node.devices)
    assert len({device.name for node in nodes for device in node.devices}) == 512
    racks = [nodes[place].labels["dujiang.io/rack"] for place in (0, 15, 16, 63)]
    assert racks == ["r001", "r001", "r002", "r004"]
    assert [nodes[place].labels["dujiang.io/switch"] for place in (0, 7, 8, 63)] == ["s001", "s001", "s002", "s008"]
    assert {node.labels["dujiang.io/site"] for node in nodes} == {"site1"}


def test_a_fleet_says_how_many_nodes_share_a_place() -> None:
    nodes = parse_fleet("8x1,4x0/rack=4/site=8").build()
    assert [node.labels["dujiang.io/rack"] for node in nodes] == ["r001"] * 4 + ["r002"] * 4 + ["r003"] * 4
    assert [node.labels["dujiang.io/site"] for node in nodes] == ["site1"] * 8 + ["site2"] * 4
    assert [node.labels["dujiang.io/switch"] for node in nodes] == ["s001"] * 4 + ["s002"] * 4 + ["s003"] * 4


@pytest.mark.parametrize(
    ("written", "places"),
    [
        ("/rack=10", Places(10, 10)),
        ("/rack=24", Places(8, 24)),
        ("/switch=5", Places(5, 15)),
        ("/switch=32", Places(32, 32)),
        ("/site=100", Places(100, 100, 100)),
        ("/site=64", Places(8, 16, 64)),
    ],
)
def test_what_is_not_said_of_places_goes_with_what_is(written: str, places: Places) -> None:
    assert parse_fleet(f"200x1{written}").places == places


def test_groups_have_models_vendors_and_memory_of_their_own() -> None:
    nodes = parse_fleet("1x8:H200@nvidia:141GiB, 2x16:910B@huawei:64GiB,1x0").build()
    assert [len(node.devices) for node in nodes] == [8, 16, 16, 0]
    device = nodes[1].devices[15]
    assert (device.vendor, device.model, device.memory_bytes, device.index) == ("huawei", "910B", 64 << 30, 15)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "NODESxDEVICES"),
        ("eight", "NODESxDEVICES"),
        ("8x", "NODESxDEVICES"),
        ("8x8:H100:lots", "not a size"),
        ("0x8", "1 to 20000 nodes"),
        ("20001x1", "1 to 20000 nodes"),
        ("1x65", "at most 64 devices"),
        ("8x1/rack", "not a place"),
        ("8x1/rack=0", "not a place"),
        ("8x1/row=4", "not a place"),
        ("8x1/rack=4/rack=8", "said twice"),
        ("8x1/switch=3/rack=4", "whole switches"),
        ("8x1/rack=4/site=6", "whole racks"),
    ],
)
def test_what_cannot_be_read_says_how_to_write_it(text: str, says: str) -> None:
    with pytest.raises(BadFleet, match=says):
        parse_fleet(text)


@given(
    st.lists(
        st.builds(
            NodeGroup, st.integers(1, 50), st.integers(0, 64), model=st.text("aZ09.+-_", min_size=1, max_size=20),
            vendor=st.sampled_from(["nvidia", "huawei", "cambricon"]), device_memory_bytes=st.integers(1, 2**45),
        ), min_size=1, max_size=4,
    ),
    st.tuples(st.integers(1, 20), st.integers(1, 5), st.integers(1, 5)),
)  # fmt: skip
def test_the_printed_form_reads_back(groups: list[NodeGroup], sizes: tuple[int, int, int]) -> None:
    switch, per_rack, per_site = sizes
    places = Places(switch, switch * per_rack, switch * per_rack * per_site)
    spec = FleetSpec(tuple(groups), places)
    assert parse_fleet(str(spec)) == spec
