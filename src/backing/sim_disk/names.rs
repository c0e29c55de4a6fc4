//! Changes of names in the tree of a simulated disk, and what makes them and all else safe.

use std::io;

use super::log::{Edit, Item};
use super::tree::{Body, CHANGE_NAMES, HardLinks, Ino, Tree, WRITE, errno};
use crate::backing::RenameMode;
use crate::clock::Timestamp;

impl Tree {
    /// The checks that precede every new name in `dir`.
    fn check_new_name(&self, dir: Ino, name: &[u8]) -> io::Result<()> {
        match self.lookup(dir, name) {
            Ok(_) => Err(errno(libc::EEXIST)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.check_dir(dir),
            Err(error) => Err(error),
        }
    }

    /// Names change only in a directory that still has one itself, and that allows it.
    fn check_dir(&self, dir: Ino) -> io::Result<()> {
        if self.inode(dir).names == 0 {
            return Err(errno(libc::ENOENT));
        }
        self.may(dir, CHANGE_NAMES)
    }

    pub(super) fn create(
        &mut self,
        dir: Ino,
        name: &[u8],
        body: Body,
        mode: u32,
        now: Timestamp,
    ) -> io::Result<Ino> {
        self.check_new_name(dir, name)?;
        if matches!(body, Body::Dir(_)) {
            if self.free_pages() == 0 {
                return Err(errno(libc::ENOSPC));
            }
            self.used_pages += 1;
        }
        let ino = self.insert(body, mode & 0o7777, now);
        self.log.begin();
        self.change(now, vec![edit(dir, name, Some(ino))], Vec::new());
        Ok(ino)
    }

    pub(super) fn link(
        &mut self,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        now: Timestamp,
    ) -> io::Result<()> {
        let ino = self.lookup(from.0, from.1)?;
        self.check_new_name(to.0, to.1)?;
        if self.is_dir(ino) || self.hard_links == HardLinks::None {
            return Err(errno(libc::EPERM));
        }
        let inode = self.inode_mut(ino);
        inode.names += 1;
        inode.attr.ctime = now;
        self.log.begin();
        self.change(now, vec![edit(to.0, to.1, Some(ino))], Vec::new());
        Ok(())
    }

    pub(super) fn unlink(&mut self, dir: Ino, name: &[u8], now: Timestamp) -> io::Result<()> {
        let ino = self.lookup(dir, name)?;
        self.check_dir(dir)?;
        if self.is_dir(ino) {
            return Err(errno(libc::EISDIR));
        }
        self.log.begin();
        self.change(now, vec![edit(dir, name, None)], Vec::new());
        self.drop_name(ino, now);
        Ok(())
    }

    pub(super) fn rmdir(&mut self, dir: Ino, name: &[u8], now: Timestamp) -> io::Result<()> {
        let ino = self.lookup(dir, name)?;
        self.check_dir(dir)?;
        if !self.is_dir(ino) {
            return Err(errno(libc::ENOTDIR));
        }
        if !self.names(ino).now.is_empty() {
            return Err(errno(libc::ENOTEMPTY));
        }
        self.log.begin();
        let needs = self.log.in_dir(ino);
        self.change(now, vec![edit(dir, name, None)], needs);
        self.drop_name(ino, now);
        Ok(())
    }

    pub(super) fn rename(
        &mut self,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
        now: Timestamp,
    ) -> io::Result<()> {
        let source = self.lookup(from.0, from.1)?;
        let target = match self.lookup(to.0, to.1) {
            Ok(target) => Some(target),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        // In the order of the kernel (do_renameat2, vfs_rename): existence, ancestry, permission.
        match (mode, target) {
            (RenameMode::Exchange, _) if !self.has_exchange => return Err(errno(libc::EINVAL)),
            (RenameMode::Exchange, None) => return Err(errno(libc::ENOENT)),
            (RenameMode::NoReplace, Some(_)) => return Err(errno(libc::EEXIST)),
            _ => {}
        }
        if self.is_dir(source) && self.leads_to(source, to.0) {
            return Err(errno(libc::EINVAL));
        }
        if target.is_some_and(|target| self.is_dir(target) && self.leads_to(target, from.0)) {
            let is_exchange = mode == RenameMode::Exchange;
            return Err(errno(if is_exchange { libc::EINVAL } else { libc::ENOTEMPTY }));
        }
        // Two names of one file: rename(2) does nothing.
        if target == Some(source) {
            return Ok(());
        }
        self.check_dir(from.0)?;
        self.check_dir(to.0)?;
        if self.is_dir(source) && from.0 != to.0 {
            // Its `..` changes.
            self.may(source, WRITE)?;
        }
        match (mode, target) {
            (RenameMode::Exchange, Some(target)) => {
                self.exchange(from, source, to, target, now);
                Ok(())
            }
            (_, target) => self.move_over(from, source, to, target, now),
        }
    }

    fn exchange(
        &mut self,
        from: (Ino, &[u8]),
        source: Ino,
        to: (Ino, &[u8]),
        target: Ino,
        now: Timestamp,
    ) {
        self.log.begin();
        let mut edits = vec![edit(to.0, to.1, Some(source)), edit(from.0, from.1, Some(target))];
        let moves_dir = from.0 != to.0 && (self.is_dir(source) || self.is_dir(target));
        if self.tears_renames {
            let second = edits.split_off(1);
            self.change(now, edits, Vec::new());
            self.change(now, second, Vec::new());
        } else {
            let needs = if moves_dir { self.log.order_dir_move() } else { Vec::new() };
            self.change(now, edits, needs);
        }
        for ino in [source, target] {
            self.inode_mut(ino).attr.ctime = now;
        }
    }

    fn move_over(
        &mut self,
        from: (Ino, &[u8]),
        source: Ino,
        to: (Ino, &[u8]),
        target: Option<Ino>,
        now: Timestamp,
    ) -> io::Result<()> {
        let mut needs = Vec::new();
        if let Some(target) = target {
            match (self.is_dir(source), self.is_dir(target)) {
                (true, false) => return Err(errno(libc::ENOTDIR)),
                (false, true) => return Err(errno(libc::EISDIR)),
                (true, true) if !self.names(target).now.is_empty() => {
                    return Err(errno(libc::ENOTEMPTY));
                }
                (true, true) => needs = self.log.in_dir(target),
                (false, false) => {}
            }
        }
        self.log.begin();
        let add = edit(to.0, to.1, Some(source));
        let remove = edit(from.0, from.1, None);
        if self.tears_renames {
            self.change(now, vec![remove], Vec::new());
            self.change(now, vec![add], needs);
        } else if from.0 == to.0 {
            self.change(now, vec![add, remove], needs);
        } else if self.is_dir(source) {
            needs.extend(self.log.order_dir_move());
            self.change(now, vec![add, remove], needs);
        } else {
            let added = self.change(now, vec![add], needs);
            self.change(now, vec![remove], vec![added]);
        }
        self.inode_mut(source).attr.ctime = now;
        if let Some(target) = target {
            self.drop_name(target, now);
        }
        Ok(())
    }

    /// Whether `dir` is `top` or beneath it.
    fn leads_to(&self, top: Ino, dir: Ino) -> bool {
        let children = || self.names(top).now.values().filter(|child| self.is_dir(**child));
        top == dir || children().any(|child| self.leads_to(*child, dir))
    }

    /// Makes a change visible and notes it as pending.
    fn change(&mut self, now: Timestamp, edits: Vec<Edit>, needs: Vec<u64>) -> u64 {
        for edit in &edits {
            let names = &mut self.names_mut(edit.dir).now;
            match edit.to {
                Some(ino) => names.insert(edit.name.clone(), ino),
                None => names.remove(&edit.name),
            };
            let attr = &mut self.inode_mut(edit.dir).attr;
            (attr.mtime, attr.ctime) = (now, now);
        }
        self.log.push(now, edits, needs)
    }

    pub(super) fn drop_name(&mut self, ino: Ino, now: Timestamp) {
        let inode = self.inode_mut(ino);
        inode.names -= 1;
        inode.attr.ctime = now;
        self.release(ino);
    }

    // ---- what becomes safe -----------------------------------------------------------------

    /// fsync of a file: its bytes and attributes, and on some filesystems more.
    pub(super) fn sync_file(&mut self, ino: Ino) {
        self.bytes_mut(ino).sync();
        self.settle_attr(ino);
        self.log_inode(ino);
        self.log.commit_journal();
    }

    /// fsync of a directory: its names and attributes, and on some filesystems more.
    pub(super) fn sync_dir(&mut self, dir: Ino) {
        self.sync_names(dir, self.log.in_dir(dir));
    }

    /// As [`Tree::sync_dir`], without the names that only went.
    pub(super) fn sync_arrivals(&mut self, dir: Ino) {
        self.sync_names(dir, self.log.arrivals_in_dir(dir));
    }

    fn sync_names(&mut self, dir: Ino, items: Vec<u64>) {
        let settled = self.log.settle(items);
        self.make_safe(&settled);
        self.settle_attr(dir);
        self.log_inode(dir);
        self.log.commit_journal();
    }

    /// syncfs: everything.
    pub(super) fn sync_all(&mut self) {
        let all: Vec<u64> = self.log.items().keys().copied().collect();
        let settled = self.log.settle(all);
        self.make_safe(&settled);
        for inode in self.inodes.values_mut() {
            inode.safe_attr = inode.attr.clone();
            inode.pending_attr.clear();
            if let Body::File(bytes) = &mut inode.body {
                bytes.sync();
            }
        }
        self.log.commit_journal();
    }

    /// A failed syncfs: no file's pending bytes will be written any more.
    pub(super) fn lose_all_pending(&mut self) {
        let all: Vec<Ino> = self.inodes.keys().copied().collect();
        for ino in all {
            self.lose_pending(ino);
        }
    }

    fn settle_attr(&mut self, ino: Ino) {
        let inode = self.inode_mut(ino);
        inode.safe_attr = inode.attr.clone();
        inode.pending_attr.clear();
    }

    /// Applies settled items to the safe tree.
    fn make_safe(&mut self, items: &[Item]) {
        for item in items {
            for edit in &item.edits {
                // A directory that was removed since may be forgotten already.
                let Some(inode) = self.inodes.get_mut(&edit.dir) else { continue };
                if let Body::Dir(names) = &mut inode.body {
                    match edit.to {
                        Some(ino) => names.safe.insert(edit.name.clone(), ino),
                        None => names.safe.remove(&edit.name),
                    };
                }
            }
        }
    }

    /// A filesystem that logs single inodes (btrfs) makes the inode's names and all its new
    /// ancestors safe with it.
    fn log_inode(&mut self, ino: Ino) {
        let mut open = vec![ino];
        let mut wanted = Vec::new();
        while let Some(ino) = open.pop() {
            for number in self.log.naming(ino) {
                let Some(item) = self.log.items().get(&number) else { continue };
                for edit in &item.edits {
                    let is_current = self.names(edit.dir).now.get(&edit.name) == Some(&ino);
                    if edit.to == Some(ino) && is_current && !wanted.contains(&number) {
                        wanted.push(number);
                        open.push(edit.dir);
                    }
                }
            }
        }
        let closed = self.log.closure(wanted);
        self.log.log_inode(closed);
    }
}

fn edit(dir: Ino, name: &[u8], to: Option<Ino>) -> Edit {
    Edit { dir, name: name.to_vec(), to }
}
