"""How the tables came to be: one file in `versions/` for each change, applied in order by `kit.migrate` at the start.

`make migration M="add quota"` (`python -m dujiang.migrations "add quota"`) compares the stores with a scratch database
at the latest revision and writes the file; read it before committing. It has to work on SQLite and on PostgreSQL.
Expand now, contract a release later; a revision that was released is never edited.

Until the first release there is one revision, and it is written anew whenever a store changes:
`python -m dujiang.migrations --first`.
"""
