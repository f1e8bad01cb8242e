"""Which source wins, units, and a clear word with its place for everything that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, SecretStr, model_validator

from dujiang.kit.settings import SettingsInvalid, load, variable

MEANS = "how long a job may be out of sight"
NONE = "there is no such setting."
NO_TIME = "is not a duration; write 2h30m, 90s, 1d or 01:30:00."
NO_SIZE = "is not a size; write 16GiB, 512MiB, 500M or a number of bytes."


class Disk(BaseModel):
    spare_bytes: int = 0


class Jobs(BaseModel):
    lost_after_s: float = Field(60.0, gt=0, description=MEANS)
    kept_s: Annotated[int, Field(ge=1)] | None = 3600
    scratch_bytes: int = 2**30
    mode: Literal["fast", "safe"] = "safe"
    disk: Disk = Disk()


class Api(BaseModel):
    port: int = Field(8080, ge=0, le=65535)
    origins: tuple[str, ...] = ()
    labels: dict[str, int] = {}
    verbose: bool = False
    title: str = "Dujiang"
    signing_key: SecretStr = SecretStr("")


class Tree(BaseModel):
    name: str = "here"
    jobs: Jobs = Jobs()
    api: Api = Api()

    @model_validator(mode="after")
    def _check(self) -> Tree:
        if self.api.port == self.jobs.kept_s:
            raise ValueError("api.port and jobs.kept_s are the same; choose another port")
        return self


class Strict(BaseModel):
    class Branch(BaseModel):
        needed: int

    branch: Branch


@dataclass(frozen=True, slots=True)
class Pool:
    stale_s: float = 30.0
    disk_bytes: int = 0


class Mixed(BaseModel):
    pool: Pool = Pool()


def read(
    tmp_path: Path, toml: str | None = None, environ: Mapping[str, str] | None = None, **flags: Any
) -> Tree:  # flags with __ for a dot
    file = None
    if toml is not None:
        file = tmp_path / "dujiang.toml"
        file.write_text(toml, encoding="utf-8")
    given = {name.replace("__", "."): value for name, value in flags.items()}
    return load(Tree, file=file, environ=environ or {}, flags=given)


def problems(tmp_path: Path, toml: str | None = None, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(SettingsInvalid) as raised:
        read(tmp_path, toml, environ)
    return [problem.replace(f"{tmp_path}/", "") for problem in raised.value.problems]


def test_nothing_given_is_the_defaults(tmp_path: Path) -> None:
    assert read(tmp_path) == read(tmp_path, "") == Tree()


def test_flags_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    toml = '[jobs]\nlost_after_s = 1\nkept_s = 1\nmode = "fast"\n[jobs.disk]\nspare_bytes = 1\n'
    environ = {"DUJIANG_JOBS__LOST_AFTER_S": "2", "DUJIANG_JOBS__KEPT_S": "2", "DUJIANG_JOBS__DISK__SPARE_BYTES": "2"}
    tree = read(tmp_path, toml, environ, jobs__lost_after_s=3.0, jobs__kept_s=None)
    assert (tree.jobs.lost_after_s, tree.jobs.kept_s, tree.jobs.disk.spare_bytes) == (3.0, 2, 2)
    assert (tree.jobs.mode, tree.jobs.scratch_bytes) == ("fast", 2**30)


def test_units_in_every_source(tmp_path: Path) -> None:
    toml = '[jobs]\nlost_after_s = "2h30m"\nscratch_bytes = "16GiB"\n'
    assert read(tmp_path, toml).jobs == Jobs(lost_after_s=9000, scratch_bytes=16 * 2**30)
    environ = {"DUJIANG_JOBS__LOST_AFTER_S": "90s", "DUJIANG_JOBS__SCRATCH_BYTES": "500M"}
    assert read(tmp_path, toml, environ).jobs == Jobs(lost_after_s=90, scratch_bytes=500_000_000)
    assert read(tmp_path, toml, environ, jobs__kept_s="1d").jobs.kept_s == 86400


def test_text_of_the_environment_becomes_what_the_field_is(tmp_path: Path) -> None:
    environ = {
        "DUJIANG_API__PORT": "0", "DUJIANG_API__ORIGINS": "http://a, http://b", "DUJIANG_API__LABELS": '{"a": 1}',
        "DUJIANG_API__VERBOSE": "yes", "DUJIANG_JOBS__KEPT_S": "none", "DUJIANG_API__TITLE": "none",
    }  # fmt: skip
    tree = read(tmp_path, None, environ)
    assert (tree.api.port, tree.api.origins, tree.api.labels) == (0, ("http://a", "http://b"), {"a": 1})
    assert (tree.api.verbose, tree.jobs.kept_s, tree.api.title) == (True, None, "none")
    assert read(tmp_path, None, {"DUJIANG_API__ORIGINS": '["x,y"]'}).api.origins == ("x,y",)


def test_variables_of_others_are_left_alone(tmp_path: Path) -> None:
    environ = {
        "DUJIANG_HOME": "x", "DUJIANG_URL": "x", "DUJIANG_TOKEN": "x", "DUJIANG_DEBUG": "1", "DUJIANG_PORT": "1",
        "DUJIANG_PARAM_A__B": "1", "OTHER__PORT": "x", "DUJIANG_": "", "DUJIANG__": "", "dujiang_api__port": "x",
    }  # fmt: skip
    assert read(tmp_path, None, environ) == Tree()


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[jobs]\nlost_after = 3", 'jobs.lost_after: there is no such setting. Did you mean "jobs.lost_after_s"?'),
        ("lost_after_s = 3", 'lost_after_s: there is no such setting. Did you mean "jobs.lost_after_s"?'),
        ("[job]\nmode = 1", 'job: there is no such setting. Did you mean "jobs"?'),
        ("[jobs.disk]\nfree_bytes = 1", f'jobs.disk.free_bytes: {NONE} Did you mean "jobs.disk.spare_bytes"?'),
        ("xyzzy = 1", "xyzzy: there is no such setting."),
        ("[jobs]\ndisk = 3", "jobs.disk is a group of settings; write a table [jobs.disk] with spare_bytes."),
        ('[jobs]\nlost_after_s = "soon"', f'jobs.lost_after_s: "soon" {NO_TIME}'),
        ('[jobs]\nscratch_bytes = "big"', f'jobs.scratch_bytes: "big" {NO_SIZE}'),
        ("[jobs]\nlost_after_s = -1", f"jobs.lost_after_s = -1 should be greater than 0 ({MEANS})."),
        ("[jobs.disk]\nspare_bytes = -1", "jobs.disk.spare_bytes: -1 is below 0; neither a time nor a size is."),
        ("[jobs]\nlost_after_s = inf", "jobs.lost_after_s: inf is not a finite number."),
        ("[jobs]\nlost_after_s = true", "jobs.lost_after_s: true is not a number."),
        ("[jobs]\nkept_s = 0", "jobs.kept_s = 0 should be greater than or equal to 1."),
        ('[jobs]\nmode = "faster"', "jobs.mode = \"faster\" should be 'fast' or 'safe'."),
        ("[jobs]\nscratch_bytes = {a = 1}", 'jobs.scratch_bytes = {"a": 1} should be a valid integer.'),
        ('[api]\nport = "http"', 'api.port = "http" should be a valid integer, unable to parse string as an integer.'),
        ('[api]\nsigning_key = ["hush"]', "api.signing_key = the value should be a valid string."),
    ],
)  # fmt: skip
def test_what_is_wrong_in_the_file_is_said_with_its_place(tmp_path: Path, toml: str, said: str) -> None:
    assert problems(tmp_path, toml) == [f"dujiang.toml: {said}"]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("DUJIANG_JOBS__LOST_AFTR_S", "3", 'there is no such setting. Did you mean "DUJIANG_JOBS__LOST_AFTER_S"?'),
        ("DUJIANG_JBOS__MODE", "3", 'there is no such setting. Did you mean "DUJIANG_JOBS__MODE"?'),
        ("DUJIANG_JOBS__LOST_AFTER_S", "soon", f'jobs.lost_after_s: "soon" {NO_TIME}'),
        ("DUJIANG_API__PORT", "70000", 'api.port = "70000" should be less than or equal to 65535.'),
        ("DUJIANG_API__LABELS", "a=1", 'api.labels: "a=1" cannot be read; write {"a": 1}.'),
    ],
)  # fmt: skip
def test_what_is_wrong_in_the_environment_is_said_with_its_place(
    tmp_path: Path, name: str, value: str, said: str
) -> None:
    assert problems(tmp_path, None, {name: value}) == [f"{name}: {said}"]


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, "x = 1\n[jobs]\nmode = 1", {"DUJIANG_API__PORT": "-1", "DUJIANG_A__B": "1"})
    assert len(found) == 4
    assert [one.split(":")[0] for one in found] == ["dujiang.toml", "DUJIANG_A__B", "dujiang.toml", "DUJIANG_API__PORT"]


def test_a_value_that_another_source_overrides_need_not_fit_but_must_be_readable(tmp_path: Path) -> None:
    assert read(tmp_path, "[api]\nport = 70000", {"DUJIANG_API__PORT": "1"}).api.port == 1


def test_a_rule_over_several_settings(tmp_path: Path) -> None:
    assert problems(tmp_path, "[jobs]\nkept_s = 8080") == [
        "settings: api.port and jobs.kept_s are the same; choose another port."
    ]


def test_what_must_be_set_is_asked_for() -> None:
    with pytest.raises(SettingsInvalid, match=r"^branch must be set: in the settings") as raised:
        load(Strict, file=None, environ={}, flags={})
    assert raised.value.problem()["problems"]
    assert load(Strict, file=None, environ={"DUJIANG_BRANCH__NEEDED": "3"}, flags={}).branch.needed == 3


@pytest.mark.parametrize(
    ("content", "said"), [(b"a = ", "not TOML"), (b"\xff\xfe", "not UTF-8"), (b"a=1\na=2", "TOML")]
)
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "broken.toml"
    file.write_bytes(content)
    with pytest.raises(SettingsInvalid, match=said):
        load(Tree, file=file, environ={}, flags={})


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="no such settings file"):
        load(Tree, file=tmp_path / "none.toml", environ={}, flags={})
    with pytest.raises(SettingsInvalid, match="cannot be read"):
        load(Tree, file=tmp_path, environ={}, flags={})


def test_a_flag_nobody_declared_is_our_own_mistake() -> None:
    with pytest.raises(KeyError, match=r"jobs\.speed"):
        load(Tree, file=None, environ={}, flags={"jobs.speed": 1})


def test_a_branch_may_be_a_dataclass() -> None:
    environ = {"DUJIANG_POOL__STALE_S": "2m"}
    assert load(Mixed, file=None, environ=environ, flags={"pool.disk_bytes": "1KiB"}).pool == Pool(120.0, 1024)
    with pytest.raises(SettingsInvalid, match=r'DUJIANG_POOL__STALE: there is no such.*"DUJIANG_POOL__STALE_S"'):
        load(Mixed, file=None, environ={"DUJIANG_POOL__STALE": "1"}, flags={})
    with pytest.raises(SettingsInvalid, match=r'DUJIANG_POOL__DISK_BYTES: pool.disk_bytes: "x" is not a size'):
        load(Mixed, file=None, environ={"DUJIANG_POOL__DISK_BYTES": "x"}, flags={})


def test_the_variable_of_a_key() -> None:
    assert variable("jobs.lost_after_s") == "DUJIANG_JOBS__LOST_AFTER_S"


@given(
    st.dictionaries(
        st.sampled_from(["API__PORT", "JOBS__KEPT_S", "JOBS__DISK__SPARE_BYTES", "API__LABELS", "JOBS", "X__Y"]),
        st.text(max_size=20),
    )
)
def test_whatever_the_environment_holds_is_settings_or_problems(environ: dict[str, str]) -> None:
    try:
        load(Tree, file=None, environ={f"DUJIANG_{name}": value for name, value in environ.items()}, flags={})
    except SettingsInvalid as error:
        assert all(problem.startswith("DUJIANG_") and problem.endswith((".", "?")) for problem in error.problems)  # noqa: PT017
