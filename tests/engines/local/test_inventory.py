"""What the one node of the local engine says of itself."""

from __future__ import annotations

from pathlib import Path

from dujiang.engines.local.inventory import Inventory
from dujiang.engines.local.settings import LocalSettings


def test_labels_of_the_settings_stand_beside_those_that_are_found(tmp_path: Path) -> None:
    settings = LocalSettings(node_name="here", labels={"dujiang.io/rack": "r7", "os": "mine"})
    labels = Inventory(tmp_path, settings).node(cordoned_because=None).labels
    assert labels["dujiang.io/rack"] == "r7"
    assert labels["os"] == "mine"
    assert {"arch", "kernel"} <= labels.keys()
