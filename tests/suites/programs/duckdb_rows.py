"""usage: duckdb_rows.py make|check"""

import sys

import duckdb

ROWS = 1_000_000


def make():
    database = duckdb.connect("rows.duckdb")
    database.execute("SET memory_limit='200MB'")
    database.execute(
        f"CREATE TABLE rows AS SELECT i, i * 7 % 1000 AS k, md5(i::VARCHAR) AS h FROM range({ROWS}) t(i)"
    )
    database.execute("CHECKPOINT")
    database.execute("UPDATE rows SET k = k + 1 WHERE i % 10 = 0")
    database.execute("DELETE FROM rows WHERE i % 10 = 5")
    database.execute("CREATE INDEX by_k ON rows (i)")
    database.execute("COPY rows TO 'rows.parquet' (FORMAT parquet)")
    database.execute("BEGIN; DELETE FROM rows; ROLLBACK")
    database.close()


def check():
    with duckdb.connect("rows.duckdb") as database:
        sums = "SELECT count(*), sum(i), sum(k), bit_xor(hash(h)) FROM "
        held = database.execute(sums + "rows").fetchone()
        exported = database.execute(sums + "'rows.parquet'").fetchone()
        assert held == exported, (held, exported)
        assert held[0] == ROWS * 9 // 10, held
        wrong = "SELECT count(*) FROM rows WHERE h != md5(i::VARCHAR)"
        assert database.execute(wrong).fetchone() == (0,)
        assert database.execute("SELECT k FROM rows WHERE i = 20").fetchone() == (141,)
    print(f"{held[0]} rows")


if sys.argv[1] == "make":
    make()
check()
