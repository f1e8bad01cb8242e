"""One explainer for a snapshot says what `plan`, `explain`, `forecast` and `otherwise` say."""

from __future__ import annotations

from hypothesis import given, settings

from dujiang.scheduling.domain import Reason, Snapshot, explain, plan, snapshot_of_rows
from dujiang.scheduling.domain.explaining import Explainer, likely_place, try_out, with_request
from dujiang.scheduling.domain.forecast import forecast
from dujiang.scheduling.domain.otherwise import otherwise
from tests.scheduling.building import NOW, a_fleet, a_job, holding
from tests.scheduling.test_properties import worlds


@given(worlds())
@settings(max_examples=60)
def test_it_says_what_each_says_alone(snapshot: Snapshot) -> None:
    starts = {start.job_id: start for start in plan(snapshot, NOW, telling=False).starts}
    explainer = Explainer(snapshot, NOW)
    for request in snapshot.requests:
        job_id = request.job_id
        answer = explainer.answer(job_id, expecting=True, widely=True)
        assert answer is not None
        assert answer.start == starts.get(job_id)
        assert answer.wait == explain(snapshot, NOW, job_id)
        if answer.wait is not None:
            assert answer.expected == forecast(snapshot, NOW, job_id=job_id)[job_id]
            assert list(answer.ways) == otherwise(snapshot, NOW, job_id)
        quick = explainer.answer(job_id)
        assert quick is not None
        assert (quick.start, quick.wait, quick.expected, quick.ways) == (answer.start, answer.wait, None, ())
    assert explainer.answer("nobody") is None


@given(worlds())
@settings(max_examples=60)
def test_a_trial_is_what_happens_once_it_is_submitted(snapshot: Snapshot) -> None:
    job = a_job("trial", gpu=1, after_s=10)
    answer = try_out(snapshot, NOW, job)
    done = plan(with_request(snapshot, job), NOW, changes=0)
    assert answer.start == next((start for start in done.starts if start.job_id == "trial"), None)
    position = next((wait.position for wait in done.waits if wait.job_id == "trial"), None)
    assert (answer.wait.position if answer.wait else None) == position


def test_where_it_is_likely_to_go() -> None:
    fleet, job = a_fleet(1, 2), a_job("a", gpu=1)
    idle = snapshot_of_rows(fleet)
    assert likely_place(idle, NOW, job, try_out(idle, NOW, job)) == try_out(idle, NOW, job).start
    full = snapshot_of_rows(fleet, holdings=[holding("h", "n0", devices=(0, 1), ends_in_s=60)])
    told = try_out(full, NOW, job)
    assert told.expected is not None
    assert likely_place(full, NOW, job, told) == told.expected.start is not None
    endless = snapshot_of_rows(fleet, holdings=[holding("h", "n0", devices=(0, 1))])
    told = try_out(endless, NOW, job)
    assert told.wait is not None
    assert told.wait.reason is Reason.RESOURCES
    place = likely_place(endless, NOW, job, told)
    assert place is not None
    assert [rank.node for rank in place.ranks] == ["n0"]
    huge = a_job("b", gpu=9)
    assert likely_place(endless, NOW, huge, try_out(endless, NOW, huge)) is None
