"""A directory of many entries: listed whole, deleted from while it is listed, never an entry twice."""

import os

from common import main


def name(number):
    return f"entry number {number} of a large directory"


def create(directory, count):
    where = os.path.join(directory, "large")
    os.mkdir(where)
    for number in range(int(count)):
        os.close(os.open(os.path.join(where, name(number)), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    check(directory, count)


def check(directory, count):
    found = os.listdir(os.path.join(directory, "large"))
    assert sorted(found) == sorted(map(name, range(int(count))))
    assert not os.path.exists(os.path.join(directory, "large", name(int(count))))


def delete(directory, count):
    """Removes every second entry while listing; each of the others must be seen exactly once."""
    where, count = os.path.join(directory, "large"), int(count)
    kept = {name(number) for number in range(0, count, 2)}
    seen = []
    with os.scandir(where) as entries:
        for entry in entries:
            seen.append(entry.name)
            if entry.name not in kept:
                os.unlink(entry.path)
    assert len(seen) == len(set(seen)), "an entry was listed twice"
    assert kept <= set(seen), "an entry was skipped"
    assert set(os.listdir(where)) == kept


def check_deleted(directory, count):
    where = os.path.join(directory, "large")
    assert set(os.listdir(where)) == {name(number) for number in range(0, int(count), 2)}
    # Emptied as rm -r does it, and gone.
    with os.scandir(where) as entries:
        for entry in entries:
            os.unlink(entry.path)
    os.rmdir(where)
    assert os.listdir(directory) == []


main(create=create, check=check, delete=delete, check_deleted=check_deleted)
