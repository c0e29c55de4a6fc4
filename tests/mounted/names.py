"""Names of 1 to 255 bytes of any kind, in every operation that takes one."""

import os

from common import main


def names():
    special = [b"\n", b" ", b"-", b"~", b".x", b"..x", b"...", b"\xff\xfe\xfd", b"a\nb", b"\x01\x7f\x80", b"'\"\\$`*?[",
               "\u4f60\u597d".encode(), "\u00e9".encode(), "e\u0301".encode(), b".akasha", b".dir", b"akasha-damaged-00",
               b"Lxxxx", b"x.name", b"m" * 43]
    lengths = [b"n%d" % length + b"\xe4" * (length - 4) for length in (*range(100, 255, 5), 254, 255)]
    # Lengths around the edges of the padding of sealed names and of the backing NAME_MAX.
    edges = [b"e%03d" % length + b"z" * (length - 4) for length in range(130, 170)]
    short = [bytes([byte]) for byte in range(1, 256) if byte not in b"./\n -~"]
    return special + lengths + edges + short


def do(directory):
    base = os.fsencode(directory)
    for kind in (b"files", b"dirs", b"links", b"moved"):
        os.mkdir(os.path.join(base, kind))
    for name in names():
        assert len(name) <= 255
        file = os.path.join(base, b"files", name)
        with open(file, "xb") as out:
            out.write(name)
        os.mkdir(os.path.join(base, b"dirs", name))
        with open(os.path.join(base, b"dirs", name, name), "xb") as out:
            out.write(name * 2)
        os.symlink(name, os.path.join(base, b"links", name))
        # To a plain name and back, away and removed, replaced by another file.
        plain = os.path.join(base, b"files", b"plain name")
        os.rename(file, plain)
        assert not os.path.exists(file)
        os.rename(plain, file)
        away = os.path.join(base, b"moved", name)
        os.rename(file, away)
        with open(file, "xb") as out:
            out.write(name)
        os.rename(away, file)
        with open(away, "xb"):
            pass
        os.unlink(away)
        os.mkdir(away)
        os.rmdir(away)
    check(directory)
    for name in (b"x" * 256, b"x" * 300):
        try:
            os.mkdir(os.path.join(base, name))
        except OSError as error:
            assert error.errno == 36, error
        else:
            raise AssertionError("a name of more than 255 bytes was taken")


def check(directory):
    base, expected = os.fsencode(directory), sorted(names())
    assert os.listdir(os.path.join(base, b"moved")) == []
    for kind in (b"files", b"dirs", b"links"):
        found = sorted(os.listdir(os.path.join(base, kind)))
        assert found == expected, (kind, sorted(set(found) ^ set(expected))[:5])
    for name in expected:
        with open(os.path.join(base, b"files", name), "rb") as file:
            assert file.read() == name
        with open(os.path.join(base, b"dirs", name, name), "rb") as file:
            assert file.read() == name * 2
        assert os.readlink(os.path.join(base, b"links", name)) == name


main(do=do, check=check)
