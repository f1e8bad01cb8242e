"""PyTorch on several processes through the whole platform: joined, killed, resumed, on as many nodes as there are."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chaos.process import until
from tests.distributed.conftest import Desk, programs
from tests.distributed.parts import PYTHON, TORCHRUN_ARGS, install

pytestmark = pytest.mark.distributed
EXAMPLE = Path(__file__).parents[2] / "examples" / "distributed"
WEIGHTS = re.compile(r"rank (\d+) of (\d+): weights ([0-9a-f]{12})")
TORCHRUN = {"launcher": "torchrun", "processes": 2, "args": TORCHRUN_ARGS}
EPOCHS = 8


@pytest.fixture(scope="module", autouse=True)
def _torch() -> None:
    install("torch")


def train(desk: Desk, name: str, launch: Any, *, nodes: Any = 2, pause: float = 0.0, **fields: Any) -> str:
    run = f"{PYTHON} ddp.py --epochs {EPOCHS} --pause {pause}"
    where = {"workdir": str(EXAMPLE), "checkpoint": {"interval": "1m"}}
    return desk.submit(name, run, nodes=nodes, distributed=launch, **where, **fields)


def weights(desk: Desk, ident: str, ranks: int = 2) -> dict[tuple[int, int], str]:
    """Return what each process had at its end, by its rank and the number of processes."""
    text = "\n".join(desk.said(ident, rank=rank) for rank in range(ranks))
    return {(int(rank), int(world)): digest for rank, world, digest in WEIGHTS.findall(text)}


def last_loss(said: str) -> float:
    """Return the loss of the last epoch."""
    (loss,) = re.findall(rf"epoch={EPOCHS} loss=([0-9.]+)", said)
    return float(loss)


def test_torchrun_joins_the_processes_of_two_nodes(desk: Desk) -> None:
    document = yaml.safe_load((EXAMPLE / "ddp.yaml").read_text())
    assert document["distributed"] == {"launcher": "torchrun", "processes": 2}
    assert document["run"].startswith("python ddp.py")
    ident = train(desk, "joined", TORCHRUN)
    desk.completed(ident)
    found = weights(desk, ident)
    assert sorted(found) == [(rank, 4) for rank in range(4)]
    assert len(set(found.values())) == 1, "all processes have the same network"


@pytest.mark.parametrize("launch", [TORCHRUN, "none"], ids=["torchrun", "none"])
def test_a_killed_process_ends_the_gang_and_the_job_goes_on_from_its_checkpoint(desk: Desk, launch: Any) -> None:
    word = launch if isinstance(launch, str) else launch["launcher"]
    world = 2 if word == "none" else 4
    whole = train(desk, f"whole-{word}", launch)
    desk.completed(whole)
    ident = train(desk, f"killed-{word}", launch, pause=1.0, retry=1)
    until(lambda: "epoch=2 " in desk.said(ident), 90, "the second epoch")
    last = str(world - 1)
    (victim,) = until(lambda: programs(ident, "ddp.py", RANK=last), 10, "the last process")
    os.kill(victim, signal.SIGKILL)
    job = desk.completed(ident)
    first, second = job["attempts"]
    assert (first["state"], second["state"]) == ("FAILED", "COMPLETED"), job["attempts"]
    assert not programs(ident, "ddp.py"), "nothing of the gang is left"
    again = desk.said(ident, attempt=2)
    began = re.search(rf"resumed after epoch (\d+) on {world} processes", again)
    assert began, again
    assert 2 <= int(began[1]) < EPOCHS
    assert "epoch=1 " not in again
    assert last_loss(again) == pytest.approx(last_loss(desk.said(whole)), rel=1e-3)
    if world == 2:  # of more, the order of a sum depends on buckets that DDP forms anew after its first step
        assert weights(desk, ident) == weights(desk, whole), "as if it had never been killed"


def test_an_elastic_job_trains_on_as_many_nodes_as_it_got(desk: Desk) -> None:
    with desk.platform.client() as client:
        (node,) = client.items("/v1/nodes")
    half = {"cpu": node["cpu_milli"] // 2 / 1000, "memory": "1GiB"}
    launch = {**TORCHRUN, "processes": 1}
    ident = train(desk, "elastic", launch, nodes={"min": 1, "max": 4}, resources=half)
    desk.completed(ident)
    assert sorted(weights(desk, ident)) == [(0, 2), (1, 2)]


SAVES = """\
import os, signal, sys, time
import torch.distributed
torch.distributed.init_process_group("gloo")
def save(number, frame):
    sys.stdout.write(f"saved on {os.environ['RANK']}\\n")
    sys.exit(0)
signal.signal(signal.SIGUSR1, save)
torch.distributed.barrier()
print("ready", flush=True)
time.sleep(100)
"""


def test_a_save_signal_goes_past_the_launcher_to_the_programs(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "saves.py").write_text(SAVES)
    point = {"signal": "SIGUSR1"}
    run = f"{PYTHON} {tmp_path}/saves.py"
    ident = desk.submit("saves", run, distributed=TORCHRUN, checkpoint=point, grace="20s")
    until(lambda: desk.said(ident).count("ready") == 2, 60, "both processes are ready")
    desk.platform.run("cancel", ident)
    assert desk.ended(ident)["state"] == "CANCELLED"
    assert sorted(re.findall(r"saved on (\d)", desk.said(ident))) == ["0", "1"]
