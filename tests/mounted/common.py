"""What the mounted test programs share: `PROGRAM DIR STEP ARGS...`, plain asserts, exit status."""

import sys


def main(**steps):
    """Runs the named step on the directory; a failing assert ends the program with status 1."""
    directory, step, *args = sys.argv[1:]
    steps[step](directory, *args)
