#!/usr/bin/env bash
# A repository of 2,000 files: commit, gc, clones of both kinds, a second work tree, a merge.
set -euo pipefail
export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_COUNT=0
export GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=A GIT_COMMITTER_EMAIL=a@b

clean() { # clean WORKTREE: complete and unchanged
    git -C "$1" fsck --full --strict --no-progress
    [ -z "$(git -C "$1" status --porcelain)" ]
    [ "$(git -C "$1" ls-files | wc -l)" = "$2" ]
}

case $1 in
make)
    git init -q -b main repo
    cd repo
    for directory in {1..40}; do
        mkdir "dir $directory"
        for file in {1..50}; do
            echo "$directory $file $RANDOM" >"dir $directory/file $file"
        done
    done
    chmod +x "dir 1/file 1"
    ln -s "dir 1/file 1" link
    git add .
    git commit -qm one
    for number in {1..30}; do
        echo "$number" >>"dir $number/file $number"
        git commit -qam "change $number"
    done
    git checkout -qb side HEAD~5
    git mv "dir 2" moved
    git commit -qm moved
    git checkout -q main
    git merge -q --no-edit side
    git gc -q
    git repack -q -a -d -f
    clean . 2001
    git clone -q --no-local . ../clone
    git clone -q --local . ../local
    git clone -q --bare --local . ../bare
    git worktree add -q ../tree side
    git stash list
    git tag -a -m tag v1
    cd ../local
    echo pushed >pushed
    git add pushed
    git commit -qm pushed
    git push -q origin HEAD:pushed
    git -C ../repo log -1 --format=%s pushed | grep -qx pushed
    cd ..
    # The objects of a local clone are hard links, and git makes them read-only.
    [ "$(find local/.git/objects -type f -links +1 | wc -l)" -gt 0 ]
    ;;
esac
clean repo 2001
clean clone 2001
clean local 2002
clean tree 2001
git -C bare fsck --full --strict --no-progress
git -C clone switch -q --detach HEAD~3
git -C clone switch -q main
clean clone 2001
