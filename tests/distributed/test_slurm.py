"""Launchers on a real Slurm: across two of its nodes, each under its own supervisor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.distributed.conftest import Desk, a_desk
from tests.distributed.parts import PYTHON, TORCHRUN_ARGS, install
from tests.distributed.test_mpi import SUM
from tests.distributed.test_torch import EXAMPLE, weights
from tests.slurm import cluster as slurm
from tests.slurm.test_platform import SETTINGS

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def hpc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    slurm.install()
    folder = tmp_path_factory.mktemp("hpc")
    with slurm.Cluster(folder / "c") as cluster:
        settings = SETTINGS.format(shared=folder / "shared", conf=cluster.conf)
        settings += '\n[clusters.hpc.fabric]\nkind = "tcp"\n'
        with a_desk(folder, settings) as desk:
            yield desk


WHERE = {"placement": {"cluster": "hpc", "spread": "node"}, "nodes": 2, "time_limit": "10m", "retry": 0}


def test_torchrun_across_two_nodes(hpc: Desk) -> None:
    install("torch")
    launch = {"launcher": "torchrun", "processes": 2, "args": TORCHRUN_ARGS}
    run = f'echo "$DUJIANG_HOSTS $NCCL_IB_DISABLE"; {PYTHON} ddp.py --epochs 2'
    ident = hpc.submit("slurm-torch", run, distributed=launch, workdir=str(EXAMPLE), checkpoint={}, **WHERE)
    job = hpc.completed(ident)
    assert len(set(job["attempts"][0]["nodes"])) == 2
    found = weights(hpc, ident)
    assert sorted(found) == [(rank, 4) for rank in range(4)]
    assert len(set(found.values())) == 1
    assert "127.0.0.1,127.0.0.1 1" in hpc.said(ident), "the addresses of both nodes, and the cluster's fabric"


def test_mpirun_across_two_nodes_without_ssh(hpc: Desk, tmp_path: Path) -> None:
    install("mpi4py")
    (tmp_path / "sum.py").write_text(SUM)
    # Both nodes of this cluster are one machine, which nothing tells the platform.
    alike = {"OMPI_MCA_btl": "tcp,self", "OMPI_MCA_btl_tcp_if_include": "lo"}
    run = f'{PYTHON} {tmp_path}/sum.py 0; echo "on ${{SLURMD_NODENAME:-none}}"'
    launch = {"launcher": "mpi", "processes": 2}
    ident = hpc.submit("slurm-mpi", run, distributed=launch, env=alike, **WHERE)
    hpc.completed(ident)
    lines = sorted(line for line in hpc.said(ident).splitlines() if " sum " in line)
    assert lines == [f"{rank} of 4, {rank}, sum 6, on node {rank // 2}" for rank in range(4)]
