"""What may be found after a power cut, and what must be.

A workload has one oracle for each of its writers, whose names nobody else touches. Objects (files, directories,
symbolic links) have numbers, which their content or name tells. Each has the versions of its content and the sets
of names that it had; each name has its holders. A change is told before the system call that makes it (a cut may
find it done), a promise after the call that makes it has returned; both carry the position of the disk's log at
that moment. `advance` tells the oracle what had been told by a position.

The rules are those of docs/DURABILITY.md, as tests/cuts/oracle.rs has them for the simulated disk:

- a name shows an object that it had since the name was last made durable;
- a file is wholly one of its versions, and none older than what an fsync returned for; only a file that stays open
  may show any state of each block since then, which its writer did not choose (SEMANTICS, Versions);
- what an fsync made durable is found, unless it was removed, or replaced by something that is found.
"""

import random
import re

ROOT, SHARED = "root", "shared"
UNBORN = "unborn"
BLOCK = 4096
TAG = re.compile(rb"<(\d+)\.(\d+) +(\d+)>")
TAG_LEN = 20


def pattern(worker, number, write, length):
    """Content that says whose it is, and from which write, and repeats at no offset of use."""
    tag = b"<%d.%d %*d>" % (worker, number, TAG_LEN - 4 - len(str(worker)) - len(str(number)), write)
    if length <= TAG_LEN:
        return tag[:length]
    return tag + random.Random(f"{worker} {number} {write}").randbytes(length - TAG_LEN)


class Version:
    """A content as its length and the hashes of its blocks."""

    def __init__(self, content):
        view = memoryview(content)
        self.length = len(content)
        self.blocks = tuple(hash(bytes(view[at : at + BLOCK])) for at in range(0, len(content), BLOCK))

    def __eq__(self, other):
        return (self.length, self.blocks) == (other.length, other.blocks)

    __hash__ = None


class Object:
    def __init__(self, number, kind, stays_open):
        self.number, self.kind = number, kind
        self.live = bytearray()
        self.versions, self.floor = [], 0
        # (set of spots, who took the last one); never durable while the floor is the first of them.
        self.places, self.place_floor = [(frozenset(), UNBORN)], 0
        self.linked = False
        self.xattrs, self.xattr_floor = [None], 0
        # Of a file that stays open: the states of each block, and the lengths, since the last promise.
        self.states = {} if stays_open else None
        self.lengths = [0]
        # A save took so long that the file was committed as one that stays open.
        self.slow = False

    def changed(self, start, end):
        if self.states is None:
            return
        self.lengths.append(len(self.live))
        for block in range(start // BLOCK, (end + BLOCK - 1) // BLOCK):
            state = bytes(self.live[block * BLOCK : (block + 1) * BLOCK])
            self.states.setdefault(block, []).append(state)

    def promised(self):
        self.floor = len(self.versions) - 1
        self.xattr_floor = len(self.xattrs) - 1
        self.slow = False
        if self.states is not None:
            self.lengths = []
            self.states = {}
            self.changed(0, len(self.live))


class Seen:
    """One object as a mount shows it: what an error left unread is told by `error`."""

    def __init__(self, kind, content=b"", xattr=None, error=None):
        self.kind, self.content, self.xattr, self.error = kind, content, xattr, error


class Oracle:
    def __init__(self, worker, events):
        self.worker, self.events, self.at = worker, events, 0
        self.objects, self.holders, self.floors = {}, {}, {}

    def advance(self, position):
        while self.at < len(self.events) and self.events[self.at][0] <= position:
            _, told, *rest = self.events[self.at]
            getattr(self, told)(*rest)
            self.at += 1

    # ---- changes ---------------------------------------------------------------------------

    def holder(self, spot):
        return self.holders.get(spot, [None])[-1]

    def spots(self, number):
        return self.objects[number].places[-1][0]

    def hold(self, spot, number):
        self.holders.setdefault(spot, [None]).append(number)
        self.floors.setdefault(spot, 0)

    def place(self, number, spots, by=None):
        found = self.objects[number]
        found.linked |= len(spots) > 1
        found.places.append((frozenset(spots), by))

    def made(self, number, kind, spot, stays_open=False):
        self.objects[number] = Object(number, kind, stays_open)
        before = self.holder(spot)
        if before is not None:
            self.place(before, self.spots(before) - {spot}, number)
        self.place(number, {spot})
        self.hold(spot, number)

    def born(self, number):
        """A file without a name: nobody finds it before it is linked."""
        self.objects[number] = Object(number, "file", False)

    def wrote(self, number, offset, write, length):
        found = self.objects[number]
        live = found.live
        if len(live) < offset:
            live.extend(bytes(offset - len(live)))
        start = len(live) if len(live) < offset else offset
        live[offset : offset + length] = pattern(self.worker, number, write, length)
        found.changed(start, offset + length)

    def sized(self, number, length):
        found = self.objects[number]
        before = len(found.live)
        del found.live[length:]
        found.live.extend(bytes(max(0, length - before)))
        found.changed(min(before, length) // BLOCK * BLOCK, max(before, length))

    def emptied(self, number):
        self.objects[number].live.clear()

    def version(self, number):
        """What the file is now may be found from here on."""
        found = self.objects[number]
        version = Version(found.live)
        if not found.versions or found.versions[-1] != version:
            found.versions.append(version)

    def slow(self, number):
        self.objects[number].slow = True

    def xattr(self, number, value):
        self.objects[number].xattrs.append(value)

    def linked(self, number, spot):
        self.place(number, self.spots(number) | {spot})
        self.hold(spot, number)

    def unlinked(self, spot):
        number = self.holder(spot)
        self.place(number, self.spots(number) - {spot})
        self.hold(spot, None)

    def renamed(self, source, target):
        number, replaced = self.holder(source), self.holder(target)
        if replaced is not None:
            self.place(replaced, self.spots(replaced) - {target}, number)
        self.place(number, self.spots(number) - {source} | {target})
        self.hold(source, None)
        self.hold(target, number)

    def exchanged(self, one, other):
        first, second = self.holder(one), self.holder(other)
        self.place(first, self.spots(first) - {one} | {other})
        self.place(second, self.spots(second) - {other} | {one})
        self.hold(one, second)
        self.hold(other, first)

    # ---- promises --------------------------------------------------------------------------

    def keep(self, number):
        """fsync of an object: its content, and all its names."""
        found = self.objects[number]
        if found.kind != "dir":
            self.version(number)
        found.promised()
        self.keep_path(number)

    def keep_path(self, number):
        found = self.objects[number]
        found.place_floor = len(found.places) - 1
        for spot in found.places[-1][0]:
            self.floors[spot] = len(self.holders[spot]) - 1
            if spot[0] in self.objects:
                self.keep_path(spot[0])

    def keep_name(self, spot):
        """A name is as it is wherever its directory is found."""
        self.floors[spot] = len(self.holders[spot]) - 1

    def keep_names(self, directory):
        """fsync of a directory: its names, and its path. Nothing in it is open for its first version."""
        for spot, holders in self.holders.items():
            if spot[0] == directory:
                self.floors[spot] = len(holders) - 1
        for found in self.objects.values():
            here = found.places[-1][0] or found.places[-2][0]
            if any(spot[0] == directory for spot in here):
                found.place_floor = len(found.places) - 1
        if directory in self.objects:
            self.keep_path(directory)

    # ---- the verdict -----------------------------------------------------------------------

    def excused(self, number, visible, start, depth=0):
        if depth > 64:
            return False
        for spots, by in self.objects[number].places[start:]:
            if spots or by == UNBORN:
                continue
            if by is None or by in visible or self.excused(by, visible, 0, depth + 1):
                return True
        return False

    def judge(self, view):
        """What is wrong with a view (spot -> Seen): a list of (what, where, why)."""
        wrong, visible = [], {}
        for spot, seen in view.items():
            if spot not in self.holders:
                wrong.append(("ghost", spot, "a name that never was"))
                continue
            number = self.identity(spot, seen)
            if number is None:
                why = seen.error or f"content of nobody: {len(seen.content)} bytes, {bytes(seen.content[:24])!r}"
                # For what must be there, what cannot be read is not there either: it is counted once.
                for held in self.holders[spot]:
                    visible.setdefault(held, [])
                wrong.append(("torn", spot, why))
                continue
            if number not in self.objects:
                wrong.append(("ghost", spot, f"object {number}, which is not there yet"))
                continue
            found = self.objects[number]
            visible.setdefault(number, []).append(spot)
            holders = self.holders[spot]
            if number not in holders[self.floors[spot] :]:
                what = "lost" if number in holders else "ghost"
                wrong.append((what, spot, f"held by object {number}, not since its names were synced: {holders}"))
            elif not found.linked and not any(spot in spots for spots, _ in found.places[found.place_floor :]):
                wrong.append(("ghost", spot, f"object {number} was moved away, durably"))
            if found.kind != seen.kind:
                wrong.append(("torn", spot, f"a {seen.kind}, was made a {found.kind}"))
            elif found.kind != "dir":
                wrong.extend((what, spot, why) for what, why in self.unfit(found, seen))
        for number, spots in visible.items():
            if len(spots) < 2:
                continue
            if self.objects[number].kind == "dir":
                wrong.append(("ghost", spots[1], f"directory {number} is in {len(spots)} places"))
            elif self.objects[number].linked and any(view[s].content != view[spots[0]].content for s in spots):
                wrong.append(("torn", spots[1], "the names of one file show different contents"))
        missed = set()
        for spot, holders in self.holders.items():
            parent_is_there = spot[0] in (ROOT, SHARED) or visible.get(spot[0])
            since = holders[self.floors[spot] :]
            if parent_is_there and spot not in view and None not in since:
                missed.update(since)
                wrong.append(("lost", spot, f"absent, was always held: {since}"))
        for number, found in self.objects.items():
            if found.places[found.place_floor][0] and number not in visible and number not in missed:
                if not self.excused(number, visible, found.place_floor):
                    places = [(sorted(map(str, spots)), by) for spots, by in found.places[found.place_floor :]]
                    wrong.append(("lost", None, f"{found.kind} {number} is nowhere: {places}"))
        return wrong

    def judge_the_end(self, view):
        """What is wrong with a view after a clean end, where everything is as it was last: a list of (what, where, why)."""
        wrong = []
        for spot in {*self.holders, *view}:
            number, seen = self.holder(spot), view.get(spot)
            if number is None and seen is None:
                continue
            found = self.objects.get(number)
            if found is None or seen is None or seen.error or seen.kind != found.kind:
                shown = seen and (seen.error or f"a {seen.kind}, {bytes(seen.content[:TAG_LEN])!r}")
                wrong.append(("end", spot, f"held by {number} of {self.holders.get(spot)}, shown: {shown}"))
            elif found.kind != "dir" and (seen.content != found.live or seen.xattr != found.xattrs[-1]):
                wrong.append(("end", spot, f"object {number} of {self.holders[spot]}: not its last content and xattr"))
        return wrong

    def identity(self, spot, seen):
        if seen.error:
            return None
        if seen.kind == "dir":
            named = re.match(r"d(\d+)\.", spot[1])
            return int(named[1]) if named else None
        tag = TAG.match(seen.content[:TAG_LEN])
        return int(tag[2]) if tag and int(tag[1]) == self.worker else None

    def unfit(self, found, seen):
        if seen.xattr not in found.xattrs[found.xattr_floor :]:
            what = "lost" if seen.xattr in found.xattrs else "torn"
            yield what, f"an xattr of {len(seen.xattr or b'')} bytes, not one of the last values"
        version = Version(seen.content)
        if version in found.versions[found.floor :] or found.slow:
            return
        if found.states is not None and self.is_mixture(found, seen.content):
            return
        if version in found.versions[: found.floor]:
            yield "lost", f"version {found.versions.index(version)}, but fsync returned for {found.floor}"
            return
        lengths = [old.length for old in found.versions[found.floor :]]
        whose = []
        for index, block in enumerate(version.blocks):
            of = [n for n, old in enumerate(found.versions) if block in old.blocks[index : index + 1]]
            whose.append(f"{of[0]}-{of[-1]}" if of else "none")
        yield "torn", (
            f"object {found.number}, {version.length} bytes of no version: versions "
            f"{found.floor}-{len(found.versions) - 1} have lengths {lengths[:8]}, its blocks are of {whose[:16]}"
        )

    @staticmethod
    def is_mixture(found, content):
        """Whether each block is a state of that block since the last promise."""
        if not min(found.lengths) <= len(content) <= max(found.lengths):
            return False
        for at in range(0, len(content), BLOCK):
            block = bytes(content[at : at + BLOCK])
            states = found.states.get(at // BLOCK, [])
            if any(state[: len(block)].ljust(len(block), b"\0") == block for state in states):
                continue
            # Behind what was durable: a block that the kernel had not handed over yet.
            if at + BLOCK > min(found.lengths) and not block.strip(b"\0"):
                continue
            return False
        return True
