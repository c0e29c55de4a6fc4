"""A context manager that replaces a file only when its block ends well; the block fails half-way."""

import contextlib
import os

from common import main

OLD = b"the old content\n" * 50_000


@contextlib.contextmanager
def atomic_write(path):
    temporary = f"{path}.{os.getpid()}.part"
    with open(temporary, "wb") as out:
        try:
            yield out
            out.flush()
            os.fsync(out.fileno())
        except BaseException:
            os.unlink(temporary)
            raise
    os.replace(temporary, path)


def do(directory):
    path = os.path.join(directory, "report")
    with atomic_write(path) as out:
        out.write(OLD)
    check(directory)
    for failure in range(5):
        with contextlib.suppress(ZeroDivisionError):
            with atomic_write(path) as out:
                for block in range(64):
                    out.write(bytes([failure]) * 65536)
                    1 // (40 - block)
        check(directory)


def check(directory):
    assert os.listdir(directory) == ["report"]
    with open(os.path.join(directory, "report"), "rb") as content:
        assert content.read() == OLD


main(do=do, check=check)
