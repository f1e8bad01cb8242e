"""`make demo-engines`: one pool over this machine, a real Slurm and a real Kubernetes, and the same fault on each.

Starts both clusters and a platform over the three, trains the digits on each engine, kills the training half way with
SIGKILL, lets the platform resume it, and compares: the network must come out the same, number for number. Exits 0 only
if every step held. Root, Debian packages and a Go compiler are needed; what is missing is installed and built.

    PYTHONPATH=. python demo/engines.py
"""

from __future__ import annotations

import sys
import time
from decimal import Decimal
from typing import Any

from checks import hold, until
from clusters import KUBERNETES, LOCAL, SLURM, Clusters
from dujiang.client import Client
from home import DemoHome
from money import Cost, settled
from screen import Screen
from steps import Steps, carry_out
from training import Fault, Training

EPOCHS = 16
ENGINES = {LOCAL: "local", SLURM: "slurm", KUBERNETES: "kubernetes"}
ANSWER_S = 60.0


def main() -> int:
    """Run the demo; return the exit status."""
    return carry_out("Train, kill and resume on three engines at once, and bill it.", ".demo-engines", Engines)


class Engines(Steps):
    """The same training on three engines of one pool."""

    def __init__(self, screen: Screen, home: DemoHome, epochs: int | None) -> None:
        """Take what the steps need."""
        super().__init__(screen, home, epochs or EPOCHS)
        self._clusters = Clusters(screen, home)

    def run(self) -> None:
        """Do every step.

        Raises:
            NotHeld: a step did not do what it must.
        """
        began = time.monotonic()
        self.begin("Start a Slurm")
        self._clusters.prepare()
        self._screen.held(self._clusters.start_slurm())
        self.begin("Start a Kubernetes")
        self._screen.held(self._clusters.start_kubernetes())
        self.begin("Start the platform over this machine and both clusters")
        self._clusters.write_settings()
        connection = self.start_platform()
        with Client(connection) as client:
            self._see_clusters(client)
            runs = [(name, *self._train(client, name)) for name in ENGINES]
            self.begin("Bill it")
            cost = settled(client, self._screen, str(runs[0][1].job["project"]))
            costs = _cost_by_job(client)
            self.begin("Prove it")
            self.prove(client)
        self.begin("Stop")
        self._home.stop()
        self._clusters.stop()
        self.see_nothing_left()
        self._screen.held("the platform and both clusters have stopped; nothing is left running")
        self.begin("What was measured")
        self._report(runs, costs, cost)
        self._screen.say(f"the whole demo: {time.monotonic() - began:.1f} s")

    def close(self) -> None:
        """Stop both clusters."""
        self._clusters.stop()

    def _see_clusters(self, client: Client) -> None:
        """Wait until every cluster answers, and show them."""

        def look() -> dict[str, dict[str, Any]]:
            return {one["name"]: one for one in client.items("/v1/clusters")}

        found = until(
            "every cluster to answer", look, lambda seen: all(one["reachable"] for one in seen.values()),
            for_s=ANSWER_S, tell=lambda seen: "; ".join(f"{name}: {one['reason']}" for name, one in seen.items()),
        )  # fmt: skip
        kinds = {name: one["kind"] for name, one in found.items()}
        hold(kinds == ENGINES, f"the clusters {ENGINES}", kinds)
        nodes = list(client.items("/v1/nodes"))
        rows = [
            [name, f"{one['kind']} {one['version']}".strip(), str(sum(node["cluster"] == name for node in nodes))]
            for name, one in found.items()
        ]  # fmt: skip
        self._screen.table(["cluster", "engine", "nodes"], rows, right=(2,))
        self._screen.held("one pool; its clusters' GPUs are stand-ins, and the training asks for none")

    def _train(self, client: Client, cluster: str) -> tuple[Training, Fault]:
        training = Training(client, self._screen, epochs=self._epochs, cluster=cluster)
        self.begin(
            f"Train on {cluster} ({ENGINES[cluster]}), and kill it at epoch {training.half} of {training.epochs}"
        )
        training.submit()
        return training, training.kill_half_way()

    def _report(
        self, runs: list[tuple[str, Training, Fault]], costs: dict[str, Decimal], cost: Cost
    ) -> None:  # fmt: skip
        rows = [
            [
                ENGINES[name], ", ".join(one["node"] for one in training.job["attempts"]), " + ".join(fault.trained),
                f"{fault.noticed_s:.3f} s", f"{fault.running_s:.3f} s", f"{fault.recovered_s:.3f} s", fault.accuracy,
                f"{costs[training.id]:.6f}",
            ]
            for name, training, fault in runs
        ]  # fmt: skip
        titles = ["engine", "nodes", "epochs", "noticed", "next start", "first epoch", "accuracy", cost.currency]
        self._screen.table(titles, rows, right=(3, 4, 5, 6, 7))
        found = {fault.accuracy for _, _, fault in runs}
        hold(len(found) == 1, "the same network on every engine", f"accuracies {sorted(found)}")
        self._screen.held(f"the network came out the same on every engine; one bill: {cost}")


def _cost_by_job(client: Client) -> dict[str, Decimal]:
    """Return what each job is charged, before lines of the bill are rounded."""
    found: dict[str, Decimal] = {}
    for charge in client.items("/v1/charges"):
        found[charge["job_id"]] = found.get(charge["job_id"], Decimal(0)) + Decimal(charge["billed_cost"])
    return found


if __name__ == "__main__":
    sys.exit(main())
