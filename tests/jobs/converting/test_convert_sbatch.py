"""Batch scripts of Slurm: options, amounts, what becomes of the script. What Slurm makes of the same is asked in
`tests/slurm/test_converting.py`.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from datetime import timedelta, timezone
from pathlib import Path

import pytest

from dujiang.jobs.converting import Around
from dujiang.jobs.spec import After, Gpu, JobArray, Secret, When
from dujiang.jobs.spec.distributed import Distributed, Launcher
from dujiang.jobs.spec.place import Place
from tests.jobs.converting.building import a_script, converted, notes, refused, spec_of

GIB = 2**30


@pytest.mark.parametrize(
    ("options", "nodes", "cpus"),
    [
        ((), 1, 1),
        (("-N 2",), 2, 1),
        (("-N2", "-n 4", "-c8"), 2, 16),
        (("--nodes=2", "--ntasks-per-node=4", "--cpus-per-task 2"), 2, 8),
        (("-n 8 --ntasks-per-node=4",), 2, 4),
        (("-n 5 -c 3",), 1, 15),
        (("-N 2 -n 7 -c 2",), 2, 8),
        (("-N 3 -n 2",), 2, 1),
        (("--mincpus=8",), 1, 8),
        (("-n 4", "-n 2"), 1, 2),
        (("--nodes=2 --tasks-per-node=3 --cpus-per-t=1",), 2, 3),
        (("-Hn2",), 1, 2),
        (("--gpus=8 --gpus-per-node=4",), 2, 1),
        (("--gpus-per-node=2 --cpus-per-gpu=4",), 1, 8),
        (("-N 1k",), 1024, 1),
    ],
)
def test_nodes_and_cores(options: tuple[str, ...], nodes: int, cpus: int) -> None:
    spec = spec_of(*options)
    assert (spec.nodes, spec.resources.cpu_milli) == (nodes, cpus * 1000)


def test_a_range_of_nodes_is_an_elastic_job() -> None:
    spec = spec_of("-N 2-4")
    assert (spec.nodes_min, spec.nodes) == (2, 4)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (("--mem=4G",), 4 * GIB),
        (("--mem 4096",), 4 * GIB),
        (("--mem=1500K",), 2 * 2**20),
        (("--mem-per-cpu=1G", "-n 4", "-c 2"), 8 * GIB),
        (("--mem-per-gpu=10G", "--gpus-per-node=4"), 40 * GIB),
        (("--mem=2T",), 2048 * GIB),
        ((), GIB),
        (("--mem=0",), GIB),
    ],
)
def test_memory(options: tuple[str, ...], size: int) -> None:
    item = converted(a_script(*options))
    assert item.spec.resources.memory_bytes == size
    assert bool(notes(item, "--mem")) == (options in ((), ("--mem=0",)))


@pytest.mark.parametrize(
    ("options", "gpu"),
    [
        (("--gres=gpu",), Gpu(1000)),
        (("--gres=gpu:4",), Gpu(4000)),
        (("--gres=gpu:h100:4",), Gpu(4000, model="H100")),
        (("--gres=gpu:h100",), Gpu(1000, model="H100")),
        (("--gres=gres:gpu:2",), None),
        (("--gres=gpu:4090:2(S:0-1)",), Gpu(2000, model="4090")),
        (("--gpus=h100:4",), Gpu(4000, model="H100")),
        (("-G 2",), Gpu(2000)),
        (("--gpus-per-node=2", "-N 2"), Gpu(2000)),
        (("--gpus=8", "-N 2"), Gpu(4000)),
        (("--gpus=3", "-N 2"), Gpu(2000)),
        (("--gpus-per-task=1", "-n 4"), Gpu(4000)),
        (("--gpus-per-task=2", "-N 2", "-n 4"), Gpu(4000)),
        (("--gres=gpu:a100_80:1",), Gpu(1000, model="A100")),
        (("--gres=gpu:tesla:1",), Gpu(1000, model="tesla")),
        (("--gres=gpu:1", "--constraint=a100"), Gpu(1000, model="A100")),
        (("--gres=none",), None),
        (("--gres=license:4",), None),
    ],
)
def test_devices(options: tuple[str, ...], gpu: Gpu | None) -> None:
    assert spec_of(*options).resources.gpu == gpu


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400), ("90:30", 5460), ("2:30:00", 9000), ("1-2", 93_600), ("1-2:30", 95_400), ("1-2:3:4", 93_840),
        ("0:30", 60), ("00:00:30", 60), ("1-25:70:80", 180_720), ("0", None), ("UNLIMITED", None), ("infinite", None),
        ("-1", None),
    ],
)  # fmt: skip
def test_every_form_of_a_time(text: str, seconds: int | None) -> None:
    assert spec_of(f"--time={text}").time_limit_s == seconds
    assert spec_of(f"-t {text}").time_limit_s == seconds


@pytest.mark.parametrize(
    ("text", "array"),
    [
        ("0-99%10", JobArray("0-99", 10)),
        ("1,3,5-7", JobArray("1,3,5-7")),
        ("0-15:4", JobArray("0-15:4")),
        ("7", JobArray("7")),
        ("0-3%50", JobArray("0-3", 4)),
    ],
)
def test_arrays(text: str, array: JobArray) -> None:
    assert spec_of(f"--array={text}").array == array
    assert spec_of(f"-a {text}").array == array


def test_what_it_comes_after() -> None:
    item = converted(a_script("-d afterok:1:2,afterany:3,afternotok:4+5,singleton"))
    assert item.spec.after == (After("1"), After("2"), After("3", When.ANY), After("4", When.NOTOK))
    assert '"singleton" is not kept' in notes(item, "--dependency")
    assert "Slurm's numbers" in notes(item, "--dependency")


@pytest.mark.parametrize(
    ("text", "signal", "grace"),
    [
        ("B:USR1@60", "SIGUSR1", 60),
        ("SIGTERM", "SIGTERM", 60),
        ("10@300", "SIGUSR1", 300),
        ("R:INT@9000", "SIGINT", 3600),
    ],
)
def test_signals(text: str, signal: str, grace: int) -> None:
    spec = spec_of(f"--signal={text}")
    assert spec.checkpoint is not None
    assert (spec.checkpoint.signal, spec.grace_s) == (signal, grace)


def test_where_and_whose() -> None:
    item = converted(
        a_script("-p gpu -A Team --qos=low --switches=1@10:00 --constraint=ib&nvlink -M hpc --chdir=/w --comment='a b'")
    )
    spec = item.spec
    assert (spec.project, spec.job_class, spec.workdir) == ("team", "low", "/w")
    assert spec.labels == {"slurm/partition": "gpu", "comment": "a b"}
    assert (spec.placement.within, spec.placement.required) == (Place.SWITCH, False)
    assert spec.placement.cluster == "hpc"
    assert spec.placement.selector == {
        "slurm.schedmd.com/feature-ib": "true", "slurm.schedmd.com/feature-nvlink": "true",
    }  # fmt: skip
    assert "only a label" in notes(item, "--partition")
    several = notes(converted(a_script("-p gpu,big")), "--partition")
    assert '{slurm.schedmd.com/partition-gpu: "true"}} for the nodes of "gpu", one of them.' in several


def test_features_that_are_models_are_alternatives() -> None:
    spec = spec_of("--gres=gpu:4", "--constraint=h100|a100")
    assert [choice.gpu for choice in spec.resources.choices] == [Gpu(4000, model="H100"), Gpu(4000, model="A100")]


def test_deadlines() -> None:
    zone = timezone(timedelta(hours=8))
    around = Around(localise=lambda moment: moment.replace(tzinfo=zone))
    spec = converted(a_script("-t 60 --deadline=2099-12-01T08:00"), around).spec
    assert spec.deadline is not None
    assert spec.deadline.at is not None
    assert spec.deadline.at.isoformat() == "2099-12-01T08:00:00+08:00"
    soon = spec_of("-t 60 --deadline=now+2hours").deadline
    assert soon is not None
    assert soon.within_s == 7200
    item = converted(a_script("--deadline=now+2hours"))
    assert item.spec.deadline is None
    assert "Write --time too" in notes(item, "--deadline")
    assert "no time that is certain" in notes(converted(a_script("-t 60 --deadline=16:00")), "--deadline")


def test_variables_that_are_exported() -> None:
    item = converted(a_script("--export=A=1,B,NONE"))
    assert (item.spec.env, item.spec.secrets) == ({"A": "1"}, {"B": Secret(variable="B")})
    assert "does not go with the job" not in notes(item, "--export")
    assert "does not go with the job" in notes(converted(a_script()), "--export")
    assert "does not go with the job" in notes(converted(a_script("--export=ALL")), "--export")
    assert not notes(converted(a_script("--export=NONE")), "--export")


@pytest.mark.parametrize(
    "option",
    [
        "-o out", "--error=err", "--mail-type=ALL", "--mail-user=a@b", "--nodelist=n1", "-x n2", "--exclusive",
        "--exclusive=user", "--time-min=10", "--reservation=r", "--begin=now+1hour", "-H", "--nice", "--nice=5",
        "--licenses=a", "--wckey=x", "--contiguous", "--spread-job", "--hint=nomultithread", "--propagate", "--bb=x",
        "--threads-per-core=1", "--get-user-env", "-k", "--uid=0", "--container=/oci", "--gpu-bind=closest",
        "--distribution=block", "--open-mode=append", "--wait", "--no-kill=off", "--segment=4", "--container-mounts=/a",
    ],
)  # fmt: skip
def test_each_option_that_is_not_kept_is_told_with_its_line(option: str) -> None:
    item = converted(a_script("--export=NONE", "--mem=1G", option), Around(workdir="/w"))
    (note,) = item.notes
    assert (note.line, note.kept) == (4, False)
    assert note.path.startswith("--")


def test_every_option_that_sbatch_has_is_known() -> None:
    """Those of 22.05, as `sbatch --help` lists them; the test with Slurm asks it itself."""
    from dujiang.jobs.converting.slurm.layout import SEEN_TO
    from dujiang.jobs.converting.slurm.sbatch import _TAKEN
    from dujiang.jobs.converting.slurm.words import OPTIONS, QUIET, REASONS

    told = set(REASONS) | set(_TAKEN) | SEEN_TO | QUIET | {"job-name", "chdir", "deadline"}
    assert set(OPTIONS) == told


# -- lines -------------------------------------------------------------------------------------------------------------


def test_which_lines_count() -> None:
    text = "#!/bin/sh\n\n# c\n  #SBATCH -n 4\n#SBATCH -n3\n##SBATCH -n 5\n# SBATCH -n 6\n#SBATCH--mem=3G\ntrue\n"
    text += "#SBATCH -n 7"
    item = converted(text)
    assert (item.spec.resources.cpu_milli, item.spec.resources.memory_bytes) == (3000, 3 * GIB)
    assert "line 10: #SBATCH" in notes(item)
    assert "no options after the first command" in notes(item)


def test_quotes_and_comments_in_a_line() -> None:
    assert spec_of('--job-name "a b" # note').name == "a-b"
    assert spec_of("--comment='x # y'").labels["comment"] == "x # y"
    assert spec_of('--comment=a"b c"d').labels["comment"] == "ab cd"
    assert spec_of("--comment=a#b -n 4").labels["comment"] == "a"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (a_script("--unknown=3"), 'line 2, column 9: --unknown: sbatch has no option "--unknown".'),
        (a_script("--ntask-per-node=3"), "Did you mean ntasks-per-node?"),
        (a_script("--cpus=2"), "--cpus is the beginning of several options."),
        (a_script("-z"), 'sbatch has no option "-z"'),
        (a_script("-n=4"), '"=4" is not a number'),
        (a_script("--ntasks=0"), "is not a number of at least 1"),
        (a_script("--requeue=1"), "This option has no value."),
        (a_script("--job-name"), "This option needs a value."),
        (a_script("-J"), "This option needs a value."),
        (a_script("foo -n 4"), "is no option"),
        (a_script('--comment="a'), "is not closed"),
        (a_script("--time=5x"), "not a time of Slurm"),
        (a_script("--time=1:"), "not a time of Slurm"),
        (a_script("--mem=1.5G"), "not a size of Slurm"),
        (a_script("--mem=1G --mem-per-cpu=1G"), "do not go together"),
        (a_script("-N 4-2"), "are more than the most"),
        (a_script("--array=1-20000"), "is no index"),
        (a_script("--array=0-3%x"), "no number of tasks at once"),
        (a_script("--gpus=many"), "is no number of GPUs"),
        (a_script("--signal=USR9@60"), "is not a signal"),
        (a_script("--signal=KILL"), "is not a signal"),
        (a_script("-n 1", "hetjob", "-n 2"), "heterogeneous job"),
        (a_script("packjob"), "heterogeneous job"),
        (a_script("-N 20000"), "is out of range"),
        ("#SBATCH -n 4\ntrue\n", "must be #!"),
        ("#!\n#SBATCH -n 4\n", "must be #!"),
    ],
)
def test_what_slurm_or_we_would_not_take(text: str, said: str) -> None:
    problems = refused(text)
    assert any(said in problem for problem in problems), problems
    assert all(problem.startswith("line ") for problem in problems)


def test_all_wrong_lines_are_told_at_once() -> None:
    assert [problem[:6] for problem in refused(a_script("--nope", "-n 1", "-J"))] == ["line 2", "line 4"]


# -- the script --------------------------------------------------------------------------------------------------------


def test_a_script_stays_as_it_is() -> None:
    body = "set -e\nmodule load x\n\npython train.py  # now\n"
    assert spec_of("-n 1", body=body).run == "#!/bin/bash\n" + body.strip("\n")


def test_variables_of_slurm_are_set_before_the_script() -> None:
    body = 'echo "$SLURM_ARRAY_TASK_ID ${SLURM_CPUS_PER_TASK}" $SLURM_JOB_NODELIST\n# $SLURM_JOB_ID'
    item = converted(a_script("-a 2-8:2", "-c 4", body=body))
    assert item.spec.run.split("\n")[:3] == [
        "#!/bin/bash", 'export SLURM_ARRAY_TASK_ID="$DUJIANG_ARRAY_INDEX"', 'export SLURM_CPUS_PER_TASK="4"',
    ]  # fmt: skip
    assert "SLURM_JOB_NODELIST is not set." in notes(item, "script")
    assert "SLURM_JOB_ID" not in notes(item, "script")


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("srun python train.py", "python train.py"),
        ("srun -n1 -u --mpi=none python train.py | tee log", "python train.py | tee log"),
        ("  srun -n 1 --exclusive ./a $i &", "  ./a $i &"),
        ("exec srun --cpu-bind=none ./a", "exec ./a"),
        ("time srun \\\n  --label ./a", "time ./a"),
        ("srun --container-image=reg/x:1 ./a 'b c'", "./a 'b c'"),
    ],
)
def test_srun_of_one_task_is_the_command_itself(line: str, left: str) -> None:
    assert spec_of(body=line).run == f"#!/bin/bash\n{left}"


@pytest.mark.parametrize(
    "line", ["srun --multi-prog conf", "x=$(srun hostname)", "srun --pty bash", "srun --nope ./a", "cat <<E\nsrun x\nE"]
)
def test_srun_that_cannot_be_read_stays(line: str) -> None:
    item = converted(a_script(body=line))
    assert item.spec.run == f"#!/bin/bash\n{line}"
    assert ("srun stays in the script" in notes(item, "script")) == ("cat" not in line)


def test_the_image_of_a_step_is_that_of_the_job() -> None:
    assert spec_of(body="srun --container-image=reg.example#team/x:1 ./a").image == "reg.example/team/x:1"


def test_on_several_nodes_what_srun_starts_runs_on_each() -> None:
    body = (
        "export MASTER_ADDR=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -1)\nsrun -n1 -N1 ./prepare\nsrun ./a"
    )
    item = converted(a_script("-N 2", body=body))
    lines = item.spec.run.split("\n")
    assert lines[1].startswith("# export MASTER_ADDR")
    assert lines[2:] == ['if [ "${RANK:-0}" = 0 ]; then', "./prepare", "fi", "./a"]
    assert "MASTER_ADDR is left to the platform" in notes(item, "script")
    assert "runs on each node" in notes(item, "script")


def test_on_several_nodes_a_script_without_srun_runs_on_the_first() -> None:
    item = converted(a_script("-N 2", body="./a"))
    assert item.spec.run == '#!/bin/bash\nif [ "${RANK:-0}" != 0 ]; then exit 0; fi\n./a'
    assert "the others have nothing to do" in notes(item, "script")


def test_on_several_nodes_mpirun_is_the_launcher() -> None:
    spec = spec_of("-N 2 -n 8", body="module load x\nmpirun -np $SLURM_NTASKS --bind-to core ./a 'b c'")
    assert spec.distributed == Distributed(Launcher.MPI, 4, ("--bind-to", "core"))
    exported, _, command = spec.run.partition("\n")
    assert exported == 'export SLURM_NTASKS="$((DUJIANG_NODES * 4))"'
    assert shlex.split(command) == ["/bin/bash", "-c", "module load x\n./a 'b c'"]


def test_a_script_of_another_language() -> None:
    text = a_script("-c 4", body='import os\nprint(os.environ["SLURM_CPUS_PER_TASK"], os.environ["SLURM_JOB_ID"])',
                    shell="/usr/bin/env python3")  # fmt: skip
    item = converted(text)
    assert item.spec.run.startswith("#!/usr/bin/env python3\nimport os\n")
    assert item.spec.env == {"SLURM_CPUS_PER_TASK": "4"}
    assert "Read DUJIANG_JOB_ID in its place." in notes(item, "script")


def run_as_a_rank(run: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script as the local engine does: a file with its own interpreter."""
    file = folder / "run"
    file.write_text(run)
    file.chmod(0o755)
    return subprocess.run([str(file)], cwd=folder, env=os.environ | env, capture_output=True, text=True, check=False)


def test_several_tasks_on_a_node_run_at_once_and_end_as_the_worst(tmp_path: Path) -> None:
    task = 'echo "$SLURM_PROCID/$WORLD_SIZE $LOCAL_RANK"; exit $((SLURM_PROCID == 6 ? 7 : 0))'
    body = f"set -e\nsrun sh -c '{task}'\necho on"
    run = spec_of("-N 2 --ntasks-per-node=4", body=body).run
    first = run_as_a_rank(run, tmp_path, RANK="0", DUJIANG_NODES="2")
    assert (first.returncode, first.stderr) == (0, "")
    assert sorted(first.stdout.split("\n")) == ["", "0/8 0", "1/8 1", "2/8 2", "3/8 3", "on"]
    second = run_as_a_rank(run, tmp_path, RANK="1", DUJIANG_NODES="2")
    assert second.returncode == 7
    assert sorted(second.stdout.split()) == sorted(["4/8", "0", "5/8", "1", "6/8", "2", "7/8", "3"])


def test_the_first_node_alone_goes_on(tmp_path: Path) -> None:
    run = spec_of("-N 2", body="echo here").run
    assert run_as_a_rank(run, tmp_path, RANK="0").stdout == "here\n"
    other = run_as_a_rank(run, tmp_path, RANK="1")
    assert (other.returncode, other.stdout) == (0, "")
