"""The hash chain: every way of tampering is found, wherever it is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select, update

from dujiang.kit import journal
from dujiang.kit.db import Database
from dujiang.kit.journal import Event, head
from dujiang.kit.journal import journal as table

LENGTH = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted(Event):
    """A number was counted."""

    number: int
    words: tuple[str, ...] = ()


async def written(database: Database, length: int = LENGTH) -> None:
    async with database.transaction() as tx:
        await tx.execute(delete(table))
        await tx.execute(delete(head))
    for start in range(0, length, 3):  # several transactions of several records
        async with database.transaction(actor="user:u", cause="test") as tx:
            tx.emit(*(Counted(subject=f"s{n % 2}", number=n) for n in range(start, min(start + 3, length))))


async def rows(database: Database) -> list[dict[str, Any]]:
    async with database.reading() as tx:
        return [dict(row._mapping) for row in await tx.execute(select(table).order_by(table.c.seq))]


async def broken_at(database: Database) -> list[int]:
    return [one.seq for one in (await database.verify_journal())[1]]


async def test_an_untouched_chain_is_whole(database: Database) -> None:
    assert await database.verify_journal() == (0, [])
    await written(database)
    assert await database.verify_journal() == (LENGTH, [])


CHANGES: dict[str, Any] = {
    "at": 1, "actor": "user:someone", "cause": "else", "type": "Other", "subject": "other", "project_id": "prj_other",
    "payload": '{"number":99,"words":[]}', "hash": "f" * 64,
}  # fmt: skip


@settings(max_examples=25)
@given(seq=st.integers(1, LENGTH), column=st.sampled_from(sorted(CHANGES)))
async def test_a_changed_record_is_found(database: Database, seq: int, column: str) -> None:
    await written(database)
    async with database.transaction() as tx:
        await tx.execute(update(table).where(table.c.seq == seq).values({column: CHANGES[column]}))
    assert seq in await broken_at(database)


@settings(max_examples=12)
@given(seq=st.integers(1, LENGTH))
async def test_a_removed_record_is_found(database: Database, seq: int) -> None:
    await written(database)
    async with database.transaction() as tx:
        await tx.execute(delete(table).where(table.c.seq == seq))
    assert seq + (seq < LENGTH) in await broken_at(database) or seq in await broken_at(database)


@settings(max_examples=12)
@given(seq=st.integers(1, LENGTH))
async def test_a_removed_record_with_the_rest_numbered_anew_is_found(database: Database, seq: int) -> None:
    await written(database)
    async with database.transaction() as tx:
        await tx.execute(delete(table).where(table.c.seq == seq))
        for later in range(seq + 1, LENGTH + 1):
            await tx.execute(update(table).where(table.c.seq == later).values(seq=later - 1))
        await tx.execute(update(head).values(seq=LENGTH - 1))
    assert await broken_at(database)


@settings(max_examples=15)
@given(place=st.sampled_from([0, -5, LENGTH + 1, LENGTH + 7, 2**40]), copied=st.integers(1, LENGTH))
async def test_an_inserted_record_is_found(database: Database, place: int, copied: int) -> None:
    await written(database)
    forged = {**(await rows(database))[copied - 1], "seq": place}
    async with database.transaction() as tx:
        await tx.execute(insert(table).values(**forged))
    assert place in await broken_at(database)


@settings(max_examples=10)
@given(kept=st.integers(0, LENGTH - 1), with_head=st.booleans())
async def test_a_cut_tail_is_found(database: Database, kept: int, with_head: bool) -> None:
    """Also when the head's number is set back; only its hash, which needs the records, gives the cut away."""
    await written(database)
    async with database.transaction() as tx:
        await tx.execute(delete(table).where(table.c.seq > kept))
        if with_head:
            await tx.execute(update(head).values(seq=kept))
    assert await broken_at(database)


@settings(max_examples=15)
@given(pair=st.tuples(st.integers(1, LENGTH), st.integers(1, LENGTH)).filter(lambda two: two[0] != two[1]))
async def test_a_swapped_pair_is_found(database: Database, pair: tuple[int, int]) -> None:
    await written(database)
    a, b = pair
    async with database.transaction() as tx:
        await tx.execute(update(table).where(table.c.seq == a).values(seq=-1))
        await tx.execute(update(table).where(table.c.seq == b).values(seq=a))
        await tx.execute(update(table).where(table.c.seq == -1).values(seq=b))
    assert {a, b} <= set(await broken_at(database))


async def test_a_chain_made_with_another_key_is_found(database: Database) -> None:
    await written(database)
    async with database.reading() as tx:
        _, breaks = await journal.verify(tx.connection, b"another key")
    assert len(breaks) == LENGTH


@settings(max_examples=8)
@given(kept=st.integers(0, LENGTH - 1))
async def test_a_tail_cut_with_its_head_is_found_by_a_note_kept_elsewhere(database: Database, kept: int) -> None:
    await written(database)
    async with database.reading() as tx:
        noted = dict([await journal.latest(tx.connection)])
    assert await database.verify_journal(noted) == (LENGTH, [])
    before = await rows(database)
    async with database.transaction() as tx:
        await tx.execute(delete(table).where(table.c.seq > kept))
        await tx.execute(update(head).values(seq=kept, hash=before[kept - 1]["hash"] if kept else journal.GENESIS))
    assert await broken_at(database) == []  # the chain itself is whole
    assert [one.seq for one in (await database.verify_journal(noted))[1]] == [LENGTH]


async def test_a_noted_hash_that_differs_is_found(database: Database) -> None:
    await written(database)
    assert [one.seq for one in (await database.verify_journal({5: "e" * 64}))[1]] == [5]


async def test_an_emptied_journal_is_found(database: Database) -> None:
    await written(database)
    async with database.transaction() as tx:
        await tx.execute(delete(table))
    assert await broken_at(database) == [1]


async def test_pages_do_not_hide_a_break(database: Database) -> None:
    await written(database)
    async with database.transaction() as tx:
        await tx.execute(delete(table).where(table.c.seq == 6))
    async with database.reading() as tx:
        for page in (1, 2, 5, 6, 100):
            assert [one.seq for one in (await journal.verify(tx.connection, b"a key for tests", page=page))[1]] == [
                7,
                7,
            ]


async def test_reading_filters_and_goes_on_after_a_number(database: Database) -> None:
    await written(database)
    async with database.reading() as tx:
        assert [r.seq for r in await journal.read(tx.connection, after=10)] == [11, 12]
        assert [r.payload["number"] for r in await journal.read(tx.connection, subject="s1", limit=2)] == [1, 3]
        assert await journal.read(tx.connection, types=["Nothing"]) == []
        assert len(await journal.read(tx.connection, actor="user:u", types=["Counted"])) == LENGTH
        assert await journal.read(tx.connection, project_ids=["prj_a"]) == []
        assert [r.seq for r in await journal.read(tx.connection, before=9, newest_first=True, limit=2)] == [8, 7]
        at = (await journal.read(tx.connection, limit=1))[0].at
        assert len(await journal.read(tx.connection, since=at)) == LENGTH
        assert await journal.read(tx.connection, until=at) == []
        assert await journal.latest_seq(tx.connection) == LENGTH


def test_an_event_reads_what_an_older_or_newer_version_wrote() -> None:
    assert Counted.decode("s", None, {"number": 1, "unheard_of": True}) == Counted(subject="s", number=1)


@pytest.mark.parametrize("text", ["", "汉字", '"\\', "line\nbreak", "\U0001f600", "a" * 150])
async def test_any_text_survives_and_verifies(database: Database, text: str) -> None:
    async with database.transaction(actor=text[:64] or "x", cause=text[:100]) as tx:
        tx.emit(Counted(subject=text, number=1, words=(text, "\0")))
    assert await database.verify_journal() == (1, [])
    async with database.reading() as tx:
        (record,) = await journal.read(tx.connection)
    assert (record.subject, record.payload["words"]) == (text, [text, "\0"])
