"""Random operations on a mount and on a plain directory of the machine's own filesystem: same results, same error numbers, same
trees. As root several users take turns.

usage: twins.py MOUNT PLAIN SEED OPERATIONS. The two trees stay, so that another run goes on with them, perhaps after a remount.
"""

import ctypes
import errno
import mmap
import os
import random
import stat
import sys

roots, seed, count = sys.argv[1:3], int(sys.argv[3]), int(sys.argv[4])
rng = random.Random(seed)
libc = ctypes.CDLL(None, use_errno=True)
FILES = ["a", "b", "c", "long " + "x" * 200, "\udcff raw"]
DIRECTORIES = ["d", "e", "f"]
# User, group, further groups.
CALLERS = [(0, 0, [0]), (0, 0, [0]), (1001, 1001, [2000]), (1002, 1002, [2000, 1001])] if os.getuid() == 0 else [None]
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
EXCHANGE, NOREPLACE = 2, 1
history = []
handles = []


def path(of_directory=None):
    """A path of one to three names below the root, mostly where a file can be."""
    if of_directory is None:
        of_directory = rng.randrange(8) == 0
    names = [rng.choice(DIRECTORIES) for _ in range(rng.choice([0, 0, 1, 1, 2]))]
    return "/".join([*names, rng.choice(DIRECTORIES if of_directory else FILES)])


def call(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def renameat2(old, new, flags):
    return call(libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags))


def fallocate(file, mode, offset, length):
    return call(libc.fallocate(file, mode, ctypes.c_long(offset), ctypes.c_long(length)))


def fill(length):
    return rng.randbytes(length) if length < 5000 else rng.randbytes(997) * (length // 997 + 1)


def store_mapped(file, data, offset):
    size = os.fstat(file).st_size
    if size == 0 or stat.S_ISDIR(os.fstat(file).st_mode):
        return 0
    with mmap.mmap(file, size) as shared:
        data = data[: max(0, size - offset)]
        shared[offset : offset + len(data)] = data
    return len(data)


def shown(file):
    """What is to be alike: a directory's size and link count are the filesystem's own affair."""
    found = os.fstat(file)
    owner = [found.st_mode, found.st_uid, found.st_gid]
    return owner if stat.S_ISDIR(found.st_mode) else [*owner, found.st_nlink, found.st_size]


def size():
    return rng.choice([0, 1, 100, 4095, 4096, 4097, 9000, 70_000, 200_000])


def operation():
    """A name for the history, and what to do with the root of each twin (or with its handle)."""
    kind = rng.randrange(34)
    one, two = path(), path()
    if kind < 3:
        flags = os.O_RDWR | os.O_CREAT | rng.choice([0, os.O_EXCL, os.O_TRUNC, os.O_APPEND])
        mode = rng.choice([0o644, 0o600, 0o666, 0o4755, 0o2755, 0o000, 0o444])
        return f"open {one} {flags:o} {mode:o}", lambda root: ("handle", os.open(f"{root}/{one}", flags, mode))
    if kind < 5:
        flags = rng.choice([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_TRUNC])
        return f"open {one} {flags:o}", lambda root: ("handle", os.open(f"{root}/{one}", flags))
    if kind < 7:
        where, mode = path(True), rng.choice([0o755, 0o700, 0o1777, 0o2775, 0o500])
        return f"mkdir {where} {mode:o}", lambda root: os.mkdir(f"{root}/{where}", mode)
    if kind == 7:
        where = path(True)
        return f"rmdir {where}", lambda root: os.rmdir(f"{root}/{where}")
    if kind == 8:
        return f"unlink {one}", lambda root: os.unlink(f"{root}/{one}")
    if kind < 12:
        return f"rename {one} {two}", lambda root: os.rename(f"{root}/{one}", f"{root}/{two}")
    if kind == 12:
        flags = rng.choice([EXCHANGE, NOREPLACE])
        return f"renameat2 {one} {two} {flags}", lambda root: renameat2(f"{root}/{one}", f"{root}/{two}", flags)
    if kind < 15:
        return f"link {one} {two}", lambda root: os.link(f"{root}/{one}", f"{root}/{two}", follow_symlinks=False)
    if kind == 15:
        return f"symlink {two}", lambda root: os.symlink(one, f"{root}/{two}")
    if kind == 16:
        mode = rng.choice([0o644, 0o600, 0o7777, 0o6755, 0o000, 0o555])
        return f"chmod {one} {mode:o}", lambda root: os.chmod(f"{root}/{one}", mode)
    if kind == 17:
        # Not -1 twice: of a set-user-ID file the kernel's FUSE does not ask whose it is then (nothing changes).
        user, group = rng.choice([-1, 0, 1001, 1002]), rng.choice([0, 1001, 2000])
        return f"chown {one} {user} {group}", lambda root: os.lchown(f"{root}/{one}", user, group)
    if kind == 18:
        length = size()
        return f"truncate {one} {length}", lambda root: os.truncate(f"{root}/{one}", length)
    if kind == 19:
        key, value = rng.choice(["user.a", "user.b"]), rng.randbytes(rng.choice([0, 10, 1000]))
        return f"setxattr {one} {key}", lambda root: os.setxattr(f"{root}/{one}", key, value)
    if kind == 20:
        return f"removexattr {one}", lambda root: os.removexattr(f"{root}/{one}", "user.a")
    if kind == 21:
        return f"list {one}", lambda root: sorted(os.listdir(f"{root}/{one}"))
    if kind == 22:
        times = (rng.randrange(1, 2**31) * 10**9 + 5, rng.randrange(1, 2**31) * 10**9 + 7)
        return f"utime {one}", lambda root: (os.utime(f"{root}/{one}", ns=times), os.stat(f"{root}/{one}").st_mtime_ns)[1]
    if not handles:
        return "nothing", lambda root: None
    which, offset, data = rng.randrange(len(handles)), size(), fill(size())
    number = f"{which}: {handles[which][0]}"

    def on_handle(do):
        return lambda root: do(handles[which][1 + roots.index(root)])

    if kind < 26:
        return f"write {number} {offset}", on_handle(lambda file: os.pwrite(file, data, offset))
    if kind == 26:
        return f"read {number} {offset}", on_handle(lambda file: os.pread(file, 50_000, offset))
    if kind == 27:
        return f"ftruncate {number} {offset}", on_handle(lambda file: os.ftruncate(file, offset))
    if kind == 28:
        mode = rng.choice([0, KEEP_SIZE, KEEP_SIZE | PUNCH_HOLE, ZERO_RANGE, KEEP_SIZE | ZERO_RANGE])
        return f"fallocate {number} {mode} {offset}", on_handle(lambda file: fallocate(file, mode, offset, len(data) + 1))
    if kind == 29:
        return f"map {number} {offset}", on_handle(lambda file: store_mapped(file, data, offset))
    if kind == 30:
        return f"fsync {number}", on_handle(os.fsync)
    if kind == 31:
        mode = rng.choice([0o644, 0o4755, 0o000])
        return f"fchmod {number} {mode:o}", on_handle(lambda file: os.fchmod(file, mode))
    if kind == 32:
        return f"fstat {number}", on_handle(shown)
    return f"close {number}", on_handle(lambda file: ("closed", os.close(file)))


def become(caller):
    if caller is not None:
        os.setgroups(caller[2])
        os.setegid(caller[1])
        os.seteuid(caller[0])


def alone():
    if CALLERS[0] is not None:
        os.seteuid(0)
        os.setegid(0)


def attempt(do, root):
    try:
        return do(root)
    except OSError as error:
        return errno.errorcode.get(error.errno, error.errno)
    except ValueError as error:
        return str(error)


def look(root):
    """Everything below the root, by path."""
    seen = {}
    numbers = {}
    for directory, directories, files in os.walk(root):
        directories.sort()
        for name in sorted(directories + files):
            where = os.path.join(directory, name)
            short = os.path.relpath(where, root)
            found = os.lstat(where)
            entry = [oct(found.st_mode), found.st_uid, found.st_gid]
            if stat.S_ISDIR(found.st_mode):
                seen[short] = entry
                continue
            # Which names are of one file, told by the first of them.
            first = numbers.setdefault(found.st_ino, short)
            entry += [found.st_nlink, found.st_size, first]
            if stat.S_ISLNK(found.st_mode):
                entry.append(os.readlink(where))
            else:
                with open(where, "rb") as file:
                    entry.append(file.read())
                entry.append({key: os.getxattr(where, key) for key in sorted(os.listxattr(where)) if key.startswith("user.")})
            seen[short] = entry
    return seen


def fail(what):
    print(f"seed {seed}: {what}\nlast operations:")
    print("\n".join(history[-40:]).encode("utf-8", "backslashreplace").decode())
    sys.exit(1)


def compare():
    mounted, twin = look(roots[0]), look(roots[1])
    for name in sorted(set(mounted) | set(twin)):
        if mounted.get(name) != twin.get(name):
            fail(f"{name!r} differs: mount {str(mounted.get(name))[:300]}, plain {str(twin.get(name))[:300]}")


os.umask(0o022)
for root in roots:
    os.chmod(root, 0o755)
done = {}
for index in range(count):
    caller = rng.choice(CALLERS)
    name, do = operation()
    become(caller)
    results = [attempt(do, root) for root in roots]
    alone()
    history.append(f"{index} {caller and caller[0]}: {name} -> {str(results[1])[:60]}")
    if isinstance(results[1], tuple) and results[1][0] == "handle":
        if not isinstance(results[0], tuple):
            fail(f"operation {index}, {name}: the mount says {results[0]}, the plain directory opens it")
        handles.append((name, results[0][1], results[1][1]))
        if len(handles) > 8:
            for file in handles.pop(0)[1:]:
                os.close(file)
    elif isinstance(results[1], tuple) and results[1][0] == "closed":
        del handles[int(name.split()[1].rstrip(":"))]
    elif results[0] != results[1]:
        fail(f"operation {index}, {name}: mount {str(results[0])[:200]}, plain {str(results[1])[:200]}")
    good = not isinstance(results[1], str)
    done[name.split()[0]] = done.get(name.split()[0], 0) + good
    if index % 100 == 99:
        compare()
for _, *files in handles:
    for file in files:
        os.close(file)
compare()
# What never succeeds is not tested.
idle = [name for name, times in done.items() if not times and name != "nothing"]
if count >= 2000 and idle:
    fail(f"never succeeded: {idle}")
print(f"{count} operations, {sum(done.values())} of them successful")
