"""Locks of every kind between processes, held while the file is committed under their holders; appends from
many processes."""

import errno
import fcntl
import os
import struct
import time

from common import Other, main, refused

WRITERS, RECORDS = 4, 500
BUSY = (errno.EAGAIN, errno.EACCES)
open_here = {}


def get(name):
    """Opens the file, once for each process."""
    if name not in open_here:
        open_here[name] = os.open(name, os.O_RDWR)
    return open_here[name]


def drop(name):
    os.close(open_here.pop(name))


def flock(name, how):
    fcntl.flock(get(name), how)


def record(name, command, kind, start, length):
    """struct flock of fcntl(2)."""
    return fcntl.fcntl(get(name), command, struct.pack("hh4xqqi4x", kind, os.SEEK_SET, start, length, 0))


def posix(name, kind, start, length, wait=False):
    record(name, fcntl.F_SETLKW if wait else fcntl.F_SETLK, kind, start, length)


def ofd(name, kind, start, length, wait=False):
    record(name, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, kind, start, length)


def holder(name, start):
    """Kind of the lock that is in the way of a POSIX write lock on one byte, where it begins, and whose it is."""
    kind, _, begin, _, pid = struct.unpack("hh4xqqi4x", record(name, fcntl.F_GETLK, fcntl.F_WRLCK, start, 1))
    return kind, begin, pid


def version(name, text):
    """A new committed version, by somebody who holds no lock."""
    file = os.open(name, os.O_RDWR)
    os.pwrite(file, text, 0)
    os.fsync(file)
    os.close(file)


def change(name, text):
    """A change that the interval commits."""
    file = os.open(name, os.O_RDWR)
    os.pwrite(file, text, 0)
    os.close(file)


def commits(name, third):
    """One commit by fsync, one by the interval (0.1 s in this test), one after a rename to and fro."""
    third(version, name, b"synced")
    third(change, name, b"change")
    time.sleep(0.4)
    os.rename(name, name + " moved")
    third(version, name + " moved", b"moved!")
    os.rename(name + " moved", name)
    third(version, name, b"bigger" * 100_000)


def do(directory):
    os.chdir(directory)
    first, second, third = Other(), Other(), Other()
    for name in ("flock", "posix", "ofd"):
        with open(name, "wb") as file:
            file.write(b"content")
    os.link("flock", "another name")

    # flock: one exclusive or many shared; on every name of the file.
    first(flock, "flock", fcntl.LOCK_EX)
    for name in ("flock", "another name"):
        refused(BUSY, second, flock, name, fcntl.LOCK_EX | fcntl.LOCK_NB)
        refused(BUSY, second, flock, name, fcntl.LOCK_SH | fcntl.LOCK_NB)
    commits("flock", third)
    refused(BUSY, second, flock, "flock", fcntl.LOCK_SH | fcntl.LOCK_NB)
    first(flock, "flock", fcntl.LOCK_SH)
    second(flock, "flock", fcntl.LOCK_SH | fcntl.LOCK_NB)
    refused(BUSY, first, flock, "flock", fcntl.LOCK_EX | fcntl.LOCK_NB)
    second(flock, "flock", fcntl.LOCK_UN)
    first(flock, "flock", fcntl.LOCK_EX)
    second.begin(flock, "another name", fcntl.LOCK_EX)
    assert second.is_busy()
    commits("flock", third)
    assert second.is_busy()
    first(drop, "flock")
    second.end()
    second(drop, "another name")
    second(drop, "flock")

    # fcntl and open file description locks: ranges.
    for name, lock in (("posix", posix), ("ofd", ofd)):
        first(lock, name, fcntl.F_WRLCK, 0, 100)
        first(lock, name, fcntl.F_RDLCK, 200, 100)
        second(lock, name, fcntl.F_WRLCK, 100, 100)
        second(lock, name, fcntl.F_RDLCK, 250, 10)
        refused(BUSY, second, lock, name, fcntl.F_RDLCK, 99, 1)
        refused(BUSY, second, lock, name, fcntl.F_WRLCK, 250, 10)
        refused(BUSY, first, lock, name, fcntl.F_WRLCK, 199, 1)
        # The two kinds are in each other's way; flock is in nobody's.
        other = ofd if lock is posix else posix
        refused(BUSY, third, other, name, fcntl.F_WRLCK, 0, 0)
        third(flock, name, fcntl.LOCK_EX | fcntl.LOCK_NB)
        third(drop, name)
        commits(name, third)
        refused(BUSY, second, lock, name, fcntl.F_RDLCK, 99, 1)
        refused(BUSY, first, lock, name, fcntl.F_WRLCK, 199, 1)
        kind, begin, pid = third(holder, name, 50)
        assert (kind, begin) == (fcntl.F_WRLCK, 0)
        assert pid == (first.pid if lock is posix else -1), pid
        assert third(holder, name, 300)[0] == fcntl.F_UNLCK
        third(drop, name)
        # The one who waits is woken by the release of just that range, and holds it over commits, too.
        second.begin(lock, name, fcntl.F_WRLCK, 40, 10, True)
        assert second.is_busy()
        commits(name, third)
        assert second.is_busy()
        first(lock, name, fcntl.F_UNLCK, 40, 10)
        second.end()
        commits(name, third)
        refused(BUSY, first, lock, name, fcntl.F_RDLCK, 45, 1)
        first(lock, name, fcntl.F_RDLCK, 30, 10)
        # close releases.
        second.begin(lock, name, fcntl.F_WRLCK, 0, 0, True)
        assert second.is_busy()
        first(drop, name)
        second.end()
        second(drop, name)
        first(lock, name, fcntl.F_WRLCK, 0, 0)
        first(drop, name)

    # Two that wait for each other: the second is told.
    first(posix, "posix", fcntl.F_WRLCK, 0, 1)
    second(posix, "posix", fcntl.F_WRLCK, 1, 1)
    first.begin(posix, "posix", fcntl.F_WRLCK, 1, 1, True)
    assert first.is_busy()
    refused(errno.EDEADLK, second, posix, "posix", fcntl.F_WRLCK, 0, 1, True)
    second(drop, "posix")
    first.end()
    # A process that ends leaves no lock.
    first.close()
    second(posix, "posix", fcntl.F_WRLCK, 0, 0)
    second.close()
    third.close()
    appended()
    check(".")


def text_of(writer, number):
    return b"%d %06d %s\n" % (writer, number, b"x" * (number * 37 % 900))


def appended():
    """Each writer syncs, closes and opens again now and then, so that commits come in between."""
    children = []
    for writer in range(WRITERS):
        pid = os.fork()
        if pid == 0:
            log = None
            for number in range(RECORDS):
                if log is None:
                    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                text = text_of(writer, number)
                if os.write(log, text) != len(text):
                    os._exit(1)
                if number % 50 == writer:
                    os.fsync(log)
                if number % 70 == writer:
                    os.close(log)
                    log = None
            os._exit(0)
        children.append(pid)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0


def check(directory):
    os.chdir(directory)
    following = [0] * WRITERS
    with open("log", "rb") as log:
        for text in log:
            writer = int(text[:1])
            assert text == text_of(writer, following[writer]), text
            following[writer] += 1
    assert following == [RECORDS] * WRITERS, following
    for name in ("flock", "another name", "posix", "ofd"):
        with open(name, "rb") as file:
            assert file.read() == b"bigger" * 100_000


main(do=do, check=check)
