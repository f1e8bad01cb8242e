"""What demos share: numbered steps over a platform of their own, and an end that is told and leaves nothing."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from checks import NotHeld, hold, until
from dujiang.client import Client, Connection
from dujiang.kit.errors import DujiangError
from home import CannotStart, DemoHome
from screen import Screen

ROOT = Path(__file__).parents[1]
FEWEST_EPOCHS = 4


class Steps:
    """The steps of a demo in order; each says what it checked."""

    def __init__(self, screen: Screen, home: DemoHome, epochs: int | None) -> None:
        """Take what the steps need; `epochs` replaces what the specification says."""
        self._screen, self._home, self._epochs = screen, home, epochs
        self.number = 0

    @property
    def command(self) -> str:
        """Return how one calls the demo's platform from here."""
        return f"DUJIANG_HOME={shown(self._home.path)} {shown(Path(sys.executable).with_name('dujiang'))}"

    def run(self) -> None:
        """Do every step.

        Raises:
            NotHeld: a step did not do what it must.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Stop what the steps started beside the platform, in whatever state it is."""

    def begin(self, title: str) -> None:
        """Begin a step."""
        self.number += 1
        self._screen.step(self.number, title)

    def start_platform(self) -> Connection:
        """Start the platform, and say where it is."""
        connection = self._home.start()
        self._screen.held(f"it listens at {connection.url}; state in {shown(self._home.path)}")
        self._screen.say(f"sign in: `{self.command} pool` (and every other command) is signed in as its first admin")
        return connection

    def prove(self, client: Client) -> None:
        """Let the platform prove its ledger, jobs, audit trail, charges and processes."""
        proof: dict[str, Any] = client.get("/v1/verify")
        for check in proof["checks"]:
            hold(check["holds"], f"the proof of {check['name']} to hold", check.get("breaches") or check)
            self._screen.held(f"{check['name']}: {check['sentence']}")
        hold(proof["holds"], "the platform's proof to hold", proof)

    def see_nothing_left(self) -> None:
        """Check that nothing of the demo runs any more."""
        until(
            "nothing left running", self._home.leftovers, lambda left: not left, for_s=5,
            tell=lambda left: f"processes {left}",
        )  # fmt: skip

    def say_where_to_look(self, *commands: str) -> None:
        """Say what to try in what is left of the demo."""
        self._screen.say("")
        home = shown(self._home.path)
        self._screen.say(f"Every step held. Look around in what it left: `DUJIANG_HOME={home} make up`, then")
        for words in commands:
            self._screen.say(f"  {self.command} {words}")


def carry_out(description: str, home: str, make: Callable[[Screen, DemoHome, int | None], Steps]) -> int:
    """Read the command line and run a demo.

    Args:
        description: for `--help`.
        home: name of its folder, unless another is given.
        make: makes its steps.

    Returns:
        The exit status: 0 when every step held, 1 when one did not, 130 when interrupted.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--home", type=Path, default=ROOT / home, help="folder of its own; emptied at the start")
    parser.add_argument("--epochs", type=_epochs, help="train for so many instead of what the specification says")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    screen, place, demo = Screen(), DemoHome(args.home), None
    try:
        place.take()
        demo = make(screen, place, args.epochs)
        demo.run()
    except CannotStart as error:
        screen.broken(str(error))
        return 1
    except KeyboardInterrupt:
        screen.broken("\nInterrupted; stopping what was started.")
        return 130
    except (NotHeld, DujiangError) as error:
        _tell_broken(screen, place, error, demo)
        return 1
    except Exception as error:
        _tell_broken(screen, place, error, demo)
        return 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # a second one must not leave half of it running
            signal.signal(number, signal.SIG_IGN)
        place.stop_quietly()
        if demo is not None:
            demo.close()
        place.leave()
    return 0


def _tell_broken(screen: Screen, home: DemoHome, error: Exception, demo: Steps | None) -> None:
    """Say what did not hold and where to look; a fault of the demo itself goes into a file, not on the screen."""
    step = f"Step {demo.number}" if demo else "The start"
    screen.broken(f"\n{step} did not hold.")
    if isinstance(error, NotHeld):
        screen.say(f"expected  {error.expected}")
        screen.say(f"saw       {error.seen}")
        screen.quote(error.details)
    elif isinstance(error, DujiangError):
        screen.say(error.sentence)
    else:
        file = home.path / "demo-fault.log"
        file.write_text("".join(traceback.format_exception(error)))
        screen.say(f"{type(error).__name__}: {error}; more in {shown(file)}")
    if complaints := home.complaints():
        screen.say("the platform's log complains:")
        screen.quote(complaints)
    for log in home.logs:
        screen.say(f"log of the platform: {shown(log)}")


def shown(path: Path) -> str:
    """Return a path as one types it here."""
    here = Path.cwd()
    return shlex.quote(os.path.relpath(path, here) if path.is_relative_to(here) else str(path))


def _epochs(text: str) -> int:
    number = int(text)
    if number < FEWEST_EPOCHS:
        raise argparse.ArgumentTypeError(f"at least {FEWEST_EPOCHS}, so that there is a half way")
    return number


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
