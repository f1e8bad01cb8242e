"""Training jobs of Kubeflow: replicas become nodes, launchers are ours, roles that cannot be are refused."""

from __future__ import annotations

from typing import Any

import pytest

from dujiang.jobs.spec import JobClass, JobSpec
from dujiang.jobs.spec.distributed import Distributed, Launcher
from tests.jobs.converting.building import converted, dumped, notes, refused


def replica(count: int, *command: str, gpus: int = 0, **more: Any) -> dict[str, Any]:
    limits = {"cpu": 4, "memory": "8Gi", **({"nvidia.com/gpu": gpus} if gpus else {})}
    container = {"name": "pytorch", "image": "team/torch:2", "command": list(command), "resources": {"limits": limits}}
    spec = {"containers": [{**container, **more.pop("container", {})}]}
    return {"replicas": count, "template": {"spec": spec}, **more}


def a_training(kind: str, field: str, roles: dict[str, Any], **spec: Any) -> str:
    whole = {"apiVersion": "kubeflow.org/v1", "kind": kind, "metadata": {"name": "t"}}
    return dumped({**whole, "spec": {field: roles, **spec}})


def torch_job(roles: dict[str, Any], **spec: Any) -> str:
    return a_training("PyTorchJob", "pytorchReplicaSpecs", roles, **spec)


def started(spec: JobSpec) -> tuple[Launcher, int | None, str]:
    return spec.distributed.launcher, spec.distributed.processes, spec.run


@pytest.mark.parametrize(
    ("command", "spec", "launcher", "processes", "run"),
    [
        (["python", "t.py"], {}, Launcher.TORCHRUN, 1, "python t.py"),
        (["torchrun", "t.py", "--lr", "1"], {}, Launcher.TORCHRUN, None, "python -u t.py --lr 1"),
        (["torchrun", "t.py"], {"nprocPerNode": "4"}, Launcher.TORCHRUN, 4, "python -u t.py"),
        (["torchrun", "--nproc_per_node=8", "-m", "pkg.t"], {}, Launcher.TORCHRUN, 8, "python -u -m pkg.t"),
        (["torchrun", "--nproc-per-node", "2", "--no-python", "./t"], {}, Launcher.TORCHRUN, 2, "./t"),
        (["python3", "-m", "torch.distributed.run", "--nnodes=2", "t.py"], {}, Launcher.TORCHRUN, None,
         "python3 -u t.py"),
    ],
)  # fmt: skip
def test_how_a_pytorch_job_starts(
    command: list[str], spec: dict[str, Any], launcher: Launcher, processes: int | None, run: str
) -> None:
    roles = {"Master": replica(1, *command, gpus=8), "Worker": replica(3, *command, gpus=8)}
    item = converted(torch_job(roles, **spec))
    assert item.spec.nodes == 4
    assert started(item.spec) == (launcher, processes, run)


def test_options_of_torchrun_that_are_its_own_are_handed_on() -> None:
    command = ["torchrun", "--rdzv_backend=c10d", "--rdzv_endpoint", "h:1", "--log_dir", "/l", "--tee=3", "t.py"]
    item = converted(torch_job({"Worker": replica(2, *command)}))
    assert item.spec.distributed == Distributed(Launcher.TORCHRUN, None, ("--log_dir", "/l", "--tee=3"))
    assert "--rdzv-backend, --rdzv-endpoint" in notes(item)


@pytest.mark.parametrize(
    "command",
    [["bash", "-c", "cd x && torchrun t.py"], ["torchrun", "--unheard-of", "1", "t.py"], ["accelerate", "launch"]],
)
def test_a_launcher_that_cannot_be_taken_apart_gets_what_it_reads(command: list[str]) -> None:
    item = converted(torch_job({"Worker": replica(2, *command)}, nprocPerNode="4"))
    assert item.spec.distributed.launcher is Launcher.NONE
    assert 'PET_NNODES="$DUJIANG_NODES"' in item.spec.run
    assert "PET_NPROC_PER_NODE=4" in item.spec.run


def test_an_elastic_job() -> None:
    policy = {"minReplicas": 1, "maxReplicas": 3, "rdzvBackend": "c10d", "maxRestarts": 5, "metrics": []}
    item = converted(torch_job({"Worker": replica(2, "torchrun", "t.py")}, elasticPolicy=policy))
    assert (item.spec.nodes_min, item.spec.nodes, item.spec.retry.limit) == (1, 3, 5)
    assert "not scaled by what it uses" in notes(item, "metrics")


def test_nodes_are_alike() -> None:
    text = torch_job({"Master": replica(1, "python", "t.py"), "Worker": replica(3, "python", "w.py")})
    assert "Master and Worker run different commands" in refused(text)[0]
    text = torch_job({"Master": replica(1, "python", "t.py"), "Worker": replica(3, "python", "t.py", gpus=2)})
    item = converted(text)
    assert item.spec.resources.gpu_milli == 2000
    assert "Each node gets the resources of Worker." in notes(item)


def test_the_run_policy() -> None:
    policy = {
        "backoffLimit": 2, "activeDeadlineSeconds": 600, "cleanPodPolicy": "Running", "ttlSecondsAfterFinished": 1,
        "schedulingPolicy": {"queue": "reports", "priorityClass": "high", "minAvailable": 2, "minResources": {}},
    }  # fmt: skip
    item = converted(torch_job({"Worker": replica(4, "python", "t.py")}, runPolicy=policy))
    spec = item.spec
    assert (spec.retry.limit, spec.time_limit_s, spec.queue, spec.job_class) == (2, 600, "reports", JobClass.CORE)
    assert "nodes: {min: 2, max: 4}" in notes(item, "minAvailable")
    assert notes(item, "minResources")


def test_a_tf_job_of_workers() -> None:
    roles = {"Chief": replica(1, "python", "t.py"), "Worker": replica(3, "python", "t.py")}
    item = converted(a_training("TFJob", "tfReplicaSpecs", roles))
    assert (item.spec.nodes, item.spec.distributed.launcher) == (4, Launcher.TENSORFLOW)
    assert "Chief is the first worker." in notes(item)


@pytest.mark.parametrize("role", ["PS", "Evaluator"])
def test_roles_that_no_job_here_can_have(role: str) -> None:
    roles = {role: replica(2, "python", "t.py"), "Worker": replica(3, "python", "t.py")}
    (problem,) = refused(a_training("TFJob", "tfReplicaSpecs", roles))
    assert f"The role {role} has no counterpart." in problem
    assert problem.startswith("line ")


@pytest.mark.parametrize(("kind", "field"), [("PyTorchJob", "pytorchReplicaSpecs"), ("TFJob", "tfReplicaSpecs")])
def test_unknown_roles_and_none(kind: str, field: str) -> None:
    assert "is no role of a" in refused(a_training(kind, field, {"Boss": replica(1, "x")}))[0]
    assert "There are no replicas." in refused(a_training(kind, field, {}))[0]
    assert "There are no replicas." in refused(a_training(kind, field, {"Worker": replica(0, "x")}))[0]


def test_a_jax_job() -> None:
    item = converted(a_training("JAXJob", "jaxReplicaSpecs", {"Worker": replica(2, "python", "t.py")}))
    assert (item.spec.nodes, item.spec.distributed.launcher) == (2, Launcher.JAX)


# -- MPI ---------------------------------------------------------------------------------------------------------------


def mpi_job(*command: str, workers: int = 4, **spec: Any) -> str:
    roles = {"Launcher": replica(1, *command), "Worker": replica(workers, gpus=8)}
    return a_training("MPIJob", "mpiReplicaSpecs", roles, **spec)


@pytest.mark.parametrize(
    ("command", "slots", "found"),
    [
        (["mpirun", "-np", "32", "./a"], 8, Distributed(Launcher.MPI, 8)),
        (["mpirun", "-np", "8", "./a"], 8, Distributed(Launcher.MPI, 2)),
        (["mpirun", "./a"], 8, Distributed(Launcher.MPI, 8)),
        (["mpirun", "./a"], None, Distributed(Launcher.MPI, 1)),
        (["/usr/bin/mpirun", "--allow-run-as-root", "-x", "PATH", "-mca", "btl", "^ib", "./a"], 2,
         Distributed(Launcher.MPI, 2, ("--allow-run-as-root", "-x", "PATH", "-mca", "btl", "^ib"))),
        (["horovodrun", "-np", "4", "./a"], 1, Distributed(Launcher.HOROVOD, 1)),
    ],
)  # fmt: skip
def test_how_an_mpi_job_starts(command: list[str], slots: int | None, found: Distributed) -> None:
    item = converted(mpi_job(*command, slotsPerWorker=slots))
    assert (item.spec.nodes, item.spec.distributed, item.spec.run) == (4, found, "./a")
    assert item.spec.resources.gpu_milli == 8000
    assert "no node and no resources of its own" in notes(item)


def test_processes_that_do_not_divide_are_told() -> None:
    assert "The job has 4 processes, not 6." in notes(converted(mpi_job("mpirun", "-np", "6", "./a")))


@pytest.mark.parametrize("command", [["bash", "-c", "mpirun ./a"], ["mpirun", "--odd", "1", "./a"], ["./a"]])
def test_a_launcher_that_cannot_be_read_is_refused(command: list[str]) -> None:
    assert "does not begin with an mpirun or horovodrun" in refused(mpi_job(*command))[0]


# -- TrainJob ----------------------------------------------------------------------------------------------------------


def train_job(runtime: str = "torch-distributed", **trainer: Any) -> str:
    given = {"image": "team/torch:2", "command": ["torchrun", "t.py"], "numNodes": 2,
             "resourcesPerNode": {"limits": {"cpu": 8, "memory": "64Gi", "nvidia.com/gpu": 4}}, **trainer}  # fmt: skip
    return dumped(
        {
            "apiVersion": "trainer.kubeflow.org/v1alpha1",
            "kind": "TrainJob",
            "metadata": {"name": "t"},
            "spec": {"runtimeRef": {"name": runtime}, "trainer": given},
        }
    )


@pytest.mark.parametrize(
    ("text", "found", "run"),
    [
        (train_job(numProcPerNode=4), Distributed(Launcher.TORCHRUN, 4), "python -u t.py"),
        (train_job(numProcPerNode="auto"), Distributed(Launcher.TORCHRUN), "python -u t.py"),
        (train_job(command=["python", "t.py"]), Distributed(Launcher.TORCHRUN, 1), "python t.py"),
        (
            train_job("mpi-distributed", command=["mpirun", "./a"], numProcPerNode=2),
            Distributed(Launcher.MPI, 2),
            "./a",
        ),
        (train_job("deepspeed-distributed", command=["mpirun", "-n", "1", "./a"]), Distributed(Launcher.MPI, 1), "./a"),
        (train_job("jax-distributed", command=["python", "t.py"]), Distributed(Launcher.JAX), "python t.py"),
    ],
)
def test_how_a_train_job_starts(text: str, found: Distributed, run: str) -> None:
    item = converted(text)
    assert (item.spec.nodes, item.spec.distributed, item.spec.run) == (2, found, run)
    assert (item.spec.resources.gpu_milli, item.spec.image) == (4000, "team/torch:2")


def test_what_is_in_the_runtime_alone_is_told_or_refused() -> None:
    assert "what runs is in the runtime alone" in refused(train_job(command=None))[0]
    assert "The image of the runtime" in notes(converted(train_job(image=None)))
