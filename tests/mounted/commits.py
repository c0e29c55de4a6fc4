"""How many versions of its files a vault publishes while a program works, told by inotify on the vault."""

import ctypes
import os
import struct
import subprocess
import time

from common import main

IN_MOVED_TO, IN_NONBLOCK = 0x80, 0o4000


class Watch:
    def __init__(self, vault):
        libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = libc.inotify_init1(IN_NONBLOCK)
        assert libc.inotify_add_watch(self.descriptor, os.fsencode(vault), IN_MOVED_TO) >= 0

    def count(self):
        """Renames into the vault's root since the last call."""
        count = 0
        while True:
            try:
                events = os.read(self.descriptor, 1 << 16)
            except BlockingIOError:
                return count
            at = 0
            while at < len(events):
                count += 1
                at += 16 + struct.unpack_from("I", events, at + 12)[0]

    def settles_at(self, expected):
        deadline = time.monotonic() + 10
        count = 0
        while count < expected and time.monotonic() < deadline:
            count += self.count()
            time.sleep(0.01)
        time.sleep(0.3)
        count += self.count()
        assert count == expected, (count, expected)


def do(directory, vault):
    """On a mount with --commit close."""
    os.chdir(directory)
    watch = Watch(vault)
    for command in ("echo x > file", "echo y > file", "echo z >> file", "printf '' > empty", ": > file"):
        subprocess.run(["sh", "-c", command], check=True)
        watch.settles_at(1)
    # Durable when close returns: published by then.
    with open("closed", "wb") as file:
        file.write(b"x" * 10_000)
    assert watch.count() == 1
    with open("closed", "r+b") as file:
        file.write(b"y")
    assert watch.count() == 1
    with open("closed", "rb") as file:
        file.read()
    assert watch.count() == 0


main(do=do)
