"""`dujiang models`, `deploy`, `deployments`, `predict`: from a registered model to an answer."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from dujiang.cli.exits import Exit
from dujiang.cli.output import (
    Column,
    ago,
    clean,
    col,
    figure,
    heading,
    listing,
    moment,
    say,
    size,
    stated,
    write_facts,
    write_json,
)
from dujiang.cli.session import Json, Project, Stop, connect

models_app = typer.Typer(help="Registered models.", invoke_without_command=True, no_args_is_help=False)
deployments_app = typer.Typer(help="Models that answer.", invoke_without_command=True, no_args_is_help=False)
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Name, or NAME:VERSION.")]

_MODELS = (
    col("NAME"),
    col("PROJECT"),
    Column("LATEST", lambda model: _latest(model)),
    Column(
        "VERSIONS", lambda model: model.get("versions") if isinstance(model.get("versions"), int) else None, right=True
    ),
    Column("CREATED", lambda model: ago(model.get("created_at"))),
    col("ID"),
)
_VERSIONS = (
    col("VERSION"),
    col("STATE"),
    Column("ALIASES", lambda version: ", ".join(version.get("aliases") or []) or None),
    Column("ACCURACY", lambda version: _metric(version, "accuracy"), right=True),
    Column("SIZE", lambda version: size(version.get("bytes") or version.get("size_bytes"))),
    Column("JOB", lambda version: version.get("job_id") or (version.get("lineage") or {}).get("job_id")),
    Column("CREATED", lambda version: ago(version.get("created_at"))),
)
_WHY = Column("WHY", lambda version: version.get("sentence") or None, below=True)
"""Shown where a version is not what was hoped for."""


@models_app.callback()
def list_models(context: typer.Context, project: Project = None, json: Json = False) -> None:
    """List registered models."""
    if context.invoked_subcommand is None:
        with connect() as client:
            empty = "No model is registered; a job with `outputs: {model: {name: ..., path: ...}}` registers one."
            listing(client.items("/v1/models", project=project), _MODELS, as_json=json, empty=empty)


@models_app.command("versions")
def list_versions(model: ModelName, project: Project = None, json: Json = False) -> None:
    """List the versions of a model."""
    from dujiang.client import segment

    with connect() as client:
        rows = client.items(f"/v1/models/{segment(model)}/versions", project=project)
        found = list(rows)
        wrong = any(version.get("sentence") for version in found)
        listing(found, (*_VERSIONS, _WHY) if wrong else _VERSIONS, as_json=json, empty="It has no version.")


@models_app.command("show")
def show_version(model: ModelName, project: Project = None, json: Json = False) -> None:
    """Show a version and what it was made from: job, data, parameters, figures."""
    from dujiang.client import segment

    name, _, version = model.partition(":")
    with connect() as client:
        versions = list(client.items(f"/v1/models/{segment(name)}/versions", project=project))
        wanted = _pick(versions, version, model)
        found = client.get(f"/v1/models/{segment(name)}/versions/{segment(wanted['version'])}", project=project)
    if json:
        write_json(found)
        return
    lineage = found.get("lineage") or found
    heading(f"{clean(name)} {clean(found.get('version'))}")
    inputs = lineage.get("inputs") or {}
    listed = inputs.items() if isinstance(inputs, dict) else [(each.get("name"), each) for each in inputs]
    write_facts(
        [
            ("state", stated(found)),
            ("why", found.get("sentence") or None),
            ("aliases", ", ".join(found.get("aliases") or [])),
            ("created", moment(found.get("created_at"))),
            ("job", lineage.get("job_id")),
            ("attempt", lineage.get("attempt")),
            ("data", "\n".join(f"{name} {_digest(facts)}" for name, facts in listed)),
            ("parameters", _pairs(lineage.get("params") or found.get("params"))),
            ("figures", _pairs(found.get("metrics") or lineage.get("metrics"))),
            ("digest", found.get("digest") or (found.get("artifact") or {}).get("digest")),
            ("environment", _environment(lineage.get("environment"))),
        ]
    )


@models_app.command("alias")
def set_alias(
    model: ModelName,
    alias: Annotated[str, typer.Argument(help="A word such as production.")],
    remove: Annotated[bool, typer.Option("--remove", help="Let it name nothing.")] = False,
    project: Project = None,
) -> None:
    """Let an alias name a version: MODEL:VERSION ALIAS; moving it back is the rollback."""
    from dujiang.client import segment

    name, _, version = model.partition(":")
    suffix = f"?project={segment(project)}" if project else ""
    path = f"/v1/models/{segment(name)}/aliases/{segment(alias)}{suffix}"
    with connect() as client:
        if remove:
            client.delete(path)
            say(f"{alias} names no version of {name} any more.")
        else:
            found = client.put(path, {"version": version or "latest"})
            say(f"{alias} is {name} {found['version']}.")


@models_app.command("download")
def download(
    model: ModelName,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File; else MODEL-VERSION.onnx here.")] = None,
    project: Project = None,
) -> None:
    """Fetch the file of a version, checked by its digest."""
    from dujiang.cli.fetching import fetch_artifact

    say(f"{fetch_artifact(model, output, project)} is written.")


def _pick(versions: list[dict[str, Any]], wanted: str, given: str) -> dict[str, Any]:
    if not versions:
        raise Stop(f'"{given}" has no version.', Exit.NOT_FOUND)
    if not wanted or wanted == "latest":
        return max(versions, key=lambda each: (str(each.get("created_at")), _numbers(each["version"])))
    for each in versions:
        if each["version"].lstrip("v") == wanted.lstrip("v") or wanted in (each.get("aliases") or []):
            return each
    known = ", ".join(each["version"] for each in versions[:5])
    raise Stop(f'There is no version "{wanted}"; there are {known}.', Exit.NOT_FOUND)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.lstrip("v").split(".") if part.isdigit())


def _latest(model: Any) -> str | None:
    latest = model.get("latest_version") or model.get("latest")
    return latest.get("version") if isinstance(latest, dict) else latest


def _metric(version: Any, name: str) -> str | None:
    value = (version.get("metrics") or {}).get(name)
    return None if value is None else figure(value)


def _digest(facts: Any) -> str:
    if not isinstance(facts, dict):
        return str(facts)
    return f"{facts.get('digest', '')} ({size(facts.get('bytes'))})"


def _pairs(values: Any) -> str:
    return ", ".join(f"{name}={figure(value)}" for name, value in values.items()) if isinstance(values, dict) else ""


def _environment(facts: Any) -> str:
    if not isinstance(facts, dict) or not facts:
        return ""
    return f"Python {facts.get('python', '?')}, {len(facts.get('packages') or {})} packages"


def deploy(
    model: ModelName,
    name: Annotated[str | None, typer.Option("--name", help="Of the deployment; else the model's.")] = None,
    project: Project = None,
    cpu: Annotated[str | None, typer.Option("--cpu", help="Cores for the service.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="Memory for the service.")] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", help="2, 0.5, 1/8 ... for the service.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it answers.")] = True,
    json: Json = False,
) -> None:
    """Deploy a version of a model as an HTTP service on the pool; a deployment of that name is moved to it."""
    from dujiang.cli.deploying import start_deployment

    wanted = {"cpu": cpu, "memory": memory, "gpu": gpu}
    resources = {field: value for field, value in wanted.items() if value is not None}
    found = start_deployment(model, name=name, project=project, resources=resources, wait=wait, quiet=json)
    if json:
        write_json(found)
    else:
        _write_deployment(found)


_DEPLOYMENTS = (
    col("NAME"),
    Column("MODEL", lambda one: f"{one.get('model')}:{one.get('version')}"),
    col("STATE"),
    col("REASON"),
    Column("ADDRESS", lambda one: one.get("url") or one.get("endpoint")),
    Column("JOB", lambda one: one.get("job_id")),
    Column("CREATED", lambda one: ago(one.get("created_at"))),
)


@deployments_app.callback()
def list_deployments(context: typer.Context, project: Project = None, json: Json = False) -> None:
    """List deployments."""
    if context.invoked_subcommand is None:
        with connect() as client:
            empty = "Nothing is deployed; `dujiang deploy MODEL` deploys a version."
            listing(client.items("/v1/deployments", project=project), _DEPLOYMENTS, as_json=json, empty=empty)


@deployments_app.command("show")
def show_deployment(name: Annotated[str, typer.Argument()], project: Project = None, json: Json = False) -> None:
    """Show a deployment."""
    from dujiang.client import segment

    with connect() as client:
        found = client.get(f"/v1/deployments/{segment(name)}", project=project)
    if json:
        write_json(found)
    else:
        _write_deployment(found)


@deployments_app.command("remove")
def remove_deployment(name: Annotated[str, typer.Argument()], project: Project = None) -> None:
    """Stop a deployment and its service."""
    from dujiang.client import segment

    suffix = f"?project={segment(project)}" if project else ""
    with connect() as client:
        client.delete(f"/v1/deployments/{segment(name)}{suffix}")
    say(f"{name} is being removed.")


def _write_deployment(found: dict[str, Any]) -> None:
    write_facts(
        [
            ("deployment", found.get("name")),
            ("model", f"{found.get('model')}:{found.get('version')}"),
            ("state", stated(found)),
            ("address", found.get("url") or found.get("endpoint")),
            ("job", found.get("job_id")),
        ]
    )


def predict(
    name: Annotated[str, typer.Argument(metavar="DEPLOYMENT")],
    input: Annotated[
        str, typer.Argument(help="JSON: an Open Inference request, or rows; a file, or - for input.")
    ] = "-",
    project: Project = None,
    json: Json = False,
) -> None:
    """Ask a deployment; prints the outputs."""
    from dujiang.client import segment

    given = _request(input)
    with connect() as client:
        body = given if isinstance(given, dict) else rows_request(given, _input_name(client, name, project))
        answer = client.post(f"/v1/deployments/{segment(name)}/predict", body, project=project)
    if json:
        write_json(answer)
        return
    for output in answer.get("outputs", []):
        shape = "x".join(str(each) for each in output.get("shape", []))
        heading(f"{clean(output.get('name'))} {clean(output.get('datatype'))} {shape}")
        data = output.get("data", [])
        shown = ", ".join(figure(value) for value in data[:40])
        sys.stdout.write(f"  {clean(shown)}{f' ... {len(data) - 40} more' if len(data) > 40 else ''}\n")


def _request(given: str) -> Any:
    """Return an inference request as a mapping, or rows as a list."""
    try:
        text = (
            sys.stdin.read() if given == "-" else given if given.lstrip()[:1] in {"{", "["} else Path(given).read_text()
        )
    except OSError as error:
        raise Stop(f"{given} cannot be read: {error.strerror}.", Exit.USAGE) from error
    except UnicodeDecodeError as error:
        raise Stop(f"{given} is not JSON: it is not text.", Exit.USAGE) from error
    try:
        value = json_module.loads(text)
    except (ValueError, RecursionError) as error:
        raise Stop(f"The input is not JSON: {error}.", Exit.USAGE) from error
    if isinstance(value, dict) and "inputs" in value:
        return value
    rows = value.get("images") if isinstance(value, dict) else value
    if not isinstance(rows, list) or not rows:
        raise Stop(
            'Write {"inputs": [...]} as in the Open Inference Protocol, or a list of rows of numbers.', Exit.USAGE
        )
    return rows


def _input_name(client: Any, deployment: str, project: str | None) -> str:
    """Return what the deployed model calls its first input."""
    from dujiang.client import Problem, segment

    try:
        found = client.get(f"/v1/deployments/{segment(deployment)}", project=project)
        path = f"/v1/models/{segment(found['model'])}/versions/{segment(found['version'])}"
        return str(client.get(path, project=found["project_id"])["inputs"][0]["name"])
    except (Problem, LookupError):
        return "images"  # the question itself says better what is wrong


def rows_request(rows: list[Any], name: str = "images") -> dict[str, Any]:
    """Return the Open Inference request of rows of numbers.

    Raises:
        Stop: the rows are not of one length.
    """
    matrix = rows if isinstance(rows[0], list) else [rows]
    if any(not isinstance(row, list) or len(row) != len(matrix[0]) for row in matrix):
        raise Stop("All rows must have the same number of values.", Exit.USAGE)
    data = [value for row in matrix for value in row]
    return {"inputs": [{"name": name, "shape": [len(matrix), len(matrix[0])], "datatype": "FP32", "data": data}]}
