"""Where a Pod may go, in our placement: labels, taints, near to one another, far apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dujiang.jobs.converting.devices import MODEL_LABELS, model_of
from dujiang.jobs.converting.draft import Draft
from dujiang.jobs.converting.parts import Part
from dujiang.jobs.converting.report import At
from dujiang.kit.spec.problems import quote

_PLACES: Final[Mapping[str, str]] = {
    "kubernetes.io/hostname": "node",
    "dujiang.io/switch": "switch",
    "fabric.topograph.run/tier-0": "switch",
    "network.topology.nvidia.com/leaf": "switch",
    "dujiang.io/rack": "rack",
    "topology.kubernetes.io/rack": "rack",
    "cloud.provider.com/topology-rack": "rack",
    "dujiang.io/site": "site",
    "topology.kubernetes.io/zone": "site",
    "failure-domain.beta.kubernetes.io/zone": "site",
}
"""Labels that say where a node is, as docs/placement.md has them."""
_OF_CLUSTER: Final = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
"""Tolerations that every Pod is given."""
_WISH: Final = ("A wish that may go unmet is not kept; only demands are.", "")


def take_placement(spec: Part, draft: Draft, labels: Mapping[str, str]) -> None:
    """Put what a Pod demands of its place into the draft.

    Args:
        spec: of the Pod.
        draft: takes `placement`, and the model of `resources.gpu` where a label names it.
        labels: of the Pod, to tell whether an affinity is meant for its own kind.
    """
    for name, (value, at) in spec.table("nodeSelector").items():
        _label(name, [value], f"{spec.under('nodeSelector')}.{name}", at, draft)
    affinity = spec.part("affinity", "an affinity")
    if affinity is not None:
        _node_affinity(affinity.part("nodeAffinity", "an affinity to nodes"), draft)
        _pod_affinity(affinity.part("podAffinity", "an affinity to Pods"), draft, labels, near=True)
        _pod_affinity(affinity.part("podAntiAffinity", "an affinity to Pods"), draft, labels, near=False)
        affinity.close()
    _tolerations(spec.parts("tolerations", "a toleration"), draft)
    for constraint in spec.parts("topologySpreadConstraints", "a constraint"):
        _spread(constraint, draft)


def _label(name: str, values: list[str], path: str, at: At, draft: Draft) -> None:
    """A label that names the model of a device is asked for as a model: other clusters have other labels."""
    models = [model_of(value) for value in values] if name in MODEL_LABELS and draft.get("resources", "gpu") else []
    if models and all(models):
        _models([model for model in models if model], path, at, draft)
    elif len(values) == 1:
        draft.put(values[0], "placement", "selector", name, at=at)
    else:
        why = "A job names one value of a label."
        draft.report.note(path, f"{quote(name)} is not demanded.", why, "Write placement: {selector: ...}.", at=at)


def _models(models: list[str], path: str, at: At, draft: Draft) -> None:
    gpu = draft.get("resources", "gpu")
    distinct = list(dict.fromkeys(models))
    why = "So that it fits nodes of every cluster."
    if len(distinct) == 1:
        draft.put(distinct[0], "resources", "gpu", "model", at=at)
        draft.report.note(path, f"The job asks for a device model: {distinct[0]}.", why, at=at, kept=True)
        return
    draft.drop("resources", "gpu")
    draft.put([{"gpu": {**gpu, "model": model}} for model in distinct[:8]], "resources", "any_of", at=at)
    what = f"The job asks for device models, the first the best: {', '.join(distinct[:8])}."
    draft.report.note(path, what, why, at=at, kept=True)


def _node_affinity(affinity: Part | None, draft: Draft) -> None:
    if affinity is None:
        return
    required = affinity.part("requiredDuringSchedulingIgnoredDuringExecution", "a demand")
    if required is not None:
        terms = required.parts("nodeSelectorTerms", "a term")
        if len(terms) == 1:
            for expression in terms[0].parts("matchExpressions", "an expression"):
                _expression(expression, draft)
            terms[0].close({"matchFields": ("A job names labels of nodes, not nodes.", "Label the node.")})
        elif terms:
            required.note("nodeSelectorTerms", "Not kept.", "A job has one set of labels, not several of which one "
                          "will do.", "Write placement: {selector: ...} for one of them.")  # fmt: skip
        required.close()
    affinity.close({"preferredDuringSchedulingIgnoredDuringExecution": _WISH})


def _expression(expression: Part, draft: Draft) -> None:
    key, operator, values = expression.text("key") or "", expression.text("operator") or "", expression.words("values")
    if operator == "In" and values:
        _label(key, values, expression.path, expression.place, draft)
    else:
        why = f"A job demands that a label has a value; it has no {quote(operator)}."
        instead = "Label the nodes that will do and write placement: {selector: ...}."
        draft.report.note(expression.path, f"{quote(key)} is not looked at.", why, instead, at=expression.place)
    expression.close()


def _pod_affinity(affinity: Part | None, draft: Draft, labels: Mapping[str, str], *, near: bool) -> None:
    if affinity is None:
        return
    for term in affinity.parts("requiredDuringSchedulingIgnoredDuringExecution", "a term"):
        _term(term, draft, labels, near=near, required=True)
    for wish in affinity.parts("preferredDuringSchedulingIgnoredDuringExecution", "a wish"):
        term_of_wish = wish.part("podAffinityTerm", "a term")
        wish.take("weight")
        if term_of_wish is None:
            continue
        if near:
            _term(term_of_wish, draft, labels, near=True, required=False)
        else:
            wish.note("podAffinityTerm", "Not kept.", *_WISH)
        wish.close()
    affinity.close()


def _term(term: Part, draft: Draft, labels: Mapping[str, str], *, near: bool, required: bool) -> None:
    key = term.text("topologyKey") or ""
    place, own = _PLACES.get(key), _is_own(term.part("labelSelector", "a selector"), labels)
    if place is None or not own:
        why = "Only work that carries the same labels is placed by one another." if place else (
            f"{quote(key)} is no place known here: node, switch, rack or site."
        )  # fmt: skip
        instead = "Write placement: {within: ...}." if near else "Write placement: {apart: ..., spread: ...}."
        draft.report.note(term.path, "Not kept.", why, instead, at=term.place)
    elif near:
        draft.put(place, "placement", "within", at=term.place)
        if not required:
            draft.put(False, "placement", "required", at=term.place)
    else:
        draft.put(place, "placement", "spread", at=term.place)
        if place == "node":
            draft.put(draft.get("name") or "apart", "placement", "apart", at=term.place)
    term.close(dict.fromkeys(
        ("namespaces", "namespaceSelector", "matchLabelKeys", "mismatchLabelKeys"),
        ("A job is placed beside others of its own project.", ""),
    ))  # fmt: skip


def _is_own(selector: Part | None, labels: Mapping[str, str]) -> bool:
    if selector is None:
        return False
    wanted = {name: value for name, (value, _) in selector.table("matchLabels").items()}
    for expression in selector.parts("matchExpressions", "an expression"):
        values = expression.words("values")
        key = expression.text("key") or ""
        if expression.text("operator") != "In" or labels.get(key) not in values:
            return False
    selector.close()
    return all(labels.get(name) == value for name, value in wanted.items())


def _tolerations(tolerations: list[Part], draft: Draft) -> None:
    words: list[str] = []
    for one in tolerations:
        key, value = one.text("key") or "", one.text("value") or ""
        exists = one.text("operator") == "Exists"
        effect = one.text("effect")
        if key in _OF_CLUSTER:
            one.take("tolerationSeconds")
            continue
        words.append(key if key and (exists or not value) else f"{key}={value}" if key else "*")
        if key and not exists and not value:
            why = "Its value is empty, which cannot be said; any value will do."
            draft.report.note(one.path, f"Every taint {quote(key)} is tolerated.", why, at=one.place, kept=True)
        if effect == "NoExecute" or "tolerationSeconds" in one:
            one.note("tolerationSeconds" if "tolerationSeconds" in one else "effect", "Not kept.",
                     "A taint here keeps new work away; what runs goes on.")  # fmt: skip
        one.close()
    if words:
        draft.put(list(dict.fromkeys(words)), "placement", "tolerations", at=tolerations[0].place)


def _spread(constraint: Part, draft: Draft) -> None:
    place = _PLACES.get(constraint.text("topologyKey") or "")
    strict = (constraint.text("whenUnsatisfiable") or "DoNotSchedule") == "DoNotSchedule"
    if place and strict and constraint.whole("maxSkew") == 1 and draft.get("placement", "spread") is None:
        draft.put(place, "placement", "spread", at=constraint.place)
        what = f"No two nodes of the job are in one {place}."
        why = "That is stricter than a skew of 1, which a job cannot say."
        draft.report.note(constraint.path, what, why, "Leave spread out if that is too strict.", at=constraint.place,
                          kept=True)  # fmt: skip
    else:
        why = "A job can only say that no two of its nodes share a node, switch, rack or site."
        draft.report.note(constraint.path, "Not kept.", why, "Write placement: {spread: ...}.", at=constraint.place)
