"""What a real Slurm makes of batch scripts, beside what the conversion makes of them."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase

import pytest

from dujiang.jobs.converting import Around, convert
from dujiang.jobs.converting.slurm.words import ALIASES, OPTIONS
from dujiang.jobs.spec import JobSpec, SpecInvalid
from tests.slurm.cluster import Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

RUNNING = {
    "nothing said": [],
    "tasks over nodes": ["-N 2 -n 4 -c 8 --mem=10G"],
    "tasks for each node": ["-N 2", "--ntasks-per-node=4", "-c 2"],
    "tasks alone": ["-n 5 -c 3 --mem-per-cpu=1G -t 90:30"],
    "nodes that follow from tasks": ["-n 8 --ntasks-per-node=4"],
    "another word for it": ["--nodes=2 --tasks-per-node=2"],
    "uneven tasks": ["-N 2 -n 7 -c 2 --mem=1500"],
    "fewer tasks than nodes": ["-N 3 -n 2"],
    "later lines win": ["-n 4", "-n 2", "--mem=1G", "--mem=2G"],
    "short options in one word": ["-n2 -c3"],
    "cut short": ["--cpus-per-t=4 --mem-per-c=100M"],
    "cores of a node at least": ["--mincpus=8"],
    "devices for a node": ["--gres=gpu:h100:4 -c 4 --mem=1G"],
    "devices without a type": ["--gres=gpu:2 -N 2"],
    "devices for a node, another word": ["--gpus-per-node=h100:2 -N 2"],
    "devices for a task": ["-N 2 -n 4 --gpus-per-task=2"],
    "devices of the job": ["--gpus=4"],
    "devices over nodes": ["--gpus=8 --gpus-per-node=4"],
    "cores and memory for a device": ["--gpus-per-node=2 --cpus-per-gpu=3 --mem-per-gpu=2G"],
    "days": ["-t 1-2:3:4 --no-requeue --comment='x # y' -J 'my job'"],
    "hours past a day": ["--time=1-25:70:80"],
    "no limit": ["-t UNLIMITED"],
    "small sizes": ["--mem=1k"],
}
ROUNDED = {"uneven tasks": 2}
"""Cores that the job here has more: seven tasks on two nodes are four on each."""
REFUSED = [
    "--unknown=3", "--ntask=2", "--cpus=2", "-n=4", "foo -n 4", "--comment=\"a b", "-t 5x", "--time=1:",
    "--time=1:2:3:4", "--time=5.5", "--mem=1.5G", "--mem=4Gi", "--mem=1G --mem-per-cpu=1G", "--requeue=1", "--job-name",
    "--ntasks=0", "-N 4-2", "--signal=USR9@60", "--nice 5", "-z",
]  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """A running job as Slurm tells it."""

    facts: dict[str, str]
    cpus: list[int]
    memory_mib: list[int]
    gpus: list[int]


def test_amounts_are_those_that_slurm_gives(cluster: Cluster, tmp_path: Path) -> None:
    for name, options in RUNNING.items():
        text = "\n".join(["#!/bin/bash", *(f"#SBATCH {line}" for line in options), "sleep 60"])
        seen = running(cluster, text, tmp_path)
        spec = converted(text, tmp_path)
        ours = (spec.resources.cpu_milli // 1000, spec.resources.gpu_milli // 1000)
        assert spec.nodes == len(seen.cpus), name
        # In all: Slurm may put three of four tasks on one node and one on the other; nodes of a job here are alike.
        assert spec.nodes * ours[0] == sum(seen.cpus) + ROUNDED.get(name, 0), name
        assert spec.nodes * ours[1] == sum(seen.gpus), name
        if "--mem" in text:
            assert spec.resources.memory_bytes * spec.nodes == sum(seen.memory_mib) * 2**20, name
        assert limit(spec) == seen.facts["TimeLimit"].replace("365-00:00:00", "UNLIMITED"), name
        assert (spec.retry.limit > 0) == (seen.facts["Requeue"] == "1"), name
        assert spec.workdir == seen.facts["WorkDir"], name
        assert spec.labels.get("comment") == seen.facts.get("Comment"), name


def running(cluster: Cluster, text: str, folder: Path) -> Seen:
    """Run a script, look at its job once it runs, and end it."""
    done = sbatch(cluster, text, folder)
    assert done.returncode == 0, done.stderr
    number = done.stdout.strip()
    cluster.wait("the job to run", lambda: cluster.job_state(number) == "RUNNING")
    shown = cluster.client("scontrol", "show", "job", "-d", number)
    cluster.client("scancel", number)
    cluster.wait("the job to be gone", lambda: cluster.job_state(number) in ("CANCELLED", ""))
    facts = dict(re.findall(r"^ +(\w+)=(.*)$", shown, re.MULTILINE)) | dict(re.findall(r"(\w+)=(\S+)", shown))
    nodes = re.findall(r"^ +Nodes=(\S+) CPU_IDs=(\S+) Mem=(\d+) GRES=(\S*)$", shown, re.MULTILINE)
    rows = [(name, ids, int(mem), gres) for names, ids, mem, gres in nodes for name in expanded(cluster, names)]
    counts = [re.search(r"gpu:(?:\w+:)?(\d+)", gres) for *_, gres in rows]
    comment = re.search(r"^ +Comment=(.*?) *$", shown, re.MULTILINE)
    return Seen(
        {**facts, **({"Comment": comment[1]} if comment else {})},
        [spread(ids) for _, ids, _, _ in rows],
        [mem for _, _, mem, _ in rows],
        [int(found[1]) if found else 0 for found in counts],
    )


def sbatch(cluster: Cluster, text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Hand a script to sbatch."""
    file = folder / "my job.sh"
    file.write_text(text)
    command = ["sbatch", "--parsable", "--output=/dev/null", str(file)]
    return subprocess.run(command, cwd=folder, env=cluster.env, capture_output=True, text=True, check=False)


def converted(text: str, folder: Path) -> JobSpec:
    (item,) = convert(text, Around(workdir=str(folder))).items
    return item.spec


def expanded(cluster: Cluster, names: str) -> list[str]:
    return cluster.client("scontrol", "show", "hostnames", names).split()


def spread(ids: str) -> int:
    """Return how many processors `0-3,8` are."""
    ends = [part.partition("-") for part in ids.split(",")]
    return sum(int(last or first) - int(first) + 1 for first, _, last in ends)


def limit(spec: JobSpec) -> str:
    """Return a time limit as Slurm writes it, which of a running job without one sometimes writes a year."""
    if spec.time_limit_s is None:
        return "UNLIMITED"
    days, rest = divmod(int(spec.time_limit_s), 86_400)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


def test_what_slurm_refuses_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    for options in REFUSED:
        text = f"#!/bin/bash\n#SBATCH {options}\ntrue\n"
        assert sbatch(cluster, text, tmp_path).returncode != 0, options
        with pytest.raises(SpecInvalid) as error:
            convert(text)
        assert error.value.problems[0].line == 2, options
    text = "echo hi\n#SBATCH -n 4\n"
    assert sbatch(cluster, text, tmp_path).returncode != 0
    with pytest.raises(SpecInvalid):
        convert(text)


def test_options_after_the_first_command_are_not_read(cluster: Cluster, tmp_path: Path) -> None:
    text = "#!/bin/bash\n\n# c\n  #SBATCH -n 4\n#SBATCH -n3\n##SBATCH -n 5\n# SBATCH -n 6\nsleep 60\n#SBATCH -n 7\n"
    assert max(running(cluster, text, tmp_path).cpus) == 3
    assert converted(text, tmp_path).resources.cpu_milli == 3000


@pytest.mark.parametrize("text", ["0-7:2%3", "1,3,5-7", "4"])
def test_arrays(cluster: Cluster, tmp_path: Path, text: str) -> None:
    script = f"#!/bin/bash\n#SBATCH --array={text} --hold\ntrue\n"
    number = sbatch(cluster, script, tmp_path).stdout.strip()
    shown = cluster.client("scontrol", "show", "job", number)
    cluster.client("scancel", number)
    tasks, _, at_once = re.search(r"ArrayTaskId=(\S+)", shown)[1].partition("%")  # type: ignore[index]
    array = converted(script, tmp_path).array
    assert array is not None
    wanted = [n for part in tasks.split(",") for first, _, last in [part.partition("-")]
              for n in range(int(first), int(last or first) + 1)]  # fmt: skip
    assert (list(array.numbers), array.at_once) == (wanted, int(at_once) if at_once else None)


def test_every_long_option_of_sbatch_is_known(cluster: Cluster) -> None:
    """Asked by their first letters: sbatch names those that begin so."""
    found: set[str] = set()
    for letter in ascii_lowercase:
        words = ["sbatch", f"--{letter}"]
        done = subprocess.run(words, env=cluster.env, capture_output=True, text=True, check=False)
        found |= set(re.findall(r"'--([a-z-]{2,})'", done.stderr))
    assert len(found) > 90
    assert found <= set(OPTIONS) | set(ALIASES)
