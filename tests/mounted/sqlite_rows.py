"""SQLite, updated row by row, a transaction each; `run` goes on until it is stopped and says what is committed."""

import os
import sqlite3

from common import main

ROWS = 300


def connect(directory, mode):
    db = sqlite3.connect(os.path.join(directory, f"{mode}.db"), isolation_level=None)
    assert db.execute(f"PRAGMA journal_mode={mode}").fetchone()[0].upper() == mode
    db.execute("PRAGMA synchronous=FULL")
    return db


def create(db):
    db.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER, note TEXT)")
    db.execute("CREATE TABLE progress (done INTEGER)")
    with db:
        db.execute("BEGIN")
        db.execute("INSERT INTO progress VALUES (0)")
        db.executemany("INSERT INTO account VALUES (?, 100, ?)", ((n, "n" * 200) for n in range(ROWS)))


def transfer(db, number):
    """Moves one unit around; the sum stays, `progress` counts."""
    db.execute("BEGIN")
    db.execute("UPDATE account SET balance = balance - 1 WHERE id = ?", (number * 7 % ROWS,))
    db.execute("UPDATE account SET balance = balance + 1, note = ? WHERE id = ?", ("m" * (number % 400), number * 11 % ROWS))
    db.execute("UPDATE progress SET done = ?", (number,))
    db.execute("COMMIT")


def do(directory, mode, count):
    db = connect(directory, mode)
    create(db)
    for number in range(1, int(count) + 1):
        transfer(db, number)
    db.close()
    check(directory, mode, count)


def run(directory, mode):
    db = connect(directory, mode)
    create(db)
    for number in range(1, 1_000_000):
        transfer(db, number)
        print(number, flush=True)


def check(directory, mode, at_least):
    db = connect(directory, mode)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    done = db.execute("SELECT done FROM progress").fetchone()[0]
    assert int(at_least) <= done, f"{done} transactions are there, {at_least} were committed"
    assert db.execute("SELECT count(*), sum(balance) FROM account").fetchone() == (ROWS, 100 * ROWS)
    transfer(db, done + 1)
    db.close()


main(do=do, run=run, check=check)
