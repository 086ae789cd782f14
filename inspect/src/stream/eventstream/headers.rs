//! Headers of a frame.
//!
//! - input: the header block
//! - output: names and values; the block with secrets judged
//! - bound: the block
//! - on failure: [`Error`]: a block that is not made of headers

use crate::body::Masker;
use crate::stream::Error;

/// One header.
pub(super) struct Header<'a> {
    name: &'a [u8],
    /// Its value, if it is a string.
    text: Option<&'a [u8]>,
    /// As it stands.
    raw: &'a [u8],
}

const STRING: u8 = 7;
const WRONG: Error = Error::Malformed("event stream frame with wrong headers");

/// All headers.
pub(super) fn parse(block: &[u8]) -> Result<Vec<Header<'_>>, Error> {
    let mut headers = Vec::new();
    let mut rest = block;
    while !rest.is_empty() {
        let start = rest;
        let name_len = usize::from(take(&mut rest, 1)?.first().copied().unwrap_or(0));
        let name = take(&mut rest, name_len)?;
        let kind = take(&mut rest, 1)?.first().copied().unwrap_or(0);
        let len = match kind {
            0 | 1 => 0,
            2 => 1,
            3 => 2,
            4 => 4,
            5 | 8 => 8,
            9 => 16,
            6 | STRING => match take(&mut rest, 2)? {
                [high, low] => usize::from(u16::from_be_bytes([*high, *low])),
                _ => return Err(WRONG),
            },
            _ => return Err(WRONG),
        };
        let value = take(&mut rest, len)?;
        let raw = start.get(..start.len() - rest.len()).unwrap_or_default();
        headers.push(Header { name, text: Some(value).filter(|_| kind == STRING), raw });
    }
    Ok(headers)
}

/// What kind of event the frame is.
pub(super) fn event_type<'a>(headers: &[Header<'a>]) -> &'a [u8] {
    text(headers, b":event-type").unwrap_or_default()
}

/// Whether the payload is JSON.
pub(super) fn is_json(headers: &[Header<'_>]) -> bool {
    text(headers, b":content-type").is_some_and(|kind| kind.starts_with(b"application/json"))
}

/// The block with secrets in strings judged. None: nothing changes.
pub(super) fn mask(
    masker: &mut Masker<'_>,
    headers: &[Header<'_>],
) -> Result<Option<Vec<u8>>, Error> {
    const PLAIN: [&[u8]; 3] = [b":event-type", b":content-type", b":message-type"];
    let mut block = Vec::new();
    let mut changed = false;
    for header in headers {
        let text = header.text.filter(|_| !PLAIN.contains(&header.name));
        match text.map(|text| masker.text(text)).transpose()?.flatten() {
            None => block.extend(header.raw),
            Some(masked) => {
                changed = true;
                block.push(u8::try_from(header.name.len()).or(Err(WRONG))?);
                block.extend(header.name);
                block.push(STRING);
                let len = u16::try_from(masked.len());
                block.extend(len.or(Err(Error::TooLarge("event stream header")))?.to_be_bytes());
                block.extend(masked);
            }
        }
    }
    Ok(Some(block).filter(|_| changed))
}

fn text<'a>(headers: &[Header<'a>], name: &[u8]) -> Option<&'a [u8]> {
    headers.iter().find(|header| header.name == name)?.text
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], Error> {
    let (taken, after) = rest.split_at_checked(len).ok_or(WRONG)?;
    *rest = after;
    Ok(taken)
}
