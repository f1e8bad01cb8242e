"""What Alembic runs: the migrations, or a comparison with the stores, on the connection it was handed."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy.types import TypeDecorator


def render_item(kind: str, item: Any, autogen: AutogenContext) -> str | Literal[False]:
    """Write a column type of our own as the plain type beneath it: a migration must not change when our code does."""
    if kind == "type" and isinstance(item, TypeDecorator):
        return f"sa.{item.impl_instance!r}"
    return False


def run() -> None:
    """Run on the connection in the configuration's attributes, in the transaction that its owner has opened."""
    attributes = context.config.attributes
    context.configure(
        connection=attributes["connection"],
        target_metadata=attributes.get("metadata"),
        render_as_batch=True,  # SQLite cannot change a column in place
        render_item=render_item,
        compare_server_default=True,
    )
    context.run_migrations()


run()
