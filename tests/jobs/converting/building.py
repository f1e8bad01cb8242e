"""Short ways to have something converted, and to look at what came of it."""

from __future__ import annotations

from typing import Any

import yaml

from dujiang.jobs.converting import Around, Converted, convert, to_yaml
from dujiang.jobs.spec import JobSpec, SpecInvalid, parse


def converted(text: str, around: Around | None = None) -> Converted:
    """Return the one job of a text; its YAML has been seen to read to the same."""
    made = convert(text, around)
    (item,) = made.items
    assert parse(to_yaml(made)) == [item.spec]
    return item


def refused(text: str) -> list[str]:
    """Return everything that is wrong with a text."""
    try:
        convert(text)
    except SpecInvalid as error:
        return [str(problem) for problem in error.problems]
    raise AssertionError("nothing was wrong")


def notes(item: Converted, path: str = "") -> str:
    """Return the notes whose path has a word in it, as one text."""
    return "\n".join(str(note) for note in item.notes if path in note.path)


def dumped(value: Any) -> str:
    """Return an object as YAML."""
    return yaml.safe_dump(value, sort_keys=False)


def a_pod(*, container: dict[str, Any] | None = None, metadata: dict[str, Any] | None = None, **spec: Any) -> str:
    """Return a Pod that asks for a core and a GiB and runs `true`."""
    inner = {"name": "c", "image": "team/train:1", "command": ["true"],
             "resources": {"limits": {"cpu": 1, "memory": "1Gi"}}, **(container or {})}  # fmt: skip
    return dumped(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "p", **(metadata or {})},
            "spec": {"restartPolicy": "Never", "containers": [inner], **spec},
        }
    )


def a_job(*, container: dict[str, Any] | None = None, pod: dict[str, Any] | None = None, **spec: Any) -> str:
    """Return a Job whose Pod is as `a_pod` makes it."""
    inner = yaml.safe_load(a_pod(container=container, **(pod or {})))["spec"]
    whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}}
    return dumped({**whole, "spec": {"template": {"spec": inner}, **spec}})


def a_script(*options: str, body: str = "true", shell: str = "/bin/bash") -> str:
    """Return a batch script."""
    return "\n".join([f"#!{shell}", *(f"#SBATCH {option}" for option in options), body])


def spec_of(*options: str, body: str = "true") -> JobSpec:
    """Return the job of a batch script."""
    return converted(a_script(*options, body=body)).spec
