"""Directories: positions in a listing while entries come and go, paths as long as paths can be and longer, and a
great many entries."""

import ctypes
import ctypes.util
import errno
import os
import random

from common import Other, main, refused

libc = ctypes.CDLL(ctypes.util.find_library("c") or "libc.so.6", use_errno=True)
PATH_MAX = 4096


class Entry(ctypes.Structure):
    """struct dirent of readdir(3), 64 bits."""

    _fields_ = [
        ("ino", ctypes.c_uint64),
        ("off", ctypes.c_int64),
        ("reclen", ctypes.c_ushort),
        ("kind", ctypes.c_ubyte),
        ("name", ctypes.c_char * 256),
    ]


libc.opendir.restype = ctypes.c_void_p
libc.opendir.argtypes = [ctypes.c_char_p]
libc.readdir.restype = ctypes.POINTER(Entry)
libc.telldir.restype = ctypes.c_long
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
for function in (libc.readdir, libc.telldir, libc.rewinddir, libc.closedir):
    function.argtypes = [ctypes.c_void_p]


class Listing:
    """opendir(3) and what goes with it."""

    def __init__(self, path):
        self.dir = libc.opendir(os.fsencode(path))
        assert self.dir

    def next(self):
        """The next name but . and .., or None."""
        while entry := libc.readdir(self.dir):
            if entry.contents.name not in (b".", b".."):
                return os.fsdecode(entry.contents.name)
        return None

    def rest(self):
        names = []
        while (name := self.next()) is not None:
            names.append(name)
        return names

    def tell(self):
        return libc.telldir(self.dir)

    def seek(self, position):
        libc.seekdir(self.dir, position)

    def close(self):
        libc.closedir(self.dir)


def make(path):
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def come_and_go(turns, seed):
    """Creates, renames and removes entries, as another process."""
    rng = random.Random(seed)
    for turn in range(turns):
        name = f"listed/changing {seed} {turn}"
        make(name)
        if rng.randrange(2):
            os.rename(name, name + " renamed")
            name += " renamed"
        if rng.randrange(3):
            os.unlink(name)


def listed(directory):
    os.chdir(directory)
    rng = random.Random(3)
    other, another = Other(), Other()
    os.mkdir("listed")
    for number in range(1500):
        make(f"listed/stays {number:04}")
        make(f"listed/goes {number:04}")
    # Nothing changes: every position leads to what followed it.
    listing = Listing("listed")
    after = {}
    order = []
    while True:
        position = listing.tell()
        name = listing.next()
        after[position] = name
        if name is None:
            break
        order.append(name)
    assert len(order) == len(set(order)) == 3000 and len(after) == 3001
    for position in rng.sample(sorted(after), 200):
        listing.seek(position)
        assert listing.next() == after[position]
    libc.rewinddir(listing.dir)
    assert listing.rest() == order
    # While entries come and go: from every position the ones that stay, each once and in the same order.
    stays = [name for name in order if name.startswith("stays")]
    goes = [name for name in order if name.startswith("goes")]
    rng.shuffle(goes)
    positions = [(position, name) for position, name in after.items() if name]
    for turn in range(30):
        if turn % 10 == 0:
            other.begin(come_and_go, 150, turn)
            another.begin(come_and_go, 150, turn + 1)
        for name in goes[turn * 40 : turn * 40 + 40]:
            os.unlink("listed/" + name)
        position, name = rng.choice(positions)
        listing.seek(position)
        expected = [each for each in order[order.index(name) :] if each.startswith("stays")]
        found = listing.rest()
        assert len(found) == len(set(found)), "an entry was listed twice"
        assert [each for each in found if each.startswith("stays")] == expected
        # From the beginning, going back now and then.
        libc.rewinddir(listing.dir)
        seen = []
        for _ in range(20):
            mark = listing.tell()
            taken = [listing.next() for _ in range(rng.randrange(1, 60))]
            if rng.randrange(2):
                listing.seek(mark)
            else:
                seen += taken
        seen = [each for each in seen + listing.rest() if each and each.startswith("stays")]
        assert seen == stays
        if turn % 10 == 9:
            other.end()
            another.end()
    listing.close()
    other.close()
    another.close()
    # Removed one by one at the position of a listing that goes on.
    listing = Listing("listed")
    count = 0
    while (name := listing.next()) is not None:
        if not name.startswith("stays"):
            os.unlink("listed/" + name)
        count += name.startswith("stays")
    listing.close()
    assert count == 1500
    check_listed(".")


def check_listed(directory):
    names = sorted(os.listdir(os.path.join(directory, "listed")))
    assert names == [f"stays {number:04}" for number in range(1500)]


def descend(start, names, create=False):
    """The descriptor of the last directory on the way down."""
    at = os.open(start, os.O_RDONLY | os.O_DIRECTORY)
    for name in names:
        if create:
            os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
        os.close(at)
        at = below
    return at


# Relative to the directory: 20 names of 200 bytes are 4,019 bytes of path; the rest is beyond PATH_MAX.
LONG = [f"{number:02}" + "x" * 198 for number in range(45)]
# Many levels, each of one byte.
MANY = ["d"] * 1200


def deep(directory):
    os.chdir(directory)
    os.mkdir("deep")
    os.chdir("deep")
    bottom = descend(".", LONG, create=True)
    file = os.open("file", os.O_CREAT | os.O_RDWR, 0o600, dir_fd=bottom)
    os.write(file, b"at the bottom")
    os.fsync(file)
    os.close(file)
    os.rename("file", "renamed", src_dir_fd=bottom, dst_dir_fd=bottom)
    os.fsync(bottom)
    # /proc tells no longer paths than one page; the directory works all the same.
    assert os.listdir(bottom) == ["renamed"]
    os.close(bottom)
    # The longest path, and one byte more.
    path = "/".join(LONG[:20])
    longest = path + "/" + "f" * (PATH_MAX - 1 - len(path) - 1)
    assert len(longest) == PATH_MAX - 1
    with open(longest, "wb") as file:
        file.write(b"longest path")
    assert os.stat(longest).st_size == 12
    refused(errno.ENAMETOOLONG, os.stat, longest + "f")
    refused(errno.ENAMETOOLONG, open, longest + "f", "wb")
    refused(errno.ENAMETOOLONG, os.mkdir, longest + "f")
    refused(errno.ENAMETOOLONG, os.mkdir, "y" * 256)
    os.mkdir("many")
    bottom = descend("many", MANY, create=True)
    make_at = os.open("file", os.O_CREAT | os.O_RDWR, 0o600, dir_fd=bottom)
    os.write(make_at, b"many levels down")
    os.fsync(make_at)
    os.close(make_at)
    os.close(bottom)
    # Everything below moves with the name at the top; nothing moves into itself.
    refused(errno.EINVAL, os.rename, "many", "many/" + "/".join(MANY[:1000]) + "/many")
    os.rename("many", "moved")
    check_deep("..")


def check_deep(directory):
    os.chdir(os.path.join(directory, "deep"))
    bottom = descend(".", LONG)
    file = os.open("renamed", os.O_RDONLY, dir_fd=bottom)
    assert os.read(file, 100) == b"at the bottom"
    os.close(file)
    os.close(bottom)
    path = "/".join(LONG[:20])
    with open(path + "/" + "f" * (PATH_MAX - 1 - len(path) - 1), "rb") as file:
        assert file.read() == b"longest path"
    with open("moved/" + "/".join(MANY) + "/file", "rb") as file:
        assert file.read() == b"many levels down"


def remove_deep(directory):
    """As rm -r does it: down, and up by `..`."""
    os.chdir(directory)
    for start, names in (("deep", LONG), ("deep/moved", MANY)):
        at = descend(start, names)
        for name in reversed(names):
            for file in os.listdir(at):
                os.unlink(file, dir_fd=at)
            above = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            os.rmdir(name, dir_fd=above)
            at = above
            # The file with the longest path lies half way.
            if len(names) == len(LONG) and name == LONG[20]:
                assert len(os.listdir(at)) == 1
        os.close(at)
    os.rmdir("deep/moved")
    os.rmdir("deep")


def many(directory, count):
    os.chdir(directory)
    count = int(count)
    os.mkdir("huge")
    for number in range(count):
        os.mknod(f"huge/{number:06}")
    check_many(".", count)


def check_many(directory, count):
    os.chdir(directory)
    count = int(count)
    with os.scandir("huge") as entries:
        first = [(entry.name, entry.inode()) for entry in entries]
    with os.scandir("huge") as entries:
        assert [(entry.name, entry.inode()) for entry in entries] == first
    assert len(first) == count and {name for name, _ in first} == {f"{number:06}" for number in range(count)}
    assert len({inode for _, inode in first}) == count
    for name, inode in random.Random(9).sample(first, 500):
        assert os.stat("huge/" + name).st_ino == inode
    assert not os.path.exists(f"huge/{count:06}")


def remove_many(directory, count):
    os.chdir(directory)
    for name in os.listdir("huge"):
        os.unlink("huge/" + name)
    assert os.listdir("huge") == []
    os.rmdir("huge")


main(
    listed=listed,
    check_listed=check_listed,
    deep=deep,
    check_deep=check_deep,
    remove_deep=remove_deep,
    many=many,
    check_many=check_many,
    remove_many=remove_many,
)
