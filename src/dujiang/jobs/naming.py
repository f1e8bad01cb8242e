"""Which jobs a specification means by `after`: ids and names become jobs that the submitter may know of.

Only what exists already can be named, or what stands before it in the same submission: so no circle can come about.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from dujiang.jobs import group_store
from dujiang.jobs.domain import Standing
from dujiang.jobs.spec import JobSpec, Problem, SpecInvalid, When
from dujiang.kit.db import Tx
from dujiang.kit.ids import is_id

_SHOWN = 5
_Name = tuple[str, str]
"""Project and name."""


@dataclass(slots=True)
class Others:
    """What the jobs of one submission may wait for."""

    standings: Mapping[str, Standing]
    """By id: those that exist and may be seen."""
    named: Mapping[_Name, Sequence[str]]
    """The newest jobs and arrays of a name."""
    before: dict[_Name, list[Standing]] = field(default_factory=dict)
    """Those that stand further up in the submission."""

    def add(self, project_id: str, made: Standing) -> None:
        """Let what follows in the submission name this one."""
        self.before.setdefault((project_id, made.name), []).append(made)

    def of(self, spec: JobSpec, project_id: str) -> list[tuple[When, Standing]]:
        """Return what a job waits for, in the order given.

        Raises:
            SpecInvalid: something is not there, may not be seen, or is not the only one of its name.
        """
        found: list[tuple[When, Standing]] = []
        problems: list[Problem] = []
        for number, after in enumerate(spec.after):
            path = f"after[{number}]"
            match self._one(after.job, project_id, path):
                case Problem() as problem:
                    problems.append(problem)
                case Standing(id=ident) if any(one.id == ident for _, one in found):
                    problems.append(Problem(path, f"{ident} is named twice.", "Keep one of them."))
                case Standing() as standing:
                    found.append((after.when, standing))
        if problems:
            raise SpecInvalid(problems)
        return found

    def _one(self, ref: str, project_id: str, path: str) -> Standing | Problem:
        if _is_id(ref):
            missing = f"There is no job {ref}, or none that you may see."
            return self.standings.get(ref) or Problem(path, missing, "`dujiang ps --all` lists those you can see.")
        if same := self.before.get((project_id, ref)):
            if len(same) == 1:
                return same[0]
            return Problem(path, f'{len(same)} jobs of this submission are called "{ref}".', "Give each its own name.")
        ids = self.named.get((project_id, ref), ())
        if not ids:
            message = f'The project has no job "{ref}", and none stands before this one in the submission.'
            return Problem(path, message, "Put it first, or write an id; `dujiang ps --all` lists them.")
        if len(ids) > 1:
            shown = ", ".join(ids[:_SHOWN]) + (" ..." if len(ids) > _SHOWN else "")
            return Problem(path, f'Several jobs are called "{ref}": {shown}.', "Write the id of the one you mean.")
        return self.standings[ids[0]]


async def others(tx: Tx, specs: Sequence[JobSpec], project_ids: Sequence[str], reach: Collection[str] | None) -> Others:
    """Look up what specifications name, and hold it as it is until the end of the transaction.

    Args:
        tx: the transaction.
        specs: of one submission.
        project_ids: of each.
        reach: further projects whose jobs the submitter may see; None is every.
    """
    refs = {(project_id, one.job) for spec, project_id in zip(specs, project_ids, strict=True) for one in spec.after}
    if not refs:
        return Others({}, {})
    named = {
        (project_id, ref): await group_store.named(tx, project_id, ref, limit=_SHOWN + 1)
        for project_id, ref in sorted(refs)
        if not _is_id(ref)
    }
    ids = {ref for _, ref in refs if _is_id(ref)} | {ident for found in named.values() for ident in found}
    seen = None if reach is None else {*reach, *project_ids}
    return Others(await group_store.hold(tx, ids, seen), named)


def _is_id(ref: str) -> bool:
    return is_id(ref, "job") or is_id(ref, "arr")
