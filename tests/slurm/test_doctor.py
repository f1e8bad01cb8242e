"""`dujiang doctor` on clusters of the settings: one that answers, and what it says when that one does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dujiang.bootstrap.examine import examine
from tests.slurm.cluster import Cluster

pytestmark = pytest.mark.slurm
SETTINGS = """\
[pool]
answer_within_s = 20.0

[clusters.hpc.slurm]
work_dir = "{shared}"
conf = "{conf}"
allow_root = true
"""


def seen(home: Path) -> tuple[dict[str, Any], list[str]]:
    """Return what is told of the one cluster, and all that is missing."""
    told = dict(examine(home))
    json.dumps(told)
    (one,) = told["clusters"]
    return one, told["missing"]


def test_a_cluster_is_asked_and_one_that_is_away_is_told_with_what_to_do(tmp_path: Path, cluster: Cluster) -> None:
    shared = tmp_path / "shared"
    (tmp_path / "dujiang.toml").write_text(SETTINGS.format(shared=shared, conf=cluster.conf))
    one, missing = seen(tmp_path)
    assert (one["name"], one["kind"], one["state"], one["why"]) == ("hpc", "slurm", "reachable", "")
    assert one["version"][:1].isdigit()
    assert (one["nodes"], one["ready"], one["devices"]) == (3, 3, 12)
    assert one["answered_in_s"] > 0
    assert f"cluster hpc: {one['missing'][0]}" in missing
    assert not shared.exists(), "nothing is made where jobs would be"
    cluster.stop("slurmctld")
    try:
        one, missing = seen(tmp_path)
    finally:
        cluster.start_controller()
    assert (one["state"], one["nodes"]) == ("unreachable", 0)
    assert any(line.startswith("cluster hpc is unreachable: ") and "`sinfo`" in line for line in missing)
