//! A mount from its start to its clean end.
//!
//! The order of the end: no new requests (unmounted, or cut off after the grace time); those under way finished;
//! maintenance stopped; handles closed; the store closed, which commits everything.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use fuser::{Config, Notifier, SessionACL};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle as SignalHandle, Signals};

use crate::backing::Backing;
use crate::fs::FileSystem;
use crate::store::{Store, StoreError};

use super::adapter::{Adapter, Workers};
use super::maintain::Maintenance;
use super::mount::{self, MountError, MountPoint};
use super::options::MountOptions;
use super::tune;
use super::turns::Turns;

/// How long requests that are under way get to finish when the mount is cut off.
const DRAIN: Duration = Duration::from_secs(30);

/// How long the event loops get to notice that the mount was cut off.
const CUT_OFF: Duration = Duration::from_secs(2);

/// Why a mount could not be served, or did not end cleanly.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It could not be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The kernel and we found no common protocol.
    #[error("the kernel's FUSE handshake failed")]
    Handshake(#[source] io::Error),
    /// It was unmounted before it was ready.
    #[error("the mount ended before it was ready")]
    EndedEarly,
    /// The connection to the kernel broke. Everything is committed all the same.
    #[error("the connection to the kernel failed")]
    Connection(#[source] io::Error),
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// What was still uncommitted at the end could not be committed.
    #[error("the last changes could not be committed")]
    Close(#[source] StoreError),
}

/// What the main thread waits for.
enum Event {
    /// The mount answered a request.
    Ready(io::Result<u64>),
    /// SIGTERM, SIGINT or SIGHUP.
    Signal,
    /// The event loops ended.
    Ended(io::Result<()>),
}

/// Mounts `store` on `mountpoint`, calls `on_ready` once the mount answers, serves until it is unmounted or
/// told to end by SIGTERM, SIGINT or SIGHUP, and closes the store.
///
/// After a signal a busy mount is detached, its dirty pages are written, and its users get
/// [`MountOptions::grace`] to end (a second signal cuts that short); then it is cut off. On return
/// everything that was written is committed, unless the error says otherwise.
///
/// # Errors
/// [`ServeError`]; the store is closed in every case.
pub fn serve<B: Backing>(
    store: Arc<Store<B>>,
    mountpoint: &Path,
    options: &MountOptions,
    on_ready: impl FnOnce(),
) -> Result<(), ServeError> {
    let fs = Arc::new(FileSystem::new(store, options.view).syncing_names(options.dir_sync));
    let served = serve_until_ended(&fs, mountpoint, options, on_ready);
    fs.close_all();
    let closed = fs.store().close();
    served?;
    closed.map_err(ServeError::Close)
}

fn serve_until_ended<B: Backing>(
    fs: &Arc<FileSystem<B>>,
    mountpoint: &Path,
    options: &MountOptions,
    on_ready: impl FnOnce(),
) -> Result<(), ServeError> {
    let (events, news) = crossbeam_channel::unbounded();
    let _signals = SignalThread::start(events.clone()).map_err(ServeError::Thread)?;
    let workers = Arc::new(Workers::new());
    let mounted = mount::mount(mountpoint, options)?;
    let point = mounted.point.clone();
    let shared = (Arc::clone(fs), Arc::clone(&workers));
    let notifier = match start_session(shared, mounted.device, options, events.clone()) {
        Ok(notifier) => notifier,
        Err(error) => {
            // Nothing answers there: better gone than hanging.
            let _ = point.unmount(true);
            return Err(error);
        }
    };
    let maintenance = Maintenance::start(fs, notifier).map_err(ServeError::Thread);
    let watched = maintenance.and_then(|maintenance| {
        start_probe(point.clone(), events).map_err(ServeError::Thread)?;
        let ended = Watch { point: &point, options, news: &news, dev: None }.run(on_ready);
        drop(maintenance);
        ended
    });
    if let Err(ServeError::Thread(_)) = watched {
        let _ = point.unmount(true);
    }
    if !workers.shut(Instant::now() + DRAIN) {
        log::warn!("requests are still waiting for the disk; going on without them");
    }
    if let Err(ServeError::Connection(_)) = watched {
        // Never a plain unmount here: somebody else's mount may stand there by now.
        point.detach_if_dead();
    }
    watched
}

/// Shakes hands and starts the event loops in threads of their own.
fn start_session<B: Backing>(
    (fs, workers): (Arc<FileSystem<B>>, Arc<Workers>),
    device: OwnedFd,
    options: &MountOptions,
    events: Sender<Event>,
) -> Result<Notifier, ServeError> {
    let looked_at = device.try_clone().map_err(ServeError::Thread)?;
    let turns = Turns::new(move || has_request(&looked_at));
    let adapter = Adapter::new(fs, workers, turns, options);
    let mut config = Config::default();
    // Users mount through the helper and may be unable to open the device themselves.
    config.clone_fd = mount::can_open_device();
    config.n_threads = Some(options.event_loops.max(1));
    // The kernel lets in nobody but the owner unless allow_other was given; a second check by owner
    // would refuse the kernel's own write-back of times. allow_root exists only in fuser.
    let acl = if options.allow_root && !options.allow_other {
        SessionACL::RootAndOwner
    } else {
        SessionACL::All
    };
    let line = adapter.line();
    let session =
        fuser::Session::from_fd(adapter, device, acl, config).map_err(ServeError::Handshake)?;
    let notifier = session.notifier();
    let _ = line.set(session.notifier());
    thread::Builder::new()
        .name("akasha-session".to_owned())
        .spawn(move || {
            let ended = session.run();
            let _ = events.send(Event::Ended(ended));
        })
        .map_err(ServeError::Thread)?;
    Ok(notifier)
}

/// Whether a read of `device` would return at once, with a request or because the mount has ended.
fn has_request(device: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    !matches!(poll(&mut [PollFd::new(device, PollFlags::IN)], Some(&at_once)), Ok(0))
}

/// Looks for the mount in its place, in a thread of its own, since the way there may lead over other mounts.
///
/// It asks for nothing that would become a request to this very process: a thread that waits for one cannot be killed, and
/// would keep a killed daemon, and with it the mount and the vault's lock, for ever. That the mount answers is known from
/// the handshake.
fn start_probe(point: MountPoint, events: Sender<Event>) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};
    thread::Builder::new().name("akasha-probe".to_owned()).spawn(move || {
        let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        let found = statx(CWD, point.path(), flags, StatxFlags::TYPE);
        let dev = found.map(|root| makedev(root.stx_dev_major, root.stx_dev_minor));
        let _ = events.send(Event::Ready(dev.map_err(Into::into)));
    })?;
    Ok(())
}

/// The main thread's part while the mount stands.
struct Watch<'a> {
    point: &'a MountPoint,
    options: &'a MountOptions,
    news: &'a Receiver<Event>,
    /// st_dev of the mount, once it is known.
    dev: Option<u64>,
}

impl Watch<'_> {
    fn run(mut self, on_ready: impl FnOnce()) -> Result<(), ServeError> {
        let mut on_ready = Some(on_ready);
        loop {
            match self.news.recv() {
                Ok(Event::Ready(Ok(dev))) => {
                    self.dev = Some(dev);
                    if self.options.read_ahead_kib > 0 {
                        tune::raise_read_ahead(dev, self.options.read_ahead_kib);
                    }
                    if let Some(on_ready) = on_ready.take() {
                        on_ready();
                    }
                }
                // Unmounted between mount and probe: the end follows.
                Ok(Event::Ready(Err(error))) => {
                    log::warn!("the new mount does not answer: {error}");
                }
                Ok(Event::Signal) => return self.end_on_signal(),
                Ok(Event::Ended(ended)) => {
                    ended.map_err(ServeError::Connection)?;
                    return if on_ready.is_some() { Err(ServeError::EndedEarly) } else { Ok(()) };
                }
                Err(_) => return Ok(()),
            }
        }
    }

    /// Unmounts; what is busy is detached and cut off after the grace time.
    fn end_on_signal(mut self) -> Result<(), ServeError> {
        log::info!("told to end, unmounting");
        match self.point.unmount(false) {
            // Not a mount any more: somebody was faster.
            Err(error) if error.raw_os_error() != Some(libc::EINVAL) => self.detach(),
            Ok(()) | Err(_) => {}
        }
        let deadline = Instant::now() + self.options.grace;
        loop {
            match self.news.recv_deadline(deadline) {
                Ok(Event::Ended(ended)) => return ended.map_err(ServeError::Connection),
                Ok(Event::Ready(Ok(dev))) => self.dev = Some(dev),
                Ok(Event::Ready(Err(_))) => {}
                Ok(Event::Signal)
                | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        log::warn!("the mount is still in use and is cut off");
        if let Some(dev) = self.dev {
            tune::abort_connection(dev);
        }
        // Where that is not possible the end of the process cuts it off.
        while let Ok(event) = self.news.recv_timeout(CUT_OFF) {
            if let Event::Ended(_) = event {
                break;
            }
        }
        Ok(())
    }

    /// Takes a busy mount out of the tree. Its dirty pages are written first, as far as the kernel will:
    /// pages of a detached mount would wait for the kernel's own time, which may not come.
    fn detach(&self) {
        log::warn!("the mount is busy: detaching it");
        let root = std::fs::File::open(self.point.path());
        if let Ok(root) = &root {
            let _ = rustix::fs::syncfs(root);
        }
        drop(root);
        if let Err(error) = self.point.unmount(true) {
            log::error!("the mount cannot be detached: {error}");
        }
    }
}

/// Waits for signals and passes them on. Ends on drop; the signals then do nothing, so that they
/// cannot interrupt the closing of the store.
struct SignalThread {
    handle: SignalHandle,
    thread: Option<thread::JoinHandle<()>>,
}

impl SignalThread {
    fn start(events: Sender<Event>) -> io::Result<Self> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        let handle = signals.handle();
        let thread = thread::Builder::new().name("akasha-signals".to_owned()).spawn(move || {
            for _ in signals.forever() {
                if events.send(Event::Signal).is_err() {
                    return;
                }
            }
        })?;
        Ok(SignalThread { handle, thread: Some(thread) })
    }
}

impl Drop for SignalThread {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
