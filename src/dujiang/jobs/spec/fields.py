"""The fields of a job: what each takes, what it means when it is left out, how the published schema describes it.

One table for the reader and for the schema, so that the two cannot drift apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dujiang.jobs.spec.distributed_fields import DISTRIBUTED
from dujiang.jobs.spec.model import (
    DEFAULT_GRACE_S,
    DEFAULT_RETRIES,
    DEFAULT_RETRY_ON,
    Cause,
    Checkpoint,
    InputData,
    JobClass,
    Kind,
    ModelOutput,
    Outputs,
    Retry,
    Secret,
    exact_duration,
    param_variable,
)
from dujiang.jobs.spec.order_fields import AFTER, ARRAY
from dujiang.jobs.spec.place_fields import DEADLINE, NODES, PLACEMENT, QUEUE
from dujiang.jobs.spec.resources import RESOURCES
from dujiang.jobs.spec.words import (
    CHECKPOINT_PATH,
    IMAGE,
    INNER_PATH,
    LABEL,
    NAME,
    PARAM,
    PATH,
    PROJECT,
    UP_TO_AN_HOUR,
    VARIABLE,
    duration,
    share,
)
from dujiang.kit.spec.problems import Problems, quote
from dujiang.kit.spec.readers import (
    AnyScalar,
    AsText,
    Choice,
    Field,
    Many,
    Mapped,
    OneOf,
    Record,
    Schema,
    ShellText,
    Table,
    Text,
    Whole,
)
from dujiang.kit.spec.yaml import Located

_LINES = 262_144
_VALUE = 32_768
"""Characters of one value of the environment: Linux takes 131,072 bytes of one."""
_SIGNALS = ("TERM", "INT", "HUP", "USR1", "USR2", "QUIT", "ALRM", "WINCH", "CONT")


def _signal(text: Any, value: Located, path: str, problems: Problems) -> str:
    name = str(text).upper().removeprefix("SIG")
    if name in _SIGNALS:
        return f"SIG{name}"
    raise problems.refuse(
        path,
        f"{quote(text)} is not a signal that a program can save itself on.",
        f"Write one of {', '.join('SIG' + known for known in _SIGNALS)}.",
        at=value.at,
    )


class _SignalReader(Mapped[str]):
    def schema(self) -> Schema:
        """Return the names, with or without SIG."""
        return {"type": "string", "enum": [prefix + name for prefix in ("SIG", "") for name in _SIGNALS]}


_CHECKPOINT = OneOf(
    Record(
        "a checkpoint",
        [
            Field(
                "path",
                CHECKPOINT_PATH,
                "Absolute folder for checkpoints, the same for every attempt; the program finds it as "
                "DUJIANG_CHECKPOINT_DIR.",
                default_note="Default: a folder of the job's own.",
            ),
            Field(
                "interval",
                duration(0.001, 31_622_400),
                "How often the program saves: what a fault can cost at most. Plain numbers are seconds.",
                examples=["10m"],
            ),
            Field(
                "signal",
                _SignalReader(Text("a signal", 16), _signal),
                "Sent first when an attempt is to stop, so that the program can save.",
                default_note="Default: SIGTERM.",
                examples=["SIGUSR1"],
            ),
        ],
        lambda given, value, path, problems: Checkpoint(given.get("path"), given.get("interval"), given.get("signal")),
        {
            "dir": "Write path.",
            "folder": "Write path.",
            "directory": "Write path.",
            "every": "Write interval.",
            "period": "Write interval.",
            "name": "Write path.",
        },
    ),
    lambda value: Mapped(CHECKPOINT_PATH, lambda text, *_: Checkpoint(text)) if isinstance(value.value, str) else None,
    [CHECKPOINT_PATH.schema()],
)

_LIMIT = Whole(0, 1000, "Write how many more attempts there may be, 0 to 1000.")


def _retry(given: dict[str, Any], value: Located, path: str, problems: Problems) -> Retry:
    causes = given.get("on", DEFAULT_RETRY_ON)
    return Retry(given.get("limit", DEFAULT_RETRIES), tuple(cause for cause in Cause if cause in causes))


_RETRY = OneOf(
    Record(
        "a retry policy",
        [
            Field("limit", _LIMIT, "Attempts after the first; 0 never starts again.", default=DEFAULT_RETRIES),
            Field(
                "on",
                Many(Choice(Cause), "causes", len(Cause), str, unique_items=True),
                "Causes that are worth another attempt. infrastructure: node, device, network, storage, the platform; "
                "preemption: the place was needed for a job with more right to it; unknown: nothing says why; "
                "out_of_memory, time_limit: the job's own limits; user: the program or its setup failed.",
                default=[cause.value for cause in DEFAULT_RETRY_ON],
            ),
        ],
        _retry,
        {
            "max": "Write limit.",
            "attempts": "Write limit.",
            "max_attempts": "Write limit.",
            "times": "Write limit.",
            "count": "Write limit.",
            "on_events": "Write on.",
            "causes": "Write on.",
            "true": "Write on: in quotes.",
            "backoff": "The platform waits longer after each failure by itself.",
        },
    ),
    lambda value: None if isinstance(value.value, Mapping) else Mapped(_LIMIT, lambda limit, *_: Retry(limit)),
    [_LIMIT.schema()],
)

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _short_secret(text: str, *_: object) -> Secret:
    reference = _REFERENCE.fullmatch(text)
    return Secret(variable=reference[1]) if reference else Secret(value=text)


def _long_secret(given: dict[str, Any], value: Located, path: str, problems: Problems) -> Secret:
    if len(given) != 1:
        raise problems.refuse(
            path,
            "A secret needs exactly one of value, variable and file.",
            "Write ${NAME} to take it from your environment.",
            at=value.at,
        )
    return Secret(**given)


class _HiddenText(AsText):
    """Text that no message repeats."""

    def read(self, value: Located, path: str, problems: Problems) -> str:
        """Return the text."""
        if not isinstance(value.value, str):
            raise problems.refuse(path, "A secret is text.", "Put it in quotes.", at=value.at)
        if len(value.value) > self.longest:
            raise problems.refuse(path, f"A secret has at most {self.longest} characters.", "Use a file.", at=value.at)
        if re.search("[\0\ud800-\udfff]", value.value):
            raise problems.refuse(path, "A secret holds no NUL and no half characters.", at=value.at)
        return value.value

    def schema(self) -> Schema:
        """Return any text."""
        return {"type": "string", "maxLength": self.longest, "pattern": r"^[^\u0000]*$"}


_SECRET = OneOf(
    Record(
        "a secret",
        [
            Field("value", _HiddenText(_VALUE), "The value itself."),
            Field("variable", VARIABLE, "The environment variable of the submitter that has it."),
            Field("file", PATH, "The file of the submitter that has it."),
        ],
        _long_secret,
        {"env": "Write variable.", "path": "Write file.", "from": "Write variable or file."},
        {"minProperties": 1, "maxProperties": 1},
    ),
    lambda value: None if isinstance(value.value, Mapping) else Mapped(_HiddenText(_VALUE), _short_secret),
    [_HiddenText(_VALUE).schema()],
)

_INPUT = Record(
    "an input",
    [
        Field("name", NAME, "What the data is called.", required=True, examples=["digits"]),
        Field(
            "path",
            PATH,
            "File or folder, absolute or relative to the working folder; it may be made by setup.",
            required=True,
        ),
    ],
    lambda given, value, path, problems: InputData(given["name"], given["path"]),
    {"source": "Write path."},
)

_MODEL_OUTPUT = Record(
    "a model",
    [
        Field("name", NAME, "The registered model that gets a new version.", required=True, examples=["digits"]),
        Field("path", INNER_PATH, "The file, relative to DUJIANG_OUTPUT_DIR.", required=True, examples=["model.onnx"]),
    ],
    lambda given, value, path, problems: ModelOutput(given["name"], given["path"]),
    {"file": "Write path."},
)

_OUTPUTS = Record(
    "the outputs",
    [
        Field("model", _MODEL_OUTPUT, "A model version that is registered when the job completes."),
    ],
    lambda given, value, path, problems: Outputs(given.get("model")),
    {"models": "Write model; a job registers one."},
)

_WEIGHT = share(
    100,
    1000,
    [{"type": "number", "minimum": 0.1, "maximum": 1.0, "multipleOf": 0.001}],
    "core is 0.8 to 1, normal 0.4 to 0.6, low 0.1 to 0.3.",
)


def job_fields() -> list[Field]:
    return [
        Field(
            "name",
            NAME,
            "What people call the job; several may have the same.",
            default_note="Default: the file's name.",
            examples=["train-digits"],
        ),
        Field("project", PROJECT, "Whose quota and bill it is.", default_note="Default: your own."),
        Field(
            "kind",
            Choice(Kind),
            "task ends by itself; service runs until it is cancelled and answers on PORT.",
            default="task",
        ),
        Field("class", Choice(JobClass), "How much it matters.", default="normal"),
        Field(
            "weight",
            _WEIGHT,
            "Share within its class: core 0.8 to 1, normal 0.4 to 0.6, low 0.1 to 0.3.",
            default_note="Default: the middle of the band.",
        ),
        Field("resources", RESOURCES, "What each node of the job gets, as a limit and as a promise."),
        Field(
            "nodes",
            NODES,
            "Processes that start together, each with its own resources; they find one another "
            "by MASTER_ADDR, MASTER_PORT, WORLD_SIZE and RANK. 2-8 or {min: 2, max: 8}: as many as there is room for, "
            "and how many it got is in DUJIANG_NODES.",
            default=1,
            examples=[4, "2-8", {"min": 2, "max": 8}],
        ),
        Field(
            "setup",
            ShellText(_LINES, may_be_empty=True),
            "Shell commands run once per attempt, on the first node, before run. A failure is the job's own.",
            default_note="Default: none.",
        ),
        Field(
            "run",
            ShellText(_LINES),
            "Shell commands, the work itself: text, or a list of commands.",
            required=True,
            examples=["python train.py"],
        ),
        Field(
            "env",
            Table(VARIABLE, AsText(_VALUE), "variables", 1000, ("DUJIANG_",), largest=_LINES),
            "Environment variables.",
        ),
        Field(
            "secrets",
            Table(VARIABLE, _SECRET, "secrets", 100, ("DUJIANG_",)),
            "Environment variables that are shown "
            "nowhere: ${NAME} takes it from the environment of whoever submits, {file: path} from a file of theirs.",
            examples=[{"HF_TOKEN": "${HF_TOKEN}"}],
        ),
        Field(
            "params",
            Table(PARAM, AnyScalar(4096), "parameters", 200, same=param_variable),
            "Hyper-parameters: the program "
            "finds NAME as DUJIANG_PARAM_NAME in upper case, and they are kept with what the job makes.",
            examples=[{"learning_rate": 0.001}],
        ),
        Field(
            "image",
            IMAGE,
            "Container image that setup and run run in, as registry/name:tag or with @sha256:...; it needs /bin/sh. "
            "Working folder, checkpoints, output and inputs have the same paths in it.",
            default_note="Default: the node's own environment, or the cluster's default image.",
            examples=["pytorch/pytorch:2.8.0-cuda12.9-cudnn9-runtime"],
        ),
        Field(
            "workdir",
            PATH,
            "Where the commands run. `dujiang submit` takes a relative path from the folder of the file.",
            default_note="Default: a folder of the job's own.",
        ),
        Field(
            "checkpoint",
            _CHECKPOINT,
            "How the program saves itself, or just the folder.",
            examples=[{"interval": "10m"}],
        ),
        Field("retry", _RETRY, "Whether a failed attempt is followed by another, or just how often."),
        Field(
            "time_limit",
            duration(1, 31_622_400),
            "The longest an attempt may run: 2h30m, 90s; plain numbers are seconds.",
            default_note="Default: none.",
            examples=["2h30m"],
        ),
        Field(
            "grace",
            duration(0, 3600, UP_TO_AN_HOUR),
            "From the save signal to the kill.",
            default=exact_duration(DEFAULT_GRACE_S),
        ),
        Field(
            "ports",
            Whole(0, 16, "ports is how many; the platform chooses the numbers, in PORT, PORT1 ... Write ports: 1."),
            "How many ports the job listens on; it finds their numbers in PORT, PORT1 ...",
            default_note="Default: 0, for a service 1.",
        ),
        Field(
            "inputs",
            Many(_INPUT, "inputs", 100, lambda data: data.name, unique_items=True),
            "Data whose content is hashed after setup, so that what is made of it can be traced.",
        ),
        Field("outputs", _OUTPUTS, "What the platform keeps."),
        Field(
            "after",
            AFTER,
            "Jobs that must have ended first: ids, names, or {job: ..., when: ok, any or notok}. An earlier job of the "
            "same submission may be named.",
            examples=[["prepare"], [{"job": "train", "when": "any"}]],
        ),
        Field(
            "array",
            ARRAY,
            "Many tasks of this job, each a job of its own: how many, or which indices; a program finds its index as "
            "DUJIANG_ARRAY_INDEX.",
            examples=[100, "0-99%10", {"indices": "0-9,15,20-30:2", "at_once": 4}],
        ),
        Field(
            "placement",
            PLACEMENT,
            "Where it may go: cluster, labels of nodes, taints, how near to one another, how well a share is kept.",
            examples=[{"within": "rack", "required": False}, {"tolerations": ["team=vision"]}],
        ),
        Field("queue", QUEUE, "The queue that it is counted in.", default_note="Default: the project's own."),
        Field(
            "deadline",
            DEADLINE,
            "When it must be over: a time with its zone, or how long after submission. It needs a time_limit.",
            default_note="Default: none.",
            examples=["2026-12-01T08:00:00+08:00", "2d"],
        ),
        Field(
            "distributed",
            DISTRIBUTED,
            "What starts the processes of the job: run is what each of them runs. With none, tensorflow and jax that "
            "is one on each node; else one for each whole device, or as many as processes says.",
            default="none",
            examples=["torchrun", {"launcher": "mpi", "processes": 8}],
        ),
        Field("labels", Table(LABEL, AsText(255), "labels", 64), "Words of your own to find the job by."),
    ]
