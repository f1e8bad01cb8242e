"""Queues: what each may have, who borrows from whom, and the rules that hold whatever is taken in whatever order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dujiang.scheduling.domain.fleet import ClusterRow, fleet_of_rows
from dujiang.scheduling.domain.queue_round import QueueRound, amounts_of
from dujiang.scheduling.domain.queue_usage import Loan, Usage
from dujiang.scheduling.domain.queues import (
    NO_QUEUES,
    BadQueues,
    Limits,
    Queue,
    QueueNotOpen,
    QueueTree,
    QuotaFlavor,
    QuotaLine,
    flavor_of,
)  # fmt: skip
from dujiang.scheduling.domain.request import Ask
from tests.scheduling.building import GIB, a_fleet, holding, some_nodes

H = QuotaFlavor("h")
BARE = QuotaFlavor("bare", has_devices=False)


def gpus(milli: int | None) -> Limits:
    return Limits(gpu_milli=milli)


def line(nominal: int, borrow: int | None = None, lend: int | None = None, keep: int | None = None) -> QuotaLine:
    return QuotaLine("h", gpus(nominal), gpus(borrow), gpus(lend), gpus(keep))


def queue(name: str, parent: str = "", *lines: QuotaLine, **more: Any) -> Queue:
    return Queue(name, parent, lines, **more)


def a_tree(*queues: Queue) -> QueueTree:
    return QueueTree(queues, [H])


def four(milli: int) -> tuple[int, int, int, int]:
    return milli, 0, 0, 0


PAIR = a_tree(queue("top", "", line(2)), queue("a", "top", line(4)), queue("b", "top", line(6, borrow=3, lend=4)))


# What a queue may have


def test_a_queue_borrows_what_others_leave_idle_up_to_their_lending_limit() -> None:
    usage = Usage(PAIR)
    assert usage.available("a", "h") == (4 + 2 + 4, None, None, None)  # its own, the top's, and what b lends
    assert usage.available("b", "h") == (
        6 + 3,
        None,
        None,
        None,
    )  # its borrowing limit, though 6 + 2 + 4 would be there
    usage.take("a", "h", four(10))
    assert usage.borrowed("a", "h") == four(6)
    assert usage.available("b", "h")[0] == 2  # what it lends is gone, what it keeps is not
    assert usage.lenders("a", "h") == (Loan("b", four(4)), Loan("top", four(2)))
    assert usage.lent("b", "h") == four(4)
    assert usage.lent("a", "h") == usage.lent("top", "h") == four(0)


def test_what_stops_a_queue_is_named() -> None:
    usage = Usage(PAIR)
    lack = usage.fits("b", "h", four(10))
    assert lack is not None
    assert (lack.at, lack.is_borrowing_limit, lack.needed, lack.available) == ("b", True, 10, 9)
    assert lack.sentence == "Queue b can have 0.009 more gpu of h by its borrowing limit, this job needs 0.01."
    lack = usage.fits("a", "h", four(11))
    assert lack is not None
    assert (lack.at, lack.is_borrowing_limit) == ("top", False)
    assert lack.sentence == "Queue a can have 0.01 more gpu of h, which is all that top has left; this job needs 0.011."
    alone = usage.fits("", "h", four(1))
    assert alone is not None
    assert alone.sentence.startswith("Its project is in no queue")


def test_a_loan_over_two_levels_is_told_at_both() -> None:
    tree = a_tree(
        queue("top"), queue("left", "top"), queue("right", "top"), queue("l1", "left", line(5)),
        queue("r1", "right", line(1)), queue("r2", "right", line(2)),
    )  # fmt: skip
    usage = Usage(tree)
    usage.take("r1", "h", four(6))
    assert usage.borrowed("right", "h") == four(3)
    assert usage.lenders("r1", "h") == (Loan("left", four(3)), Loan("r2", four(2)))
    assert usage.lent("l1", "h") == usage.lent("left", "h") == four(3)
    assert usage.available("l1", "h") == (2, None, None, None)


def test_what_no_line_names_is_not_limited_and_what_others_name_is_nothing() -> None:
    tree = QueueTree(
        [queue("a", "", QuotaLine("h", Limits(gpu_milli=4))), queue("b", "")], [H, QuotaFlavor("x", "amd")][::-1]
    )
    usage = Usage(tree)
    assert usage.available("b", "h") == (0, None, None, None)
    assert usage.available("b", "x") == usage.available("b", "") == (None, None, None, None)
    assert usage.fits("b", "x", (9, 9, 9, 9)) is None
    assert usage.fits("a", "h", (4, 2**50, 2**50, 2**50)) is None
    assert usage.fits("b", "h", (0, 2**50, 1, 1)) is None


def test_no_tree_limits_nothing() -> None:
    usage = Usage(NO_QUEUES)
    usage.take("a", "h", four(1))
    assert usage.fits("a", "h", four(2**50)) is None
    assert not NO_QUEUES


def test_lowered_quota_takes_nothing_from_what_others_keep() -> None:
    tree = a_tree(queue("top"), queue("a", "top", line(1)), queue("b", "top", line(5, lend=2)))
    usage = Usage(tree)
    usage.take("a", "h", four(7))  # from before, when there was more
    assert usage.available("b", "h")[0] == 3
    assert usage.available("a", "h")[0] == 0


# Who has to go


def test_a_queue_below_its_guarantee_has_claims_on_those_above_theirs_only() -> None:
    tree = a_tree(
        queue("top"), queue("a", "top", line(4)), queue("b", "top", line(4, keep=1)), queue("c", "top", line(4)),
        queue("d", "top", line(0)),
    )  # fmt: skip
    usage = Usage(tree)
    for name, held in (("b", 4), ("c", 4), ("d", 4)):
        usage.take(name, "h", four(held))
    assert usage.has_claim("a", "h", four(4))
    assert [name for name in "bcd" if usage.is_beyond(name, "a", "h")] == ["b", "d"]
    assert usage.over_guarantee("b", "h") == four(3)
    assert not usage.has_claim("a", "h", four(5))
    assert not usage.has_claim("d", "h", four(1))


def test_a_queue_above_within_its_guarantee_is_left_alone_from_outside() -> None:
    tree = a_tree(
        queue("top"), queue("left", "top"), queue("right", "top"), queue("l1", "left", line(4)),
        queue("r1", "right", line(0)), queue("r2", "right", line(4)),
    )  # fmt: skip
    usage = Usage(tree)
    usage.take("r1", "h", four(4))
    assert not usage.is_beyond("r1", "l1", "h")
    assert usage.is_beyond("r1", "r2", "h")
    usage.take("r1", "h", four(1))
    assert usage.is_beyond("r1", "l1", "h")


# As what devices are counted


def test_devices_are_counted_as_the_first_flavor_that_matches() -> None:
    fleet = fleet_of_rows(
        [ClusterRow("c"), ClusterRow("far")],
        [
            *some_nodes(1, 1, model="H100"),
            *some_nodes(1, 1, model="A100", prefix="m"),
            *some_nodes(1, 1, cluster="far"),
        ],
    )
    flavors = [
        QuotaFlavor("far", cluster="far"), QuotaFlavor("h", "nvidia", "h100"), QuotaFlavor("rest"), BARE,
    ]  # fmt: skip
    names = [cluster.name for cluster in fleet.clusters]
    counted = {(names[f.cluster], f.model): flavor_of(flavors, f, names[f.cluster]) for f in fleet.flavors}
    assert counted == {("c", "H100"): "h", ("c", "A100"): "rest", ("far", "A100"): "far"}
    assert flavor_of(flavors, None, "c") == "bare"
    assert flavor_of(flavors[:3], None, "c") == ""


def test_a_round_closes_the_flavors_of_which_the_queue_can_have_no_more() -> None:
    fleet = fleet_of_rows(
        [ClusterRow("c")], [*some_nodes(1, 4, model="H100"), *some_nodes(1, 4, model="A100", prefix="m")]
    )
    tree = QueueTree(
        [
            Queue("q", "", (
                QuotaLine("h", Limits(2000, 100 * GIB)), QuotaLine("a", Limits(1000)),
                QuotaLine("bare", Limits(cpu_milli=1000)),
            ), projects=("p",)),
        ],
        [QuotaFlavor("h", model="H100"), QuotaFlavor("a", model="A100"), BARE],
    )  # fmt: skip
    held = [holding("one", "n0", devices=(0,))]
    on = QueueRound.begin(tree, fleet, held)
    number = {flavor.model: flavor.number for flavor in fleet.flavors}
    assert on.usage.held("q", "h") == (1000, 80 * GIB, 0, 0)
    look = on.look("p", "", Ask(1000), 1)
    assert look.closed == {number["H100"]}  # by its memory
    assert look.lack is None
    on.take("p", "", "c", holding("two", "m0", devices=(1,)).ranks)
    look = on.look("p", "", Ask(1000), 1)
    assert look.closed == set(number.values())
    assert look.lack is not None
    assert (look.lack.flavor, look.lack.resource, look.lack.available) == ("h", "gpu_memory_bytes", 20 * GIB)
    on.release("p", "", "c", held[0].ranks)
    assert on.look("p", "", Ask(1000), 1).lack is None
    assert on.look("p", "", Ask(cpu_milli=1000), 1).lack is None
    bare = on.look("p", "", Ask(cpu_milli=1000), 2)
    assert bare.lack is not None
    assert bare.closed_clusters == {0}
    stranger = on.look("nobody", "", Ask(1000), 1).lack
    assert stranger is not None
    assert stranger.queue == ""
    assert amounts_of(held[0].ranks) == (1000, 80 * GIB, 0, 0)


def test_projects_in_no_queue_are_in_the_one_called_default() -> None:
    tree = QueueTree([Queue("a", projects=("p",)), Queue("default")])
    assert [tree.queue_of(one) for one in ("p", "z")] == ["a", "default"]
    assert QueueTree([Queue("a", projects=("p",))]).queue_of("z") == ""


def test_a_job_may_name_a_queue_that_is_open_to_its_project() -> None:
    tree = QueueTree([Queue("a", projects=("p",)), Queue("b", guests=("p",)), Queue("default")])
    assert [tree.queue_of("p", named) for named in ("", "a", "b", "default", "no-such")] == ["a", "a", "b", "a", "a"]
    assert tree.queue_of("z", "b") == "default"
    for project, named in (("p", ""), ("p", "a"), ("p", "b"), ("z", "default")):
        tree.check_named(project, named)
    for project, named, told in (
        ("p", "default", 'Queue "default" does not take jobs of this project. It may name a or b, or none.'),
        ("z", "b", "It may name default, or none."),
        ("p", "c", 'There is no queue "c". It may name a or b, or none.'),
    ):
        with pytest.raises(QueueNotOpen) as refused:
            tree.check_named(project, named)
        assert told in refused.value.sentence
    with pytest.raises(QueueNotOpen, match="Leave the queue out"):
        NO_QUEUES.check_named("p", "a")


def test_shares_go_down_the_tree_by_weight() -> None:
    tree = QueueTree([Queue("x", weight=3), Queue("y"), Queue("y1", "y", weight=1), Queue("y2", "y", weight=4)])
    assert tree.share_of == {"x": 0.75, "y": 0.25, "y1": 0.05, "y2": 0.2}
    assert [(depth, one.name) for depth, one in tree.ordered()] == [(0, "x"), (0, "y"), (1, "y1"), (1, "y2")]


# What is refused


@pytest.mark.parametrize(
    ("queues", "told"),
    [
        ([queue("a"), queue("b", "aa")], 'There is no queue "aa". Did you mean "a"?'),
        ([queue("a", "b"), queue("b", "a")], "below itself"),
        ([queue("a", "a")], "below itself"),
        ([queue("a"), queue("a")], 'two queues called "a"'),
        ([queue("")], "needs a name"),
        ([queue("a", "", projects=("p",)), queue("b", "", projects=("p",))], 'Project "p" is in queue "a" already'),
        ([queue("a", "", projects=("p",)), queue("b", "a")], "serves no projects itself"),
        ([queue("a", weight=0)], "A weight is above 0"),
        ([queue("a", weight=float("nan"))], "A weight is above 0"),
        ([queue("a", "", QuotaLine("hh"))], 'There is no flavor "hh". Did you mean "h"?'),
        ([queue("a", "", line(1), line(2))], 'two lines for flavor "h"'),
        ([queue("a", "", line(-1))], "between 0 and 2^60, not -1"),
        ([queue("a", "", line(2**61))], "between 0 and 2^60"),
        ([queue("a", "", line(1, borrow=1))], "nobody to borrow from"),
        ([queue("a"), queue("b", "a", line(1, keep=2))], "guaranteed at most its own"),
    ],
)  # fmt: skip
def test_queues_that_mean_nothing_are_refused(queues: list[Queue], told: str) -> None:
    with pytest.raises(BadQueues) as refused:
        QueueTree(queues, [H])
    assert told in refused.value.sentence


@pytest.mark.parametrize(
    ("flavors", "told"),
    [
        ([H, H], 'two flavors called "h"'),
        ([QuotaFlavor("any"), QuotaFlavor("h", "nvidia")], 'Nothing is ever counted as "h"'),
        ([QuotaFlavor("x", model="H100", has_devices=False)], "no vendor and no model"),
    ],
)
def test_flavors_that_mean_nothing_are_refused(flavors: list[QuotaFlavor], told: str) -> None:
    with pytest.raises(BadQueues) as refused:
        QueueTree([], flavors)
    assert told in refused.value.sentence
    bare = Queue("a", "", (QuotaLine("bare", Limits(gpu_milli=1)),))
    with pytest.raises(BadQueues, match="only cpu and memory"):
        QueueTree([bare], [BARE])


# Whatever is taken


@st.composite
def trees(draw: st.DrawFn) -> QueueTree:
    """Up to nine queues in any shape, with any limits."""
    count = draw(st.integers(1, 9))
    amount, maybe = st.integers(0, 6), st.none() | st.integers(0, 6)
    queues = []
    for at in range(count):
        parent = draw(st.sampled_from(["", *(f"q{each}" for each in range(at))]))
        nominal = draw(amount)
        caps = (draw(maybe), draw(maybe)) if parent else (None, None)
        keep = draw(st.none() | st.integers(0, nominal))
        lines = (line(nominal, *caps, keep),) if draw(st.booleans()) else ()
        queues.append(queue(f"q{at}", parent, *lines, weight=draw(st.sampled_from([1.0, 2.0, 5.0]))))
    order = draw(st.permutations(queues))
    return a_tree(*order)


def leaves(tree: QueueTree) -> list[str]:
    return [one.name for at, one in enumerate(tree.queues) if not tree.children[at]]


@st.composite
def filled(draw: st.DrawFn) -> tuple[Usage, list[tuple[str, int]]]:
    """A tree and what was taken of it, each as far as it fitted."""
    tree = draw(trees())
    usage, taken = Usage(tree), []
    for name, size in draw(st.lists(st.tuples(st.sampled_from(leaves(tree)), st.integers(1, 8)), max_size=15)):
        if usage.fits(name, "h", four(size)) is None:
            usage.take(name, "h", four(size))
            taken.append((name, size))
    return usage, taken


def is_limited(tree: QueueTree) -> bool:
    return tree.is_limited[0]


@given(filled())
def test_never_more_than_there_is_and_never_beyond_a_limit(case: tuple[Usage, list[tuple[str, int]]]) -> None:
    usage, _ = case
    tree = usage.tree
    if not is_limited(tree):
        return
    nominal = {q.name: sum(each.nominal.gpu_milli or 0 for each in q.lines) for q in tree.queues}
    below = {name: [tree.queues[p[0]].name for p in tree.paths if tree.queue_at[name] in p] for name in nominal}
    for at, one in enumerate(tree.queues):
        held = usage.held(one.name, "h")[0]
        own = sum(nominal[name] for name in below[one.name])
        if len(tree.paths[at]) == 1:
            assert held <= own
        for each in one.lines:
            if each.borrowing_limit.gpu_milli is not None:
                assert held <= own + each.borrowing_limit.gpu_milli
            if each.lending_limit.gpu_milli is not None:
                root = tree.queues[tree.paths[at][-1]].name
                others = usage.held(root, "h")[0] - held
                outside = sum(nominal[name] for name in below[root] if name not in below[one.name])
                assert others <= outside + each.lending_limit.gpu_milli


@given(filled(), st.data())
def test_what_is_available_fits_and_one_more_does_not(
    case: tuple[Usage, list[tuple[str, int]]], data: st.DataObject
) -> None:
    usage, _ = case
    name = data.draw(st.sampled_from(leaves(usage.tree)))
    left = usage.available(name, "h")[0]
    if left is None:
        assert not is_limited(usage.tree)
        return
    assert usage.fits(name, "h", four(left)) is None
    lack = usage.fits(name, "h", four(left + 1))
    assert lack is not None
    assert lack.available == left
    usage.take(name, "h", four(left))
    assert usage.available(name, "h")[0] == 0


@given(filled(), st.randoms(use_true_random=False))
def test_order_does_not_matter_and_giving_back_undoes(case: tuple[Usage, list[tuple[str, int]]], random: Any) -> None:
    usage, taken = case
    names = [one.name for one in usage.tree.queues]
    again = Usage(usage.tree)
    shuffled = list(taken)
    random.shuffle(shuffled)
    for name, size in shuffled:
        again.take(name, "h", four(size))
    state = [
        (usage.available(n, "h"), usage.borrowed(n, "h"), usage.held(n, "h"), usage.lenders(n, "h")) for n in names
    ]
    assert state == [
        (again.available(n, "h"), again.borrowed(n, "h"), again.held(n, "h"), again.lenders(n, "h")) for n in names
    ]
    kept = again.copy()
    random.shuffle(shuffled)
    for name, size in shuffled:
        again.release(name, "h", four(size))
    empty = Usage(usage.tree)
    assert [again.available(n, "h") for n in names] == [empty.available(n, "h") for n in names]
    assert [kept.held(n, "h") for n in names] == [usage.held(n, "h") for n in names]


@given(filled())
def test_every_loan_has_a_lender_and_every_lender_had_it(case: tuple[Usage, list[tuple[str, int]]]) -> None:
    usage, _ = case
    tree = usage.tree
    for one in tree.queues:
        loans = usage.lenders(one.name, "h")
        assert sum(loan.amounts[0] for loan in loans) == usage.borrowed(one.name, "h")[0]
        assert one.name not in [loan.lender for loan in loans]
        at = tree.queue_at[one.name]
        if not tree.children[at]:
            own = sum(each.nominal.gpu_milli or 0 for each in one.lines)
            assert usage.lent(one.name, "h")[0] + min(own, usage.held(one.name, "h")[0]) <= own


@given(filled())
def test_a_guarantee_is_reached_once_those_above_theirs_have_gone(case: tuple[Usage, list[tuple[str, int]]]) -> None:
    usage, _ = case
    tree = usage.tree
    for name in leaves(tree):
        at = tree.cell(tree.queue_at[name], 0)
        missing = tree.guarantee[at] - usage.held(name, "h")[0]
        if missing <= 0:
            continue
        assert usage.has_claim(name, "h", four(missing))
        rid, others = usage.copy(), [other for other in leaves(tree) if other != name]
        while beyond := next((other for other in others if rid.is_beyond(other, name, "h")), None):
            assert rid.over_guarantee(beyond, "h")[0] > 0
            rid.release(beyond, "h", four(1))
        assert rid.fits(name, "h", four(missing)) is None


def test_the_fleet_of_a_round_may_lack_what_is_held() -> None:
    tree = QueueTree([Queue("q", "", (line(1000),), projects=("p",))], [H])
    gone = QueueRound.begin(tree, a_fleet(1), [holding("one", "lost", devices=(0,))])
    assert gone.usage.held("q", "h") == four(0)
