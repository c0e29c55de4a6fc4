"""Two processes write an LMDB environment while readers look on. usage: lmdb_rows.py make|check"""

import multiprocessing
import sys

import lmdb

WRITERS, ROWS, MAP = 2, 60, 256 << 20


def value(writer, number):
    return f"{writer} {number} ".encode() * (1 + number * 7 % 900)


def write(path, through_map, writer):
    with lmdb.open(path, map_size=MAP, writemap=through_map) as environment:
        for number in range(ROWS):
            with environment.begin(write=True) as transaction:
                for part in range(20):
                    key = f"{writer} {number} {part}".encode()
                    transaction.put(key, value(writer, number + part))
            with environment.begin() as reader:
                assert reader.get(f"{writer} {number} 3".encode()) == value(writer, number + 3)
            if number % 5 == 4:
                with environment.begin(write=True) as transaction:
                    for part in range(20):
                        assert transaction.delete(f"{writer} {number} {part}".encode())


def check(path):
    with lmdb.open(path, map_size=MAP, readonly=True, lock=False) as environment:
        with environment.begin() as reader:
            seen = 0
            for key, found in reader.cursor():
                writer, number, part = (int(word) for word in key.split())
                assert found == value(writer, number + part), key
                seen += 1
    assert seen == WRITERS * ROWS * 20 * 4 // 5, seen
    print(f"{path}: {seen} rows")


def make(path, through_map):
    writers = [
        multiprocessing.Process(target=write, args=(path, through_map, w)) for w in range(WRITERS)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [w.exitcode for w in writers] == [0] * WRITERS


for directory, mapped in (("calls", False), ("map", True)):
    if sys.argv[1] == "make":
        make(directory, mapped)
    check(directory)
