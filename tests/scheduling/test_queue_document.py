"""The document of queues: what is read, what is said of mistakes and where, and that it comes back the same."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dujiang.kit.spec.problems import SpecInvalid
from dujiang.scheduling.domain.queue_document import differences, document_of, parse_queues, read_queues
from dujiang.scheduling.domain.queues import NO_QUEUES, Limits, Queue, QueueTree, QuotaFlavor, QuotaLine

TEXT = """
flavors:
  - {name: h100, vendor: nvidia, model: H100}
  - name: gpu
  - {name: bare, devices: none}
queues:
  - name: centre
    quota:
      h100: {nominal: {gpu: 8}}
  - name: research
    parent: centre
    weight: 2.5
    projects: [vision, speech]
    quota:
      h100:
        nominal: {gpu: 16, gpu_memory: 1280GiB, cpu: 128, memory: 1TiB}
        borrowing_limit: {gpu: 8}
        lending_limit: {gpu: 1/2}
        guarantee: {gpu: 4}
      bare:
        nominal: {cpu: 0}
"""


def test_a_document_is_read() -> None:
    tree = parse_queues(TEXT)
    assert tree.flavors == (
        QuotaFlavor("h100", "nvidia", "H100"), QuotaFlavor("gpu"), QuotaFlavor("bare", has_devices=False))  # fmt: skip
    assert tree.queues[1] == Queue(
        "research", "centre",
        (
            QuotaLine(
                "h100", Limits(16_000, 1280 * 2**30, 128_000, 2**40), Limits(8000), Limits(500), Limits(4000)
            ),
            QuotaLine("bare", Limits(cpu_milli=0)),
        ),
        2.5, ("vision", "speech"),
    )  # fmt: skip
    assert parse_queues("queues: []") == NO_QUEUES


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("parent: centre", "parent: center"), 'line 11, column 5: queues[1].parent: There is no queue "center".'),
        (("bare:\n", "bear:\n"), 'There is no flavor "bear". Did you mean "bare"?'),
        (("weight: 2.5", "weight: 0"), "A weight is above 0"),
        (("gpu: 16", "gpus: 16"), "Write gpu."),
        (("nominal: {gpu: 8}", "gpu: 8"), "Write it under nominal."),
        (("1280GiB", "1280GB of it"), "is not a size"),
        (("gpu: 16", "gpu: -1"), "must not be negative"),
        (("parent: centre", "parent: research"), "below itself"),
        (("[vision, speech]", "[vision, vision]"), 'Project "vision" is in queue "research" already.'),
        (("guarantee: {gpu: 4}", "guarantee: {gpu: 17}"), "guaranteed at most its own"),
        (("name: centre", "name: The Centre"), "is not a name"),
        (("queues:", "queue:"), 'Did you mean "queues"?'),
        (("queues:", "---\nqueues:"), "2 documents stand here"),
        ((TEXT, ""), "There is nothing here."),
        ((TEXT, "- 1"), "stands where the document belongs"),
        ((TEXT, "queues: ["), "not YAML"),
    ],
)
def test_mistakes_are_told_with_their_place(change: tuple[str, str], told: str) -> None:
    with pytest.raises(SpecInvalid) as refused:
        parse_queues(TEXT.replace(*change))
    assert told in refused.value.sentence


_LIMITS = st.builds(
    Limits, *(st.none() | st.integers(0, 10**12), st.none() | st.integers(0, 2**60)) * 2
)  # fmt: skip
_TREES = st.builds(
    lambda top, below, weight: QueueTree(
        [Queue("top", "", top), Queue("low", "top", below, weight / 1000, ("a", "prj_b"), ("c",))],
        [QuotaFlavor("h", "nvidia", "H100"), QuotaFlavor("rest", cluster="far")],
    ),
    st.lists(st.builds(QuotaLine, st.just("h"), _LIMITS), max_size=1).map(tuple),
    st.lists(st.builds(QuotaLine, st.just("rest"), _LIMITS, _LIMITS, _LIMITS), max_size=1).map(tuple),
    st.integers(1, 10**6),
)


@given(_TREES)
def test_a_document_comes_back_the_same(tree: QueueTree) -> None:
    document = document_of(tree)
    assert read_queues(document) == tree
    assert parse_queues(yaml.safe_dump(document, sort_keys=False)) == tree
    assert differences(tree, tree) == ()


def test_differences_name_what_changed() -> None:
    before = parse_queues(TEXT)
    after = parse_queues(TEXT.replace("gpu: 16", "gpu: 12").replace("        guarantee: {gpu: 4}\n", "").replace(
        "[vision, speech]", "[vision]"))  # fmt: skip
    assert [str(one) for one in differences(before, after)] == [
        "~ queues.research.projects: vision, speech -> vision",
        "- queues.research.quota.h100.guarantee.gpu: 4",
        "~ queues.research.quota.h100.nominal.gpu: 16 -> 12",
    ]
    assert [str(one) for one in differences(NO_QUEUES, QueueTree([Queue("a")]))] == [
        "+ queues: a", "+ queues.a.weight: 1"]  # fmt: skip
