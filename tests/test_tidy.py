"""Rules of the house that were said twice: each is a check here, with the exceptions named and their reasons."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from dujiang.cli.app import command
from dujiang.cli.exits import MEANINGS
from dujiang.jobs.spec.schema import json_schema

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "dujiang"
LONGEST_FILE = 600

# Where the world's clock, ids and chance may be touched; everywhere else they are handed in.
WORLDLY = ("kit/", "bootstrap/", "bootstrap.py")
# File, and why it may all the same. A file named here that no longer needs it fails the test too.
WORLDLY_EXCEPTIONS: dict[str, str] = {}

# By halves, so that this file does not name them either. Where packages come from is the machine's own setting.
REGISTRIES = tuple(
    first + last
    for first, last in (
        ("pypi", ".org"), ("python", "hosted.org"), ("registry.", "npmjs"), ("npmjs", ".com"), ("yarn", "pkg.com"),
        ("proxy.", "golang.org"), ("sum.", "golang.org"), ("deb.", "debian.org"), ("archive.", "ubuntu.com"),
        ("crates", ".io"), ("registry-1.", "docker.io"), ("docker", ".io/"), ("ghcr", ".io"), ("quay", ".io"),
        ("conda.", "anaconda.org"), ("repo.", "maven"), ("rubygems", ".org"), ("download.", "pytorch.org"),
    )
)  # fmt: skip


@cache
def committed() -> tuple[Path, ...]:
    """Every file of the repository, those not yet added too; without git, every file of a source archive."""
    if shutil.which("git") and (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        found = [ROOT / name for name in listed.split("\0") if name]
    else:
        found = [path for path in ROOT.rglob("*") if not {".venv", "__pycache__"} & set(path.parts)]
    return tuple(path for path in sorted(found) if path.is_file())


@cache
def sources() -> dict[str, tuple[str, ast.Module]]:
    """Every module of the package by its path in it: text and tree."""
    texts = {path.relative_to(SOURCE).as_posix(): path.read_text() for path in sorted(SOURCE.rglob("*.py"))}
    return {name: (text, ast.parse(text, name)) for name, text in texts.items()}


@cache
def project() -> dict[str, object]:
    """What pyproject.toml says."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def direct_dependencies() -> list[Requirement]:
    """What the project names itself, optional parts too."""
    table = project()["project"]
    assert isinstance(table, dict)
    named = [*table["dependencies"], *(each for extra in table["optional-dependencies"].values() for each in extra)]
    return [Requirement(each) for each in named]


def imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every module that is imported, with its line; of `from a import b` also `a.b`, which may be one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


# The source


def test_no_file_of_the_source_is_too_long() -> None:
    long = {
        name: lines
        for name, (text, _) in sources().items()
        if (lines := text.count("\n")) > LONGEST_FILE and not name.startswith("migrations/versions/")  # made by Alembic
    }
    assert not long, f"longer than {LONGEST_FILE} lines: make a package of the same name of each"


def test_every_module_says_what_it_is_for() -> None:
    silent = [name for name, (text, tree) in sources().items() if text.strip() and not ast.get_docstring(tree)]
    assert not silent


def worldly(tree: ast.Module) -> Iterator[str]:
    """Say each touch of the world's own clock, ids and chance."""
    for name, line in imports(tree):
        if name.split(".")[0] in {"random", "uuid"}:
            yield f"line {line}: import {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if re.search(r"\b(datetime\.(now|utcnow|today)|date\.today|time\.(time|time_ns)|uuid[1-8])$", called):
                yield f"line {node.lineno}: {called}()"
            if called.endswith("default_rng") and not (node.args or node.keywords):
                yield f"line {node.lineno}: {called}() without a seed"


def test_clock_ids_and_chance_are_handed_in() -> None:
    touching = {name: found for name, (_, tree) in sources().items() if (found := list(worldly(tree)))}
    touching = {name: found for name, found in touching.items() if not name.startswith(WORLDLY)}
    assert {name: found for name, found in touching.items() if name not in WORLDLY_EXCEPTIONS} == {}
    assert set(WORLDLY_EXCEPTIONS) <= set(touching), "an exception that is not needed any more"


def test_the_check_of_clock_ids_and_chance_sees_them() -> None:
    code = (
        "import random, time\nfrom uuid import uuid4\ndatetime.now(UTC), time.time(), uuid4(), np.random.default_rng()"
    )
    assert len(list(worldly(ast.parse(code)))) == 7  # three imports' names and four calls
    assert not list(worldly(ast.parse("clock.now(), time.monotonic(), default_rng(7), datetime(2026, 1, 1)")))


def test_what_decides_knows_no_database_no_network_and_no_clock() -> None:
    banned = {"sqlalchemy", "fastapi", "httpx", "asyncio", "time", "random", "starlette", "uvicorn"}
    found = [
        f"{name}:{line} imports {module}"
        for name, (_, tree) in sources().items()
        if re.match(r"[a-z]+/domain(\.py|/)", name)
        for module, line in imports(tree)
        if module.split(".")[0] in banned
    ]
    assert not found


def test_a_context_is_entered_by_its_doors() -> None:
    """No context reads another's tables or calls its routes and loops; the API and bootstrap put them together."""
    inner = re.compile(r"dujiang\.([a-z]+)\.([a-z_]*store|api|loop)\b")
    found = []
    for name, (_, tree) in sources().items():
        context = name.split("/")[0].removesuffix(".py")
        for module, line in imports(tree):
            entered = inner.match(module)
            if entered and entered[1] not in {context, "kit"} and context not in {"bootstrap", "api"}:
                found.append(f"{name}:{line} imports {module}")
    assert not found


# What is published beside it


def test_the_schema_of_a_job_is_the_one_that_is_read() -> None:
    published = json.loads((ROOT / "docs" / "job.schema.json").read_text())
    assert published == json_schema(), "run: .venv/bin/python -m dujiang.jobs.spec > docs/job.schema.json"


def test_no_file_names_a_registry() -> None:
    found = []
    for path in committed():
        text = path.read_bytes().decode(errors="replace").lower()
        found += [f"{path.relative_to(ROOT)}: {host}" for host in REGISTRIES if host in text]
    assert not found


@pytest.mark.parametrize("lock", sorted(path.name for path in (ROOT / "requirements").glob("*.txt")))
def test_locks_pin_by_hash_and_name_no_address(lock: str) -> None:
    text = (ROOT / "requirements" / lock).read_text()
    assert "://" not in text
    assert "--index" not in text
    entries = re.split(r"\n(?=\S)", text.replace("\\\n", " ").strip())
    pinned = [entry for entry in entries if entry and not entry.startswith("#")]
    assert len(pinned) > 20
    loose = [entry.split()[0] for entry in pinned if "==" not in entry or "--hash=sha256:" not in entry]
    assert not loose


def test_the_lock_holds_every_direct_dependency_as_it_is_asked_for() -> None:
    locked: dict[str, list[Version]] = {}
    for name, version in re.findall(
        r"^([\w.-]+)==([^\s;]+)", (ROOT / "requirements/dev.txt").read_text(), re.MULTILINE
    ):
        locked.setdefault(canonicalize_name(name), []).append(Version(version))
    for asked in direct_dependencies():
        versions = locked.get(canonicalize_name(asked.name), [])
        assert versions, f"{asked.name} is not locked: make lock"
        assert all(asked.specifier.contains(each) for each in versions), f"{asked} is locked at {versions}: make lock"


def test_every_direct_dependency_is_explained() -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text()
    told = {canonicalize_name(name) for row in re.findall(r"^\| (.+?) \|", text, re.MULTILINE)
            for name in re.findall(r"`([\w.-]+)`", row)}  # fmt: skip
    named = {canonicalize_name(each.name) for each in direct_dependencies()}
    assert named - told == set(), "say in docs/dependencies.md what it is for and what else was considered"
    assert told - named == set(), "explained, and not a dependency any more"


# What people read


def markdown() -> list[Path]:
    """Every page."""
    return [path for path in committed() if path.suffix == ".md"]


def fenced(text: str) -> list[str]:
    """The lines of code of a page, in order, without comments."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for full in block.splitlines() if (line := re.sub(r"\s+#.*|^#.*", "", full))]


def test_the_readme_says_the_same_in_both_languages() -> None:
    english, chinese = ((ROOT / name).read_text() for name in ("README.md", "README.zh-CN.md"))

    def shape(text: str) -> list[int]:
        bare = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        return [len(marks) for marks in re.findall(r"^(#+) ", bare, re.MULTILINE)]

    assert shape(english) == shape(chinese)
    assert fenced(english) == fenced(chinese)
    assert sorted(re.findall(r"`([^`\n]+)`", english)) == sorted(re.findall(r"`([^`\n]+)`", chinese))
    assert english.count("\n| ") == chinese.count("\n| ")
    links = [sorted(set(re.findall(r"\]\(([^)]+)\)", text)) - {"README.md", "README.zh-CN.md"})
             for text in (english, chinese)]  # fmt: skip
    assert links[0] == links[1]


def test_links_between_pages_lead_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in markdown()
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not broken


def test_the_page_of_the_command_line_is_that_of_the_command_line() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    codes = re.findall(r"^\| (\d+) \| (.+) \|$", text, re.MULTILINE)
    assert codes == [(str(int(code)), meaning) for code, meaning in MEANINGS.items()]
    told = set(re.findall(r"^\| `([a-z -]+)` \|", text.partition("## Which server")[0], re.MULTILINE))
    assert told == set(commands(command(), ""))


def test_the_page_of_the_settings_is_that_of_the_settings() -> None:
    made = subprocess.run([sys.executable, ROOT / "docs" / "configuration.py"], stdout=subprocess.PIPE, check=True)
    assert made.stdout.decode() == (ROOT / "docs" / "configuration.md").read_text(), "run docs/configuration.py"


def commands(group: Any, prefix: str) -> Iterator[str]:
    """Every command of the tree by its words; of a group that does something by itself, the group too."""
    inner = getattr(group, "commands", {})
    if prefix and (not inner or group.invoke_without_command):
        yield prefix
    for name, each in inner.items():
        yield from commands(each, f"{prefix} {name}".strip())


def makefile() -> tuple[set[str], dict[str, str]]:
    """The names in .PHONY, and what `make help` says of each target."""
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony
    return set(phony[1].split()), dict(re.findall(r"^([a-z0-9-]+):[^#\n]*## (.+)$", text, re.MULTILINE))


def test_make_help_tells_of_every_target() -> None:
    phony, told = makefile()
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert phony == targets == set(told)


def test_pages_name_only_targets_that_make_has() -> None:
    phony, _ = makefile()
    for page in [*markdown(), ROOT / ".ci" / "run"]:
        text = page.read_text()
        for words in [*re.findall(r"`([^`\n]+)`", text), *fenced(text), *re.findall(r"^ *step .*", text, re.MULTILINE)]:
            named = re.search(r"(?:^|\s)make ([a-z][a-z0-9-]*)", words)
            assert not named or named[1] in phony, f"{page.relative_to(ROOT)}: make {named[1] if named else ''}"


def test_decisions_are_numbered_without_a_gap() -> None:
    names = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("*.md") if path.name != "README.md")
    assert [name[:5] for name in names] == [f"{number:04d}-" for number in range(1, len(names) + 1)]
    index = (ROOT / "docs" / "decisions" / "README.md").read_text()
    assert not [name for name in names if f"({name})" not in index], "a decision that the index does not name"


def test_fragments_of_the_changelog_are_named_by_kind() -> None:
    for path in (ROOT / "changelog.d").iterdir():
        assert re.fullmatch(r"README\.md|[a-z0-9-]+\.(added|changed|fixed|removed|security)\.md", path.name), path.name
