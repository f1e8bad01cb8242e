"""What can be set about scheduling."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SchedulingSettings:
    """Fair share."""

    fair_share_half_life_s: float | None = 604_800.0
    """After how long a gpu-second that was used counts half against its project. Too short forgets who has used much,
    too long punishes what is long past; none or 0 turns fair share off."""
    fair_share_part: float = 0.5
    """How much of a job's place in the band of its class fair share decides, 0 to 1; the rest is the job's own weight.
    1 leaves the weights of jobs without effect."""
    fair_share_every_s: float = 30.0
    """How often the shares are worked out anew. Too seldom lets one project start much before it shows."""

    def __post_init__(self) -> None:
        """Refuse what means nothing.

        Raises:
            ValueError: a part outside 0 to 1, or a time below 0.
        """
        if not 0 <= self.fair_share_part <= 1:
            raise ValueError("fair_share_part is between 0 and 1")
        if (self.fair_share_half_life_s or 0) < 0 or self.fair_share_every_s < 0:
            raise ValueError("the times of fair share are not negative")
