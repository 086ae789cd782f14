//! Reads sealed segments for the sink, and removes them when told to.
//!
//! - input: sealed segments, oldest first
//! - output: [`Segment`]: for each table one complete `RowBinaryWithNamesAndTypes` body
//! - bound: one segment in memory
//! - on failure: `Damaged`; the sink may insert what [`Reader::salvage`] still finds and then
//!   calls [`Reader::quarantine`]
//!
//! Any number of readers may exist; only the sink should remove.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::SpoolError;
use super::fs::SpoolFs;
use super::recover::{self, sealed_numbers, sealed_path};
use super::segment::{self, Damage, End, FLAG_HEADER, Frame, MAX_FILE_BYTES};
use super::state::remove_if_there;
use crate::record::row::Table;

/// The reading side of a spool directory.
#[derive(Clone, Debug)]
pub struct Reader {
    dir: PathBuf,
    fs: Arc<dyn SpoolFs>,
}

/// A sealed segment on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentRef {
    /// Its number; later segments have higher ones.
    pub number: u64,
    /// Its length.
    pub bytes: u64,
}

/// A sealed segment in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Who wrote it.
    pub host_id: String,
    /// In which start of the gateway.
    pub boot_id: Uuid,
    /// Its number.
    pub number: u64,
    /// Its records by table, in the order in which they should be inserted.
    pub batches: Vec<Batch>,
}

/// The rows of one table in one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The table.
    pub table: Table,
    /// Number of rows.
    pub rows: u64,
    /// Lowest record number.
    pub first_seq: u64,
    /// Highest record number; those between may belong to other tables.
    pub last_seq: u64,
    /// A complete `RowBinaryWithNamesAndTypes` body, with the header of the weir that wrote it.
    pub data: Bytes,
}

impl Segment {
    /// The deduplication token of a batch: the same for every attempt to insert it.
    pub fn token(&self, batch: &Batch) -> String {
        let table = batch.table.name();
        format!("{}/{}/{}/{table}", self.host_id, self.boot_id, self.number)
    }
}

impl Reader {
    /// A reader of a directory; makes it when it is not there yet.
    ///
    /// # Errors
    /// `Io`.
    pub fn open(dir: &Path, fs: Arc<dyn SpoolFs>) -> Result<Self, SpoolError> {
        fs.create_dir_all(dir).map_err(SpoolError::io("making", dir))?;
        Ok(Self::at(dir.to_owned(), fs))
    }

    /// A reader of a directory that may not exist.
    pub fn at(dir: PathBuf, fs: Arc<dyn SpoolFs>) -> Self {
        Self { dir, fs }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Sealed segments, oldest first.
    ///
    /// # Errors
    /// `Io`.
    pub fn sealed(&self) -> Result<Vec<SegmentRef>, SpoolError> {
        let numbers = sealed_numbers(self.fs.as_ref(), &self.dir)?;
        Ok(numbers.into_iter().map(|(number, bytes)| SegmentRef { number, bytes }).collect())
    }

    /// Reads and checks a whole segment.
    ///
    /// # Errors
    /// `Io`, or `Damaged` when any byte is not as it was written.
    pub fn load(&self, at: &SegmentRef) -> Result<Segment, SpoolError> {
        let (segment, damage) = self.read(at)?;
        match damage {
            None => Ok(segment),
            Some(damage) => Err(self.damaged(at, damage)),
        }
    }

    /// Reads what is intact of a damaged segment: the records before the damage.
    ///
    /// # Errors
    /// `Io`, or `Damaged` when nothing can be read.
    pub fn salvage(&self, at: &SegmentRef) -> Result<Segment, SpoolError> {
        Ok(self.read(at)?.0)
    }

    /// Removes a segment: ClickHouse has it. After a power loss it may be there again, which its
    /// tokens make harmless.
    ///
    /// # Errors
    /// `Io`; a segment that is gone already is none.
    pub fn ack(&self, at: &SegmentRef) -> Result<(), SpoolError> {
        remove_if_there(self.fs.as_ref(), &sealed_path(&self.dir, at.number))
    }

    /// Moves a segment to `quarantine/` with a file that says why.
    ///
    /// # Errors
    /// `Io`.
    pub fn quarantine(&self, at: &SegmentRef, reason: &str) -> Result<(), SpoolError> {
        let path = sealed_path(&self.dir, at.number);
        recover::quarantine(self.fs.as_ref(), &self.dir, &path, at.number, reason)
    }

    fn read(&self, at: &SegmentRef) -> Result<(Segment, Option<Damage>), SpoolError> {
        let path = sealed_path(&self.dir, at.number);
        let bytes =
            self.fs.read(&path, MAX_FILE_BYTES).map_err(SpoolError::io("reading", &path))?;
        let mut gather = Gather::default();
        let scan = segment::scan(&bytes, |frame| gather.take(frame))
            .map_err(|damage| self.damaged(at, damage))?;
        if scan.header.number != at.number {
            let reason = "header names another segment";
            return Err(self.damaged(at, Damage { at: 26, reason }));
        }
        let damage = match scan.end {
            End::Sealed(_) => None,
            End::Trailing(_, damage) | End::Cut(damage) => Some(damage),
        };
        let unknown = gather.unknown.then_some(Damage { at: 0, reason: "unknown table" });
        let segment = Segment {
            host_id: scan.header.host_id,
            boot_id: scan.header.boot_id,
            number: at.number,
            batches: gather.batches(),
        };
        Ok((segment, damage.or(unknown)))
    }

    fn damaged(&self, at: &SegmentRef, damage: Damage) -> SpoolError {
        SpoolError::Damaged { path: sealed_path(&self.dir, at.number), damage }
    }
}

/// Sorts frames by table.
#[derive(Debug, Default)]
struct Gather {
    tables: Vec<Gathered>,
    unknown: bool,
}

#[derive(Debug)]
struct Gathered {
    table: Table,
    rows: u64,
    first_seq: u64,
    last_seq: u64,
    data: Vec<u8>,
}

impl Gather {
    fn take(&mut self, frame: Frame<'_>) {
        let Some(table) = Table::from_id(frame.table) else {
            // written by a newer weir
            self.unknown = true;
            return;
        };
        let known = self.tables.iter_mut().find(|gathered| gathered.table == table);
        match known {
            None => {
                // the scan has made sure that this is the table header
                let data = frame.payload.to_vec();
                let first_seq = 0;
                self.tables.push(Gathered { table, rows: 0, first_seq, last_seq: 0, data });
            }
            Some(gathered) if frame.flags != FLAG_HEADER => {
                if gathered.rows == 0 {
                    gathered.first_seq = frame.seq;
                }
                gathered.rows += 1;
                gathered.last_seq = frame.seq;
                gathered.data.extend_from_slice(frame.payload);
            }
            Some(_) => {}
        }
    }

    fn batches(self) -> Vec<Batch> {
        let mut tables = self.tables;
        tables.retain(|gathered| gathered.rows > 0);
        tables.sort_by_key(|gathered| Table::ALL.iter().position(|t| *t == gathered.table));
        let batch = |gathered: Gathered| Batch {
            table: gathered.table,
            rows: gathered.rows,
            first_seq: gathered.first_seq,
            last_seq: gathered.last_seq,
            data: Bytes::from(gathered.data),
        };
        tables.into_iter().map(batch).collect()
    }
}
