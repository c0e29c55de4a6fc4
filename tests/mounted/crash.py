"""A busy workload whose daemon is killed, and the look at what is there afterwards.

`DIR run SEED` works until the mount dies and prints, a line each, what was begun and what fsync returned for.
`DIR check LOG` holds every file against it: wholly one of the versions written, none older than what was synced.
"""

import contextlib
import hashlib
import os
import random

from common import main

BLOCK, BLOCKS = 4096, 90


def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def whole(name, version):
    """A file that says what it is: name, version, length and digest first."""
    rng = random.Random(f"{name} {version}")
    body = rng.randbytes(rng.choice([0, 10, 4000, 70_000, 400_000]))
    return f"{name} {version} {len(body)} {hashlib.sha256(body).hexdigest()}\n".encode() + body


def read_whole(path):
    """The name and version that a whole file claims; asserts that it is exactly that."""
    with open(path, "rb") as file:
        content = file.read()
    head, _, body = content.partition(b"\n")
    name, version, length, digest = head.decode().split(" ")
    assert (len(body), hashlib.sha256(body).hexdigest()) == (int(length), digest), f"{path} is torn: {head!r}, {len(body)} bytes"
    return name, int(version)


def edit(version):
    """What version `version` of a file changed in place writes: block numbers and contents; block 0 says the version."""
    rng = random.Random(version)
    places = set(rng.sample(range(1, BLOCKS), rng.choice([1, 3, 20]))) if version > 1 else set(range(1, BLOCKS))
    return {0: version.to_bytes(8, "little") * (BLOCK // 8)} | {place: rng.randbytes(BLOCK) for place in sorted(places)}


def sync_directory(path):
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)


def write(path, content, rng, sync=False):
    with open(path, "wb", buffering=0) as out:
        for start in range(0, len(content), 50_000):
            out.write(content[start : start + 50_000])
        if sync or rng.random() < 0.2:
            os.fsync(out.fileno())


def saver(directory, rng):
    """Truncates and writes anew."""
    for version in range(1, 10**6):
        name = f"saved-{rng.randrange(4)}"
        say("begun", name, version)
        write(os.path.join(directory, name), whole(name, version), rng)


def replacer(directory, rng):
    """Temporary file and rename, no fsync: old or new."""
    for version in range(1, 10**6):
        name = f"replaced-{rng.randrange(4)}"
        say("begun", name, version)
        temporary = os.path.join(directory, f"{name}.tmp")
        write(temporary, whole(name, version), rng)
        os.rename(temporary, os.path.join(directory, name))


def syncer(directory, rng):
    """Temporary file, fsync, rename, fsync of the directory: there for good. And files removed for good."""
    for version in range(1, 10**6):
        name = f"synced-{rng.randrange(4)}"
        path = os.path.join(directory, name)
        say("begun", name, version)
        write(path + ".tmp", whole(name, version), rng, sync=True)
        os.rename(path + ".tmp", path)
        sync_directory(directory)
        say("synced", name, version)
        if version % 7 == 0:
            os.unlink(path)
            sync_directory(directory)
            say("gone", name, version)


def changer(directory, rng):
    """Changes blocks of one file in place; each open and close is a version."""
    path = os.path.join(directory, "changed")
    for version in range(1, 10**6):
        say("begun", "changed", version)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        for place, block in edit(version).items():
            os.pwrite(file, block, place * BLOCK)
        synced = rng.random() < 0.3
        if synced:
            os.fsync(file)
        os.close(file)
        if synced:
            say("synced", "changed", version)


def appender(directory, rng):
    """One log, open for ever; the lines that fsync returned for stay."""
    log = os.open(os.path.join(directory, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in range(1, 10**6):
        os.write(log, b"line %d %s.\n" % (number, b"l" * (number % 300)))
        if rng.random() < 0.2:
            os.fsync(log)
            sync_directory(directory)
            say("synced", "log", number)


def mover(directory, rng):
    """Moves files between directories: each is in exactly one of them."""
    for side in "ab":
        os.mkdir(os.path.join(directory, side))
    for number in range(5):
        write(os.path.join(directory, "a", f"moved-{number}"), whole(f"moved-{number}", 1), rng, sync=True)
    sync_directory(os.path.join(directory, "a"))
    say("synced", "moved", 1)
    while True:
        for number in range(5):
            for source, target in ("ab", "ba"):
                if rng.random() < 0.5:
                    with contextlib.suppress(FileNotFoundError):
                        name = f"moved-{number}"
                        os.rename(os.path.join(directory, source, name), os.path.join(directory, target, name))


def run(directory, seed):
    children = []
    for worker in (saver, replacer, syncer, changer, appender, mover):
        pid = os.fork()
        if pid == 0:
            try:
                worker(directory, random.Random(f"{seed} {worker.__name__}"))
            except OSError:
                os._exit(0)
            os._exit(1)
        children.append(pid)
    assert all([os.waitpid(pid, 0)[1] == 0 for pid in children])


def check(directory, log):
    begun, synced, gone = {}, {}, {}
    with open(log, encoding="ascii") as lines:
        for line in lines:
            what, name, version = line.split()
            {"begun": begun, "synced": synced, "gone": gone}[what][name] = int(version)
    names = set(os.listdir(directory)) - {"a", "b", "log", "changed"}
    for name in names:
        claimed, version = read_whole(os.path.join(directory, name))
        assert claimed == name.removesuffix(".tmp"), f"{name} holds {claimed}"
        assert version <= begun[claimed], f"{name} is of a version never written"
        if not name.endswith(".tmp"):
            assert version >= synced.get(name, 0), f"{name}: version {version}, synced was {synced[name]}"
            assert version > gone.get(name, 0), f"{name} is back: version {version}"
    for name, version in synced.items():
        if name.startswith("synced-"):
            assert name in names or version % 7 == 0, f"{name} is lost"
    if "changed" in synced or os.path.exists(os.path.join(directory, "changed")):
        check_changed(os.path.join(directory, "changed"), synced.get("changed", 1), begun["changed"])
    check_log(os.path.join(directory, "log"), synced.get("log", 0))
    if "moved" in synced:
        for number in range(5):
            found = [side for side in "ab" if os.path.exists(os.path.join(directory, side, f"moved-{number}"))]
            assert len(found) == 1, f"moved-{number} is in {found}"
            assert read_whole(os.path.join(directory, found[0], f"moved-{number}")) == (f"moved-{number}", 1)
    print(f"{len(names)} files; synced: {synced}")


def check_changed(path, oldest, newest):
    with open(path, "rb") as file:
        content = file.read()
    assert len(content) == BLOCK * BLOCKS, f"{len(content)} bytes"
    version = int.from_bytes(content[:8], "little")
    assert oldest <= version <= newest, f"changed: version {version}, expected {oldest} to {newest}"
    expected = {}
    for step in range(1, version + 1):
        expected |= edit(step)
    for place, block in expected.items():
        assert content[place * BLOCK : (place + 1) * BLOCK] == block, f"block {place} is not of version {version}"


def check_log(path, at_least):
    count = 0
    if at_least or os.path.exists(path):
        with open(path, "rb") as lines:
            for count, line in enumerate(lines, 1):
                assert line == b"line %d %s.\n" % (count, b"l" * (count % 300)), f"line {count} of the log: {line!r}"
    assert count >= at_least, f"{count} lines, {at_least} were synced"


main(run=run, check=check)
