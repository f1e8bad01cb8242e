"""`dujiang simulate openb`, on a small trace of our own making."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dujiang.cli.session import Stop
from dujiang.cli.simulating import seeds_of
from tests.cli.conftest import Run

SAMPLE = Path(__file__).parents[1] / "scheduling" / "simulator" / "sample"
GIVEN = ("simulate", "openb", "--nodes", str(SAMPLE / "nodes.csv"), "--pods", str(SAMPLE / "pods.csv"))


def test_json_holds_the_curve_and_the_counts(run: Run) -> None:
    code, out, err = run(
        *GIVEN, "--policy", "FGD", "--policy", "default", "--arrival", "1.3", "--seeds", "42-43", "--json"
    )
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["gpus"] == 42
    assert told["seeds"] == [42, 43]
    assert [each["policy"] for each in told["policies"]] == ["FGD", "default"]
    for each in told["policies"]:
        assert [int(at) for at in each["allocation_pct"]][:115] == list(range(115))
        assert 60 < each["allocation_pct"]["115"] <= 100
        assert 0 < each["pods_placed"] <= each["pods_arrived"]
        assert 0 <= each["fragments_gpus"] <= each["idle_gpus"]
        assert each["moves"] == 0
        assert each["seconds"] > 0
        assert [one["seed"] for one in each["runs"]] == [42, 43]
        placed = sum(one["pods_placed"] for one in each["runs"]) / 2
        assert placed == each["pods_placed"]


def test_policies_stand_side_by_side_and_a_report_is_written(run: Run, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    code, out, err = run(*GIVEN, "--policy", "Random", "--policy", "BestFit", "--html", str(report))
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split()[0] == "POLICY"
    assert [line.split()[0] for line in lines[1:3]] == ["Random", "BestFit"]
    assert str(report) in err
    page = report.read_text()
    assert page.count("<polyline") == 4
    assert "://" not in page, "nothing is loaded from elsewhere"


@pytest.mark.parametrize(("more", "wait"), [((), 0.09), (("--wait", "0"), 0), (("--wait", "0.5"), 0.5)])
def test_moves_and_what_waits_are_counted_within_their_bounds(run: Run, more: tuple[str, ...], wait: float) -> None:
    code, out, _ = run(*GIVEN, "--moves", "0.2", *more, "--seeds", "1-5", "--json")
    assert code == 0
    for one in json.loads(out)["policies"][0]["runs"]:
        assert one["moves"] <= 0.2 * one["pods_placed"]
        assert one["held_back_gpus"] <= wait * 42
        assert one["waited_pods"] <= one["pods_placed"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--policy", "Better"), "there are: Random"),
        (("--seeds", "9-1"), "write 42, 42-51"),
        (("--seeds", "0-99999"), "at most 1000"),
        (("--arrival", "-1"), "arrival"),
        (("--policy", "FGD", "--moves", "0.1"), "moves nothing"),
        (("--policy", "FGD", "--wait", "0.1"), "has nothing wait"),
        (("--nodes", "none.csv"), "There is no file none.csv"),
    ],
)
def test_what_is_given_wrongly_is_said(run: Run, more: tuple[str, ...], said: str) -> None:
    code, out, err = run(*GIVEN, *more)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_seeds() -> None:
    assert seeds_of("42") == [42]
    assert seeds_of("1, 3-5,4") == [1, 3, 4, 5]
    with pytest.raises(Stop):
        seeds_of("")


def test_the_compiler_is_not_loaded_by_the_platform_nor_by_other_commands() -> None:
    code = "import sys, dujiang.bootstrap, dujiang.bootstrap.serve, dujiang.cli.app; print('numba' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"
