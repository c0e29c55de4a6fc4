#!/usr/bin/env bash
# zip in the mount, updated, tested and unpacked there; bsdtar-free.
set -euo pipefail
if [ "$1" = make ]; then
    mkdir tree
    for number in {1..300}; do
        mkdir -p "tree/$((number % 17))"
        seq "$number" $((number * 3)) >"tree/$((number % 17))/file $number"
    done
    head -c 5000000 /dev/urandom >tree/noise
    ln -s noise tree/link
    chmod 555 tree/3
    chmod 444 "tree/4/file 4"
    zip -qry archive.zip tree
    echo changed >>"tree/5/file 5"
    touch -d '+5 seconds' "tree/5/file 5"
    zip -qryu archive.zip tree
    mkdir out
    unzip -q archive.zip -d out
fi
unzip -tq archive.zip
diff -r tree out/tree
[ "$(stat -c %a out/tree/3 'out/tree/4/file 4' | tr '\n' ' ')" = "555 444 " ]
grep -q changed "out/tree/5/file 5"
