"""What is said of a node in words: labels, taints, and the place that its labels give.

Engines report labels and taints; operators lay theirs over them, and those stay when the engine is looked at again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from dujiang.kit.errors import Invalid

MAX_OWN: Final = 64
"""Labels or taints that operators give one node."""
SITE: Final = "site"
PLACE_LABELS: Final[Mapping[str, tuple[str, ...]]] = {
    "switch": ("dujiang.io/switch", "fabric.topograph.run/tier-0", "network.topology.nvidia.com/leaf"),
    "rack": ("dujiang.io/rack", "topology.kubernetes.io/rack"),
    SITE: ("dujiang.io/site", "topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"),
}
"""Labels that say which switch, rack and site a node belongs to; of several that are there, the first counts.

Ours first, so that an operator can put right what another program says. The others are what Topograph and cloud
controllers of Kubernetes write.
"""

_KEY = re.compile(r"[A-Za-z0-9]([-_./A-Za-z0-9]{0,251}[A-Za-z0-9])?")
_VALUE = re.compile(r"[^\s,=]{0,255}")
_EFFECT = re.compile(r":(NoSchedule|NoExecute|PreferNoSchedule)$", re.IGNORECASE)


class BadMark(Invalid):
    """A label or taint that cannot be given or taken."""

    code, title = "bad_mark", "The label or taint is not valid"


def labelled(
    own: Mapping[str, str], given: Mapping[str, str], removed: Sequence[str], engine: Mapping[str, str]
) -> dict[str, str]:
    """Return an operator's labels of a node after a change.

    Args:
        own: until now.
        given: to set, over what is there.
        removed: keys to take away; one that is not there is passed over.
        engine: what the engine says, which can be overlaid and not removed.

    Raises:
        BadMark: a key or value in a form that nothing could ask for, the same key twice, or a label of the engine.
    """
    for key, value in given.items():
        _check("label", key, value)
    _check_removed("label", removed, given, own, engine)
    return _few("labels", dict(sorted({**{k: v for k, v in own.items() if k not in removed}, **given}.items())))


def tainted(own: Sequence[str], given: Sequence[str], removed: Sequence[str], engine: Sequence[str]) -> tuple[str, ...]:
    """Return an operator's taints of a node after a change; arguments as those of `labelled`.

    A key has one value: given again with another, it is replaced.

    Raises:
        BadMark: likewise.
    """
    wanted: dict[str, str] = {}
    for taint in given:
        if _EFFECT.search(taint):
            raise BadMark(
                f'"{taint[:80]}" ends in an effect. Write key or key=value: a taint keeps away all new work that does '
                "not tolerate it."
            )
        key, equals, value = taint.partition("=")
        _check("taint", key, value)
        if key in wanted:
            raise BadMark(f'The taint "{key}" is given twice; keep one.')
        wanted[key] = taint if equals and value else key
    before = {taint_key(taint): taint for taint in own}
    _check_removed("taint", removed, wanted, before, {taint_key(taint) for taint in engine})
    kept = {key: taint for key, taint in before.items() if key not in removed}
    return tuple(sorted(_few("taints", {**kept, **wanted}).values()))


def taint_key(taint: str) -> str:
    """Return the key of a taint."""
    return taint.partition("=")[0]


def places(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the switch, rack and site that labels give, as far as they do, each by its plain name."""
    found: dict[str, str] = {}
    for level, keys in PLACE_LABELS.items():
        name = next((labels[key] for key in keys if labels.get(key)), None)
        if name is not None:
            found[level] = name
    return found


def domains(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the places with names that no other site has: two sites may each have a rack 7."""
    found = places(labels)
    site = found.get(SITE)
    return found if site is None else {k: v if k == SITE else f"{site}/{v}" for k, v in found.items()}


def _check(what: str, key: str, value: str) -> None:
    if not _KEY.fullmatch(key):
        raise BadMark(
            f'"{_shown(key)}" is not the key of a {what}: it has up to 253 letters, digits, dots, dashes, slashes and '
            "underscores, with a letter or digit at both ends."
        )
    if not _VALUE.fullmatch(value) or not value.isprintable():
        raise BadMark(
            f'"{_shown(value)}" is not the value of a {what}: it has up to 255 characters, without spaces, commas and '
            "equals signs."
        )


def _check_removed(
    what: str, removed: Iterable[str], given: Mapping[str, str], own: Mapping[str, str], engine: Iterable[str]
) -> None:
    engines = set(engine)
    for key in removed:
        if key in given:
            raise BadMark(f'The {what} "{_shown(key)}" is both set and removed; keep one.')
        if key in engines and key not in own:
            advice = "set another value over it" if what == "label" else "remove it there, or let jobs tolerate it"
            raise BadMark(f'The {what} "{_shown(key)}" comes from the engine; {advice}.')


def _few(what: str, marks: dict[str, str]) -> dict[str, str]:
    if len(marks) > MAX_OWN:
        raise BadMark(f"The node would have {len(marks)} {what} of operators; at most {MAX_OWN} are kept.")
    return marks


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:80])
