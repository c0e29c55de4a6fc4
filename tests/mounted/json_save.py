"""A JSON document saved by writing a temporary file beside it and os.replace, as editors do."""

import json
import os
import threading

from common import main

SAVES = 60


def save(path, document, sync):
    temporary = path + ".tmp"
    with open(temporary, "w", encoding="utf-8") as out:
        json.dump(document, out)
        if sync:
            out.flush()
            os.fsync(out.fileno())
    os.replace(temporary, path)


def document(revision):
    return {"revision": revision, "rows": [[revision, n] for n in range(revision * 40)], "end": revision}


def work(directory, sync):
    """Saves again and again while a reader looks: it must only ever see whole documents."""
    path = os.path.join(directory, "document.json")
    save(path, document(0), sync)
    done, seen = threading.Event(), []

    def read():
        while not done.is_set():
            with open(path, encoding="utf-8") as text:
                found = json.load(text)
            assert found == document(found["revision"])
            seen.append(found["revision"])

    reader = threading.Thread(target=read)
    reader.start()
    for revision in range(1, SAVES + 1):
        save(path, document(revision), sync)
        assert os.listdir(directory) == ["document.json"]
    done.set()
    reader.join()
    assert seen and seen == sorted(seen)


def check(directory):
    assert os.listdir(directory) == ["document.json"]
    with open(os.path.join(directory, "document.json"), encoding="utf-8") as text:
        assert json.load(text) == document(SAVES)


main(sync=lambda d: work(d, True), plain=lambda d: work(d, False), check=check)
