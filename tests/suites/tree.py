#!/usr/bin/env python3
"""Makes a tree with one of everything that a backup must bring back. usage: tree.py DIRECTORY"""

import os
import random
import socket
import stat
import subprocess
import sys

USER = os.geteuid()


def fill(path, size, seed):
    with open(path, "wb") as file:
        file.write(random.Random(seed).randbytes(size))


def files():
    for directory in range(20):
        os.makedirs(f"src/{directory}/deep/er")
        for number in range(15):
            fill(f"src/{directory}/file {number}", 37 * number * directory, number)
        fill(f"src/{directory}/deep/er/page", 4096 * directory, directory)
    fill("big", 20 << 20, 1)
    fill("empty", 0, 0)
    with open("sparse", "wb") as file:
        for at in (0, 3 << 20, (40 << 20) + 5):
            file.seek(at)
            file.write(b"data" * 1024)
        file.truncate(64 << 20)
    os.mkdir("names")
    for name in (b"n" * 255, b"\xff\xfe not UTF-8", b"new\nline", b" ", "Ä".encode() * 127, b"-rf"):
        fill(b"names/" + name, 10, len(name))


def links():
    os.mkdir("links")
    fill("links/one", 5000, 7)
    for name in ("two", "three"):
        os.link("links/one", f"links/{name}")
    os.link("links/one", "src/1/four")
    os.symlink("one", "links/symbolic")
    os.symlink("/no/where/" + "x" * 200, "links/dangling")
    os.link("links/symbolic", "links/symbolic too")


def attributes():
    os.mkdir("attributes")
    for number in range(5):
        path = f"attributes/{number}"
        fill(path, 100, number)
        for size in range(number + 1):
            os.setxattr(path, f"user.name{size}", bytes([size]) * (size * 300))
    os.setxattr("attributes", "user.of a directory", b"\0\1\2")
    if USER == 0:
        os.setxattr("attributes/0", "trusted.akasha", b"root's")
        os.setxattr("links/symbolic", "trusted.link", b"itself", follow_symlinks=False)
    subprocess.run(["setfacl", "-m", "u:daemon:rw,g:nogroup:r,m::rwx", "attributes/1"], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:daemon:rwx", "attributes"], check=True)
    fill("attributes/inherits", 10, 1)


def modes():
    os.mkdir("modes")
    # An ordinary user's programs cannot copy what the user may not read.
    for mode in (0o444, 0o400, 0o755, 0o666) + ((0o000, 0o6755, 0o200) if USER == 0 else ()):
        fill(f"modes/{mode:o}", 10, mode)
        os.chmod(f"modes/{mode:o}", mode)
    for mode in (0o555, 0o500, 0o1777, 0o2775):
        os.mkdir(f"modes/d{mode:o}")
        fill(f"modes/d{mode:o}/inside", 10, mode)
        os.chmod(f"modes/d{mode:o}", mode)
    os.mkfifo("modes/fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("modes/socket")
    if USER == 0:
        os.mknod("modes/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod("modes/loop", stat.S_IFBLK | 0o660, os.makedev(7, 0))
        fill("modes/of daemon", 10, 1)
        os.chown("modes/of daemon", 1, 65534)
        os.lchown("links/dangling", 2, 3)


def times():
    when = 1_000_000_000_123_456_789
    for directory, subdirectories, names in os.walk(".", topdown=False):
        for name in names + subdirectories:
            when += 1_000_000_007
            os.utime(os.path.join(directory, name), ns=(when, when), follow_symlinks=False)
    os.utime("empty", ns=(-5_000_000_001, -5_000_000_001))


os.makedirs(sys.argv[1])
os.chdir(sys.argv[1])
for part in (files, links, attributes, modes, times):
    part()
