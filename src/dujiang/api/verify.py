"""The route behind `dujiang verify`: every proof that the platform can give of itself, at one moment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Depends

from dujiang.engines.contract import EngineUnavailable
from dujiang.kit import log
from dujiang.kit.http import Model
from dujiang.tenancy.access import Caller, needs
from dujiang.tenancy.domain import Permission

MOST_SHOWN = 100
_logger = log.get(__name__)
_Verifier = Annotated[Caller, Depends(needs(Permission.PLATFORM_VERIFY))]


class Verdict(StrEnum):
    """What was proved."""

    HOLDS = "holds"
    UNSEEN = "unseen"
    """Nothing is known to be wrong, and not everything could be looked at: a cluster does not answer."""
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Found:
    """What one proof found."""

    count: int
    """How much was looked at."""
    sentence: str
    breaches: Sequence[tuple[str, str]] = ()
    """Row, and what is wrong with it."""
    unseen: Sequence[tuple[str, str]] = ()
    """What could not be looked at, and why."""


@dataclass(frozen=True, slots=True)
class Proof:
    """One thing to prove."""

    name: str
    prove: Callable[[], Awaitable[Found]]


class BreachOut(Model):
    """A row that breaks what is to be proved, or what could not be looked at."""

    row: str
    sentence: str


class CheckOut(Model):
    """One proof."""

    name: str
    holds: bool
    """It was all looked at, and nothing is wrong."""
    verdict: Verdict
    count: int
    sentence: str
    breaches: list[BreachOut]
    """The first hundred."""
    unseen: list[BreachOut]
    """What does not answer, such as a cluster under maintenance, and why."""


class VerifyOut(Model):
    """All proofs."""

    holds: bool
    verdict: Verdict
    """Of the worst check: one that is broken comes before one that could not be looked at."""
    checks: list[CheckOut]


def router(proofs: Sequence[Proof]) -> APIRouter:
    """Return the route."""
    routes = APIRouter(prefix="/v1", tags=["platform"])

    @routes.get("/verify")
    async def verify_platform(caller: _Verifier) -> VerifyOut:
        """Prove that ledger, jobs, audit trail, charges and processes agree; names the rows that do not."""
        checks = [await _check(proof) for proof in proofs]
        verdict = max((check.verdict for check in checks), key=list(Verdict).index, default=Verdict.HOLDS)
        return VerifyOut(holds=verdict is Verdict.HOLDS, verdict=verdict, checks=checks)

    return routes


async def _check(proof: Proof) -> CheckOut:
    try:
        found = await proof.prove()
    except EngineUnavailable as error:
        found = Found(0, error.sentence, unseen=[(proof.name, _not_seen(error.sentence))])
    except Exception as error:  # what cannot be looked at is not proved: a row holds no JSON ...
        log.failure(_logger, "a proof could not be made", error, proof=proof.name)
        why = log.reason(error)
        found = Found(0, why, [(proof.name, _not_seen(why))])
    verdict = Verdict.BROKEN if found.breaches else Verdict.UNSEEN if found.unseen else Verdict.HOLDS
    return CheckOut(
        name=proof.name, holds=verdict is Verdict.HOLDS, verdict=verdict, count=found.count, sentence=found.sentence,
        breaches=_out(found.breaches), unseen=_out(found.unseen),
    )  # fmt: skip


def _not_seen(why: str) -> str:
    return f"It could not be looked at: {why}"


def _out(rows: Sequence[tuple[str, str]]) -> list[BreachOut]:
    return [BreachOut(row=row, sentence=sentence) for row, sentence in rows[:MOST_SHOWN]]
