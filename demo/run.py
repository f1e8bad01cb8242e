"""`make demo`: a real training job through the whole platform on this machine, each step checked, then it stops.

Starts a platform of its own in a folder of its own, trains, kills the training half way, lets the platform resume it,
registers, deploys, asks and bills the model, and prints what it measured. Exits 0 only if every step held.

    python demo/run.py
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from checks import NotHeld, hold, until
from dujiang.client import Client
from dujiang.kit.errors import DujiangError
from home import CannotStart, DemoHome
from money import Cost, settled
from registry import registered
from screen import Screen
from serving import Deployment, Served
from training import Fault, Training

ROOT = Path(__file__).parents[1]
NOTICE_AIM, RESUME_AIM = "1 s", "5 s"
FEWEST_EPOCHS = 4


def main() -> int:
    """Run the demo; return the exit status: 0 when every step held, 1 when one did not, 130 when interrupted."""
    parser = argparse.ArgumentParser(description="Train, kill, resume, register, deploy, ask and bill a model.")
    parser.add_argument("--home", type=Path, default=ROOT / ".demo", help="folder of its own; emptied at the start")
    parser.add_argument("--epochs", type=_epochs, help="train for so many instead of what the specification says")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    screen, home, demo = Screen(), DemoHome(args.home), None
    try:
        home.take()
        demo = Demo(screen, home, args.epochs)
        demo.run()
    except CannotStart as error:
        screen.broken(str(error))
        return 1
    except KeyboardInterrupt:
        screen.broken("\nInterrupted; stopping what was started.")
        return 130
    except (NotHeld, DujiangError) as error:
        _tell_broken(screen, home, error, demo)
        return 1
    except Exception as error:
        _tell_broken(screen, home, error, demo)
        return 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # a second one must not leave half of it running
            signal.signal(number, signal.SIG_IGN)
        home.leave()
    return 0


class Demo:
    """The steps in order."""

    def __init__(self, screen: Screen, home: DemoHome, epochs: int | None) -> None:
        """Take what the steps need."""
        self._screen, self._home, self._epochs = screen, home, epochs
        self.number = 0

    def run(self) -> None:
        """Do every step.

        Raises:
            NotHeld: a step did not do what it must.
        """
        began = time.monotonic()
        self._step("Start the platform")
        connection = self._home.start()
        shown = _shown(self._home.path)
        command = f"DUJIANG_HOME={shown} {_shown(Path(sys.executable).with_name('dujiang'))}"
        self._screen.held(
            f"it listens at {connection.url}, {time.monotonic() - began:.1f} s after its start; state in {shown}"
        )
        self._screen.say(f"sign in: `{command} pool` (and every other command) is signed in as its first admin")
        with Client(connection) as client:
            rows = self._journey(client)
        self._step("Stop")
        self._home.stop()
        until(
            "nothing left running", self._home.leftovers, lambda left: not left, for_s=5,
            tell=lambda left: f"processes {left}",
        )  # fmt: skip
        self._screen.held("the platform has stopped; nothing is left running")
        self._step("What was measured")
        rows.append(["the whole demo", f"{time.monotonic() - began:.1f} s", ""])
        self._screen.table(["", "measured", "aim"], rows)
        self._screen.say("")
        self._screen.say(f"Every step held. Look around in what it left: `DUJIANG_HOME={shown} make up`, then")
        for words in ("ps --all", "explain train-digits", "models show digits", "bill", "audit", "verify"):
            self._screen.say(f"  {command} {words}")

    def _journey(self, client: Client) -> list[list[str]]:
        """Take a model the whole way; return the rows of the report."""
        data = self._home.path / "data" / "digits.npz"
        self._step("Train on a slice of the pool")
        training = Training(client, self._screen, epochs=self._epochs)
        queued_s = training.submit()
        self._step(
            f"Kill the training half way, at epoch {training.epochs // 2} of {training.epochs}, as a fault would"
        )
        fault = training.kill_half_way()
        self._step("Register the model")
        version = registered(client, self._screen, training, data)
        self._step("Deploy it and ask it")
        deployment = Deployment(client, self._screen)
        served = deployment.ask(data, version, deployment.bring_up(training))
        deployment.take_away()
        self._step("Bill it")
        cost = settled(client, self._screen, str(training.job["project"]))
        self._step("Prove it")
        self._prove(client)
        return _report(queued_s, fault, served, cost)

    def _prove(self, client: Client) -> None:
        """Let the platform prove its ledger, jobs, audit trail, charges and processes."""
        proof: dict[str, Any] = client.get("/v1/verify")
        for check in proof["checks"]:
            hold(check["holds"], f"the proof of {check['name']} to hold", check.get("breaches") or check)
            self._screen.held(f"{check['name']}: {check['sentence']}")
        hold(proof["holds"], "the platform's proof to hold", proof)

    def _step(self, title: str) -> None:
        self.number += 1
        self._screen.step(self.number, title)


def _report(queued_s: float, fault: Fault, served: Served, cost: Cost) -> list[list[str]]:
    return [
        ["queue wait", f"{queued_s:.3f} s", ""],
        ["time to notice the fault", f"{fault.noticed_s:.3f} s", NOTICE_AIM],
        ["time to recover: running again", f"{fault.running_s:.3f} s", RESUME_AIM],
        ["time to recover: first new epoch", f"{fault.recovered_s:.3f} s", ""],
        ["epochs lost", str(fault.lost_epochs), "0"],
        ["accuracy trained", f"{served.trained}/{served.of} = {served.trained / served.of:.6f}", ""],
        ["accuracy served", f"{served.right}/{served.of} = {served.right / served.of:.6f}", "as trained"],
        ["time to deploy", f"{served.ready_s:.3f} s", ""],
        ["requests, one caller", f"{served.per_second:.0f} a second", ""],
        ["p50 / p99", f"{served.p50_ms:.2f} / {served.p99_ms:.2f} ms", ""],
        ["cost", str(cost), "billed = ledger"],
    ]


def _tell_broken(screen: Screen, home: DemoHome, error: Exception, demo: Demo | None) -> None:
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
        screen.say(f"{type(error).__name__}: {error}; more in {_shown(file)}")
    if complaints := home.complaints():
        screen.say("the platform's log complains:")
        screen.quote(complaints)
    for log in home.logs:
        screen.say(f"log of the platform: {_shown(log)}")


def _shown(path: Path) -> str:
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


if __name__ == "__main__":
    sys.exit(main())
