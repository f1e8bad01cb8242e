"""What people write: understood as meant, or refused with its line, all problems at once."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dujiang.kit.spec.problems import SpecInvalid
from dujiang.scheduling.capacity import Demand, Known, Limit, Measure, Model, Supply, Term, Way, read_model
from dujiang.scheduling.capacity.reading import MAX_BYTES

EXAMPLES = Path(__file__).parents[3] / "examples" / "capacity"

FULL = """\
currency: EUR
period: hour
lambda: 0.5
lambdas: [0, 1.5]
whole: true
flavors:
  A100: {vendor: nvidia, model: A100-80G, capacity: 8, cost: 2.10, failure_rate: 0.1, loss: 3}
  L4: {capacity: unlimited, cost: 0.1, failure_impact: 0.7}
services:
  chat: {need: 90, served_by: {A100: 3, L4: {rate: 1e-1, min: 1, max: 2.5}}, min_devices: 2, max_devices: 9}
  batch: {need: 1, served_by: [L4], whole: false}
  any: {need: 0}
limits:
  budget: {of: cost, at_most: 95}
  mix: {of: {chat on L4: 2, A100: -1, any: 0.5}, at_least: -1, at_most: 4}
"""

MEANT = Model(
    currency="EUR", period="hour", weight=Decimal("0.5"), weights=(Decimal(0), Decimal("1.5")),
    supplies=(
        Supply("A100", Decimal("2.10"), Decimal("0.3"), Decimal(8), "nvidia", "A100-80G"),
        Supply("L4", Decimal("0.1"), Decimal("0.7"), None),
    ),
    demands=(
        Demand("chat", Decimal(90), (Way("A100", Decimal(3)), Way("L4", Decimal("0.1"), Decimal(1), Decimal("2.5"))),
               True, Decimal(2), Decimal(9)),
        Demand("batch", Decimal(1), (Way("L4"),), False),
        Demand("any", Decimal(0), (Way("A100"), Way("L4")), True),
    ),
    limits=(
        Limit("budget", Measure.COST, Decimal(95)),
        Limit("mix", (Term(Decimal(2), "chat", "L4"), Term(Decimal(-1), flavor="A100"), Term(Decimal("0.5"), "any")),
              Decimal(4), Decimal(-1)),
    ),
)  # fmt: skip

SMALL = """\
currency: EUR
flavors:
  a: {capacity: 5, cost: 1}
services:
  web: {need: 5}
"""


def test_everything_is_understood_as_meant() -> None:
    assert read_model(FULL) == MEANT
    assert read_model(FULL.encode()) == MEANT


def test_json_is_read_too() -> None:
    document = {"currency": "EUR", "flavors": {"a": {"capacity": 5, "cost": 0.1}}, "services": {"web": {"need": 5}}}
    model = read_model(json.dumps(document))
    assert model.supplies == (Supply("a", Decimal("0.1"), Decimal(0), Decimal(5)),)
    assert model.demands == (Demand("web", Decimal(5), (Way("a"),)),)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_can_be_read(path: Path) -> None:
    assert read_model(path.read_bytes()).demands


# What is put in the place of what, and what is said: line, field, words.
WRONG = {
    "an unknown field": ("cost: 1}", "cots: 1}", 3, "flavors.a.cots", 'Did you mean "cost"?'),
    "a name from elsewhere": ("flavors:", "resources:", 2, "resources", "Write flavors."),
    "a misspelt part": ("services:", "servces:", 4, "servces", 'Did you mean "services"?'),
    "negative": ("cost: 1}", "cost: -1}", 3, "flavors.a.cost", "-1 is -1; an amount of money here is 0 to 1000000000."),
    "no number": ("capacity: 5", "capacity: .nan", 3, "flavors.a.capacity", '".nan" is not a number'),
    "not a number in words": ("capacity: 5", "capacity: NaN", 3, "flavors.a.capacity", "that a plan can hold"),
    "no end": ("need: 5", "need: .inf", 5, "services.web.need", '".inf" is not a number'),
    "infinity in words": ("need: 5", "need: Infinity", 5, "services.web.need", "not a number that a plan can hold"),
    "huge": ("capacity: 5", "capacity: 1e30", 3, "flavors.a.capacity", "not a number that a plan can hold"),
    "too many devices": ("capacity: 5", "capacity: 10000001", 3, "flavors.a.capacity", "0 to 10000000"),
    "many digits": ("need: 5", "need: " + "1" * 60, 5, "services.web.need", "not a number that a plan can hold"),
    "tiny": ("cost: 1}", "cost: 1e-40}", 3, "flavors.a.cost", "not a number that a plan can hold"),
    "a word": ("need: 5", "need: many", 5, "services.web.need", '"many" is not a number'),
    "a truth": ("need: 5", "need: true", 5, "services.web.need", 'The truth value "true" stands where a need belongs.'),
    "a list": ("need: 5", "need: [5]", 5, "services.web.need", "A list stands where a need belongs."),
    "nothing": ("cost: 1}", "cost: }", 3, "flavors.a.cost", 'A flavor needs the field "cost".'),
    "no cost": (", cost: 1}", "}", 3, "flavors.a.cost", 'A flavor needs the field "cost".'),
    "no currency": ("currency: EUR\n", "", 1, "currency", 'A plan needs the field "currency".'),
    "a currency in words": ("EUR", "euro", 1, "currency", "Write its three letters"),
    "an unknown flavor": ("need: 5}", "need: 5, served_by: [A]}", 5, "services.web.served_by", 'Did you mean "a"?'),
    "an unknown flavor with a rate": (
        "need: 5}", "need: 5, served_by: {b100: 2}}", 5, "services.web.served_by", "There are: a."
    ),
    "a flavor twice": ("need: 5}", "need: 5, served_by: [a, a]}", 5, "services.web.served_by[1]", "given twice"),
    "a rate of zero": ("need: 5}", "need: 5, served_by: {a: 0}}", 5, "services.web.served_by.a", "cannot serve"),
    "no way": ("need: 5}", "need: 5, served_by: {}}", 5, "services.web.served_by", "No flavor serves it."),
    "min above max": (
        "need: 5}", "need: 5, served_by: {a: {min: 3, max: 2}}}", 5, "services.web.served_by.a", "min 3 is above max 2."
    ),
    "devices that rule one another out": (
        "need: 5}", "need: 5, min_devices: 4, max_devices: 3}", 5, "services.web.min_devices", "at least 4 devices"
    ),
    "no whole number between": (
        "need: 5}", "need: 5, whole: true, served_by: {a: {min: 2.2, max: 2.8}}}", 5, "services.web.served_by",
        "No whole number of devices",
    ),
    "yes for true": ("need: 5}", "need: 5, whole: yes}", 5, "services.web.whole", '"yes" stands where true or false'),
    "millions of devices": ("need: 5", "need: 1e9", 5, "services.web.need", "more than 10000000 devices"),
    "half of a derived impact": ("cost: 1}", "cost: 1, loss: 4}", 3, "flavors.a", "loss stands without failure_rate."),
    "an impact twice": (
        "cost: 1}", "cost: 1, failure_impact: 2, loss: 4, failure_rate: 1}", 3, "flavors.a", "given and also derived"
    ),
    "no flavors": ("  a: {capacity: 5, cost: 1}", "  {}", 3, "flavors", "There are no flavors."),
    "a strange name": ("  a:", "  a b:", 3, "flavors.a b", "Use letters, digits"),
    "a field twice": ("need: 5}", "need: 5, need: 6}", 5, "", "stands here again"),
    "a limit of nothing": ("services:", "limits: {x: {of: cost}}\nservices:", 4, "limits.x", "limits nothing."),
    "a limit of something else": (
        "services:", "limits: {x: {of: costs, at_most: 1}}\nservices:", 4, "limits.x.of", 'Did you mean "cost"?'
    ),
    "a limit on what is not there": (
        "services:", "limits: {x: {of: {wep: 1}, at_most: 1}}\nservices:", 4, "limits.x.of", 'Did you mean "web"?'
    ),
    "a limit on a flavor that is not there": (
        "services:", "limits: {x: {of: {web on b: 1}, at_most: 1}}\nservices:", 4, "limits.x.of",
        'There is no flavor "b".',
    ),
    "a limit that rules itself out": (
        "services:", "limits: {x: {of: cost, at_most: 1, at_least: 2}}\nservices:", 4, "limits.x", "is above at_most 1."
    ),
    "a name for two things": (
        "services:\n", "limits: {x: {of: {a: 1}, at_most: 1}}\nservices:\n  a: {need: 1}\n", 4, "limits.x.of",
        "both a flavor and a service",
    ),
    "a negative lambda": ("currency: EUR", "currency: EUR\nlambda: -0.1", 2, "lambda", "lambda here is 0 to 1000000."),
    "two documents": (SMALL, SMALL + "---\n" + SMALL, None, "", "2 documents stand here"),
    "nothing at all": (SMALL, "# nothing\n", None, "", "There is no plan here."),
    "not a mapping": (SMALL, "- 1\n", 1, "", "A list stands where a plan belongs."),
    "not YAML": (SMALL, "flavors: {a: [\n", 2, "", "This is not YAML"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_with_its_place(case: str) -> None:
    before, after, line, path, words = WRONG[case]
    assert before in SMALL
    with pytest.raises(SpecInvalid) as caught:
        read_model(SMALL.replace(before, after))
    said = {(problem.line, problem.path): f"{problem.message} {problem.instead}" for problem in caught.value.problems}
    assert words in said[line, path]


def test_all_problems_are_said_at_once() -> None:
    with pytest.raises(SpecInvalid) as caught:
        read_model(SMALL.replace("cost: 1", "cost: -1").replace("need: 5", "need: x, whole: 7") + "colour: red\n")
    assert [problem.path for problem in caught.value.problems] == [
        "flavors.a.cost", "services.web.need", "services.web.whole", "colour"
    ]  # fmt: skip


KNOWN = Known("EUR", (Supply("a", Decimal(3), capacity=Decimal(8), vendor="v", model="m"),), "hour")


def test_flavors_that_are_known_need_not_be_written() -> None:
    model = read_model("services: {web: {need: 5}}", KNOWN)
    assert (model.currency, model.period, model.supplies) == ("EUR", "hour", KNOWN.supplies)
    assert model.demands[0].ways == (Way("a"),)


def test_what_is_written_goes_before_what_is_known() -> None:
    text = """\
period: day
flavors:
  a: {failure_rate: 0.5, loss: 4}
  cloud: {capacity: unlimited, cost: 9}
services: {web: {need: 5}}
"""
    model = read_model(text, KNOWN)
    assert model.period == "day"
    assert model.supplies == (
        Supply("a", Decimal(3), Decimal(2), Decimal(8), "v", "m"), Supply("cloud", Decimal(9))
    )  # fmt: skip


def test_what_is_known_is_in_one_currency() -> None:
    with pytest.raises(SpecInvalid, match="What is known is priced in EUR"):
        read_model("currency: USD\nservices: {web: {need: 5}}", KNOWN)


def test_a_flavor_that_is_not_known_is_written_whole() -> None:
    with pytest.raises(SpecInvalid, match=r"line 1, column 14: flavors\.b\.capacity: A flavor needs"):
        read_model("flavors: {b: {cost: 1}}\nservices: {web: {need: 5}}", KNOWN)


def test_a_text_of_many_megabytes_is_refused() -> None:
    with pytest.raises(SpecInvalid, match="at most"):
        read_model(b"#" * (MAX_BYTES + 1))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["a", "cost", "unlimited"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from([
            "currency", "flavors", "services", "limits", "lambda", "lambdas", "whole", "capacity", "cost", "need",
            "served_by", "rate", "min", "max", "of", "at_most", "at_least", "a", "b", "a on b", "failure_rate",
        ]), inner, max_size=5,
    ),
    max_leaves=25,
)  # fmt: skip


@given(values, st.sampled_from(["flavors", "services", "limits", "whole", ""]))
def test_anything_is_read_or_refused_with_a_sentence(value: object, where: str) -> None:
    document = {"currency": "EUR", "flavors": {"a": {"capacity": 5, "cost": 1}}, "services": {"web": {"need": 5}}}
    text = json.dumps({**document, where: value} if where else value)
    try:
        assert read_model(text).currency == "EUR"
    except SpecInvalid as error:
        said = [problem.message for problem in error.problems]
    else:
        return
    assert said
    assert all(said)
