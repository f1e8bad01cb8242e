"""What holds for every text and every specification."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from dujiang.jobs.spec import JobSpec, Problem, SpecInvalid, json_schema, parse, read
from dujiang.jobs.spec.fields import job_fields
from dujiang.jobs.spec.words import mended_name
from tests.jobs.spec.strategies import JSON_VALUES, from_schema

SCHEMA = json_schema()
VALIDATOR = jsonschema_rs.Draft202012Validator(SCHEMA)
DOCUMENTS = from_schema(SCHEMA)
FIELD_NAMES = st.sampled_from([field.name for field in job_fields()])
relaxed = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


def understood(source: str | bytes) -> list[JobSpec] | SpecInvalid:
    """Parse, letting only the typed error through, and check that the error is fit to be shown."""
    try:
        return parse(source)
    except SpecInvalid as error:
        found = error
    assert found.problems
    json.dumps(found.problem(), allow_nan=False).encode()
    assert all(c.isprintable() for problem in found.problems for c in problem.message + problem.instead)
    return found


@given(st.binary(max_size=300))
@relaxed
def test_any_bytes_give_jobs_or_the_typed_error(source: bytes) -> None:
    understood(source)


WORDS = (
    *("run", "name", "resources", "gpu", "1/8", "x", "é", "😀", "~"),
    *(
        ": ",
        "\n",
        "  ",
        "- ",
        "{",
        "}",
        "[",
        "]",
        "&a ",
        "*a",
        "<<",
        "|",
        ">",
        '"',
        "'",
        "#",
        "? ",
        "%",
        "\t",
        "@",
        "`",
        ",",
        "\\",
    ),
    *("---\n", "...\n", "!!str ", "\x85", "\u2028"),
)


@given(st.lists(st.sampled_from(WORDS), max_size=40).map("".join))
@settings(relaxed, max_examples=500)
def test_any_heap_of_yaml_gives_jobs_or_the_typed_error(source: str) -> None:
    understood(source)


@given(st.dictionaries(FIELD_NAMES, JSON_VALUES, max_size=6) | JSON_VALUES)
@settings(relaxed, max_examples=300)
def test_any_json_gives_a_job_or_the_typed_error(document: Any) -> None:
    try:
        result: JobSpec | list[Problem] = read(document)
    except SpecInvalid as error:
        json.dumps(error.problem(), allow_nan=False)
        result = list(error.problems)
    assert result


def agree(document: dict[str, Any]) -> None:
    """Mend what fields say of one another that a schema cannot say."""
    nodes, placement, resources = (document.get(name) for name in ("nodes", "placement", "resources"))
    if isinstance(nodes, dict):
        document["nodes"] = {"min": min(nodes.values()), "max": max(nodes.values())}
    if isinstance(nodes, str):
        document["nodes"] = "-".join(sorted(nodes.split("-"), key=int))
        if int(document["nodes"].split("-")[1]) > 10_000:
            document["nodes"] = "1-2"
    if placement:
        if "within" not in placement:
            placement.pop("required", None)
        elif "spread" in placement:
            placement["required"] = False
        placement.pop("isolation", None)
    if resources and resources.get("any_of"):
        resources.pop("gpu", None)
    if document.get("kind") == "service" or not isinstance(document.get("deadline"), str):
        document.pop("deadline", None)
    if "deadline" in document:
        document["time_limit"] = 1
    _agree_on_launch(document)


def _agree_on_launch(document: dict[str, Any]) -> None:
    distributed, run = document.get("distributed"), document.get("run")
    first = run[0] if isinstance(run, list) else str(run)
    if document.get("kind") == "service" or document.get("resources") or first.startswith("#!"):
        document.pop("distributed", None)
    elif isinstance(distributed, dict):
        if distributed["launcher"] in ("none", "tensorflow", "jax"):
            distributed.pop("processes", None)
        if distributed["launcher"] in ("none", "tensorflow", "jax", "lightning"):
            distributed.pop("args", None)


@given(DOCUMENTS)
@relaxed
def test_what_the_schema_accepts_the_reader_accepts(document: dict[str, Any]) -> None:
    assume(not document.get("env", {}).keys() & document.get("secrets", {}).keys())  # a schema cannot say this
    if document.get("kind") == "service" and document.get("ports") == 0:
        document["ports"] = 1
    agree(document)
    VALIDATOR.validate(document)
    spec = read(document)
    assert read(json.loads(json.dumps(spec.document(reveal_secrets=True)))) == spec


@given(DOCUMENTS)
@relaxed
def test_every_rendered_specification_parses_to_itself_and_suits_the_schema(document: dict[str, Any]) -> None:
    try:
        spec = read(document)
    except SpecInvalid:
        return
    revealed = spec.document(reveal_secrets=True)
    VALIDATOR.validate(revealed)
    assert parse(json.dumps(revealed)) == [spec]
    hidden = spec.document()
    again = read(hidden)
    assert again.document() == hidden


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=80))
@relaxed
def test_no_secret_is_shown(value: str) -> None:
    value = f"s3cr3t-{value}"
    spec = read({"run": "x", "secrets": {"TOKEN": value}})
    assert spec.secret_values == {"TOKEN": value}
    assert json.dumps(value)[1:-1] not in json.dumps(spec.document()) + repr(spec)
    with pytest.raises(SpecInvalid) as caught:
        read({"run": 5, "secrets": {"TOKEN": value, "OTHER": {"value": value, "file": "f"}, "MORE": value + "\0"}})
    assert value not in caught.value.sentence


@given(st.text(max_size=300))
def test_a_mended_name_is_a_name(text: str) -> None:
    mended = mended_name(text)
    assert mended == "" or read({"run": "x", "name": mended}).name == mended


def test_the_committed_schema_is_the_published_one() -> None:
    committed = Path(__file__).parents[3] / "docs" / "job.schema.json"
    assert json.loads(committed.read_text()) == SCHEMA, (
        "write it anew: python -m dujiang.jobs.spec > docs/job.schema.json"
    )
    jsonschema_rs.meta.validate(SCHEMA)


def test_the_schema_describes_every_field_and_its_examples_are_true() -> None:
    for name, field in SCHEMA["properties"].items():
        assert len(field["description"]) > 10, name
        for example in field.get("examples", []):
            read({"run": "x", "time_limit": "1h"} | {name: example})
