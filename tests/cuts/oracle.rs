//! What may be found after a power cut, and what must be: kept beside the store while a script runs.
//!
//! Objects are known by their entry ids. Each has the list of contents it was given, from the first one that no
//! cut may take back (`floor`), and the list of places it had; each name has the list of its holders. A change is
//! noted before it is tried (a cut may leave it done), a promise after the call that makes it returned.

use std::collections::BTreeMap;
use std::sync::Arc;

use akasha::format::EntryKind;

pub const ROOT: u64 = 1;

pub type Spot = (u64, Vec<u8>);

/// Where an object was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Nowhere,
    At(Spot),
    Unlinked,
    Replaced(u64),
}

#[derive(Clone, Debug)]
pub struct Object {
    pub kind: EntryKind,
    /// Tells its contents from those of others.
    pub serial: u64,
    writes: u64,
    /// What the mount shows.
    pub live: Vec<u8>,
    versions: Vec<Arc<Vec<u8>>>,
    floor: usize,
    places: Vec<Place>,
    /// For each place the oldest of `versions` that may be shown there: a name that a file was renamed to never shows what the
    /// file was before.
    oldest: Vec<usize>,
    place_floor: usize,
    pub writers: u32,
    /// When it was last closed with changes that a tick is to commit, and nothing was done to it since.
    pub closed_at: Option<u64>,
    pub opened_at: u64,
    /// Renamed while it was open: whoever wants its old name has it committed as it is.
    pub loose: bool,
    /// Synced before it had a name: its directory's fsync does not wait for its writers.
    pub promised: bool,
}

#[derive(Clone, Debug, Default)]
struct Holders {
    all: Vec<Option<u64>>,
    floor: usize,
}

/// One object as a mount shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub id: u64,
    pub kind: EntryKind,
    pub content: Vec<u8>,
}

/// All that a mount shows.
pub type View = BTreeMap<Spot, Seen>;

#[derive(Clone, Debug, Default)]
pub struct Oracle {
    pub objects: BTreeMap<u64, Object>,
    names: BTreeMap<Spot, Holders>,
    /// Names under which an empty directory may be found whose id nobody was told.
    half_made: Vec<Spot>,
    next_serial: u64,
}

impl Oracle {
    pub fn holder(&self, spot: &Spot) -> Option<u64> {
        self.names.get(spot).and_then(|holders| holders.all.last().copied().flatten())
    }

    pub fn has_children(&self, dir: u64) -> bool {
        self.names.iter().any(|(spot, holders)| spot.0 == dir && holders.all.last() != Some(&None))
    }

    /// The place of an object now.
    pub fn place(&self, id: u64) -> Option<&Spot> {
        match self.objects.get(&id)?.places.last() {
            Some(Place::At(spot)) => Some(spot),
            _ => None,
        }
    }

    /// Whether it was made without a name and has got none.
    pub fn was_never_named(&self, id: u64) -> bool {
        self.objects[&id].places.iter().all(|place| *place == Place::Nowhere)
    }

    /// Whether `dir` is `id` or lies below it.
    pub fn is_below(&self, dir: u64, id: u64) -> bool {
        let mut at = dir;
        loop {
            if at == id {
                return true;
            }
            match self.place(at) {
                Some((parent, _)) => at = *parent,
                None => return false,
            }
        }
    }

    pub fn hold(&mut self, spot: &Spot, holder: Option<u64>) {
        let holders = self.names.entry(spot.clone()).or_default();
        if holders.all.is_empty() {
            holders.all.push(None);
        }
        holders.all.push(holder);
        let Some(holder) = holder else { return };
        // What moved away while it was open, and stands in the way: it goes with its last committed version.
        for (id, object) in &mut self.objects {
            let was_here = object.places[object.place_floor..].contains(&Place::At(spot.clone()));
            if *id != holder && object.loose && was_here {
                object.oldest.fill(0);
            }
        }
    }

    pub fn object(&mut self, id: u64) -> &mut Object {
        self.objects.get_mut(&id).expect("the script made it")
    }

    pub fn put(&mut self, id: u64, place: Place) {
        let object = self.object(id);
        object.places.push(place);
        object.oldest.push(0);
    }

    /// It is moved as it is now.
    fn moved(&mut self, id: u64, spot: &Spot) {
        self.allow(id);
        self.put(id, Place::At(spot.clone()));
        let object = self.object(id);
        object.closed_at = None;
        *object.oldest.last_mut().expect("it was put there") = object.versions.len() - 1;
    }

    // ---- what the script does --------------------------------------------------------------

    pub fn made(&mut self, id: u64, kind: EntryKind, spot: &Spot, content: &[u8]) {
        self.made_nameless(id, kind, content);
        self.named(id, spot);
    }

    /// It gets its first name.
    pub fn named(&mut self, id: u64, spot: &Spot) {
        self.put(id, Place::At(spot.clone()));
        self.hold(spot, Some(id));
    }

    pub fn made_nameless(&mut self, id: u64, kind: EntryKind, content: &[u8]) {
        self.next_serial += 1;
        let object = Object {
            kind,
            serial: self.next_serial,
            writes: 0,
            live: content.to_vec(),
            versions: Vec::new(),
            floor: 0,
            places: vec![Place::Nowhere],
            oldest: vec![0],
            place_floor: 0,
            writers: 0,
            closed_at: None,
            opened_at: 0,
            loose: false,
            promised: false,
        };
        self.objects.insert(id, object);
    }

    pub fn half_made(&mut self, spot: &Spot) {
        self.half_made.push(spot.clone());
    }

    pub fn unlinked(&mut self, spot: &Spot) {
        if let Some(id) = self.holder(spot) {
            self.put(id, Place::Unlinked);
            self.hold(spot, None);
        }
    }

    pub fn renamed(&mut self, from: &Spot, to: &Spot) {
        let Some(id) = self.holder(from) else { return };
        let target = self.holder(to);
        if target == Some(id) {
            return;
        }
        if let Some(target) = target {
            self.allow(target);
            self.object(target).closed_at = None;
            self.put(target, Place::Replaced(id));
        }
        self.moved(id, to);
        for id in [Some(id), target].into_iter().flatten() {
            let object = self.object(id);
            object.loose |= object.writers > 0;
        }
        self.hold(from, None);
        self.hold(to, Some(id));
    }

    pub fn exchanged(&mut self, from: &Spot, to: &Spot) {
        let (Some(a), Some(b)) = (self.holder(from), self.holder(to)) else { return };
        if a == b {
            return;
        }
        for (id, spot) in [(a, to), (b, from)] {
            self.moved(id, spot);
            self.hold(spot, Some(id));
        }
    }

    /// The next bytes to write into a file: they tell which file, and which write.
    pub fn pattern(&mut self, id: u64, len: usize) -> Vec<u8> {
        let object = self.object(id);
        object.writes += 1;
        let text = format!("<file {} write {}>", object.serial, object.writes);
        text.bytes().cycle().take(len).collect()
    }

    pub fn wrote(&mut self, id: u64, offset: usize, data: &[u8]) {
        let object = self.object(id);
        if object.live.len() < offset + data.len() {
            object.live.resize(offset + data.len(), 0);
        }
        object.live[offset..offset + data.len()].copy_from_slice(data);
        self.changed(id);
    }

    pub fn cut_to(&mut self, id: u64, size: usize) {
        self.object(id).live.resize(size, 0);
        self.changed(id);
    }

    fn changed(&mut self, id: u64) {
        let object = self.object(id);
        object.closed_at = None;
        if object.loose {
            self.allow(id);
        }
    }

    /// Whether a file is not what it was when it could last be committed.
    pub fn is_dirty(&self, id: u64) -> bool {
        let object = &self.objects[&id];
        object.versions.last().is_none_or(|last| **last != object.live)
    }

    /// What a file is now may be found after a cut.
    pub fn allow(&mut self, id: u64) {
        let object = self.object(id);
        if object.versions.last().is_none_or(|last| **last != object.live) {
            object.versions.push(Arc::new(object.live.clone()));
        }
    }

    /// Whether `content` is one of the versions that a cut may leave.
    pub fn is_version(&self, id: u64, content: &[u8]) -> bool {
        let object = &self.objects[&id];
        object.versions[object.floor..].iter().any(|version| version.as_slice() == content)
    }

    /// Whether an fsync of the file, or of its directory, has returned.
    pub fn was_promised(&self, id: u64) -> bool {
        self.objects[&id].place_floor > 0
    }

    /// A new mount shows this: what was not committed is no more.
    pub fn adopt(&mut self, view: &View) {
        let spots: Vec<Spot> = self.names.keys().cloned().collect();
        for spot in spots {
            let found = view.get(&spot).map(|seen| seen.id);
            if self.holder(&spot) != found {
                self.hold(&spot, found);
            }
            if let Some(seen) = view.get(&spot)
                && self.objects.contains_key(&seen.id)
            {
                self.put(seen.id, Place::At(spot.clone()));
                let object = self.object(seen.id);
                object.live.clone_from(&seen.content);
                object.writers = 0;
            }
        }
        let shown: Vec<u64> = view.values().map(|seen| seen.id).collect();
        let gone: Vec<u64> =
            self.objects.keys().copied().filter(|id| !shown.contains(id)).collect();
        for id in gone {
            self.put(id, Place::Nowhere);
        }
    }

    // ---- what was promised -----------------------------------------------------------------

    /// The content of a file is durable as it is.
    pub fn keep_content(&mut self, id: u64) {
        self.allow(id);
        let object = self.object(id);
        object.floor = object.versions.len() - 1;
    }

    /// The path of an object is durable.
    pub fn keep_path(&mut self, id: u64) {
        let mut at = id;
        while at != ROOT {
            let Some(spot) = self.place(at).cloned() else { return };
            let object = self.object(at);
            object.place_floor = object.places.len() - 1;
            self.keep_name(&spot);
            at = spot.0;
        }
    }

    fn keep_name(&mut self, spot: &Spot) {
        if let Some(holders) = self.names.get_mut(spot) {
            holders.floor = holders.all.len() - 1;
        }
    }

    /// Whether an object may never have been committed because it was open all the time, or gave way
    /// to such a one.
    fn is_unborn(&self, id: u64) -> bool {
        let object = &self.objects[&id];
        object.kind != EntryKind::Dir && object.place_floor == 0
    }

    /// Whether it is still being written for the first time, and nobody was promised more.
    fn is_open_for_its_first(&self, id: u64) -> bool {
        let object = &self.objects[&id];
        self.is_unborn(id) && object.writers > 0 && !object.promised
    }

    /// All names in a directory are durable, but for files that are still open for their first version;
    /// and its path.
    pub fn keep_names(&mut self, dir: u64) {
        let mut floors = Vec::new();
        for (spot, holders) in self.names.iter().filter(|(spot, _)| spot.0 == dir) {
            let mut floor = holders.all.len() - 1;
            let is_open = |id: u64| self.is_open_for_its_first(id);
            if holders.all[floor].is_some_and(is_open) {
                while floor > holders.floor
                    && holders.all[floor].is_some_and(|id| self.is_unborn(id))
                {
                    floor -= 1;
                }
            }
            floors.push((spot.clone(), floor));
        }
        let mut places = Vec::new();
        for (id, object) in &self.objects {
            let last = object.places.len() - 1;
            let before = object.places[..last].iter().rev().find(|p| matches!(p, Place::At(_)));
            let was_here = matches!(before, Some(Place::At(spot)) if spot.0 == dir);
            let stays = match &object.places[last] {
                Place::At(spot) => spot.0 == dir && !self.is_open_for_its_first(*id),
                Place::Unlinked => was_here,
                Place::Replaced(by) => was_here && !self.is_unborn(*by),
                Place::Nowhere => false,
            };
            if stays {
                places.push((*id, last));
            }
        }
        for (spot, floor) in floors {
            if let Some(holders) = self.names.get_mut(&spot) {
                holders.floor = floor;
            }
        }
        for (id, floor) in places {
            self.object(id).place_floor = floor;
        }
        self.keep_path(dir);
    }

    /// Everything is durable.
    pub fn keep_all(&mut self) {
        let ids: Vec<u64> = self.objects.keys().copied().collect();
        for id in ids {
            self.keep_content(id);
            let object = self.object(id);
            object.place_floor = object.places.len() - 1;
            (object.closed_at, object.loose) = (None, false);
        }
        for holders in self.names.values_mut() {
            holders.floor = holders.all.len() - 1;
        }
    }

    // ---- the verdict -----------------------------------------------------------------------

    fn excused(&self, id: u64, view: &BTreeMap<u64, Vec<Spot>>, from: usize, depth: u32) -> bool {
        let Some(object) = self.objects.get(&id) else { return false };
        object.places[from..].iter().any(|place| match place {
            Place::Unlinked => true,
            Place::Replaced(by) => {
                depth < 64 && (view.contains_key(by) || self.excused(*by, view, 0, depth + 1))
            }
            _ => false,
        })
    }

    pub fn describe(&self, id: u64) -> String {
        let Some(object) = self.objects.get(&id) else { return format!("{id:016x}?") };
        let places: Vec<String> = object.places[object.place_floor..].iter().map(show).collect();
        format!("{:?} {} (places {})", object.kind, object.serial, places.join(" > "))
    }

    /// Whether `view` is what a cut may leave.
    pub fn check(&self, view: &View) -> Result<(), String> {
        let mut visible: BTreeMap<u64, Vec<Spot>> = BTreeMap::new();
        for (spot, seen) in view {
            let who = self.describe(seen.id);
            if !self.objects.contains_key(&seen.id)
                && seen.kind == EntryKind::Dir
                && self.half_made.contains(spot)
            {
                continue;
            }
            let name = String::from_utf8_lossy(&spot.1).into_owned();
            let holders = self.names.get(spot).ok_or(format!("a stray name {name:?}: {who}"))?;
            let object = self.objects.get(&seen.id).ok_or(format!("{name:?} is unknown"))?;
            if !holders.all[holders.floor..].contains(&Some(seen.id)) {
                return Err(format!("{name:?} in {:x} is held by {who}", spot.0));
            }
            let places = object.place_floor..object.places.len();
            let here = places.filter(|place| object.places[*place] == Place::At(spot.clone()));
            let Some(oldest) = here.map(|place| object.oldest[place]).min() else {
                return Err(format!("{who} is at {name:?} in {:x}", spot.0));
            };
            if object.kind != seen.kind {
                return Err(format!("{who} is shown as {:?}", seen.kind));
            }
            let fits = |version: &Arc<Vec<u8>>| **version == seen.content;
            let oldest = oldest.max(object.floor);
            if object.kind != EntryKind::Dir && !object.versions[oldest..].iter().any(fits) {
                return Err(format!("{name:?}, {who}: {}", unfit(object, oldest, &seen.content)));
            }
            visible.entry(seen.id).or_default().push(spot.clone());
        }
        for (id, spots) in &visible {
            // A filesystem may keep both names of what was moved; the mount settles that.
            if spots.len() > 1 {
                return Err(format!("{} is in {} places", self.describe(*id), spots.len()));
            }
        }
        for (spot, holders) in &self.names {
            let is_there = spot.0 == ROOT || visible.contains_key(&spot.0);
            if is_there && !view.contains_key(spot) && !holders.all[holders.floor..].contains(&None)
            {
                let name = String::from_utf8_lossy(&spot.1);
                return Err(format!("{name:?} is absent, it was always held"));
            }
        }
        for (id, object) in &self.objects {
            let durable = matches!(object.places[object.place_floor], Place::At(_));
            if durable
                && !visible.contains_key(id)
                && !self.excused(*id, &visible, object.place_floor, 0)
            {
                return Err(format!("{} is lost", self.describe(*id)));
            }
        }
        Ok(())
    }
}

fn show(place: &Place) -> String {
    match place {
        Place::At((dir, name)) => {
            let name = String::from_utf8_lossy(&name[..name.len().min(20)]).into_owned();
            format!("{:x}/{name}", dir & 0xffff)
        }
        other => format!("{other:?}"),
    }
}

fn unfit(object: &Object, oldest: usize, content: &[u8]) -> String {
    let old = object.versions[..oldest].iter().any(|version| **version == content);
    if old {
        return "an older version than was promised, or than was given that name".into();
    }
    let lens: Vec<usize> = object.versions[oldest..].iter().map(|v| v.len()).collect();
    let start = String::from_utf8_lossy(&content[..content.len().min(40)]).into_owned();
    format!("none of its versions: {} bytes {start:?}, allowed lengths {lens:?}", content.len())
}
