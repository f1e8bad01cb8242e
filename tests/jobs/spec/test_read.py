"""What a specification means, and what is said of one that means nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dujiang.jobs.spec import (
    Cause,
    Checkpoint,
    Gpu,
    JobClass,
    Kept,
    Kind,
    Place,
    Placement,
    Retry,
    SpecInvalid,
    parse,
    read,
)


def problems_of(text: str | bytes) -> list[tuple[str, int | None, int | None]]:
    with pytest.raises(SpecInvalid) as caught:
        parse(text)
    return [(problem.path, problem.line, problem.column) for problem in caught.value.problems]


def sentence_of(text: str | bytes) -> str:
    with pytest.raises(SpecInvalid) as caught:
        parse(text)
    return str(caught.value.problems[0])


def test_one_line_is_a_job_with_every_default() -> None:
    (job,) = parse("run: echo hello")
    assert (job.name, job.run, job.kind, job.job_class, job.weight_milli) == (
        "job", "echo hello", Kind.TASK, JobClass.NORMAL, 500,
    )  # fmt: skip
    assert (job.resources.cpu_milli, job.resources.memory_bytes, job.resources.gpu_milli) == (1000, 2**30, 0)
    assert job.retry == Retry(3, (Cause.INFRASTRUCTURE, Cause.PREEMPTION))
    assert (job.nodes, job.ports, job.grace_s, job.time_limit_s, job.checkpoint) == (1, 0, 30.0, None, None)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2", Gpu(2000)),
        ("0.5", Gpu(500)),
        ("1/8", Gpu(125)),
        ("125m", Gpu(125)),
        ("1.0", Gpu(1000)),
        ("0", None),
        ("{count: 8, model: H100}", Gpu(8000, model="H100")),
        ("{fraction: 1/4, memory: 20GiB, vendor: nvidia}", Gpu(250, 20 * 2**30, "nvidia")),
        ("{model: A100}", Gpu(1000, model="A100")),
        ("", None),
    ],
)
def test_every_way_to_ask_for_gpus(written: str, meant: Gpu | None) -> None:
    (job,) = parse(f"run: x\nresources:\n  gpu: {written}\n")
    assert job.resources.gpu == meant


@pytest.mark.parametrize(
    ("written", "most", "least"),
    [
        ("4", 4, None), ("2-8", 8, 2), ("{min: 2, max: 8}", 8, 2), ("8-8", 8, None), ("{min: 1, max: 1}", 1, None),
    ],
)  # fmt: skip
def test_every_way_to_ask_for_nodes(written: str, most: int, least: int | None) -> None:
    (job,) = parse(f"run: x\nnodes: {written}\n")
    assert (job.nodes, job.nodes_min) == (most, least)
    assert read(job.document()) == job


def test_alternatives_take_what_they_leave_out_from_beside_them() -> None:
    (job,) = parse("""
run: x
resources:
  cpu: 8
  memory: 64GiB
  any_of:
    - gpu: {model: H100, count: 4}
    - {gpu: {model: A100, count: 8}, cpu: 16}
    - gpu: 1/2
    - {cpu: 8, gpu: 0.5}
""")
    asked = [(one.gpu and one.gpu.gpu_milli, one.cpu_milli, one.memory_bytes >> 30) for one in job.resources.choices]
    assert asked == [(4000, 8000, 64), (8000, 16000, 64), (500, 8000, 64)], "what asks for the same is one"
    assert read(job.document()) == job


def test_a_placement_says_where() -> None:
    (job,) = parse("""
run: x
nodes: 4
placement:
  cluster: local
  selector: {dujiang.io/site: east, fast: yes, version: 1.10}
  tolerations: [team=vision, broken]
  within: rack
  required: false
  spread: node
  apart: replica
""")
    assert job.placement == Placement(
        "local", {"dujiang.io/site": "east", "fast": "yes", "version": "1.10"}, ("team=vision", "broken"), Place.RACK,
        False, Place.NODE, "replica",
    )  # fmt: skip
    assert read(job.document()) == job
    (job,) = parse("{run: x, placement: {isolation: enforced}, resources: {gpu: 0.5}}")
    assert job.placement.isolation is Kept.ENFORCED
    assert parse("{run: x, placement: {}}")[0].document().get("placement") is None


def test_a_deadline_is_a_moment_or_counted_from_the_submission() -> None:
    then = datetime(2026, 12, 1, tzinfo=UTC)
    for written, moment in (("2026-12-01T08:00:00+08:00", then), ("2026-12-01T00:00Z", then), ("2d", None)):
        (job,) = parse(f"run: x\ntime_limit: 2h\ndeadline: {written}\n")
        assert job.deadline is not None
        assert job.deadline.moment(then - timedelta(days=1)) == (moment or then + timedelta(days=1))
        assert read(job.document()) == job


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("nodes: 8-2", "line 2, column 8: nodes:", "Write 2-8"),
        ("nodes: {min: 9, max: 2}", "line 2, column 8: nodes:", "are more than the most"),
        ("nodes: {min: 2}", "line 2, column 8: nodes.max:", 'needs the field "max"'),
        ("nodes: many", "line 2, column 8: nodes:", "or such as 2-8"),
        ("nodes: 2-", "line 2, column 8: nodes:", "Write 4, or such as 2-8"),
        ("nodes: 1-20000", "line 2, column 8: nodes:", "at most 10000"),
        ("nodes: {min: 2, max: 3, least: 1}", "line 2, column 25: nodes.least:", "Write min."),
        ("placement: {required: true}", "line 2, column 23: placement.required:", "there is no within"),
        ("placement: {within: rak}", "line 2, column 21: placement.within:", 'Did you mean "rack"?'),
        ("placement: {within: row}", "line 2, column 21: placement.within:", "node, switch, rack, site"),
        ("placement: {required: maybe, within: rack}", "line 2, column 23: placement.required:", "true or false"),
        ("placement: {isolation: memory}", "line 2, column 24: placement.isolation:", "asks for no device"),
        ("placement: {toleration: [a]}", "line 2, column 13: placement.toleration:", "Write tolerations."),
        ("placement: {tolerations: ['a b']}", "line 2, column 27: placement.tolerations[0]:", "key=value, or *"),
        ("placement: {tolerations: [a, a]}", "line 2, column 30: placement.tolerations[1]:", "given twice"),
        ("nodes: 2\nplacement: {within: rack, spread: site}", "line 3, column 35: placement.spread:", "narrower"),
        ("deadline: 2d", "line 2, column 11: deadline:", "needs a time_limit"),
        ("deadline: 1h\ntime_limit: 2h", "line 2, column 11: deadline:", "The deadline is 1h away"),
        ("deadline: 2026-12-01T08:00:00\ntime_limit: 2h", "line 2, column 11: deadline:", "names no zone"),
        ("deadline: 2026-13-01T08:00:00Z\ntime_limit: 2h", "line 2, column 11: deadline:", "is not a time"),
        ("deadline: 1999-12-01T08:00:00Z\ntime_limit: 2h", "line 2, column 11: deadline:", "not between the years"),
        ("deadline: soon\ntime_limit: 2h", "line 2, column 11: deadline:", '"soon" is neither a time nor how long'),
        ("deadline: yesterday\ntime_limit: 2h", "line 2, column 11: deadline:", "Write a time with its zone"),
        ("deadline: 2x\ntime_limit: 2h", "line 2, column 11: deadline:", "is not a duration"),
        ("comand: x", "line 2, column 1: comand:", "Write run."),
        ("enviroment: {}", "line 2, column 1: enviroment:", "Write env."),
        ("zzz: 1", "line 2, column 1: zzz:", "The fields are name, "),
        ("deadline: 2d\nkind: service\ntime_limit: 2h", "line 2, column 11: deadline:", "until it is cancelled"),
        ("queue: Vision!", "line 2, column 8: queue:", "is not a queue's name"),
        ("resources: {gpu: 1, any_of: [{gpu: 2}]}", "line 2, column 18: resources.gpu:", "any_of alone"),
        ("resources: {any_of: []}", "line 2, column 21: resources.any_of:", "1 to 8 are taken"),
        ("resources: {gpu: {any_of: [1]}}", "line 2, column 19: resources.gpu.any_of:", "Write it beside gpu"),
        ("cluster: here", "line 2, column 1: cluster:", "Write placement: {cluster: ...}."),
        ("min_nodes: 2", "line 2, column 1: min_nodes:", "{min: 2, max: 8}"),
    ],
)
def test_what_is_said_of_a_place_that_means_nothing(text: str, place: str, says: str) -> None:
    sentence = sentence_of(f"run: x\n{text}\n")
    assert sentence.startswith(place)
    assert says in sentence


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("time_limit: 2h30m", "time_limit_s", 9000),
        ("time_limit: 1:30", "time_limit_s", 90),  # YAML 1.1 would read the number 90 to base 60 elsewhere
        ("time_limit: 01:30:00", "time_limit_s", 5400),
        ("retry: 5", "retry", Retry(5)),
        ("retry: {on: [user, infrastructure]}", "retry", Retry(3, (Cause.INFRASTRUCTURE, Cause.USER))),
        ("kind: service", "ports", 1),
        ("class: low", "weight_milli", 200),
        ("class: core\nweight: 0.8", "weight_milli", 800),
        ("env: {A: 1.10, B: yes, C: 0x1F, D: on, E: 'null', F: 1:30}", "env",
         {"A": "1.10", "B": "yes", "C": "0x1F", "D": "on", "E": "null", "F": "1:30"}),
        ("params: {lr: 1e-3, layers: 3, mixed: true, name: 007a}", "params",
         {"lr": 0.001, "layers": 3, "mixed": True, "name": "007a"}),
        ("checkpoint: {}", "checkpoint", Checkpoint()),
        ("checkpoint: /data/ckpt", "checkpoint", Checkpoint("/data/ckpt")),
        ("checkpoint: {interval: 10m, signal: usr1}", "checkpoint", Checkpoint(None, 600, "SIGUSR1")),
        ("setup: [make, make install]", "setup", "make\nmake install"),
    ],
)  # fmt: skip
def test_fields(line: str, field: str, value: Any) -> None:
    (job,) = parse(f"run: x\n{line}\n")
    assert getattr(job, field) == value


def test_documents_lists_json_and_anchors_hold_several_jobs() -> None:
    text = "base: &base {run: a}\n"
    several = "run: a\nname: one\n---\n- {run: b, name: two}\n- {run: c, name: three}\n---\n"
    assert [job.name for job in parse(several)] == ["one", "two", "three"]
    assert [job.run for job in parse('[{"run": "a"},\n\t{"run": "\\u4f60\\ud83d\\ude00x"}]')] == ["a", "你😀x"]
    merged = parse("- &base {run: a, nodes: 2, class: low}\n- {<<: *base, nodes: 3}\n")[1]
    assert (merged.run, merged.nodes, merged.job_class) == ("a", 3, JobClass.LOW)
    assert problems_of(text)[0] == ("base", 1, 1)


def test_windows_text_with_a_mark_at_its_beginning() -> None:
    (job,) = parse("\ufeffrun: |\r\n  a\r\n  b\r\nnodes: 2\r\n".encode())
    assert (job.run, job.nodes) == ("a\nb\n", 2)


def test_every_problem_is_named_at_its_place() -> None:
    text = """\
name: Train Digits!
clas: core
resources:
  gpus: 2
  memory: 16
retry: {limit: many, on: [infra]}
env:
  DUJIANG_X: 1
  A: 1
  A: 2
ports: [8000]
timeout: 30
run: x
weight: 0.9
"""
    assert problems_of(text) == [
        ("name", 1, 7),
        ("clas", 2, 1),
        ("resources.gpus", 4, 3),
        ("resources.memory", 5, 11),
        ("retry.limit", 6, 16),
        ("retry.on[0]", 6, 27),
        ("env.DUJIANG_X", 8, 3),
        ("", 10, 3),
        ("ports", 11, 8),
        ("timeout", 12, 1),
        ("weight", 14, 9),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "run: x\nresorces: {}",
            'line 2, column 1: resorces: A job has no field "resorces". Did you mean "resource',
        ),
        ("run: x\nRun: y", 'Write "run".'),
        ("run: x\npriority: 5", "class (core, normal, low)"),
        ("run: x\ntimeout: 5", "Write time_limit."),
        ("run: x\non: [user]", "Write it under retry"),
        ("run: x\nname: My Job_1", 'For example "my-job-1".'),
        ("run: x\nname: 2024", 'Write it in quotes: "2024".'),
        ("run: x\nclass: 0x10", "The number 0x10 is not one of the words. Write one of core, normal, low."),
        ("run: x\nclass: normale", 'Did you mean "normal"?'),
        ("run: x\nweight: 0.7", "outside the band of class normal. Write 0.4 to 0.6."),
        ("run: x\nweight: 0.9", "or class core"),
        ("run: x\nresources: {memory: 16}", "16 is 16B"),
        ("run: x\nresources: {gpu: 1.5}", "Write 1, 2, or a share below 1."),
        ("run: x\nresources: {gpu: {count: 1, fraction: 0.5}}", "Keep one of them."),
        ("run: x\nresources: {cpu: .inf}", "is not a share"),
        ("run: x\nresources: {memory: -5GiB}", "is not a size"),
        ("run: x\nresources: {memory: 9e999999999}", "is not a size"),
        ("run: x\nnodes: yes", 'The text "yes" stands where a whole number belongs'),
        ("run: x\nnodes: 1.5", "The number 1.5 stands where a whole number belongs"),
        ("run: x\nnodes: 0", "1 to 10000"),
        ("run: x\ntime_limit: true", "The truth value"),
        ("run: x\nparams: {lr: .nan}", "not a number that every program can read"),
        ("run: x\nparams: {lr: 1, LR: 2}", "the same to a program as"),
        ("run: x\nkind: service\nports: 0", "A service needs a port"),
        ("run: x\nenv: {A: 1}\nsecrets: {A: b}", "both a variable and a secret"),
        ("run: x\nenv: [A=1]", "A list stands where a mapping of variables belongs"),
        ("run: x\noutputs: {model: {name: m, path: ../m.onnx}}", "inside the output folder"),
        ("run: x\ncheckpoint: {signal: KILL}", "not a signal that a program can save itself on"),
        ("run: x\ninputs: [{name: a, path: b}, {name: a, path: c}]", '"a" is given twice'),
        ("run: '  '", "Write at least one command"),
        ("name: x", 'needs the field "run"'),
        ("", "There is no job here"),
        ("just words", "stands where a job belongs"),
        ("run: x\n\tname: y", "takes no tabs"),
        ("run: a: b", "A colon inside a value needs quotes"),
        ("run: !!python/object/apply:os.system [x]", "has no meaning here"),
        (b"run: \xff", "line 1, column 6: Byte 0xff is not UTF-8"),
        ("run: a\0b", "U+0000"),
        ('run: "a\\0b"', "U+0000"),
        ("run: a\x1b[2J", "U+001B"),
        ("? [a]\n: b", "name of a field must be a word"),
        ("run: *nothing", "names no anchor"),
        ("[" * 300_000, "Nested more than"),
        ("x" * (2**20 + 1), "at most 1048576"),
        ("- run: a\n" * 1001, "at most 1000"),
        ("run: x\nnodes: " + "9" * 5000, "stands where a whole number belongs"),
    ],
    ids=lambda text: repr(text)[:40],
)
def test_what_is_said(text: str | bytes, said: str) -> None:
    assert said in sentence_of(text)


def test_a_few_lines_of_aliases_cannot_fill_the_memory() -> None:
    bomb = "- &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"- &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
    )
    assert "aliases counted" in sentence_of(bomb)


def test_no_control_character_of_a_hostile_text_is_repeated() -> None:
    with pytest.raises(SpecInvalid) as caught:
        read({"run": "x", "na\x1b[31mme": 1, "name": "\x1b]0;owned\x07", "env": {"\x1b": "y"}})
    assert all(character.isprintable() for character in caught.value.sentence)
    assert len(caught.value.problems) == 3


def test_values_from_json_have_no_place_and_follow_the_same_rules() -> None:
    assert read({"run": "x", "nodes": 2, "project": None}).nodes == 2
    for bad in (
        None,
        5,
        "run: x",
        [],
        {"run": 5},
        {"run": "\ud800"},
        {"run": "x", "nodes": True},
        {"run": "x", "nodes": 2.0},
    ):
        with pytest.raises(SpecInvalid) as caught:
            read(bad)
        assert caught.value.problems[0].line is None
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(SpecInvalid, match="Nested"):
        read({"run": deep})
