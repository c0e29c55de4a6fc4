#!/usr/bin/env bash
# Editors and tools that rewrite a file in place or by a temporary one.
set -euo pipefail
if [ "$1" = make ]; then
    for file in vim vim-copy ex sed perl redirect; do
        seq 1 5000 | sed 's/^/one /' >"$file"
    done
    chmod 640 vim sed perl
    chmod 444 ex
    ln vim-copy linked
    vim=(vim -u NONE -i NONE -N -es)
    "${vim[@]}" -c 'set backup writebackup undofile backupcopy=no' -c '%s/one/two/' -c wq vim
    "${vim[@]}" -c 'set backup backupcopy=yes' -c '%s/one/two/' -c wq vim-copy
    ex -u NONE -i NONE -N -s -c '%s/one/two/' -c 'wq!' ex
    sed -i.old 's/one/two/' sed
    perl -pi -e 's/one/two/' perl
    sed 's/one/two/' redirect >redirect.new
    cat redirect.new >redirect
    [ -z "$(find . -name '*.sw?')" ]
    [ "$(stat -c %a vim sed perl ex | tr '\n' ' ')" = "640 640 640 444 " ]
    [ linked -ef vim-copy ]
    grep -qx 'one 17' vim~
    grep -qx 'one 17' sed.old
fi
for file in vim vim-copy linked ex sed perl redirect; do
    seq 1 5000 | sed 's/^/two /' | cmp - "$file"
done
