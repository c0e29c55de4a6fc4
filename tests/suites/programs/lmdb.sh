#!/usr/bin/env bash
# LMDB, which maps its file: with writes by call, and with writes through a shared map.
set -euo pipefail
exec /usr/bin/python3 "$SUITES/programs/lmdb_rows.py" "$1"
