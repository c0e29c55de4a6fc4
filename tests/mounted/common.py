"""What the mounted test programs share: `PROGRAM DIR STEP ARGS...`, plain asserts, exit status."""

import errno
import multiprocessing
import os
import sys


def main(**steps):
    """Runs the named step on the directory; a failing assert ends the program with status 1."""
    directory, step, *args = sys.argv[1:]
    steps[step](directory, *args)


def refused(expected, call, *args, **kwargs):
    """Expects `call` to fail with one of the errnos `expected`."""
    expected = expected if isinstance(expected, tuple) else (expected,)
    try:
        result = call(*args, **kwargs)
    except OSError as error:
        assert error.errno in expected, f"{error!r} instead of {[errno.errorcode[e] for e in expected]}"
    else:
        raise AssertionError(f"{result!r} instead of {[errno.errorcode[e] for e in expected]}")


def link(file, name):
    """Gives the open file a name. Without a directory Python calls link(2), which does not follow."""
    os.link(f"/proc/self/fd/{file}", name, src_dir_fd=0, follow_symlinks=True)


class Other:
    """Another process, which calls the functions of the program that it is told to, and answers what they
    return or raise. It has only the descriptors that it opened itself, if it was made before any others."""

    ours = []

    def __init__(self):
        self.pipe, its = multiprocessing.Pipe()
        self.ours.append(self.pipe)
        self.pid = os.fork()
        if self.pid:
            its.close()
            return
        # A copy left open would keep the others from seeing that their pipe is closed.
        for pipe in self.ours:
            pipe.close()
        while True:
            try:
                function, args = its.recv()
            except EOFError:
                os._exit(0)
            try:
                its.send((True, function(*args)))
            except Exception as error:
                its.send((False, error))

    def __call__(self, function, *args):
        self.begin(function, *args)
        return self.end()

    def begin(self, function, *args):
        """Does not wait for the answer."""
        self.pipe.send((function, args))

    def is_busy(self, seconds=0.2):
        """Whether the answer is still missing after that time."""
        return not self.pipe.poll(seconds)

    def end(self):
        fine, answer = self.pipe.recv()
        if not fine:
            raise answer
        return answer

    def close(self):
        self.ours.remove(self.pipe)
        self.pipe.close()
        assert os.waitpid(self.pid, 0)[1] == 0
