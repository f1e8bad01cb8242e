"""What holds for every text: a job that our own reader takes, or problems with their lines; never anything else."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dujiang.jobs.converting import Around, convert, document_yaml, is_foreign, to_yaml
from dujiang.jobs.converting.commands import expand, run_of
from dujiang.jobs.converting.kubernetes import words as pod_words
from dujiang.jobs.converting.slurm.words import OPTIONS, Takes
from dujiang.jobs.spec import SpecInvalid, parse, read
from tests.jobs.converting.building import a_script, dumped
from tests.jobs.spec.strategies import JSON_VALUES

relaxed = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
LINE = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=20)
WORD = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20)


def sound(text: str) -> bool:
    """See that a text converts to what reads back to the same, or is refused; say whether it converts."""
    try:
        made = convert(text, Around(workdir="/w", name="x"))
    except SpecInvalid:
        return False
    printed = to_yaml(made)
    assert parse(printed) == [item.spec for item in made.items]
    for item in made.items:
        assert read(item.document) == item.spec
        assert read(item.spec.document(reveal_secrets=True)) == item.spec
        assert yaml.safe_load(document_yaml(item.document)) == item.document, "other readers of YAML read the same"
        assert all(note.what for note in item.notes)
    return True


# -- Kubernetes --------------------------------------------------------------------------------------------------------

SCALARS = st.one_of(st.integers(-5, 20), st.booleans(), WORD, st.sampled_from(["1", "2Gi", "500m", "Never", "Always"]))
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(WORD, SCALARS, max_size=3), JSON_VALUES)
ENV = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["A", "B", "C", "a-b", "DUJIANG_X"])}, optional={"value": WORD | VALUES}
    ),
    max_size=5,
)
AMOUNTS = st.dictionaries(
    st.sampled_from(["cpu", "memory", "ephemeral-storage", "nvidia.com/gpu", "nvidia.com/gpumem", "nvidia.com/gpucores",
                     "nvidia.com/mig-1g.5gb", "amd.com/gpu", "huawei.com/Ascend910", "x.io/y"]),
    st.sampled_from(["1", "2", "0.5", "100m", "1Gi", "8", 4, "1e3", "30", "0"]), max_size=4,
)  # fmt: skip
LABELS = st.dictionaries(
    st.sampled_from(["app", "kueue.x-k8s.io/queue-name", "tier", "gpu-fraction"]), WORD, max_size=3
)
COMMAND = WORD | st.sampled_from(["$(A)", "sh", "-c", "torchrun", "$$(A)"])
CONTAINER = st.fixed_dictionaries(
    {"name": st.just("c"), "command": st.lists(COMMAND, min_size=1, max_size=4)},
    optional={
        "image": st.sampled_from(["x:1", "y/z"]), "env": ENV, "args": st.lists(WORD, max_size=3),
        "resources": st.fixed_dictionaries({}, optional={"limits": AMOUNTS, "requests": AMOUNTS}),
        "ports": st.lists(st.fixed_dictionaries({"containerPort": st.integers(1, 9)}), max_size=2),
        **dict.fromkeys((*list(pod_words.CONTAINER)[:6], "workingDir", "volumeMounts"), VALUES),
    },
)  # fmt: skip
POD = st.fixed_dictionaries(
    {"containers": st.lists(CONTAINER, min_size=1, max_size=2)},
    optional={
        "restartPolicy": st.sampled_from(["Never", "OnFailure", "Always"]),
        "initContainers": st.lists(CONTAINER, max_size=2),
        "nodeSelector": LABELS, "terminationGracePeriodSeconds": st.integers(0, 9000), "tolerations": VALUES,
        "subdomain": st.just("x"), "activeDeadlineSeconds": st.integers(0, 10**9), "affinity": VALUES,
        **dict.fromkeys(list(pod_words.POD)[:8], VALUES),
    },
)  # fmt: skip
METADATA = st.fixed_dictionaries(
    {}, optional={"name": WORD, "namespace": WORD, "labels": LABELS, "annotations": LABELS}
)
JOB = st.fixed_dictionaries(
    {"template": st.fixed_dictionaries({"spec": POD}, optional={"metadata": METADATA})},
    optional={
        "parallelism": st.integers(0, 20), "completions": st.integers(0, 20), "backoffLimit": st.integers(0, 2000),
        "completionMode": st.sampled_from(["Indexed", "NonIndexed"]), "suspend": st.booleans(), "selector": VALUES,
    },
)  # fmt: skip


def an_object(version: str, kind: str, spec: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"apiVersion": st.just(version), "kind": st.just(kind), "metadata": METADATA, "spec": spec}
    )


REPLICAS = st.fixed_dictionaries(
    {"replicas": st.integers(0, 5), "template": st.fixed_dictionaries({"spec": POD})},
    optional={"restartPolicy": st.sampled_from(["Never", "OnFailure", "ExitCode"])},
)
ROLES = st.dictionaries(st.sampled_from(["Master", "Worker", "Launcher", "Chief", "PS"]), REPLICAS, max_size=2)
BESIDE = {"runPolicy": VALUES, "nprocPerNode": SCALARS, "slotsPerWorker": st.integers(0, 9), "elasticPolicy": VALUES}
FIELDS = {"PyTorchJob": "pytorchReplicaSpecs", "TFJob": "tfReplicaSpecs", "MPIJob": "mpiReplicaSpecs"}
TRAINING = st.one_of(
    an_object("kubeflow.org/v1", kind, st.fixed_dictionaries({field: ROLES}, optional=BESIDE))
    for kind, field in FIELDS.items()
)
TRAIN_JOB = an_object("trainer.kubeflow.org/v1alpha1", "TrainJob", st.fixed_dictionaries(
    {"runtimeRef": st.fixed_dictionaries({"name": st.sampled_from(["torch-distributed", "mpi-x", "jax", "y"])}),
     "trainer": st.fixed_dictionaries({"command": st.lists(WORD, min_size=1, max_size=3)}, optional={
         "numNodes": st.integers(0, 5), "numProcPerNode": SCALARS, "env": ENV, "args": st.lists(WORD, max_size=2)})},
    optional={"initializer": VALUES, "podSpecOverrides": VALUES}))  # fmt: skip
OBJECTS = st.one_of(an_object("v1", "Pod", POD), an_object("batch/v1", "Job", JOB), TRAINING, TRAIN_JOB)


@settings(relaxed, max_examples=300)
@given(OBJECTS)
def test_every_object_converts_to_what_reads_back_or_is_refused(value: dict[str, Any]) -> None:
    sound(dumped(value))


@relaxed
@given(st.sampled_from(["Job", "Pod", "TrainJob", "PyTorchJob", "MPIJob", "List", "Jobb"]), JSON_VALUES, JSON_VALUES)
def test_any_value_in_place_of_a_part(kind: str, spec: Any, metadata: Any) -> None:
    versions = {"Job": "batch/v1", "Pod": "v1", "TrainJob": "trainer.kubeflow.org/v1alpha1"}
    version = versions.get(kind, "kubeflow.org/v1")
    sound(dumped({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec, "items": spec}))


@relaxed
@given(WORD | st.binary(max_size=200))
def test_any_text_at_all(text: str | bytes) -> None:
    is_foreign(text)
    with suppress(SpecInvalid):
        convert(text)


# -- Slurm -------------------------------------------------------------------------------------------------------------

SOME = st.sampled_from(
    ["1", "2", "4-8", "10G", "gpu:2", "gpu:h100:4", "h100:2", "1:00:00", "0-9%2", "afterok:1", "USR1@60", "a,b=c",
     "x&y", "now+1hour", "NONE", "0", "a b", "", "1@5", "%", "-", "=", "9" * 30]
)  # fmt: skip


@st.composite
def option(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(sorted(OPTIONS)))
    short, takes = OPTIONS[name]
    value = draw(SOME | LINE)
    quoted = "'" + value.replace("'", "") + "'"
    if takes is Takes.NOTHING or (takes is Takes.PERHAPS and draw(st.booleans())):
        return f"--{name}"
    return f"-{short} {quoted}" if short and draw(st.booleans()) else f"--{name}={quoted}"


BODY = st.lists(
    st.one_of(
        WORD,
        st.sampled_from(["srun ./a", "srun -n2 ./a 'b'", "mpirun -np 4 ./a", "cat <<E", "E", "echo $SLURM_PROCID",
                         "srun",
                         "export MASTER_ADDR=$(scontrol x)", "#SBATCH -n 2", "x \\", "srun -n", "srun --mpi=pmix ./a"]),
    ),
    max_size=6,
)  # fmt: skip


@settings(relaxed, max_examples=300)
@given(st.lists(option(), max_size=5), BODY, st.sampled_from(["/bin/bash", "/usr/bin/env python3", "/bin/sh -l"]))
def test_every_script_converts_to_what_reads_back_or_is_refused(
    options: list[str], body: list[str], shell: str
) -> None:
    sound(a_script(*options, body="\n".join(body), shell=shell))


def test_most_of_these_convert() -> None:
    """Otherwise the properties above would say little."""
    seen: list[bool] = []

    @settings(relaxed, max_examples=200, database=None, derandomize=True)
    @given(st.one_of(an_object("v1", "Pod", POD), an_object("batch/v1", "Job", JOB)))
    def look(value: dict[str, Any]) -> None:
        seen.append(sound(dumped(value)))

    look()
    assert sum(seen) > 20, f"{sum(seen)} of {len(seen)}"


# -- words and shell text ----------------------------------------------------------------------------------------------

PRINTS = r'for word in "$@"; do printf "%s\0" "$word"; done'
VARIABLES = {"FIXED": "it's", "LATER": None}


@settings(relaxed, max_examples=60)
@given(
    st.lists(
        st.lists(WORD | st.sampled_from(["$(FIXED)", "$(LATER)", "$$(LATER)", "$(NONE)", "$"]), max_size=3).map(
            "".join
        ),
        max_size=4,
    )
)
def test_a_shell_gets_the_very_words(words: list[str]) -> None:
    run = run_of([expand(word, VARIABLES) for word in ["sh", "-c", PRINTS.replace("$", "$$"), "name", *words]])
    wanted = [
        "".join(piece.text if not piece.is_variable else "a  *b" for piece in expand(word, VARIABLES)) for word in words
    ]
    done = subprocess.run(
        ["/bin/sh", "-e", "-c", run.text()], env=os.environ | {"LATER": "a  *b"}, capture_output=True, check=True
    )
    assert done.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1] == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a$(A)b", "a1b"), ("$$(A)", "$(A)"), ("$$$(A)", "$1"), ("$(B)", "$(B)"), ("$(A", "$(A"), ("$", "$"),
        ("$A", "$A"),
        ("a$", "a$"), ("$$", "$"), ("$(A)$(A)", "11"), ("$()", "$()"), ("$(A))", "1)"), ("$x$(A)", "$x1"),
    ],
)  # fmt: skip
def test_references_as_kubernetes_resolves_them(text: str, said: str) -> None:
    """The cases of its own rules: `$$` is a dollar sign, what is not known stays."""
    assert "".join(piece.text for piece in expand(text, {"A": "1"})) == said


@pytest.mark.parametrize("first", ["if", "A=b", "{", "!", "a b", "", "'", "time", "x+=1"])
def test_the_first_word_is_a_command_and_nothing_else(first: str) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", run_of([expand(first, {})]).text()],
        env={"PATH": "/nowhere"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 127, done.stderr
