"""The answers of `dujiang explain`."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from dujiang.health.diagnose import Diagnoser
from dujiang.health.explain import AttemptView, JobView, Topic, WaitView, explain
from dujiang.jobs.diagnosis import Blame
from tests.health.builders import TRACE, facts

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def _attempt(number: int, diagnosis: object = None, state: str = "FAILED") -> AttemptView:
    return AttemptView(number, state, "n1", NOW - timedelta(minutes=10), NOW - timedelta(minutes=1), diagnosis)  # type: ignore[arg-type]


def test_why_it_waits() -> None:
    wait = WaitView(
        "Resources", "gpu: needs 8 on one node, largest free is 4 on n3.", "job_7", 3, "It starts now with 4 gpu.",
        "Wait for running work to end, or ask for less.", NOW + timedelta(hours=1),
    )  # fmt: skip
    told = explain(JobView("job_1", "train", "PENDING", "Resources", since=NOW - timedelta(minutes=5), wait=wait), NOW)
    assert (told.topic, told.cause, told.blame) == (Topic.WAITS, "Resources", None)
    assert told.headline == "job_1 (train) is PENDING for 5m, Resources."
    assert "largest free is 4" in told.why[0]
    assert "number 3" in told.why[1]
    assert "13:00:00 UTC" in told.why[2]
    assert told.advice == ("It starts now with 4 gpu.", "Wait for running work to end, or ask for less.")
    assert "What you can do\n  It starts now with 4 gpu." in told.text


def test_a_stored_wait_is_read_with_what_it_has() -> None:
    row = {"reason": "Resources", "detail": "d", "position": 2, "earliest": "2026-01-01T12:00:00+00:00", "other": 1}
    assert WaitView.from_json(row) == WaitView("Resources", "d", position=2, earliest=NOW)
    assert WaitView.from_json({"blocking": None}) == WaitView("", "")


def test_a_job_that_nobody_looked_at_yet() -> None:
    told = explain(JobView("job_1", "", "PENDING"), NOW)
    assert (told.topic, told.advice) == (Topic.WAITS, ())
    assert "within moments" in told.text


def test_why_it_failed_with_the_proof_and_why_it_is_not_run_again(diagnoser: Diagnoser) -> None:
    found = diagnoser(facts(*TRACE, "ModuleNotFoundError: No module named 'torchvision'"))
    job = JobView("job_1", "train", "FAILED", found.cause, True, attempts=(_attempt(1, found),), retry_limit=3)
    told = explain(job, NOW)
    assert (told.topic, told.cause, told.blame) == (Topic.FAILED, "DependencyMissing", Blame.USER)
    assert "torchvision" in told.why[0]
    assert told.evidence[0].line == "ModuleNotFoundError: No module named 'torchvision'"
    assert told.platform == ("It is not run again by itself: the same work would fail again.",)
    assert "[output] ModuleNotFoundError: No module named 'torchvision'" in told.text
    assert "train.py line 12" in told.text


def test_retries_that_are_used_up(diagnoser: Diagnoser) -> None:
    found = diagnoser(facts(signal=9))
    attempts = tuple(_attempt(number, found) for number in (1, 2, 3))
    told = explain(JobView("job_1", "", "FAILED", found.cause, True, attempts=attempts, retry_limit=2), NOW)
    assert told.platform == (
        "It was run 3 times.",
        "It is not run again by itself: 2 of them were allowed (retry.limit).",
    )
    assert len(told.history) == 2
    assert told.history[0].startswith("attempt 1 on n1 FAILED after 9m: KilledFromOutside")


def test_a_guess_says_that_it_is_one(diagnoser: Diagnoser) -> None:
    found = diagnoser(facts("odd", code=3))
    told = explain(
        JobView("job_1", "", "FAILED", found.cause, True, attempts=(_attempt(1, found),), retry_limit=1), NOW
    )
    assert "This is a guess: nothing proves it." in told.why
    assert "unknown" in told.platform[0]


def test_a_job_that_waits_to_be_run_again_tells_both(diagnoser: Diagnoser) -> None:
    found = diagnoser(facts(signal=9))
    wait = WaitView("Backoff", "It is tried again at 12:01.")
    job = JobView("job_1", "", "PENDING", "Backoff", attempts=(_attempt(1, found),), wait=wait, resumes_from="ckpt-7")
    told = explain(job, NOW)
    assert (told.topic, told.cause, told.blame) == (Topic.WAITS, "Backoff", Blame.INFRASTRUCTURE)
    assert "Attempt 1 ended: It was killed by SIGKILL" in told.platform[0]
    assert told.platform[1] == "It is run again as attempt 2, from the checkpoint ckpt-7."


def test_what_is_turned_away_again_and_again_is_told_what_to_look_at(diagnoser: Diagnoser) -> None:
    refused = replace(diagnoser(facts(signal=9)), cause="NodeRefused", sentence="OutOfcpu.")
    wait = WaitView("Backoff", "It is tried again at 12:01.", advice="Nothing to do: it is tried again by itself.")
    for count in (9, 10, 300):
        attempts = (_attempt(1, diagnoser(facts(signal=9))), *(_attempt(2 + nth, refused) for nth in range(count)))
        told = explain(JobView("job_1", "", "PENDING", "Backoff", attempts=attempts, wait=wait), NOW)
        is_told = any(f"turned it away {count} times in a row (on n1)" in why for why in told.why)
        assert is_told == (count >= 10)
        assert ("Nothing to do" in told.text) == (count < 10)
        assert ("dujiang nodes cordon" in told.text) == (count >= 10)
        assert len(told.history) == 2, "not a line for each"
        assert told.history[1].startswith(f"attempts 2 to {count} on n1 FAILED")


def test_running_completed_cancelled_and_never_started(diagnoser: Diagnoser) -> None:
    killed, good = diagnoser(facts(signal=9)), diagnoser(facts(code=0))
    running = JobView("job_1", "", "RUNNING", attempts=(_attempt(1, killed), _attempt(2, None, "RUNNING")))
    told = explain(running, NOW)
    assert (told.topic, told.why[0]) == (Topic.RUNS, "Attempt 2 is running on n1.")
    assert told.platform == ("It was run again.",)
    gang = JobView("job_1", "", "RUNNING", attempts=(AttemptView(1, "RUNNING", "n1", others=3),))
    assert explain(gang, NOW).why[0] == "Attempt 1 is running on n1 and 3 others."
    done = JobView("job_1", "", "COMPLETED", "Succeeded", True, attempts=(_attempt(1, good, "COMPLETED"),))
    assert explain(done, NOW).topic is Topic.COMPLETED
    cancelled = JobView("job_1", "", "CANCELLED", "Cancelled", True)
    assert explain(cancelled, NOW).why == ("It ended before it was started.",)


def test_hostile_evidence_does_not_reach_the_terminal(diagnoser: Diagnoser) -> None:
    found = diagnoser(facts("\x1b]0;owned\x07 " + "x" * 5000, code=3))
    text = explain(JobView("job_1", "", "FAILED", "Unknown", True, attempts=(_attempt(1, found),)), NOW).text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) < 500
