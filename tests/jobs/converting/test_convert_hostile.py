"""Texts that are made to take long, or to hold more than anything may: each is answered soon, and rightly."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest

from dujiang.jobs.converting import Around, convert, is_foreign, to_yaml
from dujiang.jobs.spec import SpecInvalid
from tests.jobs.converting.building import a_job, a_pod, a_script, converted

MIB = 2**20
SOON_S = 15.0
"""Far above what was seen (under 2 s each), since machines differ; without the bounds these take minutes or memory."""

POD = "apiVersion: v1\nkind: Pod\nspec: {containers: [{name: c, command: [x]}]}\n"
HOSTILE = {
    "many options that are none": "#!/bin/sh\n" + "#SBATCH --nothing=1\n" * 50_000,
    "many options": "#!/bin/sh\n" + "#SBATCH -n1\n" * 80_000,
    "a long line": a_script("--comment=" + "x" * (MIB // 2), body="srun " + "x " * 100_000),
    "quotes without end": a_script(body="srun " + "'\"" * 100_000),
    "many variables": a_script(body="\n".join(f"echo $SLURM_V{n}" for n in range(15_000))),
    "many here documents": a_script(body="cat <<E\n" * 30_000),
    "lines that go on": a_script(body="x \\\n" * 60_000),
    "a list of indices": a_script("--array=" + ",".join(["0-9999"] * 100_000)),
    "many dependencies": a_script("--dependency=afterok" + ":1" * 200_000),
    "many variables to export": a_script("--export=" + ",".join(f"A{n}" for n in range(80_000))),
    "too large": a_script(body="x" * (MIB + 1)),
    "a script too large for a job": a_script(body="x\n" * 200_000),
    "many fields": POD + "\n".join(f"f{n}: 1" for n in range(45_000)),
    "many objects": "---\n".join([POD] * 1001),
    "many objects of no kind": "---\n".join("apiVersion: v1\nkind: Nothing\n" for _ in range(1000)),
    "deep": "apiVersion: v1\nkind: Pod\nspec: " + "[" * 100_000,
    "aliases": "apiVersion: v1\nkind: Pod\na: &a [1,1,1,1,1,1,1,1,1]\n"
    + "".join(f"b{n}: &b{n} [{','.join([f'*b{n - 1}' if n else '*a'] * 9)}]\n" for n in range(9)),
    "references that double": a_pod(
        container={"env": [{"name": "A0", "value": "x" * 9}]
                   + [{"name": f"A{n}", "value": f"$(A{n - 1})$(A{n - 1})"} for n in range(1, 60)]}
    ),
    "a value used often": a_pod(
        container={"env": [{"name": "A", "value": "x" * 9000}], "args": ["$(A)" * 20] * 900}
    ),
    "a name without end": a_pod(metadata={"name": "x" * 500_000}),
    "brackets": a_pod(container={"args": ["$(" * 200_000]}),
}  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_it_is_answered_soon(text: str) -> None:
    began = time.monotonic()
    assert is_foreign(text)
    with suppress(SpecInvalid):
        made = convert(text, Around())
        assert all(len(item.notes) <= 501 for item in made.items)
        to_yaml(made)
    assert time.monotonic() - began < SOON_S


def test_notes_beyond_the_most_are_counted() -> None:
    item = converted(a_pod(**{f"f{number}": number for number in range(600)}))
    assert item.notes[-1].what == "100 more things were not kept."


@pytest.mark.parametrize("evil", ["\x1b[31mred", "a\nb: c", "# x", "'\"", "\u2028", "\u202e", "{a: b}", "*x", "!!x y"])
def test_no_text_gets_out_of_its_place(evil: str) -> None:
    """Not out of a comment, a value or a name, nor to a terminal that would obey it."""
    container = {"env": [{"name": "A", "value": evil}], evil: 1, "args": [evil]}
    text = a_pod(container=container, metadata={"name": evil, "labels": {"x": evil}, "annotations": {evil: evil}})
    made = convert(text)
    (item,) = made.items
    assert item.spec.env == {"A": evil}
    printed = to_yaml(made)
    comments = printed[: printed.index("\nname:")].split("\n")
    assert all(line.startswith("#") for line in comments)
    assert "\x1b" not in printed
    assert all(str(note).isprintable() for note in item.notes)


def test_a_kind_is_known_by_content_not_by_name() -> None:
    ours = ["run: echo apiVersion: v1\n", "name: x\nrun: |\n  #!/bin/bash\n  #SBATCH -n 1\n", "{run: x}", "- run: a\n"]
    assert not any(is_foreign(text) for text in ours)
    theirs = [a_job(), a_pod(), "#!/bin/sh\ntrue\n", "#SBATCH -n 1\n", '{"apiVersion": "v1", "kind": "Pod"}',
              "\ufeff#!/bin/sh\n", "kind: Pod\napiVersion: v1\n  bad", "- apiVersion: v1\n  kind: Pod\n"]  # fmt: skip
    assert all(is_foreign(text) for text in theirs)
