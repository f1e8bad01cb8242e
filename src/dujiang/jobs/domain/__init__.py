"""The types and decisions of jobs: what a job and an attempt are, what the loops do next, and what follows an end."""

from dujiang.jobs.domain.asking import ask_of, launch_of, request_of
from dujiang.jobs.domain.ending import Verdict, begin, conclude, ended_event, judge
from dujiang.jobs.domain.job import (
    ATTEMPT_STATES,
    JOB_STATES,
    TERMINAL,
    Attempt,
    Job,
    JobEndedAlready,
    JobState,
    NoSuchAttempt,
    NoSuchJob,
    Waiting,
)
from dujiang.jobs.domain.stepping import Began, Ended, Lost, Never, Step, Stop, Submit, View, plan

__all__ = [
    "ATTEMPT_STATES",
    "JOB_STATES",
    "TERMINAL",
    "Attempt",
    "Began",
    "Ended",
    "Job",
    "JobEndedAlready",
    "JobState",
    "Lost",
    "Never",
    "NoSuchAttempt",
    "NoSuchJob",
    "Step",
    "Stop",
    "Submit",
    "Verdict",
    "View",
    "Waiting",
    "ask_of",
    "begin",
    "conclude",
    "ended_event",
    "judge",
    "launch_of",
    "plan",
    "request_of",
]
