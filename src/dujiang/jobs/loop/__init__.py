"""The loops of jobs: give places, make them true, read what is reported, clear up."""

from dujiang.jobs.loop.figures import FigureLoop
from dujiang.jobs.loop.running import AttemptLoop
from dujiang.jobs.loop.starting import StartLoop
from dujiang.jobs.loop.sweeping import SweepLoop

__all__ = ["AttemptLoop", "FigureLoop", "StartLoop", "SweepLoop"]
