//! Open files and directories, by the number that the kernel hands back with each request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hashbrown::HashMap;
use parking_lot::RwLock;

use crate::backing::Backing;
use crate::store::Node;

use super::{Access, FsError, Result};

/// The number of an open file or directory; never 0, never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);

/// An open file.
pub(super) struct FileHandle<B: Backing> {
    pub node: Arc<Node<B>>,
    pub access: Access,
    /// Whether reading through it moves the access time.
    pub moves_atime: bool,
    /// Bytes written through it since its last flush.
    pub unflushed: AtomicU64,
    /// Whether something was written through it that the kernel's count of blocks does not hold yet.
    pub uncounted: AtomicBool,
}

impl<B: Backing> FileHandle<B> {
    pub fn new(node: Arc<Node<B>>, access: Access, moves_atime: bool) -> Self {
        let (unflushed, uncounted) = (AtomicU64::new(0), AtomicBool::new(false));
        FileHandle { node, access, moves_atime, unflushed, uncounted }
    }
}

/// An open directory.
pub(super) struct DirHandle<B: Backing> {
    pub node: Arc<Node<B>>,
}

/// The table of one kind of handle.
pub(super) struct Handles<T> {
    next: AtomicU64,
    open: RwLock<HashMap<u64, Arc<T>>>,
}

impl<T> Handles<T> {
    pub fn new() -> Self {
        Handles { next: AtomicU64::new(1), open: RwLock::new(HashMap::new()) }
    }

    pub fn add(&self, item: T) -> Handle {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.write().insert(number, Arc::new(item));
        Handle(number)
    }

    /// # Errors
    /// [`FsError::BadHandle`].
    pub fn get(&self, handle: Handle) -> Result<Arc<T>> {
        self.open.read().get(&handle.0).cloned().ok_or(FsError::BadHandle)
    }

    /// # Errors
    /// [`FsError::BadHandle`].
    pub fn remove(&self, handle: Handle) -> Result<Arc<T>> {
        self.open.write().remove(&handle.0).ok_or(FsError::BadHandle)
    }

    pub fn take_all(&self) -> Vec<Arc<T>> {
        self.open.write().drain().map(|(_, item)| item).collect()
    }

    pub fn all(&self) -> Vec<Arc<T>> {
        self.open.read().values().cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.open.read().len()
    }
}
