"""The loops of jobs: give places, make them true, read what is reported, clear up."""

from dujiang.jobs.loop.figures import FigureLoop
from dujiang.jobs.loop.outlook import Outlook
from dujiang.jobs.loop.rescoring import RescoreLoop
from dujiang.jobs.loop.running import AttemptLoop
from dujiang.jobs.loop.starting import Planner, StartLoop
from dujiang.jobs.loop.sweeping import SweepLoop
from dujiang.jobs.loop.using import UseBook, UseLoop

__all__ = [
    "AttemptLoop",
    "FigureLoop",
    "Outlook",
    "Planner",
    "RescoreLoop",
    "StartLoop",
    "SweepLoop",
    "UseBook",
    "UseLoop",
]
