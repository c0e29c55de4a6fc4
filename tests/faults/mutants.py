"""Every step of the commit taken away, one at a time: the tests must notice.

usage: mutants.py [--check] [--from NAME] [NAME]...

A mutant is the source with one step missing; the tests named for it run in a copy below target/mutants. One that they do not
notice is run against all tests of cuts, power cuts and the store; if nobody notices it survives, and the exit code is 1.
--check: only that every mutant's text is found in the source exactly once.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLACE = ROOT / "target" / "mutants"
STORE = "src/store/"
# What is printed when a test failed, or took the whole run with it.
FAILED = re.compile(rb"^test result: FAILED|process didn't exit successfully: .*/deps/", re.MULTILINE)
# A mutant may make a test wait for ever.
PATIENCE_SECS = 1500

CUTS, LINKS, FAULTS = ("cuts", "a_cut_leaves_every"), ("cuts", "hard_links"), ("cuts", "a_failed_call")
MOUNTS, RARE, POWER = ("cuts", "a_mount_that"), ("cuts", "a_rare_order"), ("powercut", "")
RANDOM, NAMED = ("cuts", "a_cut_in_a_random"), ("cuts", "a_cut_around_a_first_name")
EXCHANGE = ("cuts", "a_cut_around_an_exchange")
RESCUE, VAULT, REPAIR = ("lib", "store::tests::rescue"), ("lib", "store::vault"), ("lib", "store::tests::repair")
LEFT = ("lib", "what_left_a_directory_does")
EVERYTHING = [CUTS, LINKS, RARE, NAMED, EXCHANGE, RANDOM, FAULTS, MOUNTS, POWER, ("lib", "store::")]


def lib(test):
    return ("lib", test)


def cut(script):
    """The cuts of one script."""
    return (*CUTS, script)


# name: (file, what is there, what is there instead, tests that notice)
MUTANTS = {
    # ---- the commit: seal, sync, publish, sync, remove
    "no layer is synced": ("commit.rs",
        "        self.sync_layers(&mut works, &mut first_error);\n", "", [CUTS]),
    "a single layer is not synced": ("temp.rs",
        'self.file()?.sync().attempt("sync a layer")', 'self.file().map(drop)', [CUTS]),
    "many layers are not synced": ("commit.rs",
        "        let synced = self.core.sync_all();\n", "        let synced: Result<()> = Ok(());\n", [cut("many")]),
    "a stub is not synced": ("publish_names.rs",
        'self.file.sync().attempt("sync a stub")', "{ let _ = &self.file; Ok(()) }", [LINKS]),
    "the map and tail are not written": ("commit.rs",
        "                finished.write()?;\n", "", [CUTS]),
    "fsync syncs no names": ("commit.rs",
        "        self.sync_attr(node)?;\n        self.sync_path(node)\n", "        self.sync_attr(node)\n", [CUTS]),
    "fsync of a directory syncs no names of it": ("commit.rs",
        "            dir.sync_names(&self.core, latest)?;\n", "            let _ = latest;\n", [CUTS]),
    "fsync of a directory does not commit what waits in it": ("commit.rs",
        "let committed = self.commit(&pending, Take::HandedOver);", "let (committed, _) = (Ok(()), &pending);", [LINKS]),
    "fsync of a directory syncs nothing when a commit in it failed": ("commit.rs",
        "let committed = self.commit(&pending, Take::HandedOver);",
        "let committed = self.commit(&pending, Take::HandedOver).map(Ok)?;", [lib("store::tests::faults")]),
    "fsync of a directory forgets what was synced before it had a name": ("commit.rs",
        "(state.handed_over == state.changes || state.promised)", "state.handed_over == state.changes", [NAMED]),
    "a name given late leaves its writers no time": ("nameless.rs",
        "            open.begun = self.core.clock.elapsed();\n", "", [NAMED]),
    "fsync syncs no parents": ("durable.rs",
        "        while let Some((dir, change)) = name_of(&at) {", "        if let Some((dir, change)) = name_of(&at) {",
        [CUTS]),
    "fsync syncs no names of older layers": ("durable.rs",
        "        if node.file().is_ok() {\n            self.sync_layer_names()?;", "        if node.file().is_ok() {",
        [lib("store::tests")]),
    "fsync syncs no names of linked files": ("durable.rs",
        "        if node.has_names() {\n            self.sync_inode_names()?;", "        if node.has_names() {",
        [lib("store::tests::faults")]),
    "fsync of a linked file syncs no moved directories": ("durable.rs",
        "            node.forget_recent(&recent);\n            self.sync_moved_dirs()?;\n", "            node.forget_recent(&recent);\n",
        [lib("store::tests::mishaps")]),
    "a linked file is forgotten before what leads to its name is durable": ("names.rs",
        "is_durable(dir, *change) && has_durable_path(dir)", "is_durable(dir, *change)", [lib("store::tests::mishaps")]),
    "a linked name over another file goes before it has appeared": ("names.rs",
        "matches!(state.under.get(name), Some(Under::Replaced { .. })).then(|| Arc::clone(going))",
        "covers_itself(state, name, entry.id).then(|| Arc::clone(going))", [LINKS]),
    "names are counted while they change": ("names.rs",
        "        let _still = self.core.counting.read();\n", "", [lib("store::tests::names")]),
    "an exchange of layers is not counted": ("keep.rs",
        "        self.layer_names.count();\n", "", [LINKS]),
    "the interval's commit syncs no names": ("commit.rs",
        "if let Err(error) = self.sync_paths(nodes) {", "if let Err(error) = Ok::<(), StoreError>(drop(nodes)) {", [cut("save")]),
    "without exchange the older layer's name is not synced": ("keep.rs",
        '                core.backing.sync_arrivals(layers).attempt("sync the layers")?;\n', "", [cut("mapped without exchange")]),
    "without exchange the old top gets no second name": ("keep.rs",
        "match core.backing.link(fd, backing, layers, older) {", "match Ok::<(), std::io::Error>(()) {",
        [cut("mapped without exchange")]),
    "a copied older layer is not synced": ("keep.rs",
        "            temp.sync()?;\n", "", [cut("mapped without exchange and links")]),
    "a partial version replaces its base": ("commit.rs",
        "                    self.replace_keeping(finished, &older, &fd, &backing)?;\n",
        "                    core.backing.rename(&core.tmp, finished.layer.name(), &fd, &backing, RenameMode::Replace)"
        '.attempt("publish a version")?;\n                    let _ = &older;\n', [cut("mapped")]),
    "a save is published before it is closed": ("commit.rs",
        "take == Take::All || state.writers == 0 ||", "take == Take::All || state.writers < 99 ||",
        [lib("store::tests::no_commit_that")]),
    "the interval's commit moves what is being written": ("commit.rs",
        "        take == Take::Done && state.frozen.is_none() && !self.takes(state, take)\n", "        state.lost && take == Take::Done\n",
        [lib("store::tests::no_commit_that")]),
    "a file that moved is published under the old name only": ("commit.rs",
        "Some(link) if !spot.is_at(link) => {", "Some(link) if !spot.is_at(link) && spot.name.is_empty() => {",
        [cut("replace open")]),
    # ---- removal
    "what died is removed before it is durable": ("settle.rs",
        "                if doomed.change > upto || (is_entry", "                if upto == u64::MAX || (is_entry",
        [lib("store::tests::what_dies")]),
    "a directory is not synced before what died in it goes": ("settle.rs",
        "            dir.sync_names(&self.core, latest)?;\n            self.sync_inode_names()?;\n"
        "            let mut state = body.state.lock();\n            if state.removed {\n                break;\n"
        "            }\n            let upto = body.names.upto();",
        "            let mut state = body.state.lock();\n            if state.removed {\n                break;\n"
        "            }\n            let upto = latest;", [cut("replace")]),
    "of two dead entries the later may go first": ("settle.rs",
        "(is_entry && seen.contains(&doomed.name))", "(is_entry && seen.len() == usize::MAX)", [CUTS, RANDOM]),
    "what failed to be removed is forgotten": ("settle.rs",
        "                    stay.push(doomed);\n", "", [FAULTS]),
    "what leaves a name does not wait for the dead below it": ("claim.rs",
        "must_bury(dir, state, name).or_else(|| self.must_keep(state, id))", "self.must_keep(state, id)", [LINKS]),
    "what moves does not wait for the dead below it": ("rename.rs",
        "if let Some(blocked) = must_bury(&from.dir, locked.of(&from.dir), &from.name) {",
        "if let Some(blocked) = None {", [LINKS]),
    "the dead of a name that a mount finds go in any order": ("dir.rs",
        "        first_to_last(&mut losers.replaced[first_dead..]);\n", "", [lib("store::tests::doubles")]),
    "the last published name is hidden while others wait": ("rename.rs",
        "if let Some(target) = target.filter(|target| target.published)\n",
        "if let Some(target) = target.filter(|_| false)\n", [LINKS]),
    # ---- names
    "the source of a move is not synced first": ("rename.rs",
        "            locked.of(to_dir).sync_before(&from.dir, left);\n", "            let _ = left;\n", [cut("directories")]),
    "what is moved from is not synced": ("dir.rs",
        "                source.sync_names_plainly(core, *change)?;\n", "                let _ = (source, change);\n", [cut("directories")]),
    "moves in a circle are not synced at once": ("dir.rs",
        "            core.sync_all_names()?;\n", "            let _ = &core.root;\n", [CUTS, RANDOM]),
    "a sync makes arrivals durable alone": ("sync_all.rs",
        "if has_departures { self.backing.sync_dir(dir) }", "if has_departures && false { self.backing.sync_dir(dir) }", [LEFT]),
    "a move is counted as an arrival": ("rename.rs",
        "let left = from.dir.dir()?.names.count_departure();", "let left = from.dir.dir()?.names.count();", [LEFT]),
    "a removal is counted as an arrival": ("tree.rs",
        "names.count_departure();\n        self.vacate(state, spot, backing, change, VacatedBy::Removed(id));",
        "names.count();\n        self.vacate(state, spot, backing, change, VacatedBy::Removed(id));", [LEFT]),
    "the removal of a directory is counted as an arrival": ("tree.rs",
        "names.count_departure();\n        // What waits", "names.count();\n        // What waits", [LEFT]),
    "the removal of what is damaged is counted as an arrival": ("tree.rs",
        "names.count_departure();\n        state.map_mut()", "names.count();\n        state.map_mut()", [LEFT]),
    "the removal of a refused directory is counted as an arrival": ("tree.rs",
        "                let change = dir.dir()?.names.count_departure();", "                let change = dir.dir()?.names.count();", [LEFT]),
    "the removal of what is dead is counted as an arrival": ("settle.rs",
        "let change = dir.dir()?.names.count_departure();", "let change = dir.dir()?.names.count();", [cut("replace")]),
    "nothing has left a directory before the mount": ("gate.rs",
        "State { departure: 1, ..State::default() }", "State::default()", [lib("store::gate")]),
    "a name that was moved away is taken at once": ("claim.rs",
        "            Err(Blocked::Sync(Arc::clone(dir), *change))\n",
        "            let _ = change;\n            Ok(Claim { replaces: None, dies: None })\n", [cut("replace"), RARE]),
    "who takes a removed name does not say whose it was": ("claim.rs",
        "            Ok(Claim { replaces: Some(*id), dies: None })",
        "            let _ = id;\n            Ok(Claim { replaces: None, dies: None })", [cut("unlink")]),
    "an entry leaves while what it replaced may come back": ("claim.rs",
        "        return Some(Blocked::Settle(Arc::clone(dir)));\n    }\n    let upto",
        "    }\n    let upto", [cut("replace")]),
    "of three in a row the middle one is not buried": ("claim.rs",
        "            && !self.core.backing.keeps_name_order()\n            && let Some(blocked)",
        "            && name.len() > 999\n            && let Some(blocked)", [RARE]),
    "a pending entry leaves a committed one bare": ("rename.rs",
        "        if !source.published\n            && let Some(under)",
        "        if !source.published\n            && name.len() > 999\n            && let Some(under)", [cut("replace")]),
    "an open file is renamed over another with its old content": ("rename.rs",
        "        (true, true) => MoveNow::WithCommit,", "        (true, true) => MoveNow::Yes,", [cut("replace open")]),
    "a closed file is renamed before it is committed": ("rename.rs",
        "        (true, false) => MoveNow::AfterCommit,", "        (true, false) => MoveNow::Yes,", [CUTS]),
    "a sidecar is not synced": ("tree.rs",
        '        temp.sync().attempt("sync a sidecar")?;\n', "", [cut("long names")]),
    "a sidecar's name is not synced": ("tree.rs",
        '            .sync_arrivals(fd)\n            .attempt("sync a sidecar\'s name")', '            .stat(fd, crate::backing::At::This)\n'
        '            .map(drop)\n            .attempt("sync a sidecar\'s name")', [cut("long names")]),
    # ---- attributes
    "fsync syncs no attributes": ("commit.rs",
        "        self.sync_attr(node)?;\n        self.sync_path(node)\n", "        self.sync_path(node)\n",
        [lib("store::tests::xattrs")]),
    "fsync of a directory syncs no attributes": ("commit.rs",
        "        self.sync_attr(dir)?;\n", "", [lib("store::tests::xattrs")]),
    "a side object is not synced": ("sides.rs",
        "            file.sync()?;\n            self.backing.rename(&self.tmp", "            self.backing.rename(&self.tmp",
        [lib("store::tests::sides")]),
    "a side object's name is not synced": ("sides.rs",
        '        self.backing.sync_arrivals(&self.xattrs).attempt("sync .akasha/xattrs")\n', "        Ok(())\n",
        [lib("store::tests::sides")]),
    "a side object goes before the reference to the next one is durable": ("sides.rs",
        "        self.sync_attr(node)?;\n        self.sync_path(node)?;\n        if work.inline",
        "        self.sync_path(node)?;\n        if work.inline", [lib("store::tests::sides")]),
    "a side object goes before the version without it is durable": ("sides.rs",
        "        self.sync_attr(node)?;\n        self.sync_path(node)?;\n        if work.inline",
        "        self.sync_attr(node)?;\n        if work.inline", [lib("store::tests::sides")]),
    "what a side object took the place of may come back": ("sides.rs",
        "            self.sync_attr(node)?;\n            node.put_backing", "            node.put_backing", [lib("store::tests::sides")]),
    # ---- vault.toml
    "a new vault's name is not synced": ("vault.rs",
        '    backing.sync_dir(&root).attempt("sync the vault\'s directory")?;\n', "", [VAULT]),
    "a new vault.toml is not synced": ("vault.rs",
        '    file.sync().attempt("sync vault.toml")?;\n', "", [VAULT]),
    "the names in a new vault are not synced": ("vault.rs",
        '    file.sync().attempt("sync vault.toml")?;\n    backing.sync_dir(control).attempt("sync the control directory")',
        '    file.sync().attempt("sync vault.toml")', [VAULT]),
    "passwd does not sync vault.toml": ("vault.rs",
        '    file.sync().attempt("sync the new vault.toml")?;\n', "", [VAULT]),
    "passwd does not sync the name of vault.toml": ("vault.rs",
        '        .attempt("publish the new vault.toml")?;\n    backing.sync_dir(control).attempt("sync the control directory")',
        '        .attempt("publish the new vault.toml")', [VAULT]),
    # ---- exchange of names
    "an intent is not synced": ("intent.rs",
        '        temp.sync().attempt("sync an intent")?;\n', "", [cut("exchange")]),
    "an intent's name is not synced": ("intent.rs",
        '        core.backing.sync_arrivals(&core.control).attempt("sync an intent\'s name")', "        Ok(())", [EXCHANGE]),
    "an intent's removal is not synced": ("intent.rs",
        '        core.backing.sync_dir(&core.control).attempt("sync an intent\'s removal")', "        Ok(())",
        [EXCHANGE]),
    "an intent is not finished by the next mount": ("recover.rs",
        "    Intent::replay(backing, dirs)?;\n", "", [cut("exchange")]),
    "a mount finishes an exchange and does not sync the names": ("intent.rs",
        '        backing.sync_dir(&from).attempt("sync a directory")?;\n        backing.sync_dir(&to).attempt("sync a directory")?;\n', "",
        [EXCHANGE]),
    "an intent is removed before what it says is durable": ("rename.rs",
        '            let synced = core.backing.sync_dir(fd).attempt("sync a directory");',
        "            let synced: Result<()> = Ok(drop(fd));", [cut("exchange")]),
    "an exchange syncs no names of its files": ("rename.rs",
        "                self.sync_path(node.inode())?;\n            }\n            for dir in [dir, to_dir]",
        "            }\n            for dir in [dir, to_dir]", [lib("store::tests::mishaps")]),
    "an exchange takes names whose dead may come back": ("rename.rs",
        "                || !bare\n", "", [EXCHANGE]),
    "a whiteout is not durable": ("special.rs",
        "        self.fsync_dir(dir)?;\n        self.fsync_dir(to_dir)", "        let _ = dir;\n        self.fsync_dir(to_dir)",
        [lib("store::tests::special")]),
    # ---- hard links
    "names of a linked file appear before the file is durable": ("publish_names.rs",
        "self.sync_layer_names().and_then(|()| self.sync_inode_names())", "self.sync_layer_names()", [LINKS]),
    "the last durable name of a file may go": ("names.rs",
        "            return Some(Blocked::Commit(node));\n        }\n        for (dir, change)",
        "        }\n        for (dir, change)", [LINKS]),
    "a name goes before another one is durable": ("names.rs",
        "                return Some(Blocked::Sync(dir, change));\n", "                let _ = change;\n", [LINKS]),
    "a removed name elsewhere may lead nowhere": ("gone_names.rs",
        "                state.sync_before(&other, change);\n", "", [LINKS]),
    # ---- the next mount
    "temporary files are not swept": ("recover.rs",
        '            backing.unlink(&dirs.tmp, &raw.name).attempt("sweep .akasha/tmp")?;\n', "", [CUTS]),
    "half an exchange of layers, and orphans, are not removed": ("recover.rs",
        '            backing.unlink(&dirs.layers, &name).attempt("remove an orphaned layer")?;\n', "", [cut("mapped")]),
    "what a killed daemon left is not made durable first": ("mod.rs",
        "                sync_all::sync_all_names(&*backing, &dirs)?;\n", "", [lib("store::tests::what_a_killed")]),
    "orphans are removed before what makes them so is durable": ("recover.rs",
        "    sync_all_names(backing, dirs)?;\n", "    let _ = sync_all_names::<B>;\n", [lib("store::tests::the_hunt")]),
    "what a cut left in two places may come back": ("doubles.rs",
        "        sync_all_names(backing, dirs)?;\n", "        let _ = sync_all_names::<B>;\n",
        [lib("store::tests::doubles")]),
    "orphans are not looked for": ("mod.rs",
        "                hidden = recover::hunt(&*backing, &dirs, &keys)?;\n", "", [cut("mapped")]),
    "what a cut left in two places stays": ("mod.rs",
        "                doubles::settle(&*backing, &dirs, &keys)?;\n", "", [CUTS]),
    "the mark of a clean end may come back": ("lock.rs",
        '            backing.sync_dir(control).attempt("sync .akasha")?;\n', "",
        [lib("store::tests::the_mark")]),
    "a clean end syncs no names": ("mod.rs",
        "if let Err(error) = self.core.sync_all_names() {", "if let Err(error) = Ok::<(), StoreError>(()) {", [lib("store::tests")]),
    # ---- faults
    "a failed sync of a layer is tried again": ("commit.rs",
        "                    self.sync_failed(work.node, &mut work.guard);\n                    first_error.get_or_insert(error);"
        "\n                    false",
        "                    first_error.get_or_insert(error);\n                    false", [FAULTS]),
    "names are synced all at once and nothing is changed before": ("sync_all.rs",
        "    touch(backing, tmp)?;\n", "", [lib("store::tests::faults")]),
    "names in a directory are synced and nothing is changed before": ("dir.rs",
        "        core.touch()?;\n", "", [lib("store::tests::faults")]),
    "attributes are synced and nothing is changed before": ("xattr.rs",
        "        core.touch()?;\n", "", [lib("store::tests::faults")]),
    "a syncfs that failed is not counted": ("sync_all.rs",
        "        if synced.is_err() {", "        if synced.is_err() && self.options.max_mappings == 1 {", [lib("store::tests::faults")]),
    "a layer takes no notice of a syncfs that failed": ("temp.rs",
        "        if synced_all && no_sync_failed() {\n", "        if synced_all {\n",
        [lib("store::tests::faults")]),
    "a layer whose descriptor was given back believes its own sync": ("temp.rs",
        "                self.core.sync_all()?;\n", '                self.file()?.sync().attempt("sync a layer")?;\n',
        [lib("store::tests::faults")]),
    "a layer whose descriptor was given back believes a later syncfs": ("temp.rs",
        "let no_sync_failed = || self.failed_syncs == self.core.failed_syncs();\n        if synced_all && no_sync_failed() {",
        "let no_sync_failed = || true;\n        if synced_all && self.failed_syncs == self.core.failed_syncs() {", [lib("store::tests::faults")]),
    "a stub takes no notice of a syncfs that failed": ("publish_names.rs",
        "if synced_all && self.failed_syncs == core.failed_syncs() {", "if synced_all {", [lib("store::tests::faults")]),
    "names in many directories are lost with failed syncfs calls": ("durable.rs",
        "            && let Err(error) = self.sync_dirs_together(&dirs)\n",
        "            && let Err(error) = Ok::<(), super::error::StoreError>(self.sync_dirs_together(&dirs)?)\n",
        [lib("store::tests::faults")]),
    "what is lost is not told": ("commit.rs",
        "        if node.file()?.state.read().lost {\n            return Err(StoreError::Lost);\n        }\n"
        "        if self.core.options.read_only {", "        if self.core.options.read_only {",
        [lib("store::tests::faults")]),
    "a failed sync of names is forgotten": ("gate.rs",
        "            Err(_) => state.failed = true,", "            Err(_) => {}", [lib("store::gate"), FAULTS]),
    "a failed look at .akasha/inodes is an answer": ("names.rs",
        "        !found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)", "        found.is_ok()",
        [lib("store::tests::faults")]),
    "a failed count of names is an answer": ("names.rs",
        "!self.stub_links(inode).is_ok_and(|links| links < 2)", "self.stub_links(inode).is_ok_and(|links| links > 1)",
        [lib("store::tests::faults")]),
    "a failed look for an intent's entry is an answer": ("intent.rs",
        "            _ => Err(error),\n", "            _ => Ok(None),\n", [MOUNTS]),
    # ---- a full disk
    "the reserve is never given up": ("reserve.rs",
        "        if !std::mem::take(&mut *held) {", "        if *held || !*held {", [lib("store::tests::full_disk")]),
    "on a full disk layers are folded as ever": ("finish.rs",
        "    if core.is_short.load(Ordering::Relaxed) && live", "    if core.is_short.load(Ordering::Relaxed) && live.len() > 999 && live",
        [lib("store::tests::full_disk")]),
    # ---- rescue copies
    "a single rescue copy is not synced": ("rescue.rs",
        "if sync { file.sync() } else { Ok(()) }", "if sync && file.stat()?.len == 0 { file.sync() } else { Ok(()) }", [RESCUE]),
    "many rescue copies are not synced": ("rescue.rs",
        "core.sync_all().is_err() || core.failed_syncs() != failed_syncs", "core.failed_syncs() != failed_syncs", [RESCUE]),
    "a rescue copy changes the times of its directory": ("rescue.rs",
        "dir.hold_times(core, &mut state).map(|()| fd)", "{ let _ = &mut state; Ok(fd) }", [RESCUE]),
    "a rescue copy takes the last room": ("rescue.rs", " || !has_room(core)", "", [RESCUE]),
    "a full disk leaves directories without rescue copies": ("rescue.rs",
        "if error.is_full() {", "if error.is_full() && dir.id().get() == 0 {", [RESCUE]),
    "a moved directory keeps its rescue copy": ("rename.rs",
        "        self.note_rescue(node);\n        self.note_moved_dir", "        self.note_moved_dir", [RESCUE]),
    "exchanged directories keep their rescue copies": ("rename.rs",
        "            self.note_rescue(node);\n            self.note_recent", "            self.note_recent", [RESCUE]),
    "what stands in a rescue copy's place keeps a directory": ("tree.rs",
        "            NameClass::Rescue => remove_tree(core, &inside, &raw.name)?,\n",
        "            NameClass::Rescue if raw.kind == FileKind::File => remove_tree(core, &inside, &raw.name)?,\n", [RESCUE]),
    "a rescue copy of another directory is no finding": ("check/rescue.rs",
        "if copy.id != here.id {", "if copy.id != here.id && copy.stamp == 0 {", [RESCUE]),
    "a rescue copy with a former name is no finding": ("check/rescue.rs",
        "(!is_current).then", "(!is_current && copy.stamp == 0).then", [RESCUE]),
    "a rescue copy is believed without a witness": ("repair/nameless.rs",
        "if witnesses > 0 || !listing.iter().any(has_names) {", "if witnesses > 0 || listing.iter().any(has_names) {", [RESCUE]),
    "a rescue copy below is no witness": ("repair/nameless.rs",
        ".is_some_and(|copy| copy.parent == id)", ".is_some_and(|copy| copy.parent == id && copy.stamp == 0)", [RESCUE]),
    "an id is given that another directory has": ("repair/plan.rs",
        "if named.contains_key(&id) || (has_inode", "if (has_inode", [RESCUE]),
    "an id is given that a directory has below one without a name": ("repair/nameless.rs",
        "                    && !is_control\n", "                    && !is_control\n                    && here.id.get() == 0\n", [RESCUE]),
    "an id goes to whoever claims it first": ("repair/plan.rs",
        "        self.nameless.sort_by_key(|nameless| Reverse(nameless.witnesses));\n",
        "        self.nameless.sort_by_key(|nameless| nameless.witnesses);\n", [RESCUE]),
    "a name is given back that is taken": ("repair/write.rs",
        "(is_free && self.given.insert(", "((is_free || !is_free) && self.given.insert(", [RESCUE]),
    "a name is given back in another place": ("repair/write.rs",
        "filter(|dir| dir.id() == copy.parent)?;", "filter(|dir| dir.id() == copy.parent || copy.stamp > 0)?;", [RESCUE]),
    "what stands in a rescue copy's place is not kept": ("repair/rescue.rs",
        "if self.is_foreign\n", "if self.is_foreign && stamp == 0\n", [RESCUE]),
    # ---- a repair
    "a repair does not sync a sidecar": ("repair/moves.rs",
        '        temp.sync().attempt("sync a sidecar")?;\n', "", [REPAIR]),
    "a repair does not sync a sidecar's name": ("repair/moves.rs",
        '        self.backing.sync_dir(dir).attempt("sync a sidecar\'s name")', "        Ok(())", [REPAIR]),
    "a repair ends before all is durable": ("repair/mod.rs",
        "            sync_all_names(&**backing, &dirs)?;\n", "", [REPAIR]),
    "a round of a repair ends before all is durable": ("repair/mod.rs",
        "        sync_all_names(&**self.backing, dirs)?;\n        Ok(deeds)", "        Ok(deeds)", [REPAIR]),
    "a repair does not sync a stub": ("repair/links.rs",
        '    file.sync().attempt("sync a stub")?;\n', "", [REPAIR]),
    "a repair links a new stub while the old one may come back": ("repair/links.rs",
        '        _ => backing.sync_dir(&dirs.inodes).attempt("sync .akasha/inodes")?,', '        _ => {}', [REPAIR]),
    "a repair replaces a name before what it keeps of it is durable": ("repair/links.rs",
        '            backing.sync_dir(lost_found).attempt("sync lost+found")?;\n', "", [REPAIR]),
    "a repair counts names by a stub before they are durable": ("repair/links.rs",
        "    sync_all_names(backing, dirs)?;\n", "    let _ = sync_all_names::<B>;\n", [REPAIR]),
    "a repair does not sync a stub's name": ("repair/links.rs",
        '    backing.sync_dir(&dirs.inodes).attempt("sync .akasha/inodes")?;\n    Ok(true)', "    Ok(true)", [REPAIR]),
}


def text_of(name):
    return (ROOT / STORE / name).read_text(encoding="utf-8")


def complaints():
    found = []
    for name, (file, old, _, _) in MUTANTS.items():
        count = text_of(file).count(old)
        if count != 1:
            found.append(f"{name}: its text is {count} times in {STORE}{file}")
    return found


def run(tests, log):
    """Whether all of `tests` pass."""
    for target, words, *script in tests:
        choice = ["--lib"] if target == "lib" else ["--test", target]
        command = ["cargo", "test", "--offline", "--quiet", "--locked", *choice, words]
        variables = {**os.environ, "CARGO_TARGET_DIR": str(PLACE / "target"), "AKASHA_STOP": "1", "AKASHA_REPAIR_CUTS": "all"}
        if script:
            variables["AKASHA_SCRIPT"] = script[0]
        try:
            done = subprocess.run(command, cwd=PLACE / "source", env=variables, stdin=subprocess.DEVNULL, stdout=log,
                                  stderr=log, timeout=PATIENCE_SECS, check=False)
        except subprocess.TimeoutExpired:
            return f"{' '.join([target, words, *script])} (does not end)"
        if done.returncode != 0:
            # Anything else that fails, as a mutant that does not compile or a package that is missing, notices nothing.
            failures = (PLACE / "log").read_bytes()
            assert FAILED.search(failures), f"the tests of this mutant did not run: see {PLACE}/log"
            return " ".join([target, words, *script]).strip()
    return None


def copy():
    """The source as it is now, below target/mutants."""
    source = PLACE / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    for part in ["src", "tests", "docs", "scripts", "vendor"]:
        shutil.copytree(ROOT / part, source / part)
    for part in ["Cargo.toml", "Cargo.lock", "README.md"]:
        shutil.copy(ROOT / part, source / part)
    if (ROOT / "benches").exists():
        shutil.copytree(ROOT / "benches", source / "benches")
    return source


def main(words):
    found = complaints()
    if found:
        print("\n".join(found))
        return 1
    if words[:1] == ["--check"]:
        return 0
    names = list(MUTANTS)
    if words[:1] == ["--from"]:
        names = names[names.index(words[1]):]
    elif words:
        names = words
    source = copy()
    subprocess.run(["cargo", "fetch", "--quiet", "--locked"], cwd=source, check=True)
    survivors = []
    for name in names:
        file, old, new, tests = MUTANTS[name]
        begun = time.monotonic()
        original = text_of(file)
        (source / STORE / file).write_text(original.replace(old, new), encoding="utf-8")
        with open(PLACE / "log", "wb") as log:
            try:
                killer = run(tests, log) or run(EVERYTHING, log)
            except AssertionError as error:
                killer = None
                print(error)
        (source / STORE / file).write_text(original, encoding="utf-8")
        took = time.monotonic() - begun
        if killer is None:
            survivors.append(name)
        print(f"| {name} | {killer or 'SURVIVES'} | {took:.0f} s", flush=True)
    print(f"{len(names)} mutants, {len(survivors)} survive: {survivors}")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
