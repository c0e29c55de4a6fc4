#!/usr/bin/env bash
# DuckDB: a database of a million rows, changed, checkpointed, and exported to Parquet.
set -euo pipefail
exec /usr/bin/python3 "$SUITES/programs/duckdb_rows.py" "$1"
