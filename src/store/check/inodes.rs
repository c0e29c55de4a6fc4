//! Files with several names, and what stands in the control directory beside them.

use std::rc::Rc;

use crate::backing::{At, Backing, FileKind, PublishedFile};
use crate::format::{
    Entry, EntryId, STUB_LEN, Stub, inode_file_name, is_temp_name, layer_file_name, open_stub,
    parse_inode_name, parse_layer_file_name, stub_file_name,
};

use super::super::core::VaultKeys;
use super::Kind;
use super::case::{Case, Place};
use super::content::Fault;
use super::walk::{Ahead, Check};

/// The control directories that a check looks at.
const CONTROLLED: [&[u8]; 4] = [b"tmp", b"layers", b"inodes", b"xattrs"];

impl<B: Backing> Check<'_, B> {
    /// A name of the file `inode`: the stub under it, and at the first one the file.
    pub fn one_of_several(
        &mut self,
        here: &Rc<Ahead>,
        dir: &B::Dir,
        name: &[u8],
        entry: &Entry,
        inode: EntryId,
    ) {
        let place = Place::Tree(Rc::clone(here));
        let path = here.path(&entry.name);
        let lost = |check: &mut Self, fault: Fault| {
            check.note_case(&place, name, Some(entry), inode, &fault);
            check.find(path.clone(), None, fault);
        };
        if let Err(fault) = read_stub(self.backing, self.vault, dir, name, inode) {
            // Names disappear; what a name stands for never changes.
            if self.backing.stat(dir, At::Name(name)).is_err() {
                self.summary.vanished += 1;
                return;
            }
            lost(self, fault);
        }
        let names = self.named.entry(inode).or_default();
        *names += 1;
        let is_first = *names == 1;
        let file_name = inode_file_name(inode);
        let Some(inodes) = self.inodes.take() else {
            let why = "there is no .akasha/inodes, which held its content";
            return lost(self, Fault::new(Kind::Link, why));
        };
        let missing = self
            .backing
            .stat(&inodes, At::Name(&file_name))
            .is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        if missing {
            // The file goes after its last name: is this one still there?
            if self.backing.stat(dir, At::Name(name)).is_err() {
                self.summary.vanished += 1;
            } else {
                let why = "the file that it is a name of is missing in .akasha/inodes";
                lost(self, Fault::new(Kind::Link, why));
            }
        } else if is_first {
            let seen = self.look().file(&inodes, &file_name, inode);
            self.tell(&path, &place, name, entry, inode, seen);
        }
        self.inodes = Some(inodes);
    }

    /// What is in `.akasha/{tmp,layers,inodes,xattrs}`, after the whole tree.
    pub fn control(&mut self) {
        for name in CONTROLLED {
            let shown = format!(".akasha/{}", String::from_utf8_lossy(name));
            let Ok(dir) = self.backing.open_dir(&self.control, name) else {
                let why = format!("there is no {shown}: the next mount makes it");
                self.find(Vec::new(), Some(shown.as_bytes()), Fault::new(Kind::Leftover, why));
                continue;
            };
            let listing = match self.backing.list(&dir) {
                Ok(listing) => listing,
                Err(error) => {
                    let fault = Fault::io(Kind::Directory, "cannot list it", &error);
                    self.find(Vec::new(), Some(shown.as_bytes()), fault);
                    continue;
                }
            };
            for raw in listing {
                let is_ours = raw.kind == FileKind::File
                    && match name {
                        b"tmp" => is_temp_name(&raw.name),
                        b"layers" | b"xattrs" => parse_layer_file_name(&raw.name).is_some(),
                        _ => parse_inode_name(&raw.name).is_some(),
                    };
                let at = [shown.as_bytes(), b"/", &raw.name].concat();
                if !is_ours {
                    let fault = Fault::new(Kind::Foreign, "not made by akasha");
                    self.note_case(&Place::Control(name), &raw.name, None, None, &fault);
                    self.find(Vec::new(), Some(&at), fault);
                } else if name == b"tmp" {
                    let why = "a mount is using it, or left it behind: the next mount removes it";
                    self.find(Vec::new(), Some(&at), Fault::new(Kind::Leftover, why));
                }
            }
            if name == b"layers" {
                self.orphans(&dir);
            }
            if name == b"inodes" {
                self.link_counts(&dir);
            }
        }
    }

    /// Layers that were there all the time and that no file refers to. Says nothing if there are files that could not be
    /// read.
    fn orphans(&mut self, dir: &B::Dir) {
        if self.summary.damaged + self.summary.vanished + self.kept > 0 {
            return;
        }
        for layer in std::mem::take(&mut self.layers_before) {
            let name = layer_file_name(layer.0, layer.1);
            let is_there = self.backing.stat(dir, At::Name(&name)).is_ok();
            if is_there && !self.referred.contains(&layer) {
                let at = [b".akasha/layers/", name.as_slice()].concat();
                let why = "no file refers to this older layer: a mount removes it";
                self.find(Vec::new(), Some(&at), Fault::new(Kind::Leftover, why));
            }
        }
    }

    /// Whether the backing filesystem counts as many names as there are, and files without any name.
    fn link_counts(&mut self, dir: &B::Dir) {
        let Ok(listing) = self.backing.list(dir) else { return };
        for raw in listing {
            let Some(inode) = parse_inode_name(&raw.name) else { continue };
            if raw.name == inode_file_name(inode) && !self.named.contains_key(&inode) {
                let at = [b".akasha/inodes/", raw.name.as_slice()].concat();
                let why = "a file without names: the next mount after an unclean end removes it";
                self.cases.push(Case {
                    kind: Kind::Leftover,
                    why: "a file without names".to_owned(),
                    place: Place::Control(b"inodes"),
                    name: raw.name.clone(),
                    entry: None,
                    id: Some(inode),
                });
                self.find(Vec::new(), Some(&at), Fault::new(Kind::Leftover, why));
            }
        }
        let mut named: Vec<(EntryId, u32)> = self.named.iter().map(|(id, n)| (*id, *n)).collect();
        named.sort();
        for (inode, names) in named {
            let name = stub_file_name(inode);
            let at = [b".akasha/inodes/", name.as_slice()].concat();
            let fault = match read_stub(self.backing, self.vault, dir, &name, inode) {
                // The file may have lost its names meanwhile, and its stub with them.
                Err(_) if self.backing.stat(dir, At::Name(&inode_file_name(inode))).is_err() => {
                    continue;
                }
                Err(fault) if fault.kind == Kind::Unchecked => fault,
                Err(Fault { why, .. }) => {
                    Fault::new(Kind::LinkCount, format!("{why}: names cannot be counted"))
                }
                // A copy of a vault does not count: its names are separate files.
                Ok((stub, native, links)) if stub.native == native && links != names + 1 => {
                    let counted = links.saturating_sub(1);
                    let why = format!("{names} names were found and {counted} are counted");
                    Fault::new(Kind::LinkCount, why)
                }
                Ok(_) => continue,
            };
            self.note_case(&Place::Control(b"inodes"), &name, None, inode, &fault);
            self.find(Vec::new(), Some(&at), fault);
        }
    }
}

/// Whether a stub stands for the file `inode`; returns what it says, its number and its native link count.
fn read_stub<B: Backing>(
    backing: &B,
    vault: &VaultKeys,
    dir: &B::Dir,
    name: &[u8],
    inode: EntryId,
) -> Result<(Stub, u64, u32), Fault> {
    let broken = |why: &str| Fault::new(Kind::Link, why);
    let call = |what| move |error| Fault::io(Kind::Link, what, &error);
    let file = backing.open(dir, name).map_err(call("cannot open its stub"))?;
    let stat = file.stat().map_err(call("cannot stat its stub"))?;
    if stat.len != STUB_LEN as u64 {
        return Err(broken(&format!("its stub has {} bytes: it was cut or grown", stat.len)));
    }
    let mut bytes = [0; STUB_LEN];
    file.read_at(0, &mut bytes).map_err(call("cannot read its stub"))?;
    let stub = open_stub(&vault.keys, vault.cipher, vault.geometry, &bytes)
        .map_err(|_| broken("its stub does not authenticate"))?;
    if stub.inode != inode {
        return Err(broken("its stub stands for another file"));
    }
    Ok((stub, stat.ino, stat.nlink))
}
