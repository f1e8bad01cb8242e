"""`dujiang plan capacity`, on the examples and on what people give wrongly."""

from __future__ import annotations

import io
import json
import sys
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.cli.conftest import Run
from tests.cli.standin import StandIn

EXAMPLES = Path(__file__).parents[2] / "examples" / "capacity"
TEXTBOOK, PRINTED, INFERENCE = (
    str(EXAMPLES / f"{name}.yaml") for name in ("textbook", "textbook-as-printed", "inference")
)


def capacity(run: Run, *args: str) -> tuple[int, str, str]:
    return run("plan", "capacity", *args)


def test_the_textbooks_example_mended(run: Run) -> None:
    code, out, err = capacity(run, TEXTBOOK, "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["feasible"]
    assert (told["cost"], told["failure_impact"], told["objective"]) == ("100.00", "0.00", "100.00")
    assert [(share["service"], share["devices"], share["cost"]) for share in told["shares"]] == [
        ("first", 5, "50.00"), ("second", 5, "50.00")
    ]  # fmt: skip
    assert [(c["used"], c["capacity"], c["binds"], c["shadow_price"]) for c in told["capacities"]] == [
        (10, 50, False, "0")
    ]  # fmt: skip


def test_the_textbooks_answer_does_not_fit(run: Run) -> None:
    code, out, err = capacity(run, PRINTED, "--json")
    assert code == 6
    assert "No plan meets all demands" in err
    told = json.loads(out)
    assert not told["feasible"]
    assert [each["words"] for each in told["relaxations"]] == [
        "75 more devices of flavor gpu",
        "10 less of demand first (0 instead of 10) and 5 less of demand second (10 instead of 15)",
        "every demand at 40 % of its need",
    ]
    assert [each["cost"] for each in told["relaxations"]] == ["1250.00", "500.00", "500.00"]
    assert all(each["proven"] for each in told["relaxations"])


def test_the_larger_example_says_what_each_capacity_is_worth(run: Run) -> None:
    code, out, _ = capacity(run, INFERENCE, "--json")
    assert code == 0
    told = json.loads(out)
    worth = {c["flavor"]: (c["binds"], c["shadow_price"], c["one_more_saves"]) for c in told["capacities"]}
    assert worth == {"A100": (True, "0.62", "0.97"), "H100": (True, "3.226667", "3.635"), "L4": (False, "0", "0")}
    assert told["shadow_prices_of"] == "the relaxation without whole devices"
    assert Decimal(told["objective_if_divisible"]) < Decimal(told["objective"])
    assert [point["cost"] for point in told["curve"]] == ["99.60", "100.30", "101.15"]
    assert told["curve_is_complete"]
    assert {(b["kind"], b["name"]) for b in told["binding"]} >= {("capacity", "A100"), ("demand", "chat")}


def test_the_tables_for_people(run: Run) -> None:
    code, out, _ = capacity(run, INFERENCE)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["SERVICE", "FLAVOR", "DEVICES", "SERVES", "COST", "FAILURE", "IMPACT"]
    assert lines[8].split() == ["total", "101.15", "10.82"]
    assert "Amounts in EUR per hour; lambda 1: objective 111.97." in lines
    assert "relaxation with divisible devices" in out
    assert lines[-1].split() == ["0.440252", "on", "101.15", "10.82"]


def test_the_tables_of_what_would_have_to_give(run: Run) -> None:
    code, out, err = capacity(run, PRINTED)
    assert code == 6
    assert out.startswith("It would be possible with 75 more devices of flavor gpu:\n")
    assert "\nor with every demand at 40 % of its need:\n" in out
    assert err.startswith("Error: No plan meets all demands")


def test_a_curve_at_lambdas_of_ones_own_or_none_or_short(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(Path(INFERENCE).read_text() + "lambdas: [0, 0.3, 2]\n")
    told = json.loads(capacity(run, str(file), "--json")[1])
    assert [(p["from_lambda"], p["cost"]) for p in told["curve"]] == [
        ("0", "99.60"),
        ("0.3", "100.30"),
        ("2", "101.15"),
    ]
    assert capacity(run, str(file))[1].splitlines()[-4].split() == ["LAMBDA", "COST", "FAILURE", "IMPACT"]
    assert json.loads(capacity(run, INFERENCE, "--no-curve", "--json")[1])["curve"] is None
    code, out, _ = capacity(run, INFERENCE, "--points", "2")
    assert code == 0
    assert "The plan changes at further lambdas; --points 4" in out


@pytest.mark.parametrize("file", [TEXTBOOK, PRINTED, INFERENCE])
def test_the_page_shows_what_it_writes(run: Run, file: str) -> None:
    page = (EXAMPLES.parents[1] / "docs" / "capacity.md").read_text()
    assert f"```text\n{capacity(run, file)[1].rstrip()}\n```" in page


def test_the_page_shows_the_example(run: Run) -> None:
    page = (EXAMPLES.parents[1] / "docs" / "capacity.md").read_text()
    assert f"```yaml\n{Path(INFERENCE).read_text()}```" in page


@pytest.mark.parametrize(("file", "code", "plots"), [(INFERENCE, 0, 3), (PRINTED, 6, 0)])
def test_a_report_is_written(run: Run, tmp_path: Path, file: str, code: int, plots: int) -> None:
    report = tmp_path / "report.html"
    got, _, err = capacity(run, file, "--report", str(report))
    assert got == code
    assert str(report) in err
    page = report.read_text()
    assert page.count("<polyline") == plots
    assert "://" not in page, "nothing is loaded from elsewhere"


def test_what_a_file_says_stays_text_in_the_report(run: Run, tmp_path: Path) -> None:
    file, report = tmp_path / "plan.yaml", tmp_path / "report.html"
    file.write_text(Path(TEXTBOOK).read_text() + 'period: "<script>"\n')
    assert capacity(run, str(file), "--report", str(report))[0] == 0
    assert "<script>" not in report.read_text()
    assert "&lt;script&gt;" in report.read_text()


def test_standard_input(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(Path(TEXTBOOK).read_bytes())))
    assert json.loads(capacity(run, "-", "--json")[1])["cost"] == "100.00"


def a_kind(model: str, devices: int, gib: int) -> dict[str, object]:
    return {"vendor": "nvidia", "model": model, "memory_bytes": gib * 2**30, "devices": 9, "devices_open": devices}


def a_price(sku: str, price: str, since: str = "2026-01-01T00:00:00Z", **more: str) -> dict[str, object]:
    about = {"resource": "gpu", "vendor": "", "model": "", "currency": "EUR", "id": f"price_{sku}"}
    return {**about, "sku_id": sku, "unit_price": price, "effective_from": since, **more}


PRICES = [
    a_price("gpu", "9.00"), a_price("old", "7.00", "2025-01-01T00:00:00Z"), a_price("h100", "5.00", model="H100 80G"),
    a_price("later", "1.00", "2999-01-01T00:00:00Z"), a_price("amd", "0.10", vendor="amd"),
    a_price("memory", "0.01", resource="gpu_memory"), a_price("cpu", "0.20", resource="cpu"),
]  # fmt: skip


def test_flavors_of_the_platform_at_its_prices(server: StandIn, run: Run, tmp_path: Path) -> None:
    """The most exact price wins, then the newest that applies; device memory is charged beside the device."""
    kinds = [a_kind("H100 80G", 4, 80), a_kind("L4", 6, 24), a_kind("L4", 1, 48)]
    server.on("GET /v1/pool", {"devices": kinds})
    server.on("GET /v1/prices", {"items": PRICES, "next_cursor": None})
    file = tmp_path / "plan.yaml"
    file.write_text("services: {web: {need: 7, whole: true}}\nflavors: {L4-2: {failure_impact: 0.5}}\n")
    code, out, err = capacity(run, str(file), "--from-platform", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert (told["currency"], told["period"]) == ("EUR", "hour")
    assert [(c["flavor"], c["model"], c["capacity"], c["used"]) for c in told["capacities"]] == [
        ("H100-80G", "H100 80G", 4, 4), ("L4-2", "L4", 6, 2), ("L4-3", "L4", 1, 1)
    ]  # fmt: skip
    costs = {share["flavor"]: Decimal(share["cost"]) / share["devices"] for share in told["shares"]}
    assert costs == {"H100-80G": Decimal("5.80"), "L4-2": Decimal("9.24"), "L4-3": Decimal("9.48")}


@pytest.mark.parametrize(
    ("kinds", "prices", "said"),
    [
        ([], PRICES, "no device to plan with"),
        ([a_kind("L4", 1, 24)], [], "no price to plan with"),
        ([a_kind("L4", 1, 24)], PRICES[2:3], "nvidia L4 has no price; `dujiang prices set`"),
    ],
)
def test_a_platform_that_has_not_what_it_takes(
    server: StandIn, run: Run, kinds: list[object], prices: list[object], said: str
) -> None:
    server.on("GET /v1/pool", {"devices": kinds})
    server.on("GET /v1/prices", {"items": prices, "next_cursor": None})
    code, out, err = capacity(run, TEXTBOOK, "--from-platform")
    assert (code, out) == (3, "")
    assert said in err


def test_no_platform(run: Run) -> None:
    code, _, err = capacity(run, TEXTBOOK, "--from-platform")
    assert code == 5
    assert "No server is known" in err


def test_what_is_wrong_in_a_file_is_shown_where_it_is(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(
        Path(TEXTBOOK).read_text().replace("cost: 10", "cots: -10").replace("need: 5, whole: true", "need: .nan")
    )
    code, out, err = capacity(run, str(file), "--json")
    assert (code, out) == (2, "")
    assert f"{file}:5:23: flavors.gpu.cots:" in err
    assert "  5 |   gpu: {capacity: 50, cots: -10}" in err
    assert 'Did you mean "cost"?' in err
    assert "services.first.need" in err
    assert err.endswith("Error: Nothing was planned: 3 problems.\n")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("none.yaml",), "none.yaml cannot be read: No such file"),
        ((".",), "cannot be read: Is a directory"),
        ((), "Missing argument"),
        ((TEXTBOOK, "--points", "1"), "points"),
        ((TEXTBOOK, "--time-limit-s", "0"), "time-limit-s"),
    ],
)
def test_what_is_given_wrongly_is_said(run: Run, args: tuple[str, ...], said: str) -> None:
    code, out, err = capacity(run, *args)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_a_plan_that_was_not_finished_says_so(run: Run, tmp_path: Path) -> None:
    """Hundreds of ways to pack whole devices, and a tenth of a second."""
    flavors = {f"f{i}": {"capacity": 7 + i % 5, "cost": 3 + (i * 37 % 101) / 10} for i in range(40)}
    services = {
        f"s{j}": {"need": 11 + j % 7, "served_by": {f"f{i}": 1 + (i * 31 + j * 17) % 23 / 7 for i in range(40)}}
        for j in range(60)
    }
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"currency": "EUR", "whole": True, "flavors": flavors, "services": services}))
    code, out, err = capacity(run, str(file), "--time-limit-s", "0.1")
    if code == 0:
        assert "Time was short: this plan is at most" in out
        assert "LAMBDA" not in out
    else:  # a slow machine finds no plan at all in that time
        assert (code, out) == (1, "")
        assert "The solver stopped without an answer" in err
