"""Open MPI through the whole platform: on one node, and across nodes without ssh."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.chaos.process import until
from tests.distributed.conftest import Desk, programs
from tests.distributed.parts import PYTHON, install

pytestmark = pytest.mark.distributed
SUM = """\
import os, sys, time
from mpi4py import MPI
world = MPI.COMM_WORLD
total = world.allreduce(world.Get_rank())
node = os.environ["NODE_RANK"]
sys.stdout.write(f"{world.Get_rank()} of {world.Get_size()}, {os.environ['RANK']}, sum {total}, on node {node}\\n")
sys.stdout.flush()
time.sleep(float(sys.argv[1]))
"""


@pytest.fixture(scope="module", autouse=True)
def _mpi() -> None:
    install("mpi4py")


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "sum.py"
    path.write_text(SUM)
    return path


@pytest.mark.parametrize(("nodes", "processes"), [(1, 4), (2, 2), (4, 1)])
def test_mpirun_makes_one_program_of_all_nodes(desk: Desk, script: Path, nodes: int, processes: int) -> None:
    launch = {"launcher": "mpi", "processes": processes}
    ident = desk.submit(f"mpi-{nodes}-{processes}", f"{PYTHON} {script} 0", nodes=nodes, distributed=launch)
    desk.completed(ident)
    lines = sorted(line for line in desk.said(ident).splitlines() if " sum " in line)
    assert lines == [f"{rank} of 4, {rank}, sum 6, on node {rank // processes}" for rank in range(4)]


def test_a_killed_process_ends_all(desk: Desk, script: Path) -> None:
    launch = {"launcher": "mpi", "processes": 2}
    ident = desk.submit("mpi-killed", f"{PYTHON} {script} 100", nodes=2, distributed=launch, retry=0)
    victim = until(lambda: programs(ident, "sum.py", RANK="3"), 60, "the last process")[0]
    until(lambda: "sum 6" in desk.said(ident), 30, "they have met")
    os.kill(victim, signal.SIGKILL)
    job = desk.ended(ident, 30)
    assert job["state"] == "FAILED"
    assert not programs(ident, "sum.py")
