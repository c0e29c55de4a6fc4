//! The inodes that the kernel knows: id to node, with the kernel's count of lookups.
//!
//! Every reply that tells the kernel of an inode counts one; FORGET gives counts back; at zero the
//! node goes. The root is known from the start and never forgotten.

use std::sync::Arc;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use parking_lot::Mutex;

use crate::backing::Backing;
use crate::format::EntryId;
use crate::store::Node;

use super::{FsError, Result};

/// Shards of the table: event loops and workers rarely meet in one. Ids are random, so their low bits
/// choose well.
const SHARDS: usize = 16;

struct Known<B: Backing> {
    node: Arc<Node<B>>,
    lookups: u64,
}

type Shard<B> = Mutex<HashMap<EntryId, Known<B>>>;

/// See the module's text.
pub(super) struct Inodes<B: Backing> {
    shards: [Shard<B>; SHARDS],
}

impl<B: Backing> Inodes<B> {
    pub fn new(root: &Arc<Node<B>>) -> Self {
        let inodes = Inodes { shards: std::array::from_fn(|_| Mutex::new(HashMap::new())) };
        inodes.remember(root);
        inodes
    }

    fn shard(&self, ino: EntryId) -> &Shard<B> {
        &self.shards[ino.get() as usize % SHARDS]
    }

    /// # Errors
    /// [`FsError::UnknownInode`].
    pub fn get(&self, ino: EntryId) -> Result<Arc<Node<B>>> {
        let shard = self.shard(ino).lock();
        shard.get(&ino).map(|known| Arc::clone(&known.node)).ok_or(FsError::UnknownInode)
    }

    /// Counts one lookup of `node`.
    pub fn remember(&self, node: &Arc<Node<B>>) {
        match self.shard(node.id()).lock().entry(node.id()) {
            Entry::Occupied(mut known) => known.get_mut().lookups += 1,
            Entry::Vacant(vacant) => {
                vacant.insert(Known { node: Arc::clone(node), lookups: 1 });
            }
        }
    }

    /// Takes `count` lookups back; returns the node if none is left.
    pub fn forget(&self, ino: EntryId, count: u64) -> Option<Arc<Node<B>>> {
        if ino == EntryId::ROOT {
            return None;
        }
        match self.shard(ino).lock().entry(ino) {
            Entry::Occupied(mut known) => {
                let left = known.get().lookups.saturating_sub(count);
                if left == 0 {
                    return Some(known.remove().node);
                }
                known.get_mut().lookups = left;
                None
            }
            Entry::Vacant(_) => None,
        }
    }

    /// Forgets everything but the root.
    pub fn forget_all(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            let forgotten: Vec<Known<B>> =
                shard.extract_if(|id, _| *id != EntryId::ROOT).map(|(_, known)| known).collect();
            drop(shard);
            drop(forgotten);
        }
    }

    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}
