//! The bytes of a segment: header, frames, footer. No input or output, only encoding and scanning.
//!
//! - input: record payloads, or any bytes at all
//! - output: frames, or what a scan found and where it had to stop
//! - bound: a frame carries at most `limits::MAX_RECORD_BYTES`; a file at most
//!   [`MAX_FILE_BYTES`]
//! - on failure: [`Damage`] with the offset; scanning never panics
//!
//! The layout is in `docs/spool-format.md`. All integers are little-endian.

use std::fmt;

use aws_lc_rs::digest;
use uuid::Uuid;

use super::SpoolError;
use crate::clock::WallUs;
use crate::limits;

/// The first bytes of every segment.
pub const MAGIC: [u8; 8] = *b"WEIRSEG\n";
/// The version that this code writes and reads.
pub const VERSION: u16 = 1;
/// Longest host id.
pub const MAX_HOST_BYTES: usize = 1024;
/// Longest file that is read: the largest configurable segment and one largest record.
pub const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024 + limits::MAX_RECORD_BYTES as u64 + (1 << 20);
/// Bytes before each payload.
pub const FRAME_BYTES: usize = 18;
/// Bytes of the footer with its frame.
pub const FOOTER_BYTES: usize = FRAME_BYTES + 56;
/// Bytes of the smallest header.
pub const MIN_HEADER_BYTES: usize = FIXED_HEADER_BYTES + 4;

/// The payload is the `RowBinaryWithNamesAndTypes` header of the table.
pub const FLAG_HEADER: u8 = 1;
/// The payload is the footer.
pub const FLAG_FOOTER: u8 = 2;

const FIXED_HEADER_BYTES: usize = 8 + 2 + 16 + 8 + 8 + 8 + 32 + 2;

/// A SHA-256.
pub type Sha256 = [u8; 32];

/// What a segment says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Who wrote it.
    pub host_id: String,
    /// In which start of the gateway.
    pub boot_id: Uuid,
    /// Its number, which is also its file name.
    pub number: u64,
    /// When it was begun.
    pub created: WallUs,
    /// Number of its first record.
    pub first_seq: u64,
    /// The footer's hash of the segment before, zero when there was none or it is not known.
    pub prev: Sha256,
}

/// What closes a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Records, not counting table headers.
    pub records: u64,
    /// Number of the first record.
    pub first_seq: u64,
    /// Number of the last record.
    pub last_seq: u64,
    /// Hash of everything before the footer's frame.
    pub sha256: Sha256,
}

/// One frame of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Record number; a table header carries that of the record it stands before.
    pub seq: u64,
    /// Table id.
    pub table: u8,
    /// [`FLAG_HEADER`], [`FLAG_FOOTER`] or 0.
    pub flags: u8,
    /// The content.
    pub payload: &'a [u8],
}

/// What is wrong with a segment, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Offset of the first byte that cannot be used.
    pub at: usize,
    /// What was expected there.
    pub reason: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {}", self.reason, self.at)
    }
}

/// The intact part of a segment.
#[derive(Clone, Debug)]
pub struct Scan {
    /// The header.
    pub header: Header,
    /// Records in the intact part.
    pub records: u64,
    /// Number of the last of them; `header.first_seq - 1` when there are none.
    pub last_seq: u64,
    /// Bytes up to the end of the last intact record.
    pub intact: usize,
    /// How it ends.
    pub end: End,
}

/// How the intact part of a segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With a footer that fits, and nothing behind it.
    Sealed(Footer),
    /// With a fitting footer and further bytes.
    Trailing(Footer, Damage),
    /// Without a footer.
    Cut(Damage),
}

impl Header {
    /// Encodes the header; also returns its checksum, which seeds those of the frames.
    pub fn encode(&self) -> Result<(Vec<u8>, u32), SpoolError> {
        let long = |_| SpoolError::HostId(self.host_id.len());
        let host_len = u16::try_from(self.host_id.len()).map_err(long)?;
        if self.host_id.len() > MAX_HOST_BYTES {
            return Err(SpoolError::HostId(self.host_id.len()));
        }
        let mut out = Vec::with_capacity(MIN_HEADER_BYTES + self.host_id.len());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(self.boot_id.as_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.created.0.to_le_bytes());
        out.extend_from_slice(&self.first_seq.to_le_bytes());
        out.extend_from_slice(&self.prev);
        out.extend_from_slice(&host_len.to_le_bytes());
        out.extend_from_slice(self.host_id.as_bytes());
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        Ok((out, crc))
    }

    /// Reads a header; also returns its length and checksum.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize, u32), Damage> {
        let mut cursor = Cursor { bytes, at: 0 };
        if cursor.array()? != MAGIC {
            return Err(Damage { at: 0, reason: "no segment magic" });
        }
        if u16::from_le_bytes(cursor.array()?) != VERSION {
            return Err(Damage { at: 8, reason: "unknown format version" });
        }
        let boot_id = Uuid::from_bytes(cursor.array()?);
        let number = u64::from_le_bytes(cursor.array()?);
        let created = WallUs(i64::from_le_bytes(cursor.array()?));
        let first_seq = u64::from_le_bytes(cursor.array()?);
        let prev = cursor.array()?;
        let host_len = usize::from(u16::from_le_bytes(cursor.array()?));
        if host_len > MAX_HOST_BYTES {
            return Err(Damage { at: cursor.at, reason: "host id too long" });
        }
        let host = cursor.take(host_len)?;
        let crc = crc32c::crc32c(bytes.get(..cursor.at).unwrap_or_default());
        if u32::from_le_bytes(cursor.array()?) != crc {
            return Err(Damage { at: 0, reason: "header checksum does not match" });
        }
        let utf8 = |_| Damage { at: FIXED_HEADER_BYTES, reason: "host id is not text" };
        let host_id = std::str::from_utf8(host).map_err(utf8)?.to_owned();
        if first_seq == 0 {
            return Err(Damage { at: 42, reason: "record numbers begin with 1" });
        }
        Ok((Self { host_id, boot_id, number, created, first_seq, prev }, cursor.at, crc))
    }
}

impl Footer {
    /// Encodes the footer with its frame.
    pub fn encode(&self, seed: u32, out: &mut Vec<u8>) -> Result<(), SpoolError> {
        let mut payload = [0_u8; FOOTER_BYTES - FRAME_BYTES];
        let parts: [&[u8]; 4] = [
            &self.records.to_le_bytes(),
            &self.first_seq.to_le_bytes(),
            &self.last_seq.to_le_bytes(),
            &self.sha256,
        ];
        for (to, from) in payload.iter_mut().zip(parts.concat()) {
            *to = from;
        }
        put_frame(
            seed,
            Frame { seq: self.last_seq, table: 0, flags: FLAG_FOOTER, payload: &payload },
            out,
        )
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let mut cursor = Cursor { bytes: payload, at: 0 };
        let footer = Self {
            records: u64::from_le_bytes(cursor.array().ok()?),
            first_seq: u64::from_le_bytes(cursor.array().ok()?),
            last_seq: u64::from_le_bytes(cursor.array().ok()?),
            sha256: cursor.array().ok()?,
        };
        (cursor.at == payload.len()).then_some(footer)
    }
}

/// Appends a frame. The seed ties it to its segment, so that stale disk blocks do not fit.
pub fn put_frame(seed: u32, frame: Frame<'_>, out: &mut Vec<u8>) -> Result<(), SpoolError> {
    let bytes = frame.payload.len();
    let too_large = SpoolError::TooLarge { bytes };
    let len = match u32::try_from(bytes) {
        Ok(len) if bytes <= limits::MAX_RECORD_BYTES => len.to_le_bytes(),
        _ => return Err(too_large),
    };
    out.reserve(FRAME_BYTES + bytes);
    out.extend_from_slice(&len);
    out.extend_from_slice(&frame_crc(seed, len, &frame).to_le_bytes());
    out.extend_from_slice(&frame.seq.to_le_bytes());
    out.extend_from_slice(&[frame.table, frame.flags]);
    out.extend_from_slice(frame.payload);
    Ok(())
}

fn frame_crc(seed: u32, len: [u8; 4], frame: &Frame<'_>) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&seed.to_le_bytes()), &len);
    let crc = crc32c::crc32c_append(crc, &frame.seq.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &[frame.table, frame.flags]);
    crc32c::crc32c_append(crc, frame.payload)
}

/// Walks through a segment and hands every intact record and table header to `visit`, until the
/// footer or the first frame that does not fit.
///
/// # Errors
/// When not even the header can be read.
pub fn scan<'a>(bytes: &'a [u8], mut visit: impl FnMut(Frame<'a>)) -> Result<Scan, Damage> {
    let (header, start, seed) = Header::decode(bytes)?;
    let mut cursor = Cursor { bytes, at: start };
    let mut tables = [false; 256];
    let mut records = 0_u64;
    let mut last_seq = header.first_seq.saturating_sub(1);
    let mut intact = start;
    let end = loop {
        let at = cursor.at;
        let frame = match next_frame(&mut cursor, seed) {
            Ok(frame) => frame,
            Err(damage) => break End::Cut(damage),
        };
        if frame.flags == FLAG_FOOTER {
            let sum = Footer {
                records,
                first_seq: header.first_seq,
                last_seq,
                sha256: sha256(bytes.get(..at).unwrap_or_default()),
            };
            break match Footer::decode(frame.payload) {
                Some(footer) if footer == sum && records > 0 => {
                    intact = at;
                    let reason = "bytes behind the footer";
                    match cursor.at == bytes.len() {
                        true => End::Sealed(footer),
                        false => End::Trailing(footer, Damage { at: cursor.at, reason }),
                    }
                }
                _ => End::Cut(Damage { at, reason: "footer does not fit" }),
            };
        }
        let next_seq = last_seq.checked_add(1);
        let known = tables.get_mut(usize::from(frame.table));
        match (frame.flags, known) {
            _ if Some(frame.seq) != next_seq => {
                break End::Cut(Damage { at, reason: "record number out of order" });
            }
            (FLAG_HEADER, Some(known)) if !*known => *known = true,
            (0, Some(known)) if *known => {
                records += 1;
                last_seq = frame.seq;
                intact = cursor.at;
            }
            _ => break End::Cut(Damage { at, reason: "misplaced frame" }),
        }
        visit(frame);
    };
    Ok(Scan { header, records, last_seq, intact, end })
}

fn next_frame<'a>(cursor: &mut Cursor<'a>, seed: u32) -> Result<Frame<'a>, Damage> {
    let at = cursor.at;
    let len: [u8; 4] = cursor.array()?;
    let crc = u32::from_le_bytes(cursor.array()?);
    let seq = u64::from_le_bytes(cursor.array()?);
    let [table, flags] = cursor.array()?;
    let payload_len = usize::try_from(u32::from_le_bytes(len)).unwrap_or(usize::MAX);
    if payload_len > limits::MAX_RECORD_BYTES {
        return Err(Damage { at, reason: "record too long" });
    }
    let payload = cursor.take(payload_len).map_err(|damage| Damage { at, ..damage })?;
    let frame = Frame { seq, table, flags, payload };
    if frame_crc(seed, len, &frame) != crc {
        return Err(Damage { at, reason: "record checksum does not match" });
    }
    Ok(frame)
}

/// Hashes bytes.
pub fn sha256(bytes: &[u8]) -> Sha256 {
    let mut hasher = Hasher::new();
    hasher.update(bytes);
    hasher.sum()
}

/// A running [`sha256`].
pub(super) struct Hasher(digest::Context);

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

impl Hasher {
    pub(super) fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn sum(&self) -> Sha256 {
        // SHA-256 has 32 bytes; the fallback is unreachable and fails every later comparison
        self.0.clone().finish().as_ref().try_into().unwrap_or_default()
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Damage> {
        let short = Damage { at: self.at, reason: "ends too early" };
        let end = self.at.checked_add(n).ok_or(short)?;
        let taken = self.bytes.get(self.at..end).ok_or(short)?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let short = Damage { at: self.at, reason: "ends too early" };
        self.take(N)?.first_chunk().copied().ok_or(short)
    }
}
