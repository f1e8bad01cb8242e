"""Keep docs/configuration.md the settings as they are: `python docs/configuration.py > docs/configuration.md`."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from dujiang.bootstrap.settings import Settings
from dujiang.kit.settings import variable

HEAD = """# Configuration

Nothing has to be set: the defaults fit one machine. What is set comes from, the first that says something counts:

1. a flag of `dujiang up` (`--port`, `--host`, `--simulate`, `--database`, `--no-loops`),
2. an environment variable, such as `DUJIANG_JOBS__LOST_AFTER_S=2m`,
3. `dujiang.toml` in the home folder (`DUJIANG_HOME`, else `~/.dujiang`), such as

```toml
[jobs]
lost_after_s = "2m"

[billing]
time_zone = "Asia/Shanghai"
```

Times may be written `30`, `90s`, `2h30m`, sizes `512MiB`, `16GiB`. An unknown name, or a value that means nothing,
stops the start and is told with its place. This page is made from the settings themselves (`docs/configuration.py`).
"""


def page() -> str:
    """Return the page."""
    parts = [HEAD]
    for name, info in Settings.model_fields.items():
        branch: Any = info.annotation
        if get_origin(branch) is dict:
            parts.append(_tables(name, get_args(branch)[1]))
            continue
        parts.append(f"## {name}\n\n{_sentence(branch)}\n\n| setting | default | meaning |\n| --- | --- | --- |")
        rows = [
            f"| `{name}.{setting}`<br>`{variable(f'{name}.{setting}')}` | `{_default(field)}` | {meaning} |"
            for setting, field, meaning in _fields(branch)
        ]
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def _tables(name: str, branch: Any) -> str:
    """Return the part of a table with free names: in the file alone."""
    head = f"## {name}.NAME\n\n{_sentence(branch)}\n\n| setting | default | meaning |\n| --- | --- | --- |\n"
    told = _told(branch)
    rows = [f"| `{name}.NAME.{field}` | `{_plain(info.default)}` | {told.get(field, '')} |"
            for field, info in branch.model_fields.items()]  # fmt: skip
    below = [_nested(f"{name}.NAME.{field}", branch)
             for field, info in branch.model_fields.items()
             for branch in get_args(info.annotation)
             if dataclasses.is_dataclass(branch)]  # fmt: skip
    return "\n".join([head + "\n".join(rows) + "\n", *below])


def _nested(name: str, branch: Any) -> str:
    """Return the part of a table within a table with a free name."""
    rows = [f"| `{name}.{each}` | `{_default(field)}` | {meaning} |" for each, field, meaning in _fields(branch)]
    head = f"### {name}\n\n{_sentence(branch)}\n\n| setting | default | meaning |\n| --- | --- | --- |\n"
    return head + "\n".join(rows) + "\n"


def _sentence(branch: Any) -> str:
    return " ".join((inspect.getdoc(branch) or "").split())


def _fields(branch: Any) -> Iterator[tuple[str, dataclasses.Field[Any], str]]:
    """Yield the fields of a branch and of those within it, each with the text that stands below it in the source."""
    for name, field, owner in _leaves(branch):
        yield name, field, _told(owner).get(field.name, "").replace("|", "\\|")


def _leaves(branch: Any, above: str = "") -> Iterator[tuple[str, dataclasses.Field[Any], Any]]:
    for field in dataclasses.fields(branch):
        if dataclasses.is_dataclass(field.default):
            yield from _leaves(type(field.default), f"{above}{field.name}.")
        else:
            yield f"{above}{field.name}", field, branch


def _told(branch: Any) -> dict[str, str]:
    body = ast.parse(inspect.getsource(branch)).body[0]
    assert isinstance(body, ast.ClassDef)
    told: dict[str, str] = {}
    for before, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and isinstance(after, ast.Expr):
            told[before.target.id] = " ".join(str(ast.literal_eval(after.value)).split())
    return told


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        return "must be set"
    return _plain(field.default if field.default is not dataclasses.MISSING else field.default_factory())  # type: ignore[misc]


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple) and value:
        return ", ".join(map(str, value))
    return (
        '""'
        if value == ""
        else "[]"
        if value == ()
        else "{}"
        if value == {}
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


if __name__ == "__main__":
    sys.stdout.write(page())
