"""A platform with a Slurm cluster: submitted, killed and resumed, billed and shown like any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.process import PlatformProcess, until
from tests.slurm.cluster import Cluster

pytestmark = pytest.mark.slurm
SETTINGS = """\
[jobs]
checkpoint_root = "{shared}/checkpoints"

[clusters.hpc.slurm]
work_dir = "{shared}/dujiang"
conf = "{conf}"
allow_root = true
poll_s = 0.5
facts_lag_s = 1.0
device_memory_bytes = {{ h100 = 85899345920 }}
"""
JOB = """\
name: on-slurm
placement: {cluster: hpc}
resources: {gpu: 1, memory: 128MiB}
time_limit: 10m
run: |
  echo "$SLURM_JOB_ID on $SLURMD_NODENAME sees $CUDA_VISIBLE_DEVICES"
"""


def test_a_job_goes_through_the_platform_to_slurm(tmp_path: Path, cluster: Cluster) -> None:
    home = tmp_path / "home"
    platform = PlatformProcess(home)
    (home / "dujiang.toml").write_text(SETTINGS.format(shared=tmp_path / "shared", conf=cluster.conf))
    (tmp_path / "job.yaml").write_text(JOB)
    platform.start()
    try:
        nodes = platform.run("nodes", "--json").json
        assert {node["name"] for node in nodes if node["cluster"] == "hpc"} == set(cluster.nodes)
        shown = platform.run("clusters", "--json").json
        assert [(one["kind"], one["reachable"]) for one in shown if one["name"] == "hpc"] == [("slurm", True)]
        said = platform.run("submit", str(tmp_path / "job.yaml"))
        assert said.code == 0, said.err
        until(lambda: platform.jobs()[0]["state"] in ("COMPLETED", "FAILED", "NODE_FAIL"), 60, "the job to end")
        (job,) = platform.jobs()
        assert job["state"] == "COMPLETED", job
        printed = platform.run("logs", job["id"]).out
        assert " sees 0" in printed
        cluster.stop("slurmctld")
        try:
            until(lambda: "hpc" in _away(platform), 60, "the cluster to be shown as away")
            assert "Slurm does not answer" in _away(platform)["hpc"]
        finally:
            cluster.start_controller()
        until(lambda: not _away(platform), 60, "the cluster to be back")
        assert platform.tracebacks() == []
    finally:
        platform.stop()


def _away(platform: PlatformProcess) -> dict[str, str]:
    shown = platform.run("clusters", "--json").json
    return {one["name"]: one["reason"] for one in shown if not one["reachable"]}
