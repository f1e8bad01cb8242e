"""Asks HiGHS. One thread, one seed and no gap that is left open: the same question has the same answer.

Source: Huangfu and Hall, Parallelizing the dual revised simplex method, Math. Prog. Comp. 10 (2018), 119-142 (HiGHS).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
from highspy import HighsLp, HighsModelStatus, HighsStatus, HighsVarType, MatrixFormat

# Not highspy.Highs: what it adds (expressions, call-backs) is not used, and it greets on standard output.
from highspy._core import _Highs

from dujiang.scheduling.capacity.form import Floats, Form
from dujiang.scheduling.capacity.model import Impossible, NotSolved, Unbounded

TIME_LIMIT_S: Final = 120.0
"""Of one solve. Only whole devices can take so long; the best plan found by then is given, with what is not proven."""
TOLERANCE: Final = 1e-9
"""By which a scaled row, bound or reduced cost may be missed."""
_LARGEST_COST: Final = 1024.0
"""Objectives are scaled (by a power of two) to about this, so that TOLERANCE means the same for any currency."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A solution of a form."""

    x: Floats
    """By column."""
    objective: float
    gap: float
    """What is not proven of the objective, as a part of it; 0 for an optimum."""
    row_duals: Floats
    """Change of the objective per unit more of the row's (unscaled) bound; empty with whole devices."""
    column_duals: Floats
    """Reduced costs; empty with whole devices."""


class Solver:
    """A form held in the solver, to be asked again with other costs and bounds; each time from where it stands."""

    def __init__(self, form: Form, *, whole: bool, time_limit_s: float = TIME_LIMIT_S) -> None:
        self._form = form
        self._whole = whole and bool(form.whole.any())
        self._time_limit_s = time_limit_s if self._whole else TIME_LIMIT_S
        self._highs = _Highs()
        for name, value in (
            ("output_flag", False), ("threads", 1), ("random_seed", 0),
            ("primal_feasibility_tolerance", TOLERANCE), ("dual_feasibility_tolerance", TOLERANCE),
            ("mip_feasibility_tolerance", TOLERANCE), ("mip_rel_gap", 0.0), ("mip_abs_gap", TOLERANCE),
        ):  # fmt: skip
            _check(self._highs.setOptionValue(name, value))
        _check(self._highs.passModel(_highs_lp(form, whole=self._whole)))

    @property
    def spent_s(self) -> float:
        """How long it has worked in all, by the solver's own clock."""
        return float(self._highs.getRunTime())

    def solve(self, costs: Floats) -> Answer:
        """Return the least of `costs @ x`.

        Raises:
            Impossible: nothing meets all rows and bounds.
            Unbounded: there is no least.
            NotSolved: no answer within the time or precision there is.
        """
        scale = _LARGEST_COST * 2.0 ** -math.frexp(float(np.abs(costs).max(initial=0.0)) or _LARGEST_COST)[1]
        indices = np.arange(len(costs), dtype=np.int32)
        _check(self._highs.changeColsCost(len(costs), indices, costs * scale))
        status = self._run()
        if status == HighsModelStatus.kInfeasible:
            raise Impossible("No plan meets all demands within the capacities and limits.")
        if status == HighsModelStatus.kUnbounded:
            raise Unbounded(
                "The more devices the plan uses the less it costs, and nothing bounds them: "
                "give each flavor a capacity, or a cost that is not below zero."
            )
        info, solution = self._highs.getInfo(), self._highs.getSolution()
        found = info.primal_solution_status == 2  # SolutionStatus.kSolutionStatusFeasible
        if status == HighsModelStatus.kOptimal:
            gap = 0.0
        elif status == HighsModelStatus.kTimeLimit and self._whole and found:
            gap = float(info.mip_gap)
        else:
            raise NotSolved(
                f"The solver stopped without an answer ({self._highs.modelStatusToString(status)}). "
                "Give it more time, ask for fewer whole devices, or bring the figures nearer to one another."
            )
        empty = np.zeros(0)
        return Answer(
            x=np.array(solution.col_value),
            objective=float(info.objective_function_value) / scale,
            gap=gap,
            row_duals=empty if self._whole else np.array(solution.row_dual) * self._form.scale / scale,
            column_duals=empty if self._whole else np.array(solution.col_dual) / scale,
        )

    @contextmanager
    def row_at_most(self, row: int, most: float) -> Iterator[None]:
        """Let a row have another (unscaled) upper bound for a while."""
        lower, upper = float(self._form.row_lower[row]), float(self._form.row_upper[row])
        _check(self._highs.changeRowBounds(row, lower, most * float(self._form.scale[row])))
        try:
            yield
        finally:
            _check(self._highs.changeRowBounds(row, lower, upper))

    def _run(self) -> HighsModelStatus:
        until_s = self._highs.getRunTime() + self._time_limit_s  # the limit is on the time of all runs together
        _check(self._highs.setOptionValue("time_limit", until_s))
        _check(self._highs.run())
        status = self._highs.getModelStatus()
        if status == HighsModelStatus.kUnboundedOrInfeasible:  # presolve does not say which
            _check(self._highs.setOptionValue("presolve", "off"))
            _check(self._highs.run())
            status = self._highs.getModelStatus()
            _check(self._highs.setOptionValue("presolve", "choose"))
        return status


def _highs_lp(form: Form, *, whole: bool) -> HighsLp:
    order = np.argsort(form.at_column, kind="stable")
    counts = np.bincount(form.at_column, minlength=len(form.lower))
    lp = HighsLp()
    lp.num_col_, lp.num_row_ = len(form.lower), len(form.row_lower)
    lp.col_cost_ = np.zeros(len(form.lower))
    lp.col_lower_, lp.col_upper_ = form.lower, form.upper
    lp.row_lower_, lp.row_upper_ = form.row_lower, form.row_upper
    lp.a_matrix_.format_ = MatrixFormat.kColwise
    lp.a_matrix_.start_ = np.append(0, np.cumsum(counts)).astype(np.int32)
    lp.a_matrix_.index_ = form.at_row[order]
    lp.a_matrix_.value_ = form.values[order]
    if whole:
        lp.integrality_ = [HighsVarType.kInteger if each else HighsVarType.kContinuous for each in form.whole]
    return lp


def _check(status: HighsStatus) -> None:
    if status == HighsStatus.kError:
        raise NotSolved("The solver could not take the figures. Bring them nearer to one another.")
