"""One round: a workload on a recorded disk, then cuts of it, each mounted and judged."""

import ctypes
import errno
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import time
import traceback

import disks
from oracle import ROOT, SHARED, Oracle, Seen
from programs import Refused, mounted
from recorder import Recorder
from replay import Replay, clone
from workload import Writer, prepare, seeded

libc = ctypes.CDLL(None, use_errno=True)
SYNC_FILE_RANGE_WRITE = 2
LOG_LIMIT = 1 << 30
COLUMNS = ("cuts", "files", "lost", "torn", "ghosts", "refused", "findings", "leftovers", "ends")


class Table(dict):
    """What was counted, by column."""

    def __init__(self):
        super().__init__({column: 0 for column in COLUMNS})
        self.notes = {"again": 0, "pieces": 0, "kept": 0, "writes": 0, "flushes": 0, "operations": 0, "slow": 0}

    def failures(self):
        return sum(self[column] for column in COLUMNS[2:])


class Round:
    """`plan` says what is run (program, filesystem, options, workers, seconds, lies); `keep` is where failures go."""

    def __init__(self, work, program, plan, keep, say):
        self.work, self.program, self.plan, self.keep, self.say = work, program, plan, keep, say
        self.filesystem, self.options = plan["filesystem"], plan["options"]
        self.under, self.at = f"{work}/under", f"{work}/mount"
        self.vault = f"{self.under}/vault"
        self.disk, self.base, self.scratch = f"{work}/disk", f"{work}/base", f"{work}/scratch"
        self.log = f"{work}/log"
        for place in (self.under, self.at):
            os.makedirs(place, exist_ok=True)
        self.recorder, self.at_the_end = None, []

    # ---- the workload ----------------------------------------------------------------------

    def record(self):
        """Runs the workload. Returns (first position, last position, the events of each writer)."""
        disks.make(self.filesystem, self.disk)
        clone(self.disk, self.base)
        self.recorder = Recorder(self.disk, self.log, f"{self.work}/recorded")
        disks.mount(self.filesystem, self.options, self.recorder.at, self.under)
        self.prove_that_flushes_arrive()
        os.mkdir(self.vault)
        self.program.init(self.vault)
        self.program.commit_s = self.plan["commit_s"]
        self.program.mount(self.vault, self.at, self.plan["lies"])
        prepare(self.at, self.plan["workers"])
        self.sync_under()
        first = self.recorder.now()
        pushers = [self.fork(self.push_out)]
        workers = [self.fork(self.write, worker) for worker in range(self.plan["workers"])]
        failed = [worker for worker, pid in enumerate(workers) if os.waitpid(pid, 0)[1] != 0]
        last = self.recorder.now()
        for pid in pushers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if failed:
            raise RuntimeError(f"an operation failed in writers {failed}; the daemon said: {self.program.said()}")
        self.program.unmount(self.at)
        events = []
        for worker in range(self.plan["workers"]):
            with open(f"{self.work}/events.{worker}", "rb") as file:
                events.append(pickle.load(file))
        self.at_the_end = self.judge_the_end([told for _, told in events])
        disks.unmount(self.under)
        self.let_go(self.recorder.at)
        self.recorder.stop()
        return first, last, events

    def judge_the_end(self, events):
        """After the clean end of a workload everything is as it was last, and the daemon had nothing to complain of."""
        wrong = [] if self.plan["lies"] else [("end", "log", line) for line in self.program.complaints()]
        self.program.mount(self.vault, self.at)
        views, odd = self.look(len(events))
        for worker, (told, view) in enumerate(zip(events, views)):
            oracle = Oracle(worker, told)
            oracle.advance(float("inf"))
            wrong += [(what, [worker, spot], why) for what, spot, why in oracle.judge_the_end(view)]
        self.program.unmount(self.at)
        return odd + wrong

    def sync_under(self):
        """The skeleton is durable, also under a daemon that lies."""
        fd = os.open(self.under, os.O_RDONLY)
        libc.syncfs(fd)
        os.close(fd)

    def prove_that_flushes_arrive(self):
        """An fsync on the filesystem must reach the log, or nothing here proves anything."""
        with open(f"{self.under}/probe", "wb") as probe:
            probe.write(b"probe")
            probe.flush()
            before = self.recorder.now()
            os.fsync(probe.fileno())
        os.unlink(f"{self.under}/probe")
        arrived = self.recorder.entries()[before:]
        if not any(length == 0 for _, length, _ in arrived) or not any(length for _, length, _ in arrived):
            raise RuntimeError(f"fsync reaches the disk without a write or without a flush: {arrived}")

    def fork(self, work, *rest):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                work(*rest)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        return pid

    def write(self, worker):
        rng = seeded(self.plan["seed"], "writer", worker)
        program = self.program
        now, workload = self.recorder.now, self.plan["workload"]
        writer = Writer(worker, self.at, now, rng, program.patience_s, program.spared, workload)
        end_s = time.monotonic() + self.plan["seconds"]
        events = writer.run(end_s, lambda: os.stat(self.log + ".data").st_size > LOG_LIMIT)
        with open(f"{self.work}/events.{worker}", "wb") as file:
            pickle.dump((writer.count, events), file)

    def push_out(self):
        """Writes back pages of random files in the vault, without a flush: what a kernel does at any time."""
        rng = seeded(self.plan["seed"], "pages")
        while True:
            files = [os.path.join(place, name) for place, _, names in os.walk(self.vault) for name in names]
            for path in rng.sample(files, min(len(files), 20)):
                try:
                    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
                except OSError:
                    continue
                page = rng.randrange(64) * 4096 if rng.random() < 0.5 else 0
                libc.sync_file_range(fd, ctypes.c_int64(page), ctypes.c_int64(0), SYNC_FILE_RANGE_WRITE)
                os.close(fd)
            time.sleep(0.01)

    def let_go(self, image):
        begun_s = time.monotonic()
        while not disks.loop_is_gone(image):
            if time.monotonic() - begun_s > 60:
                raise TimeoutError(f"a loop device holds {image}")
            time.sleep(0.002)

    # ---- the cuts --------------------------------------------------------------------------

    def run(self, cuts, table):
        first, last, told = self.record()
        entries = self.recorder.entries()
        oracles = [Oracle(worker, events) for worker, (_, events) in enumerate(told)]
        table.notes["operations"] += sum(count for count, _ in told)
        table.notes["slow"] += sum(event[1] == "slow" for _, events in told for event in events)
        flushes = [at for at in range(first, last) if entries[at][1] == 0]
        table.notes["writes"] += last - first - len(flushes)
        table.notes["flushes"] += len(flushes)
        table["ends"] += len(self.at_the_end)
        for what, where, why in self.at_the_end[:12]:
            self.say(f"{self.filesystem}, seed {self.plan['seed']}, without a cut: {what}: {where}: {why}")
        if not flushes and not self.plan["lies"]:
            raise RuntimeError("the workload caused no flush")
        rng = seeded(self.plan["seed"], "cuts")
        positions = sorted(self.position(rng, first, last, flushes, told) for _ in range(cuts))
        replay = Replay(self.base, entries, self.log + ".data")
        for number, position in enumerate(positions):
            cut = {"number": number, "position": position, "mode": rng.choice(disks.MODES[self.filesystem])}
            kept, pieces = replay.cut(position, cut["mode"], rng, self.scratch)
            table.notes["kept"] += kept
            table.notes["pieces"] += pieces
            for oracle in oracles:
                oracle.advance(position)
            if rng.random() < self.plan["twice"]:
                cut["again"] = self.cut_the_recovery(rng, table)
                table.notes["again"] += 1
            self.judge(cut, oracles, table, rng.random())
        replay.close()

    def position(self, rng, first, last, flushes, told):
        """Anywhere; or right before a flush, when most is in the cache; or right after a promise."""
        choice = rng.random()
        if choice < 0.4:
            return rng.randrange(first, last + 1)
        if choice < 0.7 and flushes:
            return rng.choice(flushes)
        events = rng.choice(told)[1]
        promises = [event[0] for event in events if event[1].startswith("keep")]
        return max(first, rng.choice(promises or [first]))

    def cut_the_recovery(self, rng, table):
        """Cuts the power again while the filesystem and the program recover: the scratch image becomes that state."""
        image, base, log = f"{self.work}/second", f"{self.work}/second.base", f"{self.work}/second.log"
        clone(self.scratch, image)
        os.replace(self.scratch, base)
        recorder = self.recorder = Recorder(image, log, f"{self.work}/recorded")
        try:
            disks.mount(self.filesystem, self.options, recorder.at, self.under)
            self.program.mount(self.vault, self.at)
            os.listdir(self.at)
            self.program.unmount(self.at)
            disks.unmount(self.under)
        except (OSError, Refused) as error:
            self.say(f"recovery failed before its cut, it is judged as it is: {error}")
            self.clean_up()
            clone(base, self.scratch)
            return None
        self.let_go(recorder.at)
        recorder.stop()
        entries = recorder.entries()
        position = rng.randrange(len(entries) + 1)
        replay = Replay(base, entries, log + ".data")
        mode = rng.choice(disks.MODES[self.filesystem])
        replay.cut(position, mode, rng, self.scratch)
        replay.close()
        return {"position": position, "of": len(entries), "mode": mode}

    def judge(self, cut, oracles, table, dice):
        """Mounts the scratch image and compares. A failure keeps the image as the cut left it."""
        spare = f"{self.work}/kept"
        clone(self.scratch, spare)
        wrong = self.verify(oracles, table, dice)
        table["cuts"] += 1
        for what, *_ in wrong:
            column = {"ghost": "ghosts", "finding": "findings", "leftover": "leftovers"}.get(what, what)
            table[column] += 1
        if wrong:
            self.report(cut, oracles, spare, wrong)

    def report(self, cut, oracles, spare, wrong):
        if self.keep.most == 0:
            return
        self.say(f"{self.filesystem} ({self.options}), seed {self.plan['seed']}, cut {cut}:")
        for what, where, why in wrong[:12]:
            self.say(f"    {what}: {where}: {why}")
        if self.keep.is_full():
            return
        place = self.keep.place()
        shutil.copyfile(f"{self.work}/password", f"{place}/password")
        subprocess.run(["cp", "--sparse=always", spare, f"{place}/image"], check=True)
        with open(f"{place}/oracles", "wb") as file:
            pickle.dump([(o.worker, o.events[: o.at]) for o in oracles], file)
        with open(f"{place}/cut.json", "w") as file:
            json.dump({**self.plan, "program": self.program.name, "cut": cut, "wrong": wrong}, file, indent=1)
        self.say(f"    look again: scripts/powercut again {place}")

    def verify(self, oracles, table, dice):
        """What is wrong with the scratch image: a list of (what, where, why)."""
        try:
            disks.mount(self.filesystem, self.options, self.scratch, self.under)
        except OSError as error:
            return [("refused", self.filesystem, str(error))]
        wrong = []
        try:
            try:
                self.program.mount(self.vault, self.at)
            except Refused as error:
                return [("refused", self.program.name, str(error))]
            views, odd = self.look(len(oracles))
            wrong += odd
            for oracle, view in zip(oracles, views):
                table["files"] += len(view)
                wrong += [(what, [oracle.worker, spot], why) for what, spot, why in oracle.judge(view)]
            wrong += self.use(dice)
            self.program.unmount(self.at)
            # It reads everything once more: some are enough.
            if dice < 0.4 or wrong:
                wrong += [("finding", "check", line) for line in self.program.check(self.vault)]
            if dice < 0.1:
                wrong += [("leftover", name, "after everything was removed") for name in self.program.skeleton(self.vault)]
        finally:
            self.program.kill(self.at)
            disks.unmount(self.under)
        self.let_go(self.scratch)
        return wrong

    def use(self, dice):
        """The mount that came up works; in some of them, everything is removed."""
        try:
            with open(f"{self.at}/shared/after", "xb") as file:
                file.write(b"after")
                file.flush()
                os.fsync(file.fileno())
            os.unlink(f"{self.at}/shared/after")
            if dice < 0.1:
                for name in os.listdir(self.at):
                    shutil.rmtree(f"{self.at}/{name}")
        except OSError as error:
            return [("refused", "use", f"the mount does not work: {error}")]
        return []

    # ---- the view --------------------------------------------------------------------------

    def look(self, workers):
        """All that the mount shows: a view for each writer, and what is wrong with the directories of all."""
        views, odd = [{} for _ in range(workers)], []
        for name in sorted(os.listdir(self.at)):
            own = re.fullmatch(r"w(\d+)", name)
            try:
                if name == "shared":
                    self.look_into(name, SHARED, lambda name: self.owner(name, views))
                elif own and int(own[1]) < workers:
                    view = views[int(own[1])]
                    self.look_into(name, ROOT, lambda name, view=view: view)
                else:
                    odd.append(("ghost", name, "a name that never was"))
            except OSError as error:
                odd.append(("torn", name, f"a directory: {error}"))
        return views, odd

    @staticmethod
    def owner(name, views):
        own = re.match(r"w(\d+)\.", name)
        return views[int(own[1]) if own else 0]

    def look_into(self, inside, directory, view_of):
        """Reads a directory. In the shared one a name says whose view it belongs to."""
        for name in sorted(os.listdir(f"{self.at}/{inside}")):
            path, view = f"{self.at}/{inside}/{name}", view_of(name)
            spot = (directory, name)
            try:
                if os.path.islink(path):
                    view[spot] = Seen("symlink", os.fsencode(os.readlink(path)))
                elif os.path.isdir(path):
                    view[spot] = Seen("dir")
                    named = re.match(r"d(\d+)\.", name)
                    self.look_into(f"{inside}/{name}", int(named[1]) if named else name, view_of)
                else:
                    with open(path, "rb") as file:
                        view[spot] = Seen("file", file.read(), self.xattr(file))
            except OSError as error:
                view[spot] = Seen("file", error=str(error))

    @staticmethod
    def xattr(file):
        try:
            return os.getxattr(file.fileno(), "user.powercut")
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
                return None
            raise

    def clean_up(self):
        """Whatever is still mounted goes, by force."""
        self.program.kill(self.at)
        if mounted(self.under):
            subprocess.run(["umount", "-l", self.under], check=False)
        if self.recorder and mounted(self.recorder.at):
            # The loop device holds the recorded file until the filesystem on it has gone.
            begun_s = time.monotonic()
            while time.monotonic() - begun_s < 30:
                try:
                    self.recorder.stop()
                    return
                except OSError:
                    time.sleep(0.05)
            subprocess.run(["umount", "-l", self.recorder.at], check=False)
