"""The route behind `dujiang verify`: every proof that the platform can give of itself, at one moment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends

from dujiang.kit import log
from dujiang.kit.http import Model
from dujiang.tenancy.access import Caller, needs
from dujiang.tenancy.domain import Permission

MOST_SHOWN = 100
_logger = log.get(__name__)
_Verifier = Annotated[Caller, Depends(needs(Permission.PLATFORM_VERIFY))]


@dataclass(frozen=True, slots=True)
class Found:
    """What one proof found."""

    count: int
    """How much was looked at."""
    sentence: str
    breaches: Sequence[tuple[str, str]] = ()
    """Row, and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Proof:
    """One thing to prove."""

    name: str
    prove: Callable[[], Awaitable[Found]]


class BreachOut(Model):
    """A row that breaks what is to be proved."""

    row: str
    sentence: str


class CheckOut(Model):
    """One proof."""

    name: str
    holds: bool
    count: int
    sentence: str
    breaches: list[BreachOut]
    """The first hundred."""


class VerifyOut(Model):
    """All proofs."""

    holds: bool
    checks: list[CheckOut]


def router(proofs: Sequence[Proof]) -> APIRouter:
    """Return the route."""
    routes = APIRouter(prefix="/v1", tags=["platform"])

    @routes.get("/verify")
    async def verify_platform(caller: _Verifier) -> VerifyOut:
        """Prove that ledger, jobs, audit trail, charges and processes agree; names the rows that do not."""
        checks = [await _check(proof) for proof in proofs]
        return VerifyOut(holds=all(check.holds for check in checks), checks=checks)

    return routes


async def _check(proof: Proof) -> CheckOut:
    try:
        found = await proof.prove()
    except Exception as error:  # what cannot be looked at is not proved: an engine is away, a row holds no JSON ...
        log.failure(_logger, "a proof could not be made", error, proof=proof.name)
        why = log.reason(error)
        return CheckOut(
            name=proof.name, holds=False, count=0, sentence=why,
            breaches=[BreachOut(row=proof.name, sentence=f"It could not be looked at: {why}")],
        )  # fmt: skip
    return CheckOut(
        name=proof.name, holds=not found.breaches, count=found.count, sentence=found.sentence,
        breaches=[BreachOut(row=row, sentence=sentence) for row, sentence in found.breaches[:MOST_SHOWN]],
    )  # fmt: skip
