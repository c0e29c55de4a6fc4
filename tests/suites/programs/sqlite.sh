#!/usr/bin/env bash
# Several writers of one SQLite database, with a write-ahead log and with a rollback journal.
set -euo pipefail
exec /usr/bin/python3 "$SUITES/programs/sqlite.py" "$1"
