"""A name that is replaced all the time is there all the time, and whole, for whoever opens it."""

import errno
import os
import sys
import time

from common import main

SECONDS = 4
REPLACED_MIN = 50
SIZE = 9000


def write(how):
    number = 0
    deadline = time.monotonic() + SECONDS
    # On a busy disk a few renames after a sync take longer.
    while time.monotonic() < deadline or number <= REPLACED_MIN:
        number += 1
        temp = f"temp {how}"
        if how == "create":
            with open(temp, "wb", buffering=0) as file:
                file.write(bytes([number % 251]) * SIZE)
        elif how == "sync":
            with open(temp, "wb", buffering=0) as file:
                file.write(bytes([number % 251]) * SIZE)
                os.fsync(file.fileno())
        else:
            os.symlink("x" * (number % 100 + 1), temp)
        os.rename(temp, f"target {how}")


def read(how):
    path = f"target {how}"
    opened = stale = 0
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if how == "link":
            assert set(os.readlink(path)) == {"x"}
            opened += 1
            continue
        try:
            with open(path, "rb", buffering=0) as file:
                content = file.read()
        except OSError as error:
            # The kernel asks once more after a stale answer, and no oftener.
            assert error.errno == errno.ESTALE, error
            stale += 1
            continue
        assert len(content) == SIZE and content == content[:1] * SIZE, (how, len(content))
        os.stat(path)
        opened += 1
    assert opened > 50 and stale * 1000 <= opened, (opened, stale)


def do(directory):
    os.chdir(directory)
    for how in ("create", "sync", "link"):
        if how == "link":
            os.symlink("x", f"target {how}")
        else:
            with open(f"target {how}", "wb") as file:
                file.write(b"!" * SIZE)
        children = []
        for work in (write, read, read):
            child = os.fork()
            if child == 0:
                try:
                    work(how)
                except BaseException as error:
                    print(how, work.__name__, repr(error), file=sys.stderr)
                    os._exit(1)
                os._exit(0)
            children.append(child)
        states = [os.waitpid(child, 0)[1] for child in children]
        assert states == [0, 0, 0], (how, states)
    check(".")


def check(directory):
    os.chdir(directory)
    read_back = {name for name in os.listdir(".") if name.startswith("target")}
    assert read_back == {"target create", "target sync", "target link"}, read_back
    for how in ("create", "sync"):
        with open(f"target {how}", "rb") as file:
            content = file.read()
        assert content == content[:1] * SIZE


main(do=do, check=check)
