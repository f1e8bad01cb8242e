"""`dujiang audit` and `verify`: who did what, and the proof that the records hold together."""

from __future__ import annotations

import json as json_module
from typing import Annotated, Any

import typer

from dujiang.cli.exits import Exit
from dujiang.cli.output import Column, clean, heading, listing, moment, note, say, write_json, write_table
from dujiang.cli.session import Json, Project, Stop, connect
from dujiang.cli.times import TIME, sent

audit_app = typer.Typer(help="The audit trail.", invoke_without_command=True, no_args_is_help=False)

_RECORDS = (
    Column("SEQ", lambda record: record.get("seq"), right=True),
    Column("AT", lambda record: moment(record.get("at"))),
    Column("WHO", lambda record: record.get("actor_name") or record.get("actor")),
    Column("WHAT", lambda record: record.get("type")),
    Column("OF", lambda record: record.get("subject")),
    Column("DETAILS", lambda record: _brief(record.get("payload"))),
)


@audit_app.callback()
def list_audit(
    context: typer.Context,
    actor: Annotated[str | None, typer.Option("--actor", help="user:ID or another actor.")] = None,
    subject: Annotated[str | None, typer.Option("--subject", help="Id of what was acted on.")] = None,
    type: Annotated[list[str] | None, typer.Option("--type", help="Of record; may be repeated.")] = None,
    project: Project = None,
    since: Annotated[str | None, typer.Option("--since", help=f"From this on: {TIME}")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Before this.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many, the newest first.")] = 100,
    json: Json = False,
) -> None:
    """List who did what, the newest first."""
    if context.invoked_subcommand is not None:
        return
    query = {
        "actor": actor,
        "subject": subject,
        "type": type or None,
        "project": project,
        "since": sent("--since", since),
        "until": sent("--until", until),
    }
    with connect() as client:
        rows = client.items("/v1/audit", most=limit, **query)
        listing(rows, _RECORDS, as_json=json, empty="There is no such record.")


@audit_app.command("verify")
def verify_audit(
    seq: Annotated[int | None, typer.Option("--seq", help="Number that an earlier check gave.")] = None,
    hash: Annotated[str | None, typer.Option("--hash", help="Hash that an earlier check gave.")] = None,
    json: Json = False,
) -> None:
    """Walk the chain of hashes and say where a record was changed, removed or inserted; exits 7 if one was."""
    with connect() as client:
        proof = client.get("/v1/audit/verify", seq=seq, hash=hash)
    if json:
        write_json(proof)
    elif proof["holds"]:
        say(f"The chain of {proof['records']} records is whole.")
        note(f"Keep this elsewhere for the next check: --seq {proof['seq']} --hash {proof['hash']}")
    else:
        for each in proof["breaks"]:
            say(f"Record {each['seq']}: {each['why']}")
    if not proof["holds"]:
        raise typer.Exit(int(Exit.NOT_PROVEN))


def verify(json: Json = False) -> None:
    """Prove now that ledger, jobs, audit, charges and processes agree; exits 7 if not, 8 where a cluster is away."""
    with connect() as client:
        proof = client.get("/v1/verify")
    if not isinstance(proof, dict) or ("holds" not in proof and "ok" not in proof):
        raise Stop("The server's answer is no proof, so nothing is known. Is the server of another release?")
    if json:
        write_json(proof)
    else:
        _write_proof(proof)
    if (word := _word(proof)) != "ok":
        raise typer.Exit(int(Exit.NOT_SEEN if word == "not seen" else Exit.NOT_PROVEN))


def _word(proved: dict[str, Any]) -> str:
    """Return how a proof, or all of them, came out; what an older server says has no word for what is away."""
    if proved.get("holds", proved.get("ok")):
        return "ok"
    return "not seen" if proved.get("verdict") == "unseen" else "BROKEN"


def _write_proof(proof: dict[str, Any]) -> None:
    checks = proof.get("checks") or proof.get("items") or []
    rows = []
    for check in checks:
        counted = check.get("count", check.get("rows", check.get("checked")))
        rows.append([_word(check), clean(check.get("name")), clean(counted), clean(check.get("sentence") or "")])
    write_table(["", "WHAT", "LOOKED AT", ""], rows, right=[False, False, True, False])
    for check in checks:
        name, unseen = clean(check.get("name")), check.get("unseen") or []
        if _word(check) == "BROKEN":
            heading(f"\n{name} does not hold:")
            for breach in (check.get("breaches") or check.get("offences") or check.get("violations") or [])[:20]:
                say(f"  {_brief(breach)}")
        if unseen:
            heading(f"\n{name} could not be looked at everywhere:")
            for each in unseen[:20]:
                say(f"  {_brief(each)}")
    said = {"ok": "Everything holds.", "not seen": "Nothing is broken; not everything could be looked at."}
    say(f"\n{said.get(_word(proof), 'Not everything holds.')}")


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        sentence = value.get("sentence") or value.get("why")
        named = value.get("row") or value.get("id") or value.get("subject")
        if sentence:
            return clean(f"{named}: {sentence}" if named and str(named) not in str(sentence) else sentence)
        told = [(name, each) for name, each in value.items() if each not in (None, "", [], {})]
        text = " ".join(f"{name}={each if isinstance(each, str) else json_module.dumps(each)}" for name, each in told)
        return clean(text if len(text) <= 120 else text[:117] + "...")
    return clean(value)
