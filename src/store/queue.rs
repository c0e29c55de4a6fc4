//! What waits: nodes with changes to commit, directories with dead entries to remove, directories whose maps could be
//! forgotten; and the table of live nodes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::backing::Backing;
use crate::format::EntryId;

use super::node::Node;

/// Nodes and directories with work to do. Each holds its node alive.
pub(crate) struct Queue<B: Backing> {
    dirty: Mutex<HashMap<EntryId, Arc<Node<B>>>>,
    unsettled: Mutex<HashMap<EntryId, Arc<Node<B>>>>,
    /// Those of them that could not be settled: not tried again before the end.
    put_off: Mutex<Vec<Arc<Node<B>>>>,
}

impl<B: Backing> Queue<B> {
    pub fn new() -> Self {
        Queue {
            dirty: Mutex::new(HashMap::new()),
            unsettled: Mutex::new(HashMap::new()),
            put_off: Mutex::new(Vec::new()),
        }
    }

    /// `node` has something to commit.
    pub fn add(&self, node: &Arc<Node<B>>) {
        let node = node.inode();
        self.dirty.lock().entry(node.id()).or_insert_with(|| Arc::clone(node));
    }

    /// `node` has something to commit that the interval may take from `now` on.
    pub fn make_eligible(&self, node: &Arc<Node<B>>, now: Duration) {
        if let Ok(body) = node.inode().file() {
            body.state.write().eligible_since.get_or_insert(now);
        }
        self.add(node);
    }

    /// Nothing of this node waits any more.
    pub fn remove(&self, id: EntryId) {
        self.dirty.lock().remove(&id);
    }

    /// Lets go of `node` if nothing of it waits for a commit. Who changes it meanwhile adds it again.
    pub fn remove_if_done(&self, node: &Arc<Node<B>>) {
        let node = node.inode();
        let mut dirty = self.dirty.lock();
        if !node.waits() || node.is_nowhere() {
            dirty.remove(&node.id());
        }
    }

    /// Number of nodes that wait.
    pub fn len(&self) -> usize {
        self.dirty.lock().len()
    }

    /// The nodes that wait.
    pub fn dirty(&self) -> Vec<Arc<Node<B>>> {
        self.dirty.lock().values().cloned().collect()
    }

    /// `dir` has dead entries.
    pub fn unsettle(&self, dir: &Arc<Node<B>>) {
        self.unsettled.lock().entry(dir.id()).or_insert_with(|| Arc::clone(dir));
    }

    /// `dir` has none any more.
    pub fn settled(&self, dir: EntryId) {
        self.unsettled.lock().remove(&dir);
    }

    /// `dir` has dead entries that could not be removed: the end of the mount, which must not pass them over, tries once more.
    pub fn put_off(&self, dir: &Arc<Node<B>>) {
        if self.unsettled.lock().remove(&dir.id()).is_some() {
            self.put_off.lock().push(Arc::clone(dir));
        }
    }

    /// Takes up again what was put off.
    pub fn take_up(&self) {
        for dir in std::mem::take(&mut *self.put_off.lock()) {
            self.unsettle(&dir);
        }
    }

    /// The directories with dead entries.
    pub fn unsettled(&self) -> Vec<Arc<Node<B>>> {
        self.unsettled.lock().values().cloned().collect()
    }
}

/// The live nodes by id. It keeps none of them alive.
pub(crate) struct Nodes<B: Backing> {
    table: Mutex<Table<B>>,
}

struct Table<B: Backing> {
    nodes: HashMap<EntryId, Weak<Node<B>>>,
    purge_at: usize,
}

impl<B: Backing> Nodes<B> {
    pub fn new() -> Self {
        Nodes { table: Mutex::new(Table { nodes: HashMap::new(), purge_at: 1024 }) }
    }

    /// The live node of this id.
    pub fn get(&self, id: EntryId) -> Option<Arc<Node<B>>> {
        self.table.lock().nodes.get(&id).and_then(Weak::upgrade)
    }

    /// The live node of this id, or the one that `make` makes.
    pub fn get_or_insert(&self, id: EntryId, make: impl FnOnce() -> Arc<Node<B>>) -> Arc<Node<B>> {
        let mut table = self.table.lock();
        if let Some(node) = table.nodes.get(&id).and_then(Weak::upgrade) {
            return node;
        }
        let node = make();
        table.insert(&node);
        node
    }

    /// Adds a node that was just made.
    pub fn insert(&self, node: &Arc<Node<B>>) {
        self.table.lock().insert(node);
    }
}

impl<B: Backing> Table<B> {
    fn insert(&mut self, node: &Arc<Node<B>>) {
        self.nodes.insert(node.id(), Arc::downgrade(node));
        if self.nodes.len() >= self.purge_at {
            self.nodes.retain(|_, weak| weak.strong_count() > 0);
            self.purge_at = (self.nodes.len() * 2).max(1024);
        }
    }
}

/// Directories whose maps are kept although nobody may use them now.
pub(crate) struct DirCache<B: Backing> {
    loaded: Mutex<VecDeque<(Arc<Node<B>>, usize)>>,
    limit: usize,
}

impl<B: Backing> DirCache<B> {
    /// At most about `limit` entries, over all directories that nothing pins.
    pub fn new(limit: usize) -> Self {
        DirCache { loaded: Mutex::new(VecDeque::new()), limit }
    }

    /// `dir` was read and has `entries` entries. The caller may hold its lock.
    pub fn note_loaded(&self, dir: &Arc<Node<B>>, entries: usize) {
        let mut loaded = self.loaded.lock();
        if !loaded.iter().rev().take(64).any(|(node, _)| Arc::ptr_eq(node, dir)) {
            // A directory costs something even when it is empty.
            loaded.push_back((Arc::clone(dir), entries + 16));
        }
    }

    /// Forgets the maps of the directories read longest ago, as far as nothing pins them, while there are
    /// too many entries. Call it holding no directory's lock.
    pub fn trim(&self) {
        let victims: Vec<(Arc<Node<B>>, usize)> = {
            let mut loaded = self.loaded.lock();
            let mut total: usize = loaded.iter().map(|(_, entries)| entries).sum();
            let mut victims = Vec::new();
            while total > self.limit
                && let Some(oldest) = loaded.pop_front()
            {
                total -= oldest.1;
                victims.push(oldest);
            }
            victims
        };
        let mut pinned = Vec::new();
        for (node, entries) in victims {
            let Ok(dir) = node.dir() else { continue };
            let Some(mut state) = dir.state.try_lock() else {
                pinned.push((Arc::clone(&node), entries));
                continue;
            };
            let in_use = dir.handles.load(std::sync::atomic::Ordering::Relaxed) > 0;
            if in_use || state.is_pinned() {
                drop(state);
                pinned.push((node, entries));
            } else {
                state.unload();
            }
        }
        self.loaded.lock().extend(pinned);
    }

    /// Lets go of every directory.
    pub fn clear(&self) {
        self.loaded.lock().clear();
    }
}
