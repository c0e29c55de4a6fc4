#!/usr/bin/env bash
# A Python virtual environment, and a wheel that is built here and installed into it.
set -euo pipefail
if [ "$1" = make ]; then
    /usr/bin/python3 -m venv venv
    mkdir wheel
    /usr/bin/python3 - <<'END'
import zipfile
with zipfile.ZipFile("wheel/akin-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
    wheel.writestr("akin/__init__.py", "def answer():\n    return 42\n")
    for number in range(200):
        wheel.writestr(f"akin/part{number}.py", f"VALUE = {number}\n")
    info = "akin-1.0.dist-info/"
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: akin\nVersion: 1.0\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(info + "entry_points.txt", "[console_scripts]\nakin = akin:answer\n")
    names = [n for n in wheel.namelist()] + [info + "RECORD"]
    wheel.writestr(info + "RECORD", "".join(f"{n},,\n" for n in names))
END
    venv/bin/python -m pip install -q --disable-pip-version-check --no-index wheel/*.whl
fi
venv/bin/python -c 'import akin, akin.part7; assert akin.answer() == 42 and akin.part7.VALUE == 7'
status=0
venv/bin/akin || status=$?
[ "$status" = 42 ]
venv/bin/python -m pip check --disable-pip-version-check
venv/bin/python -m pip show -q --disable-pip-version-check akin
