"""Four processes write one SQLite database; one of them is killed. usage: sqlite.py make|check"""

import multiprocessing
import os
import signal
import sqlite3
import sys

WRITERS, ROWS = 4, 120


def connect(journal):
    database = sqlite3.connect(f"{journal}.db", timeout=120, isolation_level=None)
    database.execute(f"PRAGMA journal_mode={journal}")
    return database


def write(journal, writer):
    database = connect(journal)
    for number in range(ROWS):
        database.execute("BEGIN IMMEDIATE")
        database.execute(
            "INSERT INTO rows VALUES (?, ?, ?)", (writer, number, os.urandom(number * 20))
        )
        database.execute("UPDATE total SET n = n + 1")
        database.execute("COMMIT")
        if writer == 0 and number == ROWS // 2:
            database.execute("BEGIN IMMEDIATE")
            database.execute("UPDATE total SET n = -1")
            os.kill(os.getpid(), signal.SIGKILL)


def make(journal):
    database = connect(journal)
    database.execute("CREATE TABLE rows (writer, number, data, PRIMARY KEY (writer, number))")
    database.execute("CREATE TABLE total (n)")
    database.execute("INSERT INTO total VALUES (0)")
    database.close()
    writers = [multiprocessing.Process(target=write, args=(journal, w)) for w in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [w.exitcode for w in writers] == [-signal.SIGKILL] + [0] * (WRITERS - 1)
    check(journal)
    database = connect(journal)
    database.execute("DELETE FROM rows WHERE number % 3 = 1")
    database.execute("VACUUM")
    database.execute("UPDATE total SET n = (SELECT count(*) FROM rows)")
    database.close()


def check(journal):
    database = connect(journal)
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    (total,) = database.execute("SELECT n FROM total").fetchone()
    (count,) = database.execute("SELECT count(*) FROM rows").fetchone()
    assert total == count > 0, (total, count)
    wrong = "SELECT count(*) FROM rows WHERE length(data) != number * 20"
    assert database.execute(wrong).fetchone() == (0,)
    print(f"{journal}: {count} rows")
    database.close()


for mode in ("wal", "delete"):
    {"make": make, "check": check}[sys.argv[1]](mode)
