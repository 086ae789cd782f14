//! Content encodings: off and on again.
//!
//! - input: the value of a `content-encoding` field, a body
//! - output: the body without them, or with them again
//! - bound: decoded bytes, absolute and in relation to the encoded ones; the number of encodings
//! - on failure: [`Error`]: unknown, over the bound, malformed, or bytes behind the end

use std::io::{Read, Write};

use brotli::enc::BrotliEncoderParams;
use brotli::{BrotliDecompressStream, BrotliResult, BrotliState, HeapAlloc, HuffmanCode};
use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use ruzstd::decoding::StreamingDecoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::Error;
use crate::limits::{MAX_NESTING, MAX_RATIO, MAX_RATIO_FREE_BYTES};

/// One encoding of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// RFC 1952, one member or more.
    Gzip,
    /// RFC 1950, what `deflate` means.
    Zlib,
    /// RFC 1951, what some take `deflate` for.
    Deflate,
    /// RFC 7932.
    Brotli,
    /// RFC 8878, windows of at most 8 MiB (RFC 9659).
    Zstd,
}

/// A decoded body, and how it was encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// What the encodings were around.
    pub body: Vec<u8>,
    /// Innermost first, as in the field.
    pub codecs: Vec<Codec>,
}

/// Takes the encodings of a `content-encoding` field (all of them, joined by commas) off `body`; of at
/// most `max` bytes afterwards.
///
/// # Errors
/// All of [`Error`] but `Refused` and `UnknownCharset`.
pub fn decode(field: Option<&[u8]>, body: &[u8], max: usize) -> Result<Decoded, Error> {
    let mut codecs = parse(field)?;
    let mut whole: Option<Vec<u8>> = None;
    for codec in codecs.iter_mut().rev() {
        let input = whole.as_deref().unwrap_or(body);
        // RFC 9110, 8.4: a response to HEAD and an empty body may name an encoding.
        if input.is_empty() {
            continue;
        }
        *codec = codec.as_found(input);
        whole = Some(codec.decode(input, max)?);
    }
    Ok(Decoded { body: whole.unwrap_or_else(|| body.to_vec()), codecs })
}

/// Puts `codecs` around `body`, in order.
///
/// # Errors
/// [`Error::Malformed`] if an encoder fails, which none does on memory.
pub fn encode(codecs: &[Codec], body: Vec<u8>) -> Result<Vec<u8>, Error> {
    codecs.iter().try_fold(body, |body, codec| codec.encode(&body))
}

fn parse(field: Option<&[u8]>) -> Result<Vec<Codec>, Error> {
    let mut codecs = Vec::new();
    for name in field.unwrap_or_default().split(|byte| *byte == b',') {
        codecs.push(match name.trim_ascii().to_ascii_lowercase().as_slice() {
            b"" | b"identity" => continue,
            b"gzip" | b"x-gzip" => Codec::Gzip,
            b"deflate" => Codec::Zlib,
            b"br" => Codec::Brotli,
            b"zstd" => Codec::Zstd,
            _ => return Err(Error::UnknownEncoding),
        });
        if codecs.len() > MAX_NESTING {
            return Err(Error::OverBound);
        }
    }
    Ok(codecs)
}

impl Codec {
    /// `deflate` without the header of zlib is raw.
    fn as_found(self, input: &[u8]) -> Self {
        let header = match input {
            [first, second, ..] => u16::from_be_bytes([*first, *second]),
            _ => 0,
        };
        match self {
            Self::Zlib if header & 0x0f00 != 0x0800 || header % 31 != 0 => Self::Deflate,
            codec => codec,
        }
    }

    /// Takes this encoding off.
    ///
    /// # Errors
    /// [`Error::OverBound`], [`Error::Malformed`].
    pub fn decode(self, input: &[u8], max: usize) -> Result<Vec<u8>, Error> {
        let ratio = input.len().saturating_mul(MAX_RATIO).saturating_add(MAX_RATIO_FREE_BYTES);
        let max = max.min(ratio);
        let mut rest = input;
        let body = match self {
            Self::Gzip => read(MultiGzDecoder::new(&mut rest), max),
            Self::Zlib => read(ZlibDecoder::new(&mut rest), max),
            Self::Deflate => read(DeflateDecoder::new(&mut rest), max),
            Self::Brotli => brotli(&mut rest, max),
            Self::Zstd => zstd(&mut rest, max),
        }?;
        if rest.is_empty() { Ok(body) } else { Err(Error::Malformed) }
    }

    /// What can be read of `input` before it is malformed; of gzip only.
    ///
    /// # Errors
    /// [`Error::OverBound`].
    pub fn begin(self, input: &[u8], max: usize) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        if self == Self::Gzip {
            let most = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
            // What was read before the error is kept.
            drop(MultiGzDecoder::new(input).take(most).read_to_end(&mut out));
        }
        if out.len() > max { Err(Error::OverBound) } else { Ok(out) }
    }

    /// Puts this encoding on.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the encoder fails, which none does on memory.
    pub fn encode(self, body: &[u8]) -> Result<Vec<u8>, Error> {
        let level = flate2::Compression::default();
        match self {
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), level);
                encoder.write_all(body).and_then(|()| encoder.finish())
            }
            Self::Zlib => {
                let mut encoder = ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(body).and_then(|()| encoder.finish())
            }
            Self::Deflate => {
                let mut encoder = DeflateEncoder::new(Vec::new(), level);
                encoder.write_all(body).and_then(|()| encoder.finish())
            }
            Self::Brotli => {
                // 5 of 11: what servers use for what is not compressed beforehand.
                let parameters = BrotliEncoderParams { quality: 5, ..Default::default() };
                let mut out = Vec::new();
                brotli::BrotliCompress(&mut &*body, &mut out, &parameters).map(|_| out)
            }
            Self::Zstd => Ok(compress_to_vec(body, CompressionLevel::Fastest)),
        }
        .map_err(malformed)
    }
}

impl std::fmt::Display for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Zlib | Self::Deflate => "deflate",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        })
    }
}

/// What a decoder says about hostile bytes goes nowhere.
fn malformed<E>(_error: E) -> Error {
    Error::Malformed
}

fn read(reader: impl Read, max: usize) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    let most = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    reader.take(most).read_to_end(&mut out).map_err(malformed)?;
    if out.len() > max { Err(Error::OverBound) } else { Ok(out) }
}

fn brotli(rest: &mut &[u8], max: usize) -> Result<Vec<u8>, Error> {
    let bytes = HeapAlloc::<u8>::new(0);
    let words = HeapAlloc::<u32>::new(0);
    let codes = HeapAlloc::<HuffmanCode>::new(HuffmanCode::default());
    // Strict: no windows above 16 MiB.
    let mut state = BrotliState::new_strict(bytes, words, codes);
    let mut left = rest.len();
    let (mut at, mut total) = (0, 0);
    let mut out = Vec::new();
    let mut block = [0_u8; 16 * 1024];
    loop {
        let (mut room, mut written) = (block.len(), 0);
        let result = BrotliDecompressStream(
            &mut left,
            &mut at,
            rest,
            &mut room,
            &mut written,
            &mut block,
            &mut total,
            &mut state,
        );
        out.extend_from_slice(block.get(..written).unwrap_or_default());
        if out.len() > max {
            return Err(Error::OverBound);
        }
        match result {
            BrotliResult::ResultSuccess => break,
            BrotliResult::NeedsMoreOutput => {}
            BrotliResult::NeedsMoreInput | BrotliResult::ResultFailure => {
                return Err(Error::Malformed);
            }
        }
    }
    *rest = rest.get(at..).unwrap_or_default();
    Ok(out)
}

/// Frames one after the other, skippable ones between them.
fn zstd(rest: &mut &[u8], max: usize) -> Result<Vec<u8>, Error> {
    const MAX_WINDOW_BYTES: u64 = 8 * 1024 * 1024;
    let mut out = Vec::new();
    while let Some((magic, frame)) = rest.split_first_chunk::<4>() {
        let magic = u32::from_le_bytes(*magic);
        if magic & 0xffff_fff0 == 0x184d_2a50 {
            let (length, data) = frame.split_first_chunk::<4>().ok_or(Error::Malformed)?;
            let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
            *rest = data.get(length..).ok_or(Error::Malformed)?;
            continue;
        }
        let [descriptor, window, ..] = frame else { return Err(Error::Malformed) };
        // RFC 8878, 3.1.1.1.2; a frame of one segment has its content as window.
        let base = 1_u64 << (10 + (window >> 3));
        let bytes = base + base / 8 * u64::from(window & 7);
        if descriptor & 0x20 == 0 && bytes > MAX_WINDOW_BYTES {
            return Err(Error::OverBound);
        }
        let decoder = StreamingDecoder::new(&mut *rest).map_err(malformed)?;
        if decoder.decoder.content_size() > u64::try_from(max).unwrap_or(u64::MAX) {
            return Err(Error::OverBound);
        }
        out.append(&mut read(decoder, max.saturating_sub(out.len()))?);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Codec; 5] = [Codec::Gzip, Codec::Zlib, Codec::Deflate, Codec::Brotli, Codec::Zstd];

    #[test]
    fn every_codec_round_trips() {
        for codec in ALL {
            for body in [&b""[..], b"a", &b"some text, ".repeat(40_000)] {
                let encoded = codec.encode(body).unwrap();
                assert_eq!(codec.decode(&encoded, 1 << 20).unwrap(), body, "{codec:?}");
            }
        }
    }

    #[test]
    fn lists_are_taken_off_from_the_outside() {
        let body = b"some text".to_vec();
        let wire = encode(&[Codec::Gzip, Codec::Brotli], body.clone()).unwrap();
        let decoded = decode(Some(b"x-gzip, identity,BR"), &wire, 100).unwrap();
        assert_eq!((decoded.body, decoded.codecs), (body, vec![Codec::Gzip, Codec::Brotli]));
    }

    #[test]
    fn raw_deflate_is_taken_for_deflate() {
        let wire = Codec::Deflate.encode(b"some text").unwrap();
        let decoded = decode(Some(b"deflate"), &wire, 100).unwrap();
        assert_eq!((&*decoded.body, &*decoded.codecs), (&b"some text"[..], &[Codec::Deflate][..]));
    }

    #[test]
    fn bombs_are_refused() {
        for codec in ALL {
            let bomb = codec.encode(&vec![0; 8 << 20]).unwrap();
            assert_eq!(codec.decode(&bomb, 1 << 20), Err(Error::OverBound), "{codec:?}");
        }
        let brotli = Codec::Brotli.encode(&vec![0; 8 << 20]).unwrap();
        assert_eq!(Codec::Brotli.decode(&brotli, 1 << 30), Err(Error::OverBound), "by its ratio");
    }

    #[test]
    fn what_follows_the_end_is_malformed() {
        for codec in ALL {
            let mut wire = codec.encode(b"some text").unwrap();
            wire.extend_from_slice(b"and a secret behind it");
            assert_eq!(codec.decode(&wire, 1 << 20), Err(Error::Malformed), "{codec:?}");
            let short = codec.encode(&b"some other text".repeat(9)).unwrap();
            let short = short.get(..short.len() / 2).unwrap();
            assert_eq!(codec.decode(short, 1 << 20), Err(Error::Malformed), "{codec:?}");
        }
    }

    #[test]
    fn unknown_ones_and_too_many_are_refused() {
        assert_eq!(decode(Some(b"gzip, dcz"), b"", 9), Err(Error::UnknownEncoding));
        assert_eq!(decode(Some(b"br,br,br,br,br,br"), b"", 9), Err(Error::OverBound));
    }
}
