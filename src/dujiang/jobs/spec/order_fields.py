"""The fields `after` and `array`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dujiang.jobs.spec.order import INDICES, MOST_AFTER, MOST_TASKS, After, BadIndices, JobArray, When, parse_indices
from dujiang.kit.spec.problems import Problems
from dujiang.kit.spec.readers import Choice, Field, Many, Mapped, OneOf, Reader, Record, Text, Whole
from dujiang.kit.spec.yaml import Located

_REF: Final = r"[a-z0-9]([-_a-z0-9]{0,61}[a-z0-9])?"
_JOB = Text("a job's id or name", 63, _REF, "Write the id or the name as `dujiang ps` shows it.")
_SHORT = Text(
    "a job's id or name",
    70,
    _REF + "(:(ok|any|notok))?",
    "Write the id or the name as `dujiang ps` shows it, then perhaps :any or :notok.",
)


def _after(text: str, value: Located, path: str, problems: Problems) -> After:
    job, _, when = text.partition(":")
    return After(job, When(when) if when else When.OK)


_AFTER: Reader[After] = OneOf(
    Record(
        "a dependency",
        [
            Field("job", _JOB, "Id or name of a job, or of an array.", required=True, examples=["prepare"]),
            Field(
                "when",
                Choice(When),
                "ok: it completed; any: it ended, however it did; notok: it ended without completing.",
                default=When.OK.value,
            ),
        ],
        lambda given, value, path, problems: After(given["job"], given.get("when", When.OK)),
        {
            "id": "Write job.",
            "name": "Write job.",
            "type": "Write when: ok, any or notok.",
            "condition": "Write when: ok, any or notok.",
            "status": "Write when: ok, any or notok.",
            "afterok": "Write job: ..., when: ok.",
            "afterany": "Write job: ..., when: any.",
            "afternotok": "Write job: ..., when: notok.",
        },
    ),
    lambda value: None if isinstance(value.value, Mapping) else Mapped(_SHORT, _after),
    [_SHORT.schema()],
)
AFTER = Many(_AFTER, "dependencies", MOST_AFTER, lambda after: after.job, unique_items=True)


_SIZE = Whole(1, MOST_TASKS, f"An array has 1 to {MOST_TASKS} tasks.")
_AT_ONCE = Field(
    "at_once", Whole(1, MOST_TASKS), "How many tasks may run at the same time.", default_note="Default: all."
)
_INDICES = Text("a list of indices", 4096, INDICES, f"Write such as 0-9,15,20-30:2, each index below {MOST_TASKS}.")
_EXPRESSION = Text(
    "a list of indices",
    4100,
    INDICES + "(%[1-9][0-9]{0,3})?",
    "Write such as 0-9,15,20-30:2, and perhaps %5 for five tasks at once.",
)
_WORDS = {
    **dict.fromkeys(("count", "tasks", "length", "n", "completions"), "Write size."),
    **dict.fromkeys(("range", "ids", "index", "items"), "Write indices."),
    **dict.fromkeys(("limit", "parallelism", "max_parallel", "concurrency", "slots"), "Write at_once."),
    **dict.fromkeys(("size", "indices"), "Write size or indices, not both."),
}


def _sized(given: dict[str, Any], value: Located, path: str, problems: Problems) -> JobArray:
    return _of_size(given["size"], given.get("at_once"))


def _of_size(size: int, at_once: int | None = None) -> JobArray:
    return JobArray(f"0-{size - 1}" if size > 1 else "0", at_once)


def _listed(given: dict[str, Any], value: Located, path: str, problems: Problems) -> JobArray:
    return _checked(given["indices"], given.get("at_once"), value, path, problems)


def _of_text(text: str, value: Located, path: str, problems: Problems) -> JobArray:
    indices, _, limit = text.partition("%")
    return _checked(indices, int(limit) if limit else None, value, path, problems)


def _checked(indices: str, at_once: int | None, value: Located, path: str, problems: Problems) -> JobArray:
    try:
        parse_indices(indices)
    except BadIndices as error:
        raise problems.refuse(path, error.sentence, at=value.at) from error
    return JobArray(indices, at_once)


_BY_SIZE = Record(
    "an array",
    [Field("size", _SIZE, "How many tasks; their indices are 0, 1, 2 ...", required=True, examples=[100]), _AT_ONCE],
    _sized,
    _WORDS,
)
_BY_INDICES = Record(
    "an array",
    [
        Field(
            "indices",
            _INDICES,
            "Single indices and ranges with both ends, a step after a colon.",
            required=True,
            examples=["0-9,15,20-30:2"],
        ),
        _AT_ONCE,
    ],
    _listed,
    _WORDS,
)


def _short(value: Located) -> Reader[JobArray] | None:
    match value.value:
        case Mapping():
            return _BY_SIZE if "size" in value.value else None
        case int():
            return Mapped(_SIZE, lambda size, *_: _of_size(size))
        case _:
            return Mapped(_EXPRESSION, _of_text)


ARRAY: Reader[JobArray] = OneOf(_BY_INDICES, _short, [_SIZE.schema(), _EXPRESSION.schema(), _BY_SIZE.schema()])
