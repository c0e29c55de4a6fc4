//! What a mount does before it serves: removes what an earlier daemon left unpublished, finishes an exchange.
//!
//! Only two kinds of things are ever removed: names of our own grammar in `.akasha/tmp`, and layers that authenticate
//! as something else than their name says, which is what an exchange that never happened leaves. Anything that cannot be
//! read stays where it is.

use log::{info, warn};

use crate::backing::{Backing, FileKind, PublishedFile};
use crate::format::{HEADER_LEN, LayerKey, TAIL_LEN, is_temp_name, parse_layer_file_name};

use super::core::{ControlDirs, VaultKeys};
use super::error::{Attempt, Result};
use super::intent::Intent;

/// Sweeps; returns how many leftovers were removed.
pub(crate) fn sweep<B: Backing>(
    backing: &B,
    dirs: &ControlDirs<B>,
    vault: &VaultKeys,
) -> Result<usize> {
    Intent::replay(backing, dirs)?;
    let mut swept = 0;
    for raw in backing.list(&dirs.tmp).attempt("read .akasha/tmp")? {
        if raw.kind == FileKind::File && is_temp_name(&raw.name) {
            backing.unlink(&dirs.tmp, &raw.name).attempt("sweep .akasha/tmp")?;
            swept += 1;
        } else {
            warn!("something strange in .akasha/tmp is left alone");
        }
    }
    for raw in backing.list(&dirs.layers).attempt("read .akasha/layers")? {
        let Some((_, named)) = parse_layer_file_name(&raw.name) else {
            warn!("something strange in .akasha/layers is left alone");
            continue;
        };
        if identity_of(backing, dirs, vault, &raw.name).is_some_and(|id| id != named) {
            backing.unlink(&dirs.layers, &raw.name).attempt("sweep .akasha/layers")?;
            swept += 1;
        }
    }
    if swept > 0 {
        info!("swept {swept} leftovers of an earlier mount");
    }
    Ok(swept)
}

/// The id under which a layer authenticates, if it does.
fn identity_of<B: Backing>(
    backing: &B,
    dirs: &ControlDirs<B>,
    vault: &VaultKeys,
    name: &[u8],
) -> Option<crate::format::ObjectId> {
    let file = backing.open(&dirs.layers, name).ok()?;
    let len = file.stat().ok()?.len;
    let tail_at = len.checked_sub(TAIL_LEN as u64)?;
    let mut header = [0; HEADER_LEN];
    file.read_at(0, &mut header).ok()?;
    let key = LayerKey::open(&vault.keys, vault.cipher, vault.geometry, &header).ok()?;
    let mut tail = [0; TAIL_LEN];
    file.read_at(tail_at, &mut tail).ok()?;
    key.open_tail(&tail, len).ok()?;
    Some(key.id())
}
