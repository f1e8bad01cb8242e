"""What launchers make of a job: their own documented command lines and variables, and what is refused."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dujiang.engines.contract import DeviceShare, RankPlacement
from dujiang.jobs.domain import Fabric, Site
from dujiang.jobs.domain.distributed import Spread, spread
from dujiang.jobs.spec import Distributed, Launcher, SpecInvalid, parse, read

LOCAL, SLURM, KUBERNETES = Site("local"), Site("slurm"), Site("kubernetes")
STAND_IN = '#!/bin/sh\nfor word; do printf "%s\\0" "$word"; done >"$SEEN"\nenv -0 >"$SEEN.env"\n'
"""In place of a launcher: writes down the words and the variables that it was given."""


def ranks_on(*nodes: str, gpus: int = 0, cpu_milli: int = 8000) -> tuple[RankPlacement, ...]:
    devices = tuple(DeviceShare(f"GPU-{n}", n, 1000, 80 << 30) for n in range(gpus))
    return tuple(RankPlacement(n, node, cpu_milli, 1 << 30, 0, devices) for n, node in enumerate(nodes))


TWO = ranks_on("a", "b", gpus=4)


def made(launcher: str, run: str = "python train.py", *, ranks: tuple[RankPlacement, ...] = TWO, site: Site = SLURM,
         processes: int | None = None, args: Sequence[str] = (), ports: int = 0) -> Spread:  # fmt: skip
    return spread(Distributed(Launcher(launcher), processes, tuple(args)), run, ranks, site, ports=ports)


class Seen:
    """What a launcher was given on one rank, and what its processes do."""

    def __init__(self, folder: Path, spread: Spread, rank: int, world: int, **env: str) -> None:
        bin, self._seen = folder / "bin", folder / "seen"
        bin.mkdir(exist_ok=True)
        for name in ("torchrun", "deepspeed", "accelerate", "horovodrun", "mpirun"):
            (bin / name).write_text(STAND_IN)
            (bin / name).chmod(0o755)
        hosts = ",".join(f"10.0.0.{n + 1}" for n in range(world))
        self.env = {
            "PATH": f"{bin}:{os.environ['PATH']}", "SEEN": str(self._seen), "DUJIANG_OUTPUT_DIR": str(folder),
            "RANK": str(rank), "NODE_RANK": str(rank), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
            "WORLD_SIZE": str(world), "DUJIANG_NODES": str(world), "DUJIANG_HOSTS": hosts,
            "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29400", **spread.env, **env,
        }  # fmt: skip
        done = subprocess.run(["/bin/sh", "-e", "-c", spread.run, "run"], env=self.env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        self.out = done.stdout

    @property
    def words(self) -> list[str]:
        return self._seen.read_text().split("\0")[:-1]

    @property
    def told(self) -> Mapping[str, str]:
        lines = Path(f"{self._seen}.env").read_text().split("\0")
        return dict(line.split("=", 1) for line in lines if line)

    def process(self, **env: str) -> str:
        """Run what the launcher would start, which are its last words from /bin/sh on; return what it prints."""
        program = self.words[self.words.index("/bin/sh") :]
        told = {**self.told, **env}
        return subprocess.run(program, env=told, capture_output=True, text=True, check=True).stdout


PROGRAM = ["/bin/sh", "-e", "-c", "python train.py", "run"]


def test_torchrun_has_its_documented_form(tmp_path: Path) -> None:
    assert Seen(tmp_path, made("torchrun", args=["--log_dir", "my logs"]), 1, 2).words == [
        "--nnodes=2", "--nproc_per_node=4", "--node_rank=1", "--master_addr=10.0.0.1", "--master_port=29400",
        "--log_dir", "my logs", "--no_python", *PROGRAM,
    ]  # fmt: skip


def test_accelerate_has_its_documented_form(tmp_path: Path) -> None:
    assert Seen(tmp_path, made("accelerate"), 1, 2).words == [
        "launch", "--num_machines=2", "--num_processes=8", "--machine_rank=1", "--main_process_ip=10.0.0.1",
        "--main_process_port=29400", "--multi_gpu", "--rdzv_backend=static", "--mixed_precision=no",
        "--dynamo_backend=no", "--no_python", *PROGRAM,
    ]  # fmt: skip
    alone = Seen(tmp_path, made("accelerate", ranks=ranks_on("a"), args=["--mixed_precision=bf16"]), 0, 1).words
    assert "--multi_gpu" not in alone, "accelerate refuses it for one process"
    assert alone.index("--mixed_precision=no") < alone.index("--mixed_precision=bf16"), "the job's own word counts"


def test_deepspeed_starts_each_node_by_itself_without_ssh(tmp_path: Path) -> None:
    seen = Seen(tmp_path, made("deepspeed", 'printf %s "$CUDA_VISIBLE_DEVICES"'), 1, 2, CUDA_VISIBLE_DEVICES="GPU-4,5")
    hostfile = tmp_path / "hostfile.1"
    assert seen.words[:7] == [
        f"--hostfile={hostfile}", "--no_ssh", "--node_rank=1", "--master_addr=10.0.0.1", "--master_port=29400",
        "--no_python", "--no_local_rank",
    ]  # fmt: skip
    assert hostfile.read_text() == "rank-0 slots=4\nrank-1 slots=4\n"
    assert seen.process(CUDA_VISIBLE_DEVICES="0,1") == "GPU-4,5", "its own numbering is put right again"


def test_horovod_has_its_documented_forms(tmp_path: Path) -> None:
    words = Seen(tmp_path, made("horovod", ranks=ranks_on("a", gpus=4)), 0, 1).words
    assert words[:4] == ["-np", "4", "-H", "localhost:4"]
    several = Seen(tmp_path, made("horovod"), 0, 2)
    assert several.words[1:13] == [
        "--hostfile", f"{tmp_path}/.mpi/hosts", "-np", "8", "-bind-to", "none", "-map-by", "slot", "-mca", "pml",
        "ob1", "-mca",
    ]  # fmt: skip
    assert several.words[13:15] == ["btl", "^openib"]


def test_mpirun_finds_the_other_nodes_by_an_agent_in_place_of_ssh(tmp_path: Path) -> None:
    shown = 'echo "$RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_WORLD_SIZE"'
    seen = Seen(tmp_path, made("mpi", shown, args=["--bind-to", "core"]), 0, 2, SLURM_JOB_ID="7", PMIX_RANK="0")
    hosts = tmp_path / ".mpi" / "hosts"
    assert seen.words[:7] == [
        "--leave-session-attached", "--hostfile", str(hosts), "-np", "8", "--bind-to", "core",
    ]  # fmt: skip
    assert hosts.read_text() == "localhost slots=4\nrank-1 slots=4\n"
    assert not [name for name in seen.told if name.startswith(("SLURM", "PMI"))], "else it asks Slurm for daemons"
    world = {f"OMPI_COMM_WORLD_{name}": value for name, value in (
        ("RANK", "5"), ("SIZE", "8"), ("LOCAL_RANK", "1"), ("LOCAL_SIZE", "4"),
    )}  # fmt: skip
    assert seen.process(**world) == "5/8 1/4\n"
    agent = shlex.split(seen.told["OMPI_MCA_plm_rsh_agent"])
    other = made("mpi", shown)
    asking = subprocess.Popen([*agent, "rank-1", "echo", '"the orders of $RANK"'], stderr=subprocess.PIPE)
    assert Seen(tmp_path, other, 1, 2).out == "the orders of 1\n"
    assert asking.wait(10) == 0


def test_mpirun_on_one_machine_keeps_off_the_network_and_off_shared_names() -> None:
    apart, together = made("mpi").env, made("mpi", ranks=ranks_on("a", "a"), site=LOCAL).env
    assert "OMPI_MCA_btl" not in apart
    assert together["OMPI_MCA_btl"] == "tcp,self"
    assert together["OMPI_MCA_btl_tcp_if_include"] == "lo"
    assert "OMPI_MCA_btl" not in made("mpi", ranks=ranks_on("a", "a"), site=KUBERNETES).env, "a Pod each"


def test_what_hands_its_daemons_over_in_a_folder_says_that_all_must_see_it() -> None:
    for launcher in ("mpi", "horovod"):
        assert made(launcher, site=KUBERNETES).shares_output
        assert not made(launcher, ranks=ranks_on("a"), site=KUBERNETES).shares_output
    for launcher in ("none", "torchrun", "accelerate", "deepspeed", "lightning", "tensorflow", "jax"):
        assert not made(launcher, site=KUBERNETES).shares_output, launcher


def test_lightning_starts_its_own_processes(tmp_path: Path) -> None:
    found = made("lightning", "env", processes=4)
    told = dict(line.split("=", 1) for line in Seen(tmp_path, found, 1, 2).out.splitlines())
    assert not told.keys() & {"LOCAL_RANK", "LOCAL_WORLD_SIZE", "RANK", "WORLD_SIZE"}
    assert (told["NODE_RANK"], told["MASTER_ADDR"], told["DUJIANG_PROCESSES"]) == ("1", "10.0.0.1", "4")
    assert told["SLURM_JOB_NAME"] == "interactive", "so that it does not count Slurm's tasks"
    assert "SLURM_JOB_NAME" not in made("lightning", "env", site=LOCAL).env


def test_tensorflow_has_an_address_for_each_worker(tmp_path: Path) -> None:
    run = 'printf "%s" "$TF_CONFIG"'
    apart = json.loads(Seen(tmp_path, made("tensorflow", run, ranks=ranks_on("a", "b", "b")), 2, 3).out)
    assert apart == {
        "cluster": {"worker": ["10.0.0.1:29400", "10.0.0.2:29400", "10.0.0.3:29401"]},
        "task": {"type": "worker", "index": 2},
    }
    found = made("tensorflow", run, ranks=ranks_on("m", "m"), site=LOCAL, ports=1)
    assert found.ports == 2, "two more than the job's own"
    told = Seen(tmp_path, found, 1, 2, PORT="20000", PORT1="20001", PORT2="20002").out
    assert json.loads(told)["cluster"] == {"worker": ["10.0.0.1:20001", "10.0.0.2:20002"]}
    assert Seen(tmp_path, found, 0, 2, PORT="1", PORT1="2", PORT2="3", TF_CONFIG="mine").out == "mine"


def test_jax_finds_its_coordinator(tmp_path: Path) -> None:
    run = 'echo "$JAX_COORDINATOR_ADDRESS $JAX_NUM_PROCESSES $JAX_PROCESS_ID"'
    assert Seen(tmp_path, made("jax", run), 1, 2).out == "10.0.0.1:29400 2 1\n"
    assert Seen(tmp_path, made("jax", run), 1, 2, JAX_COORDINATOR_ADDRESS="x:1").out == "x:1 2 1\n"
    assert made("jax", run).env["JAX_LOCAL_DEVICE_IDS"] == "0,1,2,3", "else jax takes one device for Slurm's one task"
    assert "JAX_LOCAL_DEVICE_IDS" not in made("jax", run, site=LOCAL).env


def test_nothing_is_made_of_no_launcher_nor_for_virtual_programs() -> None:
    assert made("none", "x") == Spread("x")
    assert made("torchrun", "#sim exit=1", site=Site("simulated")) == Spread("#sim exit=1")


def test_processes_are_as_many_as_devices_and_share_the_cores() -> None:
    assert "--nproc_per_node=4" in made("torchrun").run
    assert "--nproc_per_node=1" in made("torchrun", ranks=ranks_on("a")).run
    assert "--nproc_per_node=3" in made("torchrun", ranks=ranks_on("a"), processes=3).run
    assert made("torchrun").env["OMP_NUM_THREADS"] == "2"
    assert made("torchrun", processes=100).env["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(
    ("run", "becomes"),
    [
        ("train.py --epochs 3", "python train.py --epochs 3"),
        ("  src/train.py\n", "python src/train.py"),
        ("train.py\necho done", "train.py\necho done"),
        ("python3 train.py", "python3 train.py"),
    ],
)
def test_a_python_file_is_run_by_python(run: str, becomes: str) -> None:
    assert shlex.quote(becomes) in made("torchrun", run).run
    assert made("none", run).run == run


@given(st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), min_size=1).map("echo ".__add__))
@settings(max_examples=30)
def test_what_each_process_runs_is_the_job_s_own_text(tmp_path_factory: pytest.TempPathFactory, run: str) -> None:
    seen = Seen(tmp_path_factory.mktemp("text"), made("torchrun", run, args=[run]), 0, 2)
    assert seen.words[5:] == [run, "--no_python", "/bin/sh", "-e", "-c", run, "run"]


# -- fabrics -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fabric", "told"),
    [
        (Fabric(), {}),
        (
            Fabric("ib", "ib0", "mlx5_0,mlx5_1:2"),
            {
                "NCCL_IB_HCA": "=mlx5_0,mlx5_1:2", "UCX_NET_DEVICES": "mlx5_0:1,mlx5_1:2",
                "NCCL_SOCKET_IFNAME": "=ib0", "GLOO_SOCKET_IFNAME": "ib0", "OMPI_MCA_btl_tcp_if_include": "ib0",
                "OMPI_MCA_oob_tcp_if_include": "ib0", "PRTE_MCA_prte_if_include": "ib0",
            },
        ),
        (Fabric("roce", gid_index=3), {"NCCL_IB_GID_INDEX": "3", "UCX_IB_GID_INDEX": "3"}),
        (
            Fabric("tcp"),
            {
                "NCCL_IB_DISABLE": "1", "UCX_TLS": "^rc,ud,dc,ud:aux", "OMPI_MCA_pml": "ob1",
                "OMPI_MCA_btl": "^openib",
            },
        ),
    ],
)  # fmt: skip
def test_libraries_are_told_of_the_fabric_between_machines(fabric: Fabric, told: dict[str, str]) -> None:
    assert made("none", site=Site("slurm", fabric)).env == told
    assert told.items() <= made("torchrun", site=Site("kubernetes", fabric)).env.items()


def test_on_one_machine_loopback_is_enough() -> None:
    loopback = {"NCCL_SOCKET_IFNAME": "=lo", "GLOO_SOCKET_IFNAME": "lo"}
    fabric = Fabric("ib", "ib0")
    for ranks, engine in ((ranks_on("a"), "kubernetes"), (ranks_on("a", "a"), "slurm"), (ranks_on("a", "a"), "local")):
        env = made("torchrun", ranks=ranks, site=Site(engine, fabric)).env
        assert loopback.items() <= env.items()
        assert made("none", ranks=ranks, site=Site(engine, fabric)).env == {}
    assert not loopback.items() <= made("torchrun", ranks=ranks_on("a", "a"), site=KUBERNETES).env.items()


@pytest.mark.parametrize(
    "wrong",
    [
        {"interface": "eth0; rm"}, {"kind": "tcp", "devices": "mlx5_0"}, {"devices": "mlx5_0"},
        {"kind": "ib", "gid_index": 3}, {"kind": "roce", "gid_index": 256},
    ],
)  # fmt: skip
def test_a_fabric_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Fabric(**wrong)  # type: ignore[arg-type]


# -- what a specification says -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "path", "said"),
    [
        ({"distributed": "torchrn"}, "distributed", 'Did you mean "torchrun"?'),
        ({"distributed": "torchrun", "kind": "service"}, "distributed", "A service answers from each node by itself"),
        ({"distributed": "torchrun", "resources": {"gpu": 0.5}}, "distributed", "asks for 0.5 of one. Ask for whole"),
        ({"distributed": "jax", "nodes": 2, "resources": {"gpu": 0.5}}, "distributed", "jax gives each process whole"),
        (
            {"distributed": "torchrun", "resources": {"any_of": [{"gpu": 1}, {"gpu": 0.5}]}}, "distributed",
            "asks for 0.5 of one",
        ),
        (
            {"distributed": {"launcher": "deepspeed", "processes": 4}, "resources": {"gpu": 2}},
            "distributed.processes", "the node has 2. Write 2",
        ),
        (
            {"distributed": {"launcher": "jax", "processes": 2}}, "distributed.processes",
            "each node has one process, which sees all its devices",
        ),
        ({"distributed": {"launcher": "lightning", "args": ["-v"]}}, "distributed.args", "no launcher that takes"),
        ({"distributed": {"processes": 2}}, "distributed.launcher", "needs the field"),
        ({"distributed": {"launcher": "mpi", "hostfile": "h"}}, "distributed.hostfile", "The platform fills it in"),
        ({"distributed": "horovod", "run": "#!/usr/bin/python\n1"}, "distributed", "names its own interpreter"),
        ({"distributed": "mpi", "run": "echo " + "x" * 100_000}, "distributed", "Put it into a file"),
        ({"launcher": "torchrun"}, "launcher", "Write distributed: torchrun"),
        ({"nproc_per_node": 2}, "nproc_per_node", "Write distributed: {launcher: ..., processes: ...}"),
    ],
)  # fmt: skip
def test_what_cannot_be_started_is_refused_in_words(fields: dict[str, object], path: str, said: str) -> None:
    with pytest.raises(SpecInvalid) as refused:
        read({"name": "x", "run": "python train.py", **fields})
    problems = refused.value.problems
    assert [problem.path for problem in problems] == [path], problems
    assert said in str(problems[0])


@pytest.mark.parametrize(
    "fields",
    [
        {"distributed": "none", "kind": "service"},
        {"distributed": "mpi", "resources": {"gpu": 0.5}},
        {"distributed": "jax", "resources": {"gpu": 0.5}},
        {"distributed": {"launcher": "mpi", "processes": 8}, "resources": {"gpu": 2}},
        {"distributed": {"launcher": "torchrun", "processes": 1}, "resources": {"gpu": 8}},
    ],
)
def test_what_can_be_started_is_not_refused(fields: dict[str, object]) -> None:
    spec = read({"name": "x", "run": "python train.py", **fields})
    assert read(spec.document()) == spec


def test_both_forms_of_the_field_mean_the_same() -> None:
    short, long = parse("[{run: x, distributed: mpi}, {run: x, distributed: {launcher: mpi}}]")
    assert short.distributed == long.distributed
    assert short.document()["distributed"] == "mpi"
