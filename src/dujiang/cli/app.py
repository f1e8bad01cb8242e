"""The tree of commands. Their modules import what is heavy only when they run: help and completion stay fast."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from dujiang import __version__
from dujiang.cli import (
    accounts,
    catalogue,
    converting,
    doctor,
    explaining,
    fleet,
    jobs,
    ledger,
    money,
    moving,
    planning,
    queues,
    reserving,
    schedules,
    scoring,
    submitting,
    trust,
    up,
    what_if,
)
from dujiang.cli.exits import EPILOG

app = typer.Typer(
    name="dujiang",
    help="Run work on the pool, see why it waits or failed, deploy what it made, and account for it.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

WORK, POOL, MODELS, MONEY, PEOPLE, PLATFORM = "Work", "Pool", "Models", "Accounting", "People", "Platform"


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"dujiang {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Write the version and leave.")
    ] = False,
) -> None:
    pass


for _function, _panel in (
    (submitting.submit, WORK), (jobs.ps, WORK), (jobs.show, WORK), (jobs.logs, WORK), (explaining.explain, WORK),
    (jobs.cancel, WORK), (jobs.queue, WORK), (jobs.metrics, WORK), (converting.convert, WORK), (fleet.pool, POOL),
    (fleet.clusters, POOL), (moving.moves, POOL), (catalogue.deploy, MODELS),
    (catalogue.predict, MODELS), (money.bill, MONEY), (trust.verify, MONEY), (accounts.login, PEOPLE),
    (accounts.logout, PEOPLE), (accounts.whoami, PEOPLE), (up.up, PLATFORM), (doctor.doctor, PLATFORM),
):  # fmt: skip
    app.command(rich_help_panel=_panel)(_function)

for _name, _group, _panel in (
    ("job", scoring.job_app, WORK), ("nodes", fleet.nodes_app, POOL),
    ("reservations", reserving.reservations_app, POOL), ("models", catalogue.models_app, MODELS),
    ("deployments", catalogue.deployments_app, MODELS), ("prices", money.prices_app, MONEY),
    ("audit", trust.audit_app, MONEY), ("users", accounts.users_app, PEOPLE),
    ("projects", accounts.projects_app, PEOPLE), ("tokens", accounts.tokens_app, PEOPLE),
    ("quotas", money.quotas_app, PEOPLE), ("schedule", schedules.schedule_app, WORK),
    ("simulate", what_if.simulate_app, PLATFORM),
    ("snapshot", explaining.snapshot_app, PLATFORM), ("plan", planning.plan_app, PLATFORM),
    ("queues", queues.queues_app, PEOPLE), ("ledger", ledger.ledger_app, MONEY),
):  # fmt: skip
    app.add_typer(_group, name=_name, rich_help_panel=_panel)


def command() -> Any:
    """Return the whole tree as one command."""
    return typer.main.get_command(app)
