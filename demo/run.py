"""`make demo`: a real training job through the whole platform on this machine, each step checked, then it stops.

Starts a platform of its own in a folder of its own, trains, kills the training half way, lets the platform resume it,
registers, deploys, asks and bills the model, and prints what it measured. Exits 0 only if every step held.

    python demo/run.py
"""

from __future__ import annotations

import sys
import time

from dujiang.client import Client
from money import Cost, settled
from registry import registered
from serving import Deployment, Served
from steps import Steps, carry_out
from training import Fault, Training

NOTICE_AIM, RESUME_AIM = "1 s", "5 s"


def main() -> int:
    """Run the demo; return the exit status."""
    return carry_out("Train, kill, resume, register, deploy, ask and bill a model.", ".demo", Demo)


class Demo(Steps):
    """The whole way of a model."""

    def run(self) -> None:
        """Do every step.

        Raises:
            NotHeld: a step did not do what it must.
        """
        began = time.monotonic()
        self.begin("Start the platform")
        connection = self.start_platform()
        self._screen.say(f"it answered {time.monotonic() - began:.1f} s after its start")
        with Client(connection) as client:
            rows = self._journey(client)
        self.begin("Stop")
        self._home.stop()
        self.see_nothing_left()
        self._screen.held("the platform has stopped; nothing is left running")
        self.begin("What was measured")
        rows.append(["the whole demo", f"{time.monotonic() - began:.1f} s", ""])
        self._screen.table(["", "measured", "aim"], rows)
        self.say_where_to_look("ps --all", "explain train-digits", "models show digits", "bill", "audit", "verify")

    def _journey(self, client: Client) -> list[list[str]]:
        """Take a model the whole way; return the rows of the report."""
        data = self._home.path / "data" / "digits.npz"
        self.begin("Train on a slice of the pool")
        training = Training(client, self._screen, epochs=self._epochs)
        queued_s = training.submit()
        self.begin(f"Kill the training half way, at epoch {training.half} of {training.epochs}, as a fault would")
        fault = training.kill_half_way()
        self.begin("Register the model")
        version = registered(client, self._screen, training, data)
        self.begin("Deploy it and ask it")
        deployment = Deployment(client, self._screen)
        served = deployment.ask(data, version, deployment.bring_up(training))
        deployment.take_away()
        self.begin("Bill it")
        cost = settled(client, self._screen, str(training.job["project"]))
        self.begin("Prove it")
        self.prove(client)
        return _report(queued_s, fault, served, cost)


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


if __name__ == "__main__":
    sys.exit(main())
