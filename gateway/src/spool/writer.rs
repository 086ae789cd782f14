//! Appends records to the open segment, syncs it in groups and seals it.
//!
//! - input: rows, in order
//! - output: their numbers without a gap; sealed segments
//! - bound: the quota; a write buffer of [`BUFFER_BYTES`] and one record
//! - on failure: an error of [`Writer::append`] means that the record was not taken and took no
//!   number. When a write fails, the intact part of the segment is copied and sealed as soon as
//!   the disk allows; until then nothing is accepted. [`Writer::take_lost`] tells what was lost

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::SpoolError;
use super::fs::{Held, SpoolFile, SpoolFs};
use super::recover::{self, Position, Recovered, open_path, sealed_path};
use super::segment::{self, FLAG_HEADER, FOOTER_BYTES, FRAME_BYTES, Footer, Frame, Hasher, Header};
use super::state::{BLOCK, State};
pub use super::usage::Level;
use super::usage::Usage;
use crate::clock::SharedClock;
use crate::config;
use crate::record::row::{Producer, Row, Table};

mod repair;

/// Bytes gathered before a write.
pub const BUFFER_BYTES: usize = 256 * 1024;
/// Wait before a failed disk is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The only writer of a spool directory.
#[derive(Debug)]
pub struct Writer {
    fs: Arc<dyn SpoolFs>,
    /// With the directory of our slot as `dir`.
    config: config::Spool,
    /// The directory of all slots, which share one quota.
    root: PathBuf,
    producer: Producer,
    clock: SharedClock,
    _lock: Box<dyn Held>,
    position: Position,
    /// The state file allows numbers below this.
    reserved: u64,
    /// The state file does not name this start yet.
    state_due: bool,
    next_seq: u64,
    synced_seq: u64,
    sealed_segments: u64,
    open: Option<Open>,
    broken: Option<Broken>,
    lost: Option<Lost>,
    usage: Usage,
    row: Vec<u8>,
}

/// Records that had a number and did not reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The first.
    pub first_seq: u64,
    /// The last.
    pub last_seq: u64,
}

#[derive(Debug)]
struct Open {
    file: Box<dyn SpoolFile>,
    path: PathBuf,
    number: u64,
    seed: u32,
    hash: Hasher,
    pending: Vec<u8>,
    written: u64,
    headers: Vec<Table>,
    first_seq: u64,
    last_seq: u64,
    records: u64,
    begun: Instant,
    unsynced_since: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Unsaved {
    number: u64,
    records: Lost,
}

#[derive(Debug)]
struct Broken {
    /// The segment to copy.
    segment: Option<Unsaved>,
    reason: String,
    retry_at: Instant,
}

impl Writer {
    /// Locks the directory, seals what an earlier start left open, and begins a new numbering of
    /// records for this boot id.
    ///
    /// # Errors
    /// `Locked`, `HostId`, `BootReused`, or `Io` when the directory cannot be brought in order.
    pub fn open(
        fs: Arc<dyn SpoolFs>,
        config: &config::Spool,
        producer: &Producer,
        clock: SharedClock,
    ) -> Result<(Self, Recovered), SpoolError> {
        Self::open_slot(fs, config, &config.dir, producer, clock)
    }

    /// The same in one slot of `config.dir`; see `slots`.
    pub(crate) fn open_slot(
        fs: Arc<dyn SpoolFs>,
        config: &config::Spool,
        dir: &Path,
        producer: &Producer,
        clock: SharedClock,
    ) -> Result<(Self, Recovered), SpoolError> {
        if producer.host_id.len() > segment::MAX_HOST_BYTES {
            return Err(SpoolError::HostId(producer.host_id.len()));
        }
        let aside = dir.join(recover::QUARANTINE);
        fs.create_dir_all(&aside).map_err(SpoolError::io("making", &aside))?;
        let lock = fs.lock(dir).map_err(|e| match e.kind() {
            std::io::ErrorKind::WouldBlock => SpoolError::Locked(dir.to_owned()),
            _ => SpoolError::io("locking", dir)(e),
        })?;
        if State::load(fs.as_ref(), dir).is_of(producer.boot_id) {
            return Err(SpoolError::BootReused(producer.boot_id));
        }
        // an unreadable state forgets which numbers were used: seconds run ahead of segments
        let jump_to = u64::try_from(clock.wall().0 / 1_000_000).unwrap_or(0);
        let (recovered, position) = recover::recover(fs.as_ref(), dir, jump_to)?;
        if recovered.crashed.iter().any(|crash| crash.boot_id == producer.boot_id) {
            return Err(SpoolError::BootReused(producer.boot_id));
        }
        let now = clock.mono();
        let mut writer = Self {
            usage: Usage::new(config.max_bytes, now),
            fs,
            config: config::Spool { dir: dir.to_owned(), ..config.clone() },
            root: config.dir.clone(),
            producer: producer.clone(),
            clock,
            _lock: lock,
            position,
            reserved: 0,
            state_due: true,
            next_seq: 1,
            synced_seq: 0,
            sealed_segments: 0,
            open: None,
            broken: None,
            lost: None,
            row: Vec::new(),
        };
        writer.usage.list(writer.fs.as_ref(), &writer.root, 0, now)?;
        // after a crash the old state stays until the gap record is on disk, so that a second
        // crash in between does not hide the first
        if recovered.crashed.is_empty()
            && let Err(e) = writer.store_state(false)
        {
            writer.fail(None, &e);
        }
        Ok((writer, recovered))
    }

    /// Takes one record into the open segment and returns its number. It is written at the latest
    /// with the next [`Writer::tick`].
    ///
    /// # Errors
    /// `Full`, `Failed`, `TooLarge`, or `Io` when no segment could be begun. In each case the
    /// record was not taken and took no number.
    pub fn append<R: Row>(&mut self, row: &R) -> Result<u64, SpoolError> {
        if let Some(broken) = &self.broken {
            return Err(SpoolError::Failed(broken.reason.clone()));
        }
        let seq = self.next_seq;
        self.row.clear();
        row.encode(&self.producer, seq, &mut self.row);
        let bytes = self.row.len();
        if bytes > crate::limits::MAX_RECORD_BYTES {
            // a rare giant must not keep its memory
            self.row = Vec::new();
            return Err(SpoolError::TooLarge { bytes });
        }
        let mut need = (bytes + FRAME_BYTES + FOOTER_BYTES) as u64;
        if !self.open.as_ref().is_some_and(|open| open.headers.contains(&R::TABLE)) {
            need += (R::TABLE.header().len() + FRAME_BYTES) as u64;
        }
        self.make_room(need)?;
        if self.open.as_ref().is_some_and(|o| o.len() + need > self.config.max_segment_bytes) {
            self.seal()?;
        }
        if self.open.is_none() {
            self.open = Some(self.begin().inspect_err(|e| self.fail(None, e))?);
        }
        // begun above when there was none
        let Some(open) = &mut self.open else { return Err(SpoolError::Failed(String::new())) };
        if !open.headers.contains(&R::TABLE) {
            let header = R::TABLE.header();
            let frame = Frame { seq, table: R::TABLE as u8, flags: FLAG_HEADER, payload: &header };
            segment::put_frame(open.seed, frame, &mut open.pending)?;
            open.headers.push(R::TABLE);
        }
        let frame = Frame { seq, table: R::TABLE as u8, flags: 0, payload: &self.row };
        segment::put_frame(open.seed, frame, &mut open.pending)?;
        open.records += 1;
        open.last_seq = seq;
        open.unsynced_since.get_or_insert_with(|| self.clock.mono());
        self.next_seq += 1;
        if open.pending.len() >= BUFFER_BYTES {
            // the record has its number: a failure here is told by take_lost
            self.guarded(Self::flush).unwrap_or_default();
        }
        Ok(seq)
    }

    fn make_room(&mut self, need: u64) -> Result<(), SpoolError> {
        let open = self.open_bytes();
        if self.usage.left(open) >= need {
            return Ok(());
        }
        self.usage.overflow();
        Err(SpoolError::Full { used: self.usage.used(open), max: self.usage.capacity() })
    }

    /// Writes what was appended; syncs, seals, lists the directory or tries a failed disk again
    /// when that is due.
    ///
    /// # Errors
    /// `Io` when the disk fails now, `Failed` while it waits for the next try.
    pub fn tick(&mut self, now: Instant) -> Result<(), SpoolError> {
        if self.usage.is_due(self.open_bytes(), now) {
            let written = self.open.as_ref().map_or(0, |open| open.written);
            self.usage.list(self.fs.as_ref(), &self.root, written, now)?;
        }
        self.repair(now)?;
        self.guarded(Self::flush)?;
        let age = |since: Instant| now.saturating_duration_since(since);
        let Some(open) = &self.open else { return Ok(()) };
        if age(open.begun) >= self.config.seal_after || open.len() >= self.config.max_segment_bytes
        {
            return self.seal();
        }
        if open.unsynced_since.is_some_and(|since| age(since) >= self.config.sync_every) {
            return self.sync();
        }
        Ok(())
    }

    /// Makes everything that was appended durable.
    ///
    /// # Errors
    /// `Io`; what is durable is then known only after a later tick succeeds.
    pub fn sync(&mut self) -> Result<(), SpoolError> {
        self.guarded(|writer| {
            writer.flush()?;
            let Some(open) = &mut writer.open else { return Ok(()) };
            open.file.sync().map_err(SpoolError::io("syncing", &open.path))?;
            open.unsynced_since = None;
            writer.synced_seq = open.last_seq;
            Ok(())
        })?;
        self.catch_up_state()
    }

    /// Closes the open segment and hands it to the reader.
    ///
    /// # Errors
    /// See [`Writer::sync`].
    pub fn seal(&mut self) -> Result<(), SpoolError> {
        self.guarded(|writer| {
            writer.flush()?;
            let Some(open) = &mut writer.open else { return Ok(()) };
            let footer = Footer {
                records: open.records,
                first_seq: open.first_seq,
                last_seq: open.last_seq,
                sha256: open.hash.sum(),
            };
            footer.encode(open.seed, &mut open.pending)?;
            writer.flush()?;
            let Some(open) = &mut writer.open else { return Ok(()) };
            open.file.sync().map_err(SpoolError::io("syncing", &open.path))?;
            let to = sealed_path(&writer.config.dir, open.number);
            writer.fs.rename(&open.path, &to).map_err(SpoolError::io("sealing", &open.path))?;
            writer.synced_seq = open.last_seq;
            writer.sealed_segments += 1;
            writer.usage.add_closed(open.written);
            writer.position.prev = footer.sha256;
            // from here on the segment is safe, whether or not its new name is durable yet
            writer.open = None;
            let dir = &writer.config.dir;
            writer.fs.sync_dir(dir).map_err(SpoolError::io("syncing directory", dir))
        })?;
        self.catch_up_state()
    }

    /// Seals, and notes that this start ended in order.
    ///
    /// # Errors
    /// `Io` or `Failed`; the next start then reports a crash.
    pub fn close(mut self) -> Result<(), SpoolError> {
        if self.broken.is_some() {
            let now = self.clock.mono() + RETRY;
            self.repair(now)?;
        }
        self.seal()?;
        self.store_state(true)
    }

    /// Bytes in use, with the open segment and what is in quarantine.
    pub fn used_bytes(&self) -> u64 {
        self.usage.used(self.open_bytes())
    }

    /// What the spool still takes.
    pub fn level(&mut self) -> Level {
        self.usage.level(self.open_bytes())
    }

    /// Whether new work should be refused; see [`Level::Full`].
    pub fn is_full(&mut self) -> bool {
        self.level() == Level::Full
    }

    /// Why nothing is accepted, if so.
    pub fn failure(&self) -> Option<&str> {
        self.broken.as_ref().map(|broken| broken.reason.as_str())
    }

    /// Whether a segment is open or the disk waits for another try: `tick` has something to do.
    pub fn is_busy(&self) -> bool {
        self.open.is_some() || self.broken.is_some() || self.state_due
    }

    /// The number that the next record gets.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The last record that is known to be durable, 0 for none.
    pub fn synced_seq(&self) -> u64 {
        self.synced_seq
    }

    /// Segments sealed since the start.
    pub fn sealed_segments(&self) -> u64 {
        self.sealed_segments
    }

    /// Records that a failed disk swallowed after they had a number. Told once.
    pub fn take_lost(&mut self) -> Option<Lost> {
        self.lost.take()
    }

    fn open_bytes(&self) -> u64 {
        self.open.as_ref().map_or(0, Open::len)
    }

    fn begin(&mut self) -> Result<Open, SpoolError> {
        let number = self.position.next_number;
        if number >= self.reserved && !self.state_due {
            self.store_state(false)?;
        }
        let header = Header {
            host_id: self.producer.host_id.clone(),
            boot_id: self.producer.boot_id,
            number,
            created: self.clock.wall(),
            first_seq: self.next_seq,
            prev: self.position.prev,
        };
        let (pending, seed) = header.encode()?;
        let dir = &self.config.dir;
        let path = open_path(dir, number);
        let file = self.fs.create(&path).map_err(SpoolError::io("creating", &path))?;
        self.position.next_number = number.saturating_add(1);
        if let Err(e) = self.fs.sync_dir(dir) {
            // an empty leftover does no harm: the next start deletes it
            self.fs.remove(&path).unwrap_or_default();
            return Err(SpoolError::io("syncing directory", dir)(e));
        }
        Ok(Open {
            file,
            path,
            number,
            seed,
            hash: Hasher::new(),
            pending,
            written: 0,
            headers: Vec::new(),
            first_seq: self.next_seq,
            last_seq: self.next_seq.saturating_sub(1),
            records: 0,
            begun: self.clock.mono(),
            unsynced_since: None,
        })
    }

    fn flush(&mut self) -> Result<(), SpoolError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        if open.pending.is_empty() {
            return Ok(());
        }
        open.hash.update(&open.pending);
        open.file.write_all(&open.pending).map_err(SpoolError::io("writing", &open.path))?;
        open.written += open.pending.len() as u64;
        open.pending.clear();
        open.pending.shrink_to(2 * BUFFER_BYTES);
        Ok(())
    }

    fn store_state(&mut self, clean: bool) -> Result<(), SpoolError> {
        let reserve = if clean { 0 } else { BLOCK };
        let state = State {
            next_number: self.position.next_number.saturating_add(reserve),
            boot_id: self.producer.boot_id,
            last_seq: self.next_seq.saturating_sub(1),
            prev: self.position.prev,
            clean,
        };
        state.store(self.fs.as_ref(), &self.config.dir)?;
        self.reserved = state.next_number;
        self.state_due = false;
        Ok(())
    }

    /// Names this start in the state file once its first records are durable.
    fn catch_up_state(&mut self) -> Result<(), SpoolError> {
        if self.state_due && self.synced_seq > 0 {
            self.store_state(false).inspect_err(|e| self.fail(None, e))?;
        }
        Ok(())
    }
}

impl Open {
    fn len(&self) -> u64 {
        self.written.saturating_add(self.pending.len() as u64)
    }
}
