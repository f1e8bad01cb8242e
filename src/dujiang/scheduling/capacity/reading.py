"""A question of capacity as people write it, YAML or JSON; everything that is wrong with it, with its line.

docs/capacity.md shows the form. Figures are taken as they are written, so that 0.1 is a tenth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any, Final

from dujiang.kit.errors import did_you_mean
from dujiang.kit.spec.problems import Problem, Problems, Refused, SpecInvalid, quote
from dujiang.kit.spec.readers import Field, Many, Mapped, OneOf, Quantity, Reader, Record, Schema, Table, Text
from dujiang.kit.spec.yaml import Located, documents
from dujiang.kit.units import BadQuantity
from dujiang.scheduling.capacity.model import Demand, Limit, Measure, Model, Summed, Supply, Term, Way

MAX_BYTES: Final = 16 * 2**20
MAX_VALUES: Final = 1_000_000
MAX_FLAVORS: Final = 2_000
MAX_SERVICES: Final = 20_000
MAX_WAYS: Final = 250_000
"""Of one text: flavors that can serve, over all services."""
MAX_DEVICES: Final = 10_000_000
UNLIMITED: Final = "unlimited"


@dataclass(frozen=True, slots=True)
class Known:
    """What is known without the text, such as the devices and prices of a platform."""

    currency: str
    supplies: tuple[Supply, ...]
    period: str = ""


def read_model(source: str | bytes, known: Known | None = None) -> Model:
    """Return the question that a text asks.

    Args:
        source: YAML or JSON.
        known: flavors that need not be written; the text may add others, and change what it says of these.

    Raises:
        SpecInvalid: with every problem found, each with line and column.
    """
    problems = Problems()
    found = [d for d in documents(source, problems, max_bytes=MAX_BYTES, max_values=MAX_VALUES) if d.value is not None]
    if len(found) != 1:
        said = f"{len(found)} documents stand here; a plan is one." if found else "There is no plan here."
        problems.raise_if_any()
        raise SpecInvalid([Problem("", said, "Write at least flavors and services; docs/capacity.md shows how.")])
    try:
        model = _document(known).read(found[0], "", problems)
    except Refused:
        problems.raise_if_any()
        raise
    problems.raise_if_any()
    return model


# Figures


def _figure(what: str, most: Decimal | int, *, least: Decimal | int | str = 0, advice: str = "") -> Quantity[Decimal]:
    return Quantity(what, _decimal, Decimal(least), Decimal(most), _shown, {"type": "number"}, advice)


def _decimal(text: str) -> Decimal:
    """Return a figure exactly as written."""
    shown = "".join(c if c.isprintable() else "?" for c in text[:40])
    try:
        figure = Decimal(text.strip()) if len(text) <= 40 else Decimal("NaN")
    except InvalidOperation as error:
        raise BadQuantity(f'"{shown}" is not a number; write it with digits, such as 2.5.') from error
    if not figure.is_finite() or (figure and not -30 < figure.adjusted() < 30):
        raise BadQuantity(f'"{shown}" is not a number that a plan can hold.')
    return figure


def _shown(figure: Decimal) -> str:
    return f"{figure:f}"


_DEVICES = _figure("a number of devices", MAX_DEVICES)
_MONEY = _figure("an amount of money", 10**9)
_RATE = _figure("a rate", 10**6, least="0.000001", advice="Leave out a flavor that cannot serve.")
_SIGNED = _figure("a number", 10**12, least=-(10**12))
_NAME = Text("a name", 63, r"[^\W_][\w./+-]*", "Use letters, digits and . _ / + - only, a letter or digit first.")


@dataclass(frozen=True)
class _TrueFalse:
    """Yes or no."""

    def read(self, value: Located, path: str, problems: Problems) -> bool:
        if not isinstance(value.value, bool):
            shown = quote(value.text) if value.text else "Something else"
            raise problems.refuse(path, f"{shown} stands where true or false belongs.", at=value.at)
        return value.value

    def schema(self) -> Schema:
        return {"type": "boolean"}


# Flavors


def _capacity_or_word(value: Located) -> Reader[Any] | None:
    return _Unlimited() if value.value == UNLIMITED else None


@dataclass(frozen=True)
class _Unlimited:
    """The word that stands for no end."""

    def read(self, value: Located, path: str, problems: Problems) -> str:
        return UNLIMITED

    def schema(self) -> Schema:
        return {"const": UNLIMITED}


def _build_supply(given: dict[str, Any], value: Located, path: str, problems: Problems) -> dict[str, Any]:
    derived = [name for name in ("failure_rate", "loss") if name in given]
    if derived and "failure_impact" in given:
        problems.add(path, "The failure impact is given and also derived.",
                     "Write failure_impact, or failure_rate and loss.", at=_at(value, "failure_impact"))  # fmt: skip
    if len(derived) == 1:
        other = "loss" if derived == ["failure_rate"] else "failure_rate"
        problems.add(path, f"{derived[0]} stands without {other}.",
                     "The failure impact is failure_rate x loss.", at=_at(value, derived[0]))  # fmt: skip
    return given | {"at": value}


def _supply(name: str, each: dict[str, Any], known: Supply | None, problems: Problems) -> Supply:
    """Return a flavor as written, over what is known of it."""
    for field in ("capacity", "cost"):
        if field not in each and known is None:
            problems.add(f"flavors.{name}.{field}", f'A flavor needs the field "{field}".', at=each["at"].at)
    base = known or Supply(name, Decimal(0))
    impact = each.get("failure_impact", base.impact)
    if "failure_rate" in each and "loss" in each:
        impact = each["failure_rate"] * each["loss"]
    capacity = each.get("capacity", base.capacity)
    return Supply(
        name, each.get("cost", base.cost), impact, None if capacity == UNLIMITED else capacity,
        each.get("vendor", base.vendor), each.get("model", base.model),
    )  # fmt: skip


_SHORT = Text("a short text", 63)
_FLAVOR = Record(
    "a flavor",
    (
        Field("capacity", OneOf(_DEVICES, _capacity_or_word, ()), "Devices there are, or: unlimited."),
        Field("cost", _MONEY, "What one device costs in the period, in the currency."),
        Field("failure_impact", _MONEY, "Expected loss by failures of one device in the period."),
        Field("failure_rate", _figure("a failure rate", 10**6), "Failures of one device in the period."),
        Field("loss", _MONEY, "What one failure costs."),
        Field("vendor", _SHORT, "Who makes it."),
        Field("model", _SHORT, "What it is called there."),
    ),
    _build_supply,
    {
        "price": "Write cost.", "unit_cost": "Write cost.", "count": "Write capacity.",
        "impact": "Write failure_impact.", "currency": "Write currency once, beside flavors.",
    },
)  # fmt: skip


# Services


def _build_way(given: dict[str, Any], value: Located, path: str, problems: Problems) -> Way:
    way = Way("", given.get("rate", Decimal(1)), given.get("min", Decimal(0)), given.get("max"))
    if way.most is not None and way.least > way.most:
        problems.add(path, f"min {_shown(way.least)} is above max {_shown(way.most)}.", at=_at(value, "min"))
    return way


_WAY: Record[Way] = Record(
    "a way to serve",
    (
        Field("rate", _RATE, "Units of the need that one device serves."),
        Field("min", _DEVICES, "Least devices of this flavor."),
        Field("max", _DEVICES, "Most devices of this flavor."),
    ),
    _build_way,
)
_BARE_RATE = Mapped(_RATE, lambda rate, *_: Way("", rate))


def _way_form(value: Located) -> Reader[Way] | None:
    return None if isinstance(value.value, Mapping) else _BARE_RATE


_WAYS_BY_NAME = Mapped(
    Table(_NAME, OneOf(_WAY, _way_form, ()), "flavors", MAX_FLAVORS),
    lambda ways, *_: tuple(replace(way, flavor=name) for name, way in ways.items()),
)
_WAYS_LISTED = Mapped(
    Many(_NAME, "flavors", MAX_FLAVORS, unique_by=str, least=1), lambda names, *_: tuple(Way(name) for name in names)
)


def _ways_form(value: Located) -> Reader[tuple[Way, ...]] | None:
    return _WAYS_LISTED if isinstance(value.value, tuple) else None


def _build_demand(given: dict[str, Any], value: Located, path: str, problems: Problems) -> dict[str, Any]:
    return given | {"at": value}


_SERVICE = Record(
    "a service",
    (
        Field("need", _figure("a need", 10**12), "Units that must be served, of whatever unit.", required=True),
        Field("served_by", OneOf(_WAYS_BY_NAME, _ways_form, ()), "Flavors that can serve, and at what rate."),
        Field("whole", _TrueFalse(), "Only whole devices."),
        Field("min_devices", _DEVICES, "Least devices of all flavors together."),
        Field("max_devices", _DEVICES, "Most devices of all flavors together."),
    ),
    _build_demand,
    {
        "integer": "Write whole.", "demand": "Write need.", "min": "Write min_devices.", "max": "Write max_devices.",
        "flavors": "Write served_by.", "on": "Write served_by.",
    },
)  # fmt: skip


# Limits


_TERMS = Table(
    Text("what a limit counts", 130, r"[^\W_][\w./+-]*( on [^\W_][\w./+-]*)?",
         "Name a flavor, a service, or both: SERVICE on FLAVOR."),
    _SIGNED, "terms", MAX_WAYS,
)  # fmt: skip


@dataclass(frozen=True)
class _MeasureWord:
    """One of the sums that need no terms."""

    def read(self, value: Located, path: str, problems: Problems) -> Measure:
        words = [word.value for word in Measure]
        if value.value not in words:
            near = did_you_mean(str(value.value), words).strip()
            instead = f"{near} Write {', '.join(words)}, or a mapping of flavors or services to factors.".strip()
            raise problems.refuse(path, f"{quote(value.text)} is nothing that adds up.", instead, at=value.at)
        return Measure(str(value.value))

    def schema(self) -> Schema:
        return {"enum": [word.value for word in Measure]}


def _of_form(value: Located) -> Reader[Any] | None:
    return None if isinstance(value.value, Mapping | tuple) else _MeasureWord()


def _build_limit(given: dict[str, Any], value: Located, path: str, problems: Problems) -> dict[str, Any]:
    most, least = given.get("at_most"), given.get("at_least")
    if most is None and least is None:
        problems.add(path, "The limit limits nothing.", "Write at_most, at_least or both.", at=value.at)
    if most is not None and least is not None and least > most:
        problems.add(path, f"at_least {_shown(least)} is above at_most {_shown(most)}.", at=_at(value, "at_least"))
    return given | {"at": value}


_LIMIT = Record(
    "a limit",
    (
        Field("of", OneOf(_TERMS, _of_form, ()), "cost, failure_impact, devices, or factors by name.", required=True),
        Field("at_most", _SIGNED, "Upper bound."),
        Field("at_least", _SIGNED, "Lower bound."),
    ),
    _build_limit,
    {"max": "Write at_most.", "min": "Write at_least.", "terms": "Write of.", "sum": "Write of."},
)  # fmt: skip


# The whole


def _build_model(known: Known | None, given: dict[str, Any], value: Located, path: str, problems: Problems) -> Model:
    before = len(problems)
    flavors = {supply.name: supply for supply in (known.supplies if known else ())}
    for name, each in given.get("flavors", {}).items():
        flavors[name] = _supply(name, each, flavors.get(name), problems)
    services, given = given["services"], {**given, "flavors": flavors}
    currency = given.get("currency", known.currency if known else "")
    if known is not None and currency != known.currency:
        problems.add("currency", f"What is known is priced in {known.currency}.",
                     "Write costs in that, and leave the currency out.", at=_at(value, "currency"))  # fmt: skip
    for what in ("flavors", "services"):
        if not given[what]:
            problems.add(what, f"There are no {what}.", "Write at least one.", at=_at(value, what))
    demands = tuple(_demand(name, each, given, problems) for name, each in services.items())
    ways = sum(len(demand.ways) for demand in demands)
    if ways > MAX_WAYS:
        problems.add("services", f"There are {ways} ways to serve; at most {MAX_WAYS} are taken.",
                     "Name with served_by what can serve each service.", at=_at(value, "services"))  # fmt: skip
    limits = tuple(
        Limit(name, _summed(name, each, given, problems), each.get("at_most"), each.get("at_least"))
        for name, each in given.get("limits", {}).items()
    )
    if len(problems) > before:
        raise Refused
    return Model(
        currency=currency,
        supplies=tuple(flavors.values()),
        demands=demands,
        limits=limits,
        weight=given.get("lambda", Decimal(1)),
        weights=given.get("lambdas", ()),
        period=given.get("period", known.period if known else ""),
    )


def _demand(name: str, each: dict[str, Any], given: dict[str, Any], problems: Problems) -> Demand:
    path, flavors, value = f"services.{name}", given["flavors"], each["at"]
    ways: tuple[Way, ...] = each.get("served_by", tuple(Way(flavor) for flavor in flavors))
    if not ways and flavors:
        problems.add(f"{path}.served_by", "No flavor serves it.", "Name one, or leave served_by out for all of them.",
                     at=_at(value, "served_by"))  # fmt: skip
    for index, way in enumerate(ways):
        if way.flavor not in flavors:
            near = did_you_mean_any_case(way.flavor, flavors) or f" There are: {', '.join(list(flavors)[:5])}."
            problems.add(f"{path}.served_by", f"There is no flavor {quote(way.flavor)}.", near.strip(),
                         at=_at_way(value, index, way.flavor))  # fmt: skip
    demand = Demand(
        name, each["need"], ways, each.get("whole", given.get("whole", False)),
        each.get("min_devices", Decimal(0)), each.get("max_devices"),
    )  # fmt: skip
    for field, message in _contradictions(demand):
        problems.add(f"{path}.{field}".rstrip("."), message, at=_at(value, field))
    return demand


def _contradictions(demand: Demand) -> Iterator[tuple[str, str]]:
    """Say which bounds of one service rule one another out: nothing that gives elsewhere would help."""
    if not demand.ways:
        return
    down, up = (math.floor, math.ceil) if demand.whole else (Decimal, Decimal)
    least = max(Decimal(up(demand.min_devices)), sum((Decimal(up(way.least)) for way in demand.ways), Decimal(0)))
    bounded = [way.most for way in demand.ways if way.most is not None]
    most = [sum((Decimal(down(each)) for each in bounded), Decimal(0))] if len(bounded) == len(demand.ways) else []
    most += [Decimal(down(demand.max_devices))] if demand.max_devices is not None else []
    if demand.whole and any(way.most is not None and up(way.least) > down(way.most) for way in demand.ways):
        yield "served_by", "No whole number of devices lies between min and max."
    elif most and least > min(most):
        yield "min_devices", f"It takes at least {_shown(least)} devices and may have at most {_shown(min(most))}."
    if demand.need / max(way.rate for way in demand.ways) > MAX_DEVICES:
        yield "need", f"It would take more than {MAX_DEVICES} devices; count the need in larger units."


def did_you_mean_any_case(word: str, known: Mapping[str, Any]) -> str:
    """Return ` Did you mean "x"?` for the nearest of names whose case matters, or an empty string."""
    folded = {name.casefold(): name for name in known}
    near = did_you_mean(word, folded)
    return f' Did you mean "{folded[near.split(chr(34))[1]]}"?' if near else ""


def _summed(name: str, each: dict[str, Any], given: dict[str, Any], problems: Problems) -> Summed:
    if isinstance(each["of"], Measure):
        return each["of"]
    terms = []
    for key, factor in each["of"].items():
        service, _, flavor = key.partition(" on ")
        if not flavor and service in given["flavors"]:
            if service in given["services"]:
                problems.add(f"limits.{name}.of", f"{quote(key)} is both a flavor and a service.",
                             "Rename one of them.", at=_at(each["at"], "of"))  # fmt: skip
            service, flavor = "", service
        for kind, word in (("services", service), ("flavors", flavor)):
            if word and word not in given[kind]:
                known = {**given["services"], **given["flavors"]} if not flavor else given[kind]
                what = "flavor or service" if not flavor else kind[:-1]
                entry = each["at"].value["of"].value.value[key]
                problems.add(f"limits.{name}.of", f"There is no {what} {quote(word)}.",
                             did_you_mean_any_case(word, known).strip(), at=entry.at)  # fmt: skip
        terms.append(Term(factor, service or None, flavor or None))
    return tuple(terms)


_CURRENCY = Text("a currency", 3, "[A-Z]{3}", "Write its three letters, such as EUR.", shortest=3)
_FIELDS = (
    Field("currency", _CURRENCY, "Of all money here.", required=True),
    Field("flavors", Table(_NAME, _FLAVOR, "flavors", MAX_FLAVORS), "What there is, by name.", required=True),
    Field("services", Table(_NAME, _SERVICE, "services", MAX_SERVICES), "What is needed, by name.", required=True),
    Field("limits", Table(_NAME, _LIMIT, "limits", 1000), "Further conditions, such as a budget."),
    Field("lambda", _figure("lambda", 10**6), "How much one unit of failure impact weighs against one of cost."),
    Field("lambdas", Many(_figure("lambda", 10**6), "lambdas", 1000), "Where to draw the curve."),
    Field("period", _SHORT, "The time that costs are for."),
    Field("whole", _TrueFalse(), "Only whole devices, where a service says nothing else."),
)
_ALIASES = {
    "resources": "Write flavors.", "demands": "Write services.", "constraints": "Write limits.",
    "integer": "Write whole.", "budget": "Write limits: {budget: {of: cost, at_most: ...}}.",
}  # fmt: skip


def _document(known: Known | None) -> Record[Model]:
    """Return the reader of a whole text; what is known need not stand in it."""
    optional = {"currency", "flavors"} if known is not None else set()
    fields = tuple(replace(field, required=False) if field.name in optional else field for field in _FIELDS)
    return Record("a plan", fields, partial(_build_model, known), _ALIASES)


def _at(value: Located, name: str) -> tuple[int | None, int | None]:
    entry = value.value.get(name) if isinstance(value.value, Mapping) else None
    return entry.value.at if entry is not None else value.at


def _at_way(service: Located, index: int, flavor: str) -> tuple[int | None, int | None]:
    entry = service.value.get("served_by") if isinstance(service.value, Mapping) else None
    if entry is None:
        return service.at
    inner = entry.value.value
    if isinstance(inner, tuple):
        return inner[index].at
    return inner[flavor].at if isinstance(inner, Mapping) else entry.at
