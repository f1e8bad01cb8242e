"""`dujiang queues` against a stand-in of the API: the tree, the differences, mistakes with their line, the export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.cli.conftest import Run
from tests.cli.standin import StandIn

NONE = dict.fromkeys(("gpu_milli", "gpu_memory_bytes", "cpu_milli", "memory_bytes"))


def _quota(own: int, held: int, borrowed: int = 0, lent: int = 0, left: int = 0, **more: Any) -> dict[str, Any]:
    figures = {"nominal": own, "held": held, "borrowed": borrowed, "lent": lent, "available": left}
    return {"flavor": "h100", "lenders": [], **{name: {**NONE, "gpu_milli": f} for name, f in figures.items()}, **more}


def _answer() -> dict[str, Any]:
    vision = {
        "project": "vision", "project_id": "prj_1", "share": 0.5, "used_part": 0.8, "factor": 0.329877,
        "usage_gpu_s": 3600.0, "arithmetic": "It has used 1 of 1.25 gpu-hours.",
    }  # fmt: skip
    loan = {"lender": "centre", "amounts": {**NONE, "gpu_milli": 1500}}
    return {
        "queues": [
            {"name": "centre", "parent": "", "depth": 0, "share": 1.0, "projects": [], "quota": []},
            {"name": "a", "parent": "centre", "depth": 1, "share": 1.0, "projects": [vision],
             "quota": [_quota(4000, 5500, borrowed=1500, left=500, lenders=[loan])]},
        ],
        "in_no_queue": [{"project": "lost"}], "fair_share_half_life_s": 604800.0, "fair_share_part": 0.5,
        "document": {"flavors": [{"name": "h100"}], "queues": [{"name": "centre"}, {"name": "a", "parent": "centre"}]},
    }  # fmt: skip


def test_the_tree_says_who_has_what_from_whom_and_why_a_project_stands_where(server: StandIn, run: Run) -> None:
    server.on("GET /v1/queues", _answer())
    code, out, err = run("queues")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["QUEUE", "SHARE", "FLAVOR", "OF", "OWN", "HELD", "BORROWED", "LENT", "LEFT"]
    assert lines[1].split() == ["centre", "100.0%", *["-"] * 7]
    assert lines[2].split() == ["a", "100.0%", "h100", "gpu", "4", "5.5", "1.5", "0", "0.5"]
    assert lines[2].startswith("  a ")
    assert "a borrows 1.5 gpu of h100 from centre." in lines
    assert lines[-1].split()[:5] == ["vision", "a", "50.0%", "80.0%", "0.330"]
    assert "Project lost is in no queue" in err
    assert json.loads(run("queues", "--json")[1]) == _answer()


def test_without_queues_it_says_how_to_set_them(server: StandIn, run: Run) -> None:
    server.on("GET /v1/queues", {**_answer(), "queues": [], "in_no_queue": []})
    code, out, _ = run("queues")
    assert code == 0
    assert "dujiang queues apply FILE" in out


def test_apply_sends_the_document_and_tells_the_differences(server: StandIn, run: Run, tmp_path: Path) -> None:
    told = [
        {"what": "queues.a.parent", "before": None, "after": "centre"},
        {"what": "queues.a.weight", "before": "1", "after": "2"},
        {"what": "queues.b.weight", "before": "1", "after": None},
    ]
    server.on("PUT /v1/queues", {"differences": told, "applied": False, "in_no_queue": ["lost"]})
    file = tmp_path / "q.yaml"
    file.write_text("queues:\n- {name: centre}\n- {name: a, parent: centre, weight: 2}\n")
    code, out, err = run("queues", "apply", str(file), "--dry-run")
    assert code == 0
    assert out.splitlines() == [
        "+ queues.a.parent: centre", "~ queues.a.weight: 1 -> 2", "- queues.b.weight: 1",
        "Nothing was changed; without --dry-run this is.",
    ]  # fmt: skip
    assert "lost" in err
    (asked,) = server.asked_for("PUT /v1/queues")
    assert asked.query == {"dry_run": ["true"]}
    assert asked.body == {
        "document": {"flavors": [], "queues": [{"name": "centre"}, {"name": "a", "parent": "centre", "weight": 2}]}
    }
    server.on("PUT /v1/queues", {"differences": [], "applied": True, "in_no_queue": []})
    assert run("queues", "apply", str(file))[:2] == (0, "Nothing differs from the queues as they are.\n")
    assert server.asked[-1].query == {"dry_run": ["false"]}


def test_a_wrong_file_is_told_with_its_line_and_nothing_is_sent(server: StandIn, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "q.yaml"
    file.write_text("queues:\n- name: centre\n- name: a\n  parent: center\n")
    code, out, err = run("queues", "apply", str(file))
    assert (code, out) == (2, "")
    assert f'{file}:4:3: queues[1].parent: There is no queue "center".' in err
    assert "  parent: center" in err
    assert "Nothing was changed: 1 problem." in err
    assert not server.asked
    assert run("queues", "apply", str(tmp_path / "none.yaml"))[0] == 2


def test_what_is_exported_is_what_apply_takes(server: StandIn, run: Run) -> None:
    server.on("GET /v1/queues", _answer())
    code, out, _ = run("queues", "export")
    assert code == 0
    assert yaml.safe_load(out) == _answer()["document"]
