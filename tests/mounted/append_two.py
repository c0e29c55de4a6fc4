"""Processes that append to one log with O_APPEND: no line lost, none torn, each writer's in order."""

import os
import sys

from common import main

WRITERS, LINES = 3, 3000


def line(writer, number):
    return b"%d %06d %s\n" % (writer, number, b"x" * (number * 7 % 90))


def do(directory):
    path = os.path.join(directory, "log")
    children = []
    for writer in range(WRITERS):
        pid = os.fork()
        if pid == 0:
            log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            for number in range(LINES):
                text = line(writer, number)
                if os.write(log, text) != len(text):
                    os._exit(1)
                if number % 1000 == 500:
                    os.fsync(log)
            os.close(log)
            os._exit(0)
        children.append(pid)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    check(directory)


def check(directory):
    following = [0] * WRITERS
    with open(os.path.join(directory, "log"), "rb") as log:
        for text in log:
            writer = int(text[:1])
            assert text == line(writer, following[writer]), text
            following[writer] += 1
    assert following == [LINES] * WRITERS, following


sys.stdout.flush()
main(do=do, check=check)
