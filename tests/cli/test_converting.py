"""`dujiang convert`, and `dujiang submit` with files in the words of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dujiang.jobs.spec import parse
from tests.cli.conftest import Run
from tests.cli.standin import Asked, StandIn

EXAMPLES = sorted(
    path for path in (Path(__file__).parents[2] / "examples" / "foreign").iterdir() if path.suffix != ".md"
)
SCRIPT = "#!/bin/bash\n#SBATCH -J my-job -c 4 --mem=2G\n#SBATCH --mail-type=END\n#SBATCH --export=NONE\nsrun ./a\n"
POD = """apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  restartPolicy: Never
  containers:
    - name: c
      image: team/x:1
      command: [echo, "it's"]
      env: [{name: TOKEN, valueFrom: {secretKeyRef: {name: s, key: k}}}]
      resources: {limits: {cpu: 1, memory: 1Gi}}
"""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_convert_to_what_submit_takes(run: Run, path: Path) -> None:
    code, out, err = run("convert", str(path))
    assert (code, err) == (0, "")
    code, checked, _ = run("submit", str(path), "--check")
    assert code == 0
    assert [job.document() for job in parse(out)] == json.loads(checked)
    assert path.name in (path.parent / "README.md").read_text()


def test_what_is_not_kept_stands_in_comments(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "a.sh"
    file.write_text(SCRIPT)
    code, out, _ = run("convert", str(file))
    assert code == 0
    assert out.startswith("# From sbatch script (line 1).\n# Not kept:\n#   line 3: --mail-type: Not kept.")
    (job,) = parse(out)
    assert (job.name, job.resources.cpu_milli, job.workdir) == ("my-job", 4000, str(Path.cwd()))


def test_as_json(run: Run, tmp_path: Path) -> None:
    first, second = tmp_path / "a.sh", tmp_path / "b.yaml"
    first.write_text(SCRIPT)
    second.write_text(POD)
    code, out, _ = run("convert", str(first), str(second), "--json")
    assert code == 0
    script, pod = json.loads(out)
    assert (script["source"], pod["source"], pod["line"]) == ("sbatch script", 'v1 Pod "p"', 1)
    assert pod["spec"]["run"] == "echo 'it'\"'\"'s'"
    assert {"path", "what", "why", "instead", "line", "column", "kept"} == script["notes"][0].keys()


def test_several_files_are_several_documents(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "a.sh"
    file.write_text(SCRIPT)
    _, out, _ = run("convert", str(file), str(file))
    assert len(parse(out)) == 2


def test_a_script_is_called_after_its_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "My Train.sh"
    file.write_text("#!/bin/sh\ntrue\n")
    _, out, _ = run("convert", str(file))
    assert parse(out)[0].name == "my-train"


def test_what_is_wrong_is_shown_at_its_line(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "a.sh"
    file.write_text("#!/bin/sh\n#SBATCH --nodez=2\ntrue\n")
    code, out, err = run("convert", str(file))
    assert (code, out) == (2, "")
    assert f'{file}:2:9: --nodez: sbatch has no option "--nodez".\n' in err
    assert "    2 | #SBATCH --nodez=2\n      |         ^\n" in err
    assert "Did you mean nodes?" in err
    assert "Nothing was converted: 1 problem." in err


def test_each_document_is_converted_or_refused(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(POD + "---\napiVersion: batch/v1\nkind: CronJob\n---\napiVersion: batch/v1\nkind: Jobb\n")
    code, out, err = run("convert", str(file))
    assert (code, out) == (2, "")
    assert f"{file}:14:1: kind: The kind CronJob cannot be converted." in err
    assert "dujiang schedule create" in err
    assert 'The kind "Jobb" is not known here.' in err
    assert 'Did you mean "Job"?' in err


def test_our_own_words_are_not_somebody_elses(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"name: ours\nrun: x\n---\n{POD}")
    _, out, _ = run("convert", str(file))
    assert [job.name for job in parse(out)] == ["ours", "p"]
    file.write_text("name: ours\nrun: x\n")
    code, out, _ = run("convert", str(file))
    assert (code, parse(out)[0].run) == (0, "x")


def test_submit_takes_them_and_says_what_it_could_not_keep(
    run: Run, server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []

    def take(asked: Asked) -> Any:
        sent.extend(asked.body["specs"])
        return {"items": [{"id": f"job_{n}", "name": spec["name"]} for n, spec in enumerate(asked.body["specs"])]}

    server.on("POST /v1/jobs/batch", take)
    script, pod, ours = tmp_path / "a.sh", tmp_path / "b.yaml", tmp_path / "c.yaml"
    script.write_text(SCRIPT)
    pod.write_text(POD)
    ours.write_text("name: ours\nrun: x\n")
    monkeypatch.setenv("TOKEN", "very-secret")
    code, out, err = run("submit", str(script), str(pod), str(ours))
    assert code == 0
    assert [spec["name"] for spec in sent] == ["my-job", "p", "ours"]
    assert sent[0]["run"] == "#!/bin/bash\n./a"
    assert sent[1]["secrets"] == {"TOKEN": {"value": "very-secret"}}
    assert f"{script}:3: --mail-type: Not kept. The platform sends no mail." in err
    assert f"`dujiang convert {pod}` shows how." in err
    assert "very-secret" not in out + err


def test_a_secret_of_the_cluster_that_is_not_set_here_is_told(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "b.yaml"
    file.write_text(POD)
    code, _, err = run("submit", str(file))
    assert code == 2
    assert "The environment variable TOKEN is not set." in err


def test_from_standard_input(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "in"
    file.write_text(SCRIPT)
    with file.open() as handle:
        monkeypatch.setattr("sys.stdin", handle)
        code, out, _ = run("convert", "-")
    assert (code, parse(out)[0].name) == (0, "my-job")
