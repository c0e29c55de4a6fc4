"""Power cuts on real filesystems. scripts/powercut starts this, in namespaces of its own; it has the usage."""

import argparse
import json
import os
import pickle
import random
import signal
import sys
import time

import disks
from oracle import Oracle
from programs import PROGRAMS
from rounds import COLUMNS, Round, Table
from workload import seeded

FORMS = {
    # cuts of each filesystem, cuts of each round, seconds of a workload, writers, share cut again in recovery
    "short": (8, 8, 3, 3, 0.15),
    "long": (1000, 50, 10, 4, 0.1),
}


class Keep:
    """Where the images of failures go, and how many are kept."""

    def __init__(self, root, most):
        self.root, self.most, self.count = root, most, 0

    def is_full(self):
        return self.count >= self.most

    def place(self):
        self.count += 1
        path = f"{self.root}/{self.count}"
        os.makedirs(path)
        return path


def say(line):
    print(line, flush=True)


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/powercut")
    parser.add_argument("--fs", default="ext4,xfs,btrfs")
    parser.add_argument("--cuts", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--writers", type=int)
    parser.add_argument("--program", default="akasha", choices=sorted(PROGRAMS))
    parser.add_argument("--akasha", default="akasha")
    parser.add_argument("--lie", action="store_true")
    parser.add_argument("--keep", type=int)
    parser.add_argument("--kept", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("form", choices=[*FORMS, "again"])
    parser.add_argument("place", nargs="?")
    return parser.parse_args()


def program(args, name=None):
    name = name or args.program
    return PROGRAMS[name](args.work, args.akasha if name == "akasha" else None)


def all_rounds(args):
    """Runs all rounds and prints the tables. Returns how many failures there were."""
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(1 << 32)
    # Failures that are expected are not kept unless that is asked for.
    expected = args.lie or args.program != "akasha"
    most = args.keep if args.keep is not None else 0 if expected else 3
    tested, keep, tables = program(args), Keep(args.kept, most), {}
    name = tested.name + (" (its syncs do nothing)" if args.lie else "")
    say(f"{name}, seed {seed}")
    try:
        for filesystem in args.fs.split(","):
            tables[filesystem] = Table()
            rounds_of(filesystem, args, seed, tested, keep, tables[filesystem])
        if not expected:
            prove_the_net(args, seed, tested)
    except KeyboardInterrupt:
        say("interrupted")
        print_tables(name, tables)
        sys.exit(130)
    return print_tables(name, tables)


def prove_the_net(args, seed, tested):
    """The same under a daemon whose syncs do nothing: a judge that finds nothing wrong there judges nothing."""
    table = Table()
    plan = {"filesystem": "ext4", "options": "commit=1", "seed": seed, "workers": 2, "seconds": 2, "lies": True, "twice": 0}
    plan |= {"workload": "all", "commit_s": 0.5}
    one = Round(args.work, tested, plan, Keep(args.kept, 0), say)
    try:
        one.run(3, table)
    finally:
        one.clean_up()
    if table["lost"] == 0:
        raise RuntimeError("a daemon whose syncs do nothing lost nothing: the judge is blind")
    say(f"under a daemon whose syncs do nothing, 3 cuts: {table['lost']} lost, {table['torn']} torn, as it must be")


def rounds_of(filesystem, args, seed, tested, keep, table):
    """Rounds on one filesystem, until there were enough cuts."""
    cuts, cuts_of_round, seconds, workers, twice = FORMS[args.form]
    cuts = args.cuts or cuts
    while table["cuts"] < cuts:
        begun_s = time.monotonic()
        plan = {
            "filesystem": filesystem,
            "options": seeded(seed, "options").choice(disks.OPTIONS[filesystem]),
            "seed": seed,
            "workers": args.writers or workers,
            "seconds": args.seconds or seconds,
            "lies": args.lie,
            "twice": twice,
            "workload": seeded(seed, "workload").choice(("all", "names")),
            "commit_s": seeded(seed, "commit").choice((0.5, 0.5, 0.2, 0.05)),
        }
        one = Round(args.work, tested, plan, keep, say)
        try:
            one.run(min(cuts - table["cuts"], cuts_of_round), table)
        finally:
            one.clean_up()
        took_s = time.monotonic() - begun_s
        say(f"{filesystem} ({plan['options']}), seed {seed}: {table['cuts']} cuts, {table.failures()} failures, {took_s:.0f} s")
        # The next round has the next seed: each can be run alone.
        seed += 1


def print_tables(name, tables):
    say(f"\n{name}")
    say("| filesystem | " + " | ".join(COLUMNS) + " |")
    say("|---" * (len(COLUMNS) + 1) + "|")
    for filesystem, table in tables.items():
        say(f"| {filesystem} | " + " | ".join(f"{table[column]:,}" for column in COLUMNS) + " |")
    for filesystem, table in tables.items():
        notes = ", ".join(f"{count:,} {what}" for what, count in table.notes.items())
        say(f"{filesystem}: {notes}")
    return sum(table.failures() for table in tables.values())


def again(args):
    """Verifies a kept image once more."""
    with open(f"{args.place}/cut.json") as file:
        plan = json.load(file)
    with open(f"{args.place}/oracles", "rb") as file:
        oracles = [Oracle(worker, events) for worker, events in pickle.load(file)]
    for oracle in oracles:
        oracle.advance(float("inf"))
    one = Round(args.work, program(args, plan["program"]), plan, None, say)
    os.system(f"cp --sparse=always '{args.place}/image' '{one.scratch}'")
    table = Table()
    try:
        wrong = one.verify(oracles, table, 1.0)
    finally:
        one.clean_up()
    for what, where, why in wrong:
        say(f"{what}: {where}: {why}")
    say(f"{table['files']} files, {len(wrong)} failures")
    return len(wrong)


def stop(*_):
    raise KeyboardInterrupt


def main():
    args = arguments()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    failures = again(args) if args.form == "again" else all_rounds(args)
    # A program that is only compared with, or that was made to lie, fails no test.
    sys.exit(1 if failures and args.program == "akasha" and not args.lie else 0)


if __name__ == "__main__":
    main()
