"""Jobs with an image on Slurm: what pyxis and Apptainer are told, and the contract in a real Apptainer where one is."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from dujiang.engines.contract import DeviceShare, EngineRefused, EngineUnavailable, Launch, RankPlacement
from dujiang.engines.slurm import asking, images
from dujiang.engines.slurm.by_commands import CommandController
from dujiang.engines.slurm.commands import Said
from dujiang.engines.slurm.settings import SlurmSettings
from tests.containers.registry import NAME, Registry
from tests.contract.engine_contract import EngineContract
from tests.contract.harness import Grows, Harness, Program
from tests.contract.process_contract import ProcessContract
from tests.engines.local.test_launching import a_launch
from tests.slurm.cluster import Cluster
from tests.slurm.harness import SlurmHarness

DIGEST = "@sha256:" + "a" * 64
LAUNCH: dict[str, Any] = {
    "workdir": "/shared/work/j", "checkpoint": {"path": "/shared/points"}, "inputs": [{"name": "d", "path": "/shared"}],
    "image": {"reference": "nvcr.io/nvidia/pytorch:25.04-py3", "by": "pyxis", "options": ["--x"], "mounts": ["/data"]},
    "root": "/shared",
}  # fmt: skip
RANK: dict[str, Any] = {"rank": 1, "node": "n1", "devices": [{"name": "2"}, {"name": "3"}]}


def words_of(by: str, rank: dict[str, Any] = RANK) -> list[str]:
    launch = {**LAUNCH, "image": {**LAUNCH["image"], "by": by}, "inputs": []}
    return images.wrapped(
        launch, rank, ["/bin/sh", "-e", "-c", "true", "run"], folder="/shared/a/room", mark="/shared/a/room/inside",
        names=["DUJIANG_JOB_ID", "RANK"], output_dir="/shared/a/output", cpus=8,
    )  # fmt: skip


def test_pyxis_is_a_step_of_its_own_on_the_ranks_node() -> None:
    assert words_of("pyxis") == [
        "srun", "--overlap", "--nodes=1", "--ntasks=1", "--nodelist=n1", "--cpus-per-task=8", "--export=ALL",
        "--kill-on-bad-exit=0", "--unbuffered", "--container-image=nvcr.io#nvidia/pytorch:25.04-py3",
        (
            "--container-mounts=/data:/data,/shared/a/output:/shared/a/output,/shared/a/room:/shared/a/room,"
            "/shared/points:/shared/points,/shared/work/j:/shared/work/j"
        ),
        "--container-workdir=/shared/work/j", "--container-writable", "--no-container-mount-home",
        "--container-env=DUJIANG_JOB_ID,RANK", "--x", "env", "CUDA_VISIBLE_DEVICES=2,3", "/bin/sh", "-c",
        'echo > "$0"; exec "$@"', "/shared/a/room/inside", "/bin/sh", "-e", "-c", "true", "run",
    ]  # fmt: skip


def test_apptainer_is_the_ranks_own_process() -> None:
    words = words_of("apptainer")
    assert words[:8] == ["apptainer", "--quiet", "exec", "--no-eval", "--no-home", "--writable-tmpfs", "--nv", "--x"]
    mounts = [words[at + 1] for at, word in enumerate(words) if word == "--mount"]
    assert mounts[0] == "type=bind,src=/data,dst=/data"
    assert len(mounts) == 5
    assert words[-12:-9] == ["--pwd", "/shared/work/j", "docker://nvcr.io/nvidia/pytorch:25.04-py3"]
    assert "--nv" not in words_of("singularity", {**RANK, "devices": []})


@pytest.mark.parametrize(
    ("reference", "enroot", "docker"),
    [
        ("ubuntu", "ubuntu", "ubuntu"),
        ("team/train:v1", "team/train:v1", "team/train:v1"),
        ("localhost/train", "localhost#train", "localhost/train"),
        ("harbor:8443/a/b:v1", "harbor:8443#a/b:v1", "harbor:8443/a/b:v1"),
        (f"harbor:8443/a:v1{DIGEST}", f"harbor:8443#a{DIGEST}", f"harbor:8443/a{DIGEST}"),
        (f"harbor:8443/a{DIGEST}", f"harbor:8443#a{DIGEST}", f"harbor:8443/a{DIGEST}"),
    ],
)
def test_each_has_its_own_way_to_write_a_reference(reference: str, enroot: str, docker: str) -> None:
    assert (images.enroot_reference(reference), images.docker_reference(reference)) == (enroot, docker)


def test_what_pyxis_cannot_mount_is_refused() -> None:
    assert images.refuse_unmountable(LAUNCH) == ""
    assert "'/a,b'" in images.refuse_unmountable({**LAUNCH, "workdir": "/a,b"})
    other = {**LAUNCH, "workdir": "/a,b", "image": {**LAUNCH["image"], "by": "apptainer"}}
    assert images.refuse_unmountable(other) == ""


def test_a_cluster_that_runs_no_images_refuses_them_and_one_that_does_is_told() -> None:
    launch = a_launch(image="team/train:v1", ranks=(RankPlacement(0, "n1", 500, 0),))
    settings = SlurmSettings(work_dir="/shared", container_mounts=("/data",))
    with pytest.raises(EngineRefused, match="install pyxis or Apptainer"):
        asking.refuse_impossible(launch, {"n1": {}}, settings)
    asking.refuse_impossible(launch, {"n1": {}}, settings, "pyxis")
    taken = asking.portions(launch.ranks, {"n1": {}})
    record = asking.describe(launch, taken, addresses={}, limits_by="", settings=settings, images="pyxis")
    assert record["image"] == {"reference": "team/train:v1", "by": "pyxis", "options": [], "mounts": ["/data"]}
    plain = asking.describe(a_launch(ranks=launch.ranks), taken, addresses={}, limits_by="", settings=settings)
    assert plain["image"] is None


class Answers:
    """Commands of which each either prints something or is not there."""

    def __init__(self, **said: str) -> None:
        self._said = said

    async def run(self, *words: str, env: Mapping[str, str] = MappingProxyType({})) -> Said:
        if words[0] not in self._said:
            raise EngineUnavailable(f"{words[0]} cannot be run here")
        return Said(0, self._said[words[0]], "")


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"srun": "      --container-image=[USER@][REGISTRY#]IMAGE[:TAG]|PATH\n", "apptainer": "1.4"}, "pyxis"),
        ({"srun": "-N, --nodes=N", "apptainer": "apptainer version 1.4.5"}, "apptainer"),
        ({"srun": "-N, --nodes=N", "singularity": "singularity-ce version 4.1"}, "singularity"),
        ({"srun": "-N, --nodes=N"}, ""),
    ],
)
async def test_what_runs_images_is_asked_of_srun_and_of_this_machine(said: dict[str, str], found: str) -> None:
    assert await CommandController(Answers(**said), SlurmSettings(work_dir="/w")).images() == found


class ApptainerHarness(SlurmHarness):
    """An engine that has every program run by Apptainer, in an image of a registry of the tests' own."""

    memory_bytes = 350 << 20  # its many threads count, too, where only rlimits hold a process to its memory

    def __init__(self, folder: Path, cluster: Cluster, registry: Registry) -> None:
        self.image = f"{registry.address}/{NAME}:1"
        super().__init__(
            folder, cluster, images="apptainer", container_mounts=(str(folder),),
            container_options=("--no-https", "--no-privs"),
        )  # fmt: skip

    def launch_text(self, text: str, **fields: Any) -> Launch:
        return super().launch_text(text, **{"image": self.image, **fields})

    def body(self, program: Program) -> str:
        return "exec python3 -c 'x = bytearray(400 << 20)'" if isinstance(program, Grows) else super().body(program)


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


@pytest.mark.slurm
@pytest.mark.skipif(shutil.which("apptainer") is None, reason="Apptainer is not here, and Debian 12 has none")
class TestApptainer(EngineContract, ProcessContract):
    @pytest.fixture
    async def harness(self, tmp_path: Path, cluster: Cluster, registry: Registry) -> AsyncIterator[ApptainerHarness]:
        harness = ApptainerHarness(tmp_path, cluster, registry)
        yield harness
        await harness.clean()

    async def test_interpreter_and_packages_are_written_down(self, harness: Harness) -> None:
        """They would be the node's: nothing is said."""
        launch = harness.launch_text("true", record_environment=True)
        await harness.engine.submit(launch)
        assert "environment" not in (await harness.ended(launch.key)).facts

    async def test_an_image_that_cannot_be_had_is_a_failed_launch(self, harness: ApptainerHarness) -> None:
        launch = harness.launch_text("true", image="127.0.0.1:1/team/train:v9")
        await harness.engine.submit(launch)
        seen = await harness.ended(launch.key)
        assert seen.end == "LaunchFailed"
        assert any("the image 127.0.0.1:1/team/train:v9 cannot be had: " in one.line for one in seen.evidence)

    async def test_devices_are_told_as_without_an_image(self, harness: ApptainerHarness) -> None:
        node = next(one for one in await harness.engine.inventory() if one.name == harness.node)
        share = DeviceShare(node.devices[0].name, 0, 1000, 1 << 30)
        ranks = (RankPlacement(0, harness.node, 500, harness.memory_bytes, devices=(share,)),)
        launch = replace(harness.launch_text("echo $CUDA_VISIBLE_DEVICES; cat /etc/made-by"), ranks=ranks)
        await harness.engine.submit(launch)
        await harness.ended(launch.key)
        assert (await harness.printed(launch.key)).split(b"\n")[-3:] == [b"0", b"the tests", b""]
