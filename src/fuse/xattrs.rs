//! Requests about extended attributes.

use fuser::{Errno, INodeNo, ReplyEmpty, ReplyXattr};

use crate::backing::Backing;
use crate::fs::{Caller, FileSystem, Result};

use super::adapter::{empty, refuse};
use super::convert::entry_id;

/// setxattr(2).
pub(super) fn set<B: Backing>(
    fs: &FileSystem<B>,
    inode: INodeNo,
    name: &[u8],
    value: &[u8],
    (flags, caller): (i32, Caller),
    reply: ReplyEmpty,
) {
    let done = entry_id(inode).and_then(|id| fs.setxattr(id, name, value, flags, caller));
    empty("setxattr", inode, done, reply);
}

/// getxattr(2).
pub(super) fn get<B: Backing>(
    fs: &FileSystem<B>,
    inode: INodeNo,
    name: &[u8],
    size: u32,
    reply: ReplyXattr,
) {
    let value = entry_id(inode).and_then(|id| fs.getxattr(id, name));
    answer("getxattr", inode, value, size, reply);
}

/// listxattr(2).
pub(super) fn list<B: Backing>(
    fs: &FileSystem<B>,
    inode: INodeNo,
    caller: Caller,
    size: u32,
    reply: ReplyXattr,
) {
    let names = entry_id(inode).and_then(|id| fs.listxattr(id, caller));
    answer("listxattr", inode, names, size, reply);
}

/// removexattr(2).
pub(super) fn remove<B: Backing>(
    fs: &FileSystem<B>,
    inode: INodeNo,
    name: &[u8],
    reply: ReplyEmpty,
) {
    let done = entry_id(inode).and_then(|id| fs.removexattr(id, name));
    empty("removexattr", inode, done, reply);
}

/// A buffer of no length asks for the length.
fn answer(what: &str, inode: INodeNo, bytes: Result<Vec<u8>>, size: u32, reply: ReplyXattr) {
    match bytes {
        Ok(bytes) if size == 0 => reply.size(u32::try_from(bytes.len()).unwrap_or(u32::MAX)),
        Ok(bytes) if bytes.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(bytes) => reply.data(&bytes),
        Err(error) => reply.error(refuse(what, inode, &error)),
    }
}
