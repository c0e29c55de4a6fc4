#!/usr/bin/env bash
# PostgreSQL with page checksums: pgbench, an immediate shutdown under load, recovery.
set -euo pipefail
if [ "$(id -u)" = 0 ]; then
    # It refuses to run as root.
    chown postgres: .
    exec setpriv --reuid postgres --regid postgres --clear-groups bash "$0" "$@"
fi
bin=$(find /usr/lib/postgresql -maxdepth 2 -name bin | sort -V | tail -n 1)
export PATH=$bin:$PATH PGHOST=$PWD/socket PGDATA=$PWD/data PGUSER=akasha PGDATABASE=postgres

started=no
start() { started=yes; pg_ctl start -w -t 120 -l "$PWD/log" -s || { cat "$PWD/log"; return 1; }; }
query() { psql -XAtc "$1"; }
stop_all() {
    # A server that is just being started has not written its number yet.
    if [ "$started" = yes ] && [ ! -e "$PGDATA/postmaster.pid" ] && [ -d socket ]; then sleep 2; fi
    if [ -e "$PGDATA/postmaster.pid" ]; then pg_ctl stop -s -m immediate || true; fi
}
trap stop_all EXIT
trap 'exit 143' TERM INT

sound() { # the sums that pgbench keeps equal, and a full read of every table and index
    [ "$(query 'select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)')" = t ]
    [ "$(query 'select (select sum(tbalance) from pgbench_tellers) = (select sum(bbalance) from pgbench_branches)')" = t ]
    pg_dumpall --no-sync -f /dev/null
}

if [ "$1" = make ]; then
    initdb --data-checksums -A trust -U "$PGUSER" --no-instructions >init.log || { cat init.log; exit 1; }
    mkdir socket
    {
        printf "unix_socket_directories = '\"%s\"'\n" "$PGHOST"
        echo "listen_addresses = ''"
        echo "shared_buffers = 32MB"
        echo "max_wal_size = 64MB"
        echo "lc_messages = 'C'"
    } >>data/postgresql.conf
    start
    pgbench -q -i -s 3 2>&1
    pgbench -n -c 4 -j 2 -T 6 2>&1
    pgbench -n -c 4 -j 2 -T 60 >pgbench.log 2>&1 &
    load=$!
    sleep 4
    kept=$(query 'select count(*) from pgbench_history')
    pg_ctl stop -s -m immediate
    wait "$load" || true
    start
    [ "$(query 'select count(*) from pgbench_history')" -ge "$kept" ]
    sound
    query 'create table t as select i, md5(i::text) as h from generate_series(1, 100000) i'
    query 'vacuum full pgbench_accounts'
    query checkpoint
    pg_ctl stop -s -m fast
    rm -rf socket
fi
pg_checksums --check
if [ "$1" = check ]; then
    mkdir socket
    start
    sound
    [ "$(query 'select count(*) from t where h = md5(i::text)')" = 100000 ]
    pg_ctl stop -s -m fast
fi
