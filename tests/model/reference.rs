//! The model: a tree in memory that does what POSIX says and knows nothing of disks.
//!
//! A refusal is the list of error numbers that would be right: where several rules are broken at once,
//! no page says which one is named.

use std::collections::BTreeMap;

use akasha::clock::Timestamp;
use akasha::format::EntryKind;

use super::op::Mode;

/// A node's index in the model; never reused.
pub type NodeIndex = usize;
pub type Refusal = Vec<i32>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    File(Vec<u8>),
    Dir(BTreeMap<Vec<u8>, NodeIndex>),
    Symlink(Vec<u8>),
    /// The kind and the device's number.
    Special(EntryKind, u64),
}

#[derive(Clone, Debug)]
pub struct RefNode {
    pub body: Body,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Where it was set by hand and nothing has changed it since.
    pub mtime: Option<Timestamp>,
    /// Of a directory.
    pub parent: NodeIndex,
    /// Names; not counted of directories.
    pub links: u32,
    /// It was made without a name and may get one.
    may_be_named: bool,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

pub const ROOT: NodeIndex = 0;

/// See the module's text.
pub struct Reference {
    nodes: Vec<RefNode>,
}

pub fn check_name(name: &[u8]) -> Result<(), Refusal> {
    if name.len() > 255 { Err(vec![libc::ENAMETOOLONG]) } else { Ok(()) }
}

impl Reference {
    pub fn new() -> Self {
        let root = RefNode {
            body: Body::Dir(BTreeMap::new()),
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: None,
            parent: ROOT,
            links: 1,
            may_be_named: false,
            xattrs: BTreeMap::new(),
        };
        Reference { nodes: vec![root] }
    }

    pub fn node(&self, index: NodeIndex) -> &RefNode {
        &self.nodes[index]
    }

    pub fn node_mut(&mut self, index: NodeIndex) -> &mut RefNode {
        &mut self.nodes[index]
    }

    pub fn entries(&self, dir: NodeIndex) -> &BTreeMap<Vec<u8>, NodeIndex> {
        match &self.nodes[dir].body {
            Body::Dir(entries) => entries,
            other => panic!("not a directory: {other:?}"),
        }
    }

    /// The entries, to change them: the directory's time moves.
    fn change(&mut self, dir: NodeIndex) -> &mut BTreeMap<Vec<u8>, NodeIndex> {
        let node = &mut self.nodes[dir];
        node.mtime = None;
        match &mut node.body {
            Body::Dir(entries) => entries,
            other => panic!("not a directory: {other:?}"),
        }
    }

    fn is_dir(&self, index: NodeIndex) -> bool {
        matches!(self.nodes[index].body, Body::Dir(_))
    }

    fn is_empty_dir(&self, index: NodeIndex) -> bool {
        self.is_dir(index) && self.entries(index).is_empty()
    }

    /// Every directory that has a path, the root first, with the path.
    pub fn dirs(&self) -> Vec<(NodeIndex, Vec<Vec<u8>>)> {
        let mut found = vec![(ROOT, Vec::new())];
        let mut at = 0;
        while at < found.len() {
            let (dir, path) = found[at].clone();
            for (name, &child) in self.entries(dir) {
                if self.is_dir(child) {
                    let mut path = path.clone();
                    path.push(name.clone());
                    found.push((child, path));
                }
            }
            at += 1;
        }
        found
    }

    pub fn lookup(&self, dir: NodeIndex, name: &[u8]) -> Result<NodeIndex, Refusal> {
        check_name(name)?;
        self.entries(dir).get(name).copied().ok_or_else(|| vec![libc::ENOENT])
    }

    pub fn make(
        &mut self,
        dir: NodeIndex,
        name: &[u8],
        body: Body,
        mode: u32,
    ) -> Result<NodeIndex, Refusal> {
        check_name(name)?;
        if self.entries(dir).contains_key(name) {
            return Err(vec![libc::EEXIST]);
        }
        let index = self.make_nameless(dir, body, mode, false);
        self.nodes[index].links = 1;
        self.change(dir).insert(name.to_vec(), index);
        Ok(index)
    }

    /// A node that inherits from `dir` and has no name.
    pub fn make_nameless(
        &mut self,
        dir: NodeIndex,
        body: Body,
        mode: u32,
        may_be_named: bool,
    ) -> NodeIndex {
        let parent = &self.nodes[dir];
        let inherits = parent.mode & 0o2000 != 0;
        let node = RefNode {
            mode: mode | if inherits && matches!(body, Body::Dir(_)) { 0o2000 } else { 0 },
            uid: 0,
            gid: if inherits { parent.gid } else { 0 },
            mtime: None,
            parent: dir,
            links: 0,
            may_be_named,
            xattrs: BTreeMap::new(),
            body,
        };
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    pub fn unlink(&mut self, dir: NodeIndex, name: &[u8]) -> Result<(), Refusal> {
        let node = self.lookup(dir, name)?;
        if self.is_dir(node) {
            return Err(vec![libc::EISDIR, libc::EPERM]);
        }
        self.change(dir).remove(name);
        self.nodes[node].links -= 1;
        Ok(())
    }

    pub fn link(
        &mut self,
        node: NodeIndex,
        dir: NodeIndex,
        name: &[u8],
    ) -> Result<NodeIndex, Refusal> {
        check_name(name)?;
        let mut wrong = Vec::new();
        if self.entries(dir).contains_key(name) {
            wrong.push(libc::EEXIST);
        }
        if self.is_dir(node) {
            wrong.push(libc::EPERM);
        } else if self.nodes[node].links == 0 && !self.nodes[node].may_be_named {
            wrong.push(libc::ENOENT);
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        self.nodes[node].may_be_named = false;
        self.change(dir).insert(name.to_vec(), node);
        self.nodes[node].links += 1;
        Ok(node)
    }

    pub fn rmdir(&mut self, dir: NodeIndex, name: &[u8]) -> Result<(), Refusal> {
        let node = self.lookup(dir, name)?;
        if !self.is_dir(node) {
            return Err(vec![libc::ENOTDIR]);
        }
        if !self.is_empty_dir(node) {
            return Err(vec![libc::ENOTEMPTY, libc::EEXIST]);
        }
        self.change(dir).remove(name);
        Ok(())
    }

    /// Whether `dir` is `above` or beneath it.
    fn is_beneath(&self, dir: NodeIndex, above: NodeIndex) -> bool {
        let mut at = dir;
        loop {
            if at == above {
                return true;
            }
            if at == ROOT {
                return false;
            }
            at = self.nodes[at].parent;
        }
    }

    pub fn rename(
        &mut self,
        from: (NodeIndex, &[u8]),
        to: (NodeIndex, &[u8]),
        mode: Mode,
    ) -> Result<(), Refusal> {
        let mut wrong = Vec::new();
        let moved = self.lookup(from.0, from.1);
        let target = self.lookup(to.0, to.1);
        wrong.extend(moved.as_ref().err().into_iter().flatten());
        let too_long = check_name(to.1).err();
        wrong.extend(too_long.iter().flatten());
        if let Ok(moved) = moved
            && self.is_dir(moved)
            && self.is_beneath(to.0, moved)
        {
            wrong.push(libc::EINVAL);
        }
        match (&target, mode) {
            (Ok(_), Mode::NoReplace) => wrong.push(libc::EEXIST),
            (Err(why), Mode::Exchange) => wrong.extend(why),
            (Ok(target), Mode::Exchange)
                if self.is_dir(*target) && self.is_beneath(from.0, *target) =>
            {
                wrong.push(libc::EINVAL);
            }
            (Ok(target), Mode::Replace | Mode::Whiteout)
                if moved.as_ref().is_ok_and(|moved| moved != target) =>
            {
                let moves_dir = moved.as_ref().is_ok_and(|&moved| self.is_dir(moved));
                match (moves_dir, self.is_dir(*target)) {
                    (true, false) => wrong.push(libc::ENOTDIR),
                    (false, true) => {
                        wrong.push(libc::EISDIR);
                        // The kernel sees an ancestor of the source before it looks at kinds.
                        if self.is_beneath(from.0, *target) {
                            wrong.push(libc::ENOTEMPTY);
                        }
                    }
                    (true, true) if !self.is_empty_dir(*target) => {
                        wrong.extend([libc::ENOTEMPTY, libc::EEXIST]);
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let moved = moved?;
        if target.as_ref() == Ok(&moved) {
            return Ok(());
        }
        if let (Ok(target), Mode::Replace | Mode::Whiteout) = (&target, mode)
            && !self.is_dir(*target)
        {
            self.nodes[*target].links -= 1;
        }
        self.change(from.0).remove(from.1);
        self.change(to.0).insert(to.1.to_vec(), moved);
        if self.is_dir(moved) {
            self.nodes[moved].parent = to.0;
        }
        if let (Ok(target), Mode::Exchange) = (target, mode) {
            self.change(from.0).insert(from.1.to_vec(), target);
            if self.is_dir(target) {
                self.nodes[target].parent = from.0;
            }
        }
        if mode == Mode::Whiteout {
            self.make(from.0, from.1, Body::Special(EntryKind::CharDevice, 0), 0)?;
        }
        Ok(())
    }

    pub fn content(&self, file: NodeIndex) -> &[u8] {
        match &self.nodes[file].body {
            Body::File(content) => content,
            other => panic!("not a file: {other:?}"),
        }
    }

    /// The content, to change it: the file's time moves.
    pub fn content_mut(&mut self, file: NodeIndex) -> &mut Vec<u8> {
        let node = &mut self.nodes[file];
        node.mtime = None;
        match &mut node.body {
            Body::File(content) => content,
            other => panic!("not a file: {other:?}"),
        }
    }

    pub fn write(&mut self, file: NodeIndex, offset: u64, data: &[u8]) {
        let content = self.content_mut(file);
        let (start, end) = (offset as usize, offset as usize + data.len());
        if data.is_empty() {
            return;
        }
        if content.len() < end {
            content.resize(end, 0);
        }
        content[start..end].copy_from_slice(data);
    }

    pub fn read(&self, file: NodeIndex, offset: u64, len: u64) -> &[u8] {
        let content = self.content(file);
        let start = (offset as usize).min(content.len());
        let end = (start + len as usize).min(content.len());
        &content[start..end]
    }
}
