#!/usr/bin/env python3
"""Prints one line for each object below a directory: all that must survive an unmount.

usage: manifest.py DIRECTORY [without-owner]
"""

import errno
import hashlib
import os
import stat
import sys


def content(path, status):
    if stat.S_ISLNK(status.st_mode):
        return "-> " + ascii(os.readlink(path))
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        return f"device {os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    if not stat.S_ISREG(status.st_mode):
        return ""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except PermissionError:
        return f"{status.st_size} unreadable"
    return f"{status.st_size} {digest.hexdigest()}"


def attributes(path):
    try:
        names = sorted(os.listxattr(path, follow_symlinks=False))
        return [(n, os.getxattr(path, n, follow_symlinks=False).hex()) for n in names]
    except PermissionError:
        return "unreadable"
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return []


def line(path, shown, links, with_owner):
    status = os.lstat(path)
    parts = [ascii(shown), stat.filemode(status.st_mode)]
    if with_owner:
        parts.append(f"{status.st_uid}:{status.st_gid}")
    if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
        first = links.setdefault((status.st_dev, status.st_ino), shown)
        parts.append(f"{status.st_nlink} links, first {ascii(first)}")
    parts += [str(status.st_mtime_ns), content(path, status)]
    if held := attributes(path):
        parts.append(str(held))
    return " ".join(parts)


def main():
    root, with_owner = os.fsencode(sys.argv[1]), sys.argv[2:] != ["without-owner"]
    links = {}
    for directory, subdirectories, files in os.walk(root):
        subdirectories.sort()
        names = [b"."] + [n for n in subdirectories if os.path.islink(os.path.join(directory, n))]
        for name in sorted(names + files):
            path = directory if name == b"." else os.path.join(directory, name)
            shown = os.path.relpath(path, root)
            print(line(path, shown, links, with_owner))


main()
