"""The fields of a job: what each takes, what it means when it is left out, how the published schema describes it.

One table for the reader and for the schema, so that the two cannot drift apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dujiang.jobs.spec.model import (
    DEFAULT_GRACE_S,
    DEFAULT_RETRIES,
    DEFAULT_RETRY_ON,
    Cause,
    Checkpoint,
    Gpu,
    InputData,
    JobClass,
    Kind,
    ModelOutput,
    Outputs,
    Resources,
    Retry,
    Secret,
    exact_duration,
    param_variable,
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
    Quantity,
    Reader,
    Record,
    Schema,
    ShellText,
    Table,
    Text,
    Whole,
)
from dujiang.kit.spec.yaml import Located
from dujiang.kit.units import format_bytes, format_duration, format_milli, parse_bytes, parse_duration_s, parse_milli

_LINES = 262_144
_VALUE = 32_768
"""Characters of one value of the environment: Linux takes 131,072 bytes of one."""


def mended_name(text: str) -> str:
    """Return the nearest name that a job may have, or an empty string when nothing of the text can stay."""
    return re.sub(r"[^a-z0-9]+", "-", text[:200].lower().replace("'", "")).strip("-")[:63].strip("-")


# What each kind of value looks like. Schema patterns list the usual spellings only: they must not promise too much.
_NAME = Text(
    "a name",
    63,
    r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?",
    "A name has up to 63 lower-case letters, digits and dashes, with a letter or digit at both ends.",
    mended_name,
)
_PROJECT = Text(
    "a project's name or id",
    63,
    r"[a-z0-9]([-_a-z0-9]{0,61}[a-z0-9])?",
    "Write the project's name or id as `dujiang projects` shows it.",
)
_VARIABLE = Text(
    "a variable's name",
    128,
    r"[A-Za-z_][A-Za-z0-9_]{0,127}",
    "A variable has letters, digits and underscores and begins with no digit.",
    lambda text: re.sub(r"[^A-Za-z0-9_]", "_", text[:128]).lstrip("0123456789"),
)
_PARAM = Text(
    "a parameter's name",
    63,
    r"[A-Za-z_][-.A-Za-z0-9_]{0,62}",
    "A parameter has letters, digits, dots, dashes and underscores, and begins with a letter.",
)
_LABEL = Text(
    "a label's name",
    63,
    r"[A-Za-z0-9]([-_./A-Za-z0-9]{0,61}[A-Za-z0-9])?",
    "A label has letters, digits, dots, dashes, slashes and underscores.",
)
_PATH = Text("a path", 4096, r"[^\u0000]+")
_CHECKPOINT_PATH = Text("an absolute path", 4095, r"/[^\u0000]*", "Write a path that begins with a slash.")
_INNER_PATH = Text(
    "a path inside the output folder",
    1024,
    r"[A-Za-z0-9_][-A-Za-z0-9_.]*(/[A-Za-z0-9_][-A-Za-z0-9_.]*)*",
    "Write a path relative to DUJIANG_OUTPUT_DIR, without `..`, such as model.onnx.",
)
_VENDOR = Text("a vendor", 32, r"[a-z][-a-z0-9]{0,31}", "Vendors are in lower case: nvidia, amd, huawei.", str.lower)
_MODEL = Text("a device model", 64, r"[A-Za-z0-9]([- _./A-Za-z0-9]{0,62}[A-Za-z0-9])?", "For example H100.")

_SIZES = (
    r"^([1-9][0-9]{0,4}(\.(5|25|75))?[GM]i?B?|[1-9][0-9]{5,7}MiB|[1-9][0-9]{4,6}KiB"
    r"|([1-9][0-9]?(\.(5|25|75))?|1[0-9]{2}|2[0-4][0-9]|25[0-6])Ti?B?)$"
)
_D, _H, _M, _S = "[1-9][0-9]?d", "[1-9][0-9]{0,2}h", "[1-9][0-9]{0,3}m", "[1-9][0-9]{0,5}s"
_DURATIONS = f"^({_D}({_H})?({_M})?({_S})?|{_H}({_M})?({_S})?|{_M}({_S})?|{_S})$"
_UP_TO_AN_HOUR = "^(1h|([1-9]|[1-5][0-9])m(([1-9]|[1-5][0-9])s)?|[1-9][0-9]{0,2}s)$"
_SIGNALS = ("TERM", "INT", "HUP", "USR1", "USR2", "QUIT", "ALRM", "WINCH", "CONT")


def _size(least: int, most: int) -> Quantity[int]:
    described = {
        "anyOf": [{"type": "string", "pattern": _SIZES}, {"type": "integer", "minimum": least, "maximum": most}]
    }
    return Quantity("a size", parse_bytes, least, most, format_bytes, described, "Write a unit: 16GiB, 512MiB.")


def _duration(least: float, most: float, spellings: str = _DURATIONS) -> Quantity[float]:
    number = {"type": "number", "minimum": least, "maximum": most}
    described = {"anyOf": [{"type": "string", "pattern": spellings}, number]}
    return Quantity("a duration", parse_duration_s, least, most, format_duration, described, "Write 2h30m, 90s or 1d.")


def _share(least: int, most: int, described: list[Schema], advice: str = "") -> Quantity[int]:
    return Quantity("an amount", parse_milli, least, most, format_milli, {"anyOf": described}, advice)


_EIGHTHS = {"type": "string", "pattern": "^([1-7]/8|[1-3]/4|1/2|[1-9][0-9]{0,2}m|0?\\.[1-9][0-9]{0,2})$"}
_FRACTION = _share(
    1,
    999,
    [_EIGHTHS, {"type": "number", "minimum": 0.001, "maximum": 0.999, "multipleOf": 0.001}],
    "Write a share of one device, such as 0.5 or 1/8, or whole devices as count.",
)
_MAX_GPUS = 1024
_GPU_AMOUNT = _share(
    0,
    _MAX_GPUS * 1000,
    [{"type": "integer", "minimum": 0, "maximum": _MAX_GPUS}, *_FRACTION.described["anyOf"]],
    "Write 1, 2, 8 ... or a share of one device such as 0.5 or 1/8.",
)
_CPU = _share(
    10,
    100_000_000,
    [
        {"type": "number", "minimum": 0.01, "maximum": 100_000, "multipleOf": 0.001},
        {"type": "string", "pattern": "^([1-9][0-9]{2,4}m|[1-9][0-9]{0,3}(\\.[0-9]{1,3})?)$"},
    ],
    "Write cores: 4, 0.5 or 500m.",
)


def _gpu_of_amount(milli: int, value: Located, path: str, problems: Problems) -> Gpu | None:
    if milli > 1000 and milli % 1000:
        message = f"{format_milli(milli)} is neither whole devices nor a share of one."
        raise problems.refuse(
            path, message, f"Write {milli // 1000}, {milli // 1000 + 1}, or a share below 1.", at=value.at
        )
    return Gpu(milli) if milli else None


def _gpu(given: dict[str, Any], value: Located, path: str, problems: Problems) -> Gpu | None:
    if "count" in given and "fraction" in given:
        raise problems.refuse(path, "Both count and fraction are given.", "Keep one of them.", at=value.at)
    milli = given["fraction"] if "fraction" in given else 1000 * given.get("count", 1)
    return Gpu(milli, given.get("memory"), given.get("vendor"), given.get("model")) if milli else None


_GPU: Reader[Gpu | None] = OneOf(
    Record(
        "a GPU request",
        [
            Field(
                "count",
                Whole(0, _MAX_GPUS, "Write whole devices; a share of one is fraction."),
                "Whole devices for each node of the job.",
                default=1,
                default_note="Default 1 unless fraction is given.",
            ),
            Field(
                "fraction",
                _FRACTION,
                "A share of one device, in any thousandth: 0.5, 1/8, 125m.",
                examples=["1/8", 0.5],
            ),
            Field(
                "memory",
                _size(2**20, 2**48),
                "Device memory: for a share, how much of it; for whole devices, the least that each has.",
                default_note="Default: the same share of the device's memory.",
                examples=["40GiB"],
            ),
            Field("vendor", _VENDOR, "The maker of the device.", default_note="Default: any.", examples=["nvidia"]),
            Field(
                "model",
                _MODEL,
                "Part of the device's model name, upper or lower case.",
                default_note="Default: any.",
                examples=["H100"],
            ),
        ],
        _gpu,
        {
            "gpus": "Write count.",
            "number": "Write count.",
            "amount": "Write count.",
            "milli": "Write fraction.",
            "share": "Write fraction.",
            "mem": "Write memory.",
            "vram": "Write memory.",
            "type": "Write model.",
            "name": "Write model.",
            "kind": "Write model.",
            "manufacturer": "Write vendor.",
        },
        {"not": {"required": ["count", "fraction"]}},
    ),
    lambda value: None if isinstance(value.value, Mapping) else Mapped(_GPU_AMOUNT, _gpu_of_amount),
    [_GPU_AMOUNT.described],
)

_RESOURCES = Record(
    "a resource request",
    [
        Field(
            "gpu",
            _GPU,
            "Accelerators for each node of the job: 2, 0.5, 1/8, or a mapping.",
            default_note="Default: none.",
            examples=[2, "1/8", {"count": 8, "model": "H100"}],
        ),
        Field("cpu", _CPU, "Cores for each node of the job: 4, 0.5 or 500m.", default=1, examples=[4, "500m"]),
        Field(
            "memory",
            _size(2**20, 2**48),
            "Main memory for each node of the job; plain numbers are bytes.",
            default="1GiB",
            examples=["16GiB"],
        ),
        Field(
            "disk",
            _size(0, 2**48),
            "Local disk for each node of the job; plain numbers are bytes.",
            default=0,
            examples=["100GiB"],
        ),
    ],
    lambda given, value, path, problems: Resources(
        cpu_milli=given.get("cpu", 1000),
        memory_bytes=given.get("memory", 2**30),
        disk_bytes=given.get("disk", 0),
        gpu=given.get("gpu"),
    ),
    {
        "gpus": "Write gpu.",
        "accelerators": "Write gpu.",
        "accelerator": "Write gpu.",
        "devices": "Write gpu.",
        "nvidia.com/gpu": "Write gpu.",
        "cpus": "Write cpu.",
        "cores": "Write cpu.",
        "vcpu": "Write cpu.",
        "mem": "Write memory.",
        "ram": "Write memory.",
        "storage": "Write disk.",
        "disk_size": "Write disk.",
        "nodes": "nodes stands beside resources, not in it.",
        "limits": "There is one figure for each resource: the limit.",
        "requests": "There is one figure for each resource: the limit.",
        "shm_size": "Shared memory counts as memory.",
        "count": "Write gpu: {count: ...}.",
        "model": "Write gpu: {model: ...}.",
    },
)


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
                _CHECKPOINT_PATH,
                "Absolute folder for checkpoints, the same for every attempt; the program finds it as "
                "DUJIANG_CHECKPOINT_DIR.",
                default_note="Default: a folder of the job's own.",
            ),
            Field(
                "interval",
                _duration(0.001, 31_622_400),
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
    lambda value: Mapped(_CHECKPOINT_PATH, lambda text, *_: Checkpoint(text)) if isinstance(value.value, str) else None,
    [_CHECKPOINT_PATH.schema()],
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
            Field("variable", _VARIABLE, "The environment variable of the submitter that has it."),
            Field("file", _PATH, "The file of the submitter that has it."),
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
        Field("name", _NAME, "What the data is called.", required=True, examples=["digits"]),
        Field(
            "path",
            _PATH,
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
        Field("name", _NAME, "The registered model that gets a new version.", required=True, examples=["digits"]),
        Field("path", _INNER_PATH, "The file, relative to DUJIANG_OUTPUT_DIR.", required=True, examples=["model.onnx"]),
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

_WEIGHT = _share(
    100,
    1000,
    [{"type": "number", "minimum": 0.1, "maximum": 1.0, "multipleOf": 0.001}],
    "core is 0.8 to 1, normal 0.4 to 0.6, low 0.1 to 0.3.",
)


def job_fields() -> list[Field]:
    return [
        Field(
            "name",
            _NAME,
            "What people call the job; several may have the same.",
            default_note="Default: the file's name.",
            examples=["train-digits"],
        ),
        Field("project", _PROJECT, "Whose quota and bill it is.", default_note="Default: your own."),
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
        Field("resources", _RESOURCES, "What each node of the job gets, as a limit and as a promise."),
        Field(
            "nodes",
            Whole(1, 10_000),
            "Processes that start together, each with its own resources; they find one another "
            "by MASTER_ADDR, MASTER_PORT, WORLD_SIZE and RANK.",
            default=1,
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
            Table(_VARIABLE, AsText(_VALUE), "variables", 1000, ("DUJIANG_",), largest=_LINES),
            "Environment variables.",
        ),
        Field(
            "secrets",
            Table(_VARIABLE, _SECRET, "secrets", 100, ("DUJIANG_",)),
            "Environment variables that are shown "
            "nowhere: ${NAME} takes it from the environment of whoever submits, {file: path} from a file of theirs.",
            examples=[{"HF_TOKEN": "${HF_TOKEN}"}],
        ),
        Field(
            "params",
            Table(_PARAM, AnyScalar(4096), "parameters", 200, same=param_variable),
            "Hyper-parameters: the program "
            "finds NAME as DUJIANG_PARAM_NAME in upper case, and they are kept with what the job makes.",
            examples=[{"learning_rate": 0.001}],
        ),
        Field(
            "workdir",
            _PATH,
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
            _duration(1, 31_622_400),
            "The longest an attempt may run: 2h30m, 90s; plain numbers are seconds.",
            default_note="Default: none.",
            examples=["2h30m"],
        ),
        Field(
            "grace",
            _duration(0, 3600, _UP_TO_AN_HOUR),
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
        Field("labels", Table(_LABEL, AsText(255), "labels", 64), "Words of your own to find the job by."),
    ]
