"""`dujiang login`, `logout`, `users`, `projects`, `tokens`: who one is, and who else there is."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from dujiang.cli.exits import Exit
from dujiang.cli.output import Column, ago, col, listing, moment, note, say, write_facts, write_json
from dujiang.cli.session import Json, Stop, connect, is_interactive, user_name

users_app = typer.Typer(help="Accounts.", invoke_without_command=True, no_args_is_help=False)
projects_app = typer.Typer(help="Projects and their members.", invoke_without_command=True, no_args_is_help=False)
tokens_app = typer.Typer(help="API tokens of your own.", invoke_without_command=True, no_args_is_help=False)


def login(
    url: Annotated[str | None, typer.Option("--url", help="Of the server; else the one of this account.")] = None,
    name: Annotated[str | None, typer.Option("--name", "-u", help="Who signs in.")] = None,
    token: Annotated[
        str | None, typer.Option("--token", help="Keep this token instead; - reads it from input.")
    ] = None,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from input.")] = False,
) -> None:
    """Sign in and keep the credential for later commands, readable by this account alone."""
    from dujiang.client import Client, Connection, locate, store_credentials

    known = locate()
    where = url or (known.url if known else None)
    if where is None:
        raise Stop("Which server? Write --url http://HOST:PORT, or start one here with `dujiang up`.", Exit.USAGE)
    if token is not None:
        text = sys.stdin.readline().strip() if token == "-" else token
    else:
        text = _sign_in(where, name or _ask("Name", user_name()), password_stdin)
    with Client(Connection(where, text)) as client:
        me = client.get("/v1/me")
    path = store_credentials(where, text)
    say(f"Signed in at {where} as {me['user']['name']} ({me['user']['role']}); kept in {path}.")


def _sign_in(url: str, name: str, password_stdin: bool) -> str:
    from dujiang.client import Client, Connection

    if password_stdin or is_interactive():
        password = _password(name)
    else:
        raise Stop("There is no terminal to ask for the password; use --password-stdin or --token -.", Exit.USAGE)
    with Client(Connection(url)) as client:
        return str(client.post("/v1/login", {"name": name, "password": password})["token"])


def _password(name: str) -> str:
    """Return a password from input, which a terminal does not show."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    import getpass

    return getpass.getpass(f"Password of {name}: ")


def _ask(what: str, default: str) -> str:
    if not is_interactive():
        return default
    sys.stderr.write(f"{what} [{default}]: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip() or default


def logout() -> None:
    """Revoke and forget the credential that `login` kept."""
    from dujiang.client import CREDENTIALS_FILE, forget_credentials, home_folder
    from dujiang.kit.errors import DujiangError

    if not (home_folder() / CREDENTIALS_FILE).exists():
        say("No credential is kept; nothing to do. The server of this account needs none.")
        return
    if "DUJIANG_URL" not in os.environ and "DUJIANG_TOKEN" not in os.environ:
        try:
            with connect() as client:
                client.post("/v1/logout")
        except DujiangError as error:
            note(f"The server did not revoke it ({error.sentence}) It ends by itself within twelve hours.")
    forget_credentials()
    say("Signed out.")


def whoami(json: Json = False) -> None:
    """Say who you are to the server and what you may do."""
    with connect() as client:
        me = client.get("/v1/me")
        where = client.url
    if json:
        write_json(me)
        return
    write_facts(
        [
            ("server", where),
            ("name", me["user"]["name"]),
            ("role", me["user"]["role"]),
            ("projects", ", ".join(project["name"] for project in me["projects"])),
            ("may", ", ".join(me["permissions"])),
        ]
    )


_USERS = (
    col("NAME"),
    col("ROLE"),
    col("DISPLAY NAME"),
    Column("STATE", lambda user: "closed" if user.get("disabled_at") else "active"),
    Column("CREATED", lambda user: ago(user.get("created_at"))),
    col("ID"),
)
_PROJECTS = (
    col("NAME"),
    col("DESCRIPTION"),
    Column("STATE", lambda project: "archived" if project.get("archived_at") else "active"),
    Column("CREATED", lambda project: ago(project.get("created_at"))),
    col("ID"),
)
_TOKENS = (
    col("NAME"),
    col("KIND"),
    Column("CREATED", lambda token: ago(token.get("created_at"))),
    Column("EXPIRES", lambda token: ago(token["expires_at"]) if token.get("expires_at") else "never"),
    Column("LAST USED", lambda token: ago(token.get("last_used_at"))),
    col("ID"),
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name or id.")]


def _show(item: dict[str, Any], columns: tuple[Column, ...], as_json: bool) -> None:
    if as_json:
        write_json(item)
    else:
        listing([item], columns, as_json=False, empty="")


@users_app.callback()
def list_users(context: typer.Context, json: Json = False) -> None:
    """List accounts."""
    if context.invoked_subcommand is None:
        with connect() as client:
            listing(client.items("/v1/users"), _USERS, as_json=json, empty="There are no accounts.")


@users_app.command("add")
def add_user(
    name: Name,
    role: Annotated[str, typer.Option("--role", help="admin, operator, manager, member or auditor.")] = "member",
    display_name: Annotated[str, typer.Option("--display-name")] = "",
    project: Annotated[list[str] | None, typer.Option("--project", "-p", help="To join; may be repeated.")] = None,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from input.")] = False,
    json: Json = False,
) -> None:
    """Create an account; without a password nobody can sign in to it until one is set."""
    body: dict[str, Any] = {"name": name, "role": role, "display_name": display_name, "projects": project or []}
    if password_stdin:
        body["password"] = _password(name)
    with connect() as client:
        _show(client.post("/v1/users", body), _USERS, json)
    if not password_stdin:
        note(f"{name} has no password and cannot sign in: `dujiang users change {name} --password-stdin` sets one.")


@users_app.command("close")
def close_user(name: Name) -> None:
    """Close an account and revoke its tokens; what it did stays on record."""
    from dujiang.client import segment

    with connect() as client:
        client.delete(f"/v1/users/{segment(name)}")
    say(f"{name} is closed.")


@users_app.command("change")
def change_user(
    name: Name,
    role: Annotated[str | None, typer.Option("--role")] = None,
    display_name: Annotated[str | None, typer.Option("--display-name")] = None,
    open_again: Annotated[bool, typer.Option("--open", help="Open a closed account again.")] = False,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read a new password from input.")] = False,
    json: Json = False,
) -> None:
    """Change an account."""
    from dujiang.client import segment

    body: dict[str, Any] = {"role": role, "display_name": display_name, "disabled": False if open_again else None}
    if password_stdin:
        body["password"] = _password(name)
    body = {field: value for field, value in body.items() if value is not None}
    with connect() as client:
        _show(client.patch(f"/v1/users/{segment(name)}", body), _USERS, json)


@projects_app.callback()
def list_projects(
    context: typer.Context,
    all: Annotated[bool, typer.Option("--all", "-a", help="Archived ones too.")] = False,
    json: Json = False,
) -> None:
    """List projects."""
    if context.invoked_subcommand is None:
        with connect() as client:
            empty = "You are in no project; ask a manager to add you, or `dujiang projects add NAME`."
            listing(client.items("/v1/projects", archived=all or None), _PROJECTS, as_json=json, empty=empty)


@projects_app.command("add")
def add_project(
    name: Name, description: Annotated[str, typer.Option("--description", "-d")] = "", json: Json = False
) -> None:
    """Create a project."""
    with connect() as client:
        _show(client.post("/v1/projects", {"name": name, "description": description}), _PROJECTS, json)


@projects_app.command("archive")
def archive_project(name: Name) -> None:
    """Archive a project: it takes no new work."""
    from dujiang.client import segment

    with connect() as client:
        client.delete(f"/v1/projects/{segment(name)}")
    say(f"{name} is archived.")


@projects_app.command("members")
def members(
    name: Name,
    add: Annotated[list[str] | None, typer.Option("--add", help="A user to let in; may be repeated.")] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", help="A user to let go; may be repeated.")] = None,
    json: Json = False,
) -> None:
    """List the members of a project, after letting some in or go."""
    from dujiang.client import segment

    path = f"/v1/projects/{segment(name)}/members"
    with connect() as client:
        for user in add or []:
            client.post(path, {"user": user})
        for user in remove or []:
            client.delete(f"{path}/{segment(user)}")
        columns = (col("NAME"), col("ROLE"), Column("ADDED", lambda member: ago(member.get("added_at"))))
        empty = f"Nobody is in {name}; `dujiang projects members {name} --add USER`."
        listing(client.items(path), columns, as_json=json, empty=empty)


@tokens_app.callback()
def list_tokens(context: typer.Context, json: Json = False) -> None:
    """List your tokens."""
    if context.invoked_subcommand is None:
        with connect() as client:
            empty = "You have no tokens; `dujiang tokens add NAME` makes one."
            listing(client.items("/v1/tokens"), _TOKENS, as_json=json, empty=empty)


@tokens_app.command("add")
def add_token(
    name: Name,
    expires: Annotated[str, typer.Option("--expires", help="90d, 12h ... or never.")] = "90d",
    json: Json = False,
) -> None:
    """Make a token. It is shown this once."""
    from dujiang.kit.units import parse_duration_s

    life = None if expires == "never" else int(parse_duration_s(expires))
    with connect() as client:
        made = client.post("/v1/tokens", {"name": name, "expires_in_s": life})
    if json:
        write_json(made)
        return
    until = moment(made["expires_at"]) if made.get("expires_at") else "for ever"
    note(f"Token {made['name']}, good until {until}. It is shown this once:")
    sys.stdout.write(made["token"] + "\n")


@tokens_app.command("revoke")
def revoke_token(name: Name) -> None:
    """Revoke a token at once."""
    from dujiang.client import segment

    with connect() as client:
        found = [token["id"] for token in client.items("/v1/tokens") if name in (token["id"], token["name"])]
        if len(found) > 1:
            raise Stop(f'{len(found)} tokens are called "{name}"; name it by id.', Exit.REFUSED)
        client.delete(f"/v1/tokens/{segment(found[0] if found else name)}")
    say(f"{name} is revoked.")
