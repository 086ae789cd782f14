//! DNS messages: what must be read of them, and the few changes that are made.
//!
//! - input: bytes of a client or of an upstream server
//! - output: [`Query`], [`Answer`] and reply bytes
//! - bound: 64 KiB messages; [`MAX_CHAIN`] aliases; [`MAX_SHOWN`] recorded answers of
//!   [`MAX_SHOWN_BYTES`] each
//! - on failure: [`Unanswerable`], [`NotOurs`]; bytes that do not parse are never forwarded
//!
//! Answers pass through as they came, with the client's id and the client's spelling of the
//! question. Only an answer with ECH parameters is encoded anew.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use hickory_proto::ProtoError;
use hickory_proto::op::{Message, Metadata, ResponseCode};
use hickory_proto::rr::rdata::svcb::{SVCB, SvcParamKey, SvcParamValue};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::journal::Journal;
use crate::limits;

/// Aliases followed in one answer.
pub const MAX_CHAIN: usize = 16;
/// Answers recorded of one message.
pub const MAX_SHOWN: usize = 64;
/// Bytes recorded of one answer.
pub const MAX_SHOWN_BYTES: usize = 256;

const HEADER_BYTES: usize = 12;
/// Without EDNS, RFC 1035 section 2.3.4.
const PLAIN_UDP_BYTES: usize = 512;
/// Flags of the third and fourth header byte.
const QR: u8 = 0x80;
const OPCODE: u8 = 0x78;
const TC: u8 = 0x02;

/// One question that can be forwarded.
#[derive(Debug)]
pub struct Query {
    raw: Vec<u8>,
    message: Message,
    name: Name,
    kind: RecordType,
    text: String,
    question_end: usize,
}

/// A message that is no such question.
#[derive(Debug, PartialEq, Eq)]
pub enum Unanswerable {
    /// Not a query at all.
    Silent,
    /// FORMERR or NOTIMP.
    Reply(Vec<u8>),
}

/// An upstream message that does not answer the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOurs {
    /// Another id or question: a late or forged answer.
    Mismatch,
    /// Ours, but it does not parse.
    Malformed,
}

impl Query {
    /// Reads a client's message.
    ///
    /// # Errors
    /// What to do with it instead of forwarding it.
    pub fn parse(raw: &[u8]) -> Result<Self, Unanswerable> {
        let header = raw.get(..HEADER_BYTES).ok_or(Unanswerable::Silent)?;
        let flags = header.get(2).copied().unwrap_or_default();
        if flags & QR != 0 {
            return Err(Unanswerable::Silent);
        }
        if flags & OPCODE != 0 {
            return Err(Unanswerable::Reply(bare(header, ResponseCode::NotImp)));
        }
        let wrong = || Unanswerable::Reply(bare(header, ResponseCode::FormErr));
        // Checked before decoding: the decoder reserves room for as many as are announced.
        let one_question = header.get(4..10) == Some(&[0, 1, 0, 0, 0, 0]);
        let question_end = question_end(raw).filter(|_| one_question).ok_or_else(wrong)?;
        let message = Message::from_vec(raw).map_err(|_malformed| wrong())?;
        let question = message.queries.first().ok_or_else(wrong)?;
        let (name, kind) = (question.name().clone(), question.query_type());
        let text = text(&name);
        Ok(Self { raw: raw.to_vec(), name, kind, text, message, question_end })
    }

    /// The message under another id.
    pub fn with_id(&self, id: u16) -> Vec<u8> {
        let mut raw = self.raw.clone();
        put(&mut raw, 0, &id.to_be_bytes());
        raw
    }

    /// The name asked for.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Its recorded form: see [`text`].
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The type asked for.
    pub fn kind(&self) -> RecordType {
        self.kind
    }

    /// The largest datagram that the client takes, within our own bound.
    pub fn udp_size(&self) -> usize {
        let edns = self.message.edns.as_ref();
        edns.map_or(PLAIN_UDP_BYTES, |edns| {
            usize::from(edns.max_payload()).clamp(PLAIN_UDP_BYTES, limits::MAX_DNS_UDP_BYTES)
        })
    }

    /// A reply without records.
    pub fn reply(&self, code: ResponseCode) -> Vec<u8> {
        let mut metadata = Metadata::response_from_request(&self.message.metadata);
        metadata.response_code = code;
        metadata.recursion_available = true;
        let mut reply = Message::response(metadata.id, metadata.op_code);
        reply.metadata = metadata;
        reply.queries.clone_from(&self.message.queries);
        if let Some(edns) = &self.message.edns {
            let mut own = hickory_proto::op::Edns::new();
            own.set_max_payload(u16::try_from(limits::MAX_DNS_UDP_BYTES).unwrap_or(u16::MAX));
            own.set_dnssec_ok(edns.flags().dnssec_ok);
            reply.set_edns(own);
        }
        self.encode(&reply).unwrap_or_else(|_unencodable| bare(&self.raw, code))
    }

    /// Encodes a message with the question exactly as the client spelled it.
    fn encode(&self, message: &Message) -> Result<Vec<u8>, ProtoError> {
        let mut out = message.to_vec()?;
        self.spell(&mut out);
        Ok(out)
    }

    /// Puts the client's id and question over those of a message that has the same question.
    fn spell(&self, message: &mut [u8]) {
        put(message, 0, self.raw.get(..2).unwrap_or_default());
        let question = self.raw.get(HEADER_BYTES..self.question_end).unwrap_or_default();
        put(message, HEADER_BYTES, question);
    }

    fn is_question_of(&self, other: &[u8]) -> bool {
        let mine = self.raw.get(HEADER_BYTES..self.question_end);
        let theirs = other.get(HEADER_BYTES..self.question_end);
        let split = |bytes: Option<&[u8]>| {
            let bytes = bytes?;
            let (name, kind) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
            Some((name.to_ascii_lowercase(), kind.to_owned()))
        };
        // Length bytes of labels are below 64 and no letters: lowering leaves them alone.
        other.get(4..6) == Some(&[0, 1]) && split(mine).is_some() && split(mine) == split(theirs)
    }
}

/// An upstream server's answer to a [`Query`].
#[derive(Debug)]
pub struct Answer {
    raw: Vec<u8>,
    message: Message,
}

impl Answer {
    /// Reads the answer to `query`, which was sent under `id`.
    ///
    /// # Errors
    /// See [`NotOurs`].
    pub fn parse(query: &Query, id: u16, raw: Vec<u8>) -> Result<Self, NotOurs> {
        let flags = raw.get(2).copied().unwrap_or_default();
        let ours = raw.len() >= HEADER_BYTES
            && raw.get(..2) == Some(&id.to_be_bytes())
            && flags & QR != 0
            && flags & OPCODE == 0
            && query.is_question_of(&raw);
        if !ours {
            return Err(NotOurs::Mismatch);
        }
        match Message::from_vec(&raw) {
            Ok(message) => Ok(Self { raw, message }),
            // Some servers cut in the middle of a record: only the flag counts then.
            Err(_) if flags & TC != 0 => {
                let mut metadata = Metadata::response_from_request(&query.message.metadata);
                metadata.truncation = true;
                metadata.recursion_available = true;
                let mut message = Message::response(metadata.id, metadata.op_code);
                message.metadata = metadata;
                message.queries.clone_from(&query.message.queries);
                let raw = query.encode(&message).map_err(|_unencodable| NotOurs::Malformed)?;
                Ok(Self { raw, message })
            }
            Err(_) => Err(NotOurs::Malformed),
        }
    }

    /// The response code, with its EDNS bits.
    pub fn code(&self) -> ResponseCode {
        self.message.metadata.response_code
    }

    /// Whether the server had more to say.
    pub fn is_truncated(&self) -> bool {
        self.message.metadata.truncation
    }

    /// Targets of aliases: names that the answer leads to.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.message.all_sections().filter_map(|record| match &record.data {
            RData::CNAME(target) => Some(&target.0),
            data => svcb(data).map(|svcb| &svcb.target_name),
        })
    }

    /// Takes ECH out of every HTTPS and SVCB record (RFC 9460, RFC 9848); says whether there was
    /// any.
    ///
    /// # Errors
    /// When the changed message cannot be encoded.
    pub fn remove_ech(&mut self, query: &Query) -> Result<bool, ProtoError> {
        let message = &mut self.message;
        let sections = [&mut message.answers, &mut message.authorities, &mut message.additionals];
        let mut removed = false;
        for record in sections.into_iter().flatten() {
            removed |= match &mut record.data {
                RData::HTTPS(https) => without_ech(&mut https.0),
                RData::SVCB(svcb) => without_ech(svcb),
                _ => false,
            };
        }
        if removed {
            // Signatures over what was changed do not hold any more.
            message.metadata.authentic_data = false;
            self.raw = query.encode(message)?;
        }
        Ok(removed)
    }

    /// Notes in the journal what the name asked for resolved to.
    pub fn teach(&self, query: &Query, journal: &Journal, now: Instant) {
        if self.code() != ResponseCode::NoError {
            return;
        }
        let (last, lifetime) = self.end_of_chain(&query.name);
        let mut addresses = Vec::new();
        let mut aliases = Vec::new();
        if *last != query.name {
            aliases.push((text(last), lifetime));
        }
        let mut targets = Vec::new();
        for record in internet(&self.message.answers).filter(|record| record.name == *last) {
            let lifetime = lifetime.min(seconds(record.ttl));
            addresses.extend(record.data.ip_addr().map(|ip| (ip, lifetime)));
            if let Some(svcb) = svcb(&record.data) {
                addresses.extend(hints(svcb).map(|ip| (ip, lifetime)));
                if !svcb.target_name.is_root() && svcb.target_name != *last {
                    aliases.push((text(&svcb.target_name), lifetime));
                    targets.push(&svcb.target_name);
                }
            }
        }
        for record in internet(&self.message.additionals) {
            let found = record.data.ip_addr().filter(|_| targets.contains(&&record.name));
            addresses.extend(found.map(|ip| (ip, seconds(record.ttl))));
        }
        journal.note(service_host(&query.text), &addresses, &aliases, now);
    }

    /// Where the aliases of the answer lead, and the shortest lifetime on the way.
    fn end_of_chain<'a>(&'a self, name: &'a Name) -> (&'a Name, Duration) {
        let (mut last, mut lifetime) = (name, Duration::MAX);
        for _ in 0..MAX_CHAIN {
            let mut aliases = internet(&self.message.answers).filter(|r| r.name == *last);
            let next = aliases.find_map(|record| match &record.data {
                RData::CNAME(target) => Some((&target.0, record.ttl)),
                _ => None,
            });
            let Some((target, ttl)) = next else { break };
            (last, lifetime) = (target, lifetime.min(seconds(ttl)));
        }
        (last, lifetime)
    }

    /// The answers for the record, `TYPE data` each.
    pub fn describe(&self) -> Vec<String> {
        let shown = self.message.answers.iter().take(MAX_SHOWN);
        shown
            .map(|record| {
                let mut line = format!("{} {}", record.record_type(), record.data);
                // The data is a server's choice.
                line.truncate(line.floor_char_boundary(MAX_SHOWN_BYTES));
                line
            })
            .collect()
    }

    /// The bytes for the client, and whether records had to be left out to fit into `max`.
    pub fn reply(mut self, query: &Query, max: usize) -> (Vec<u8>, bool) {
        if self.raw.len() <= max {
            query.spell(&mut self.raw);
            return (self.raw, false);
        }
        let mut cut = self.message.truncate();
        cut.queries.clone_from(&query.message.queries);
        let cut = query.encode(&cut).ok().filter(|cut| cut.len() <= max);
        (cut.unwrap_or_else(|| query.reply(ResponseCode::ServFail)), true)
    }
}

/// Lower case, without the final dot; bytes beyond ASCII are escaped.
pub fn text(name: &Name) -> String {
    let text = name.to_ascii().to_ascii_lowercase();
    match text.strip_suffix('.') {
        Some(rest) if !rest.is_empty() => rest.to_owned(),
        _ => text,
    }
}

/// The mnemonic of a response code.
pub fn rcode(code: ResponseCode) -> String {
    match code {
        ResponseCode::NoError => "NOERROR".into(),
        ResponseCode::FormErr => "FORMERR".into(),
        ResponseCode::ServFail => "SERVFAIL".into(),
        ResponseCode::NXDomain => "NXDOMAIN".into(),
        ResponseCode::NotImp => "NOTIMP".into(),
        ResponseCode::Refused => "REFUSED".into(),
        other => format!("RCODE{}", u16::from(other)),
    }
}

/// The host of `_8443._https.host`, the name of an HTTPS record for another port.
fn service_host(name: &str) -> &str {
    let mut rest = name;
    while let Some((_, below)) = rest.split_once('.').filter(|(label, _)| label.starts_with('_')) {
        rest = below;
    }
    rest
}

fn internet(records: &[Record]) -> impl Iterator<Item = &Record> {
    records.iter().filter(|record| record.dns_class == DNSClass::IN)
}

fn seconds(ttl: u32) -> Duration {
    Duration::from_secs(ttl.into())
}

fn svcb(data: &RData) -> Option<&SVCB> {
    match data {
        RData::HTTPS(https) => Some(&https.0),
        RData::SVCB(svcb) => Some(svcb),
        _ => None,
    }
}

/// Addresses that a client may use without asking for them.
fn hints(svcb: &SVCB) -> impl Iterator<Item = IpAddr> {
    svcb.svc_params.iter().flat_map(|(_, value)| -> Vec<IpAddr> {
        match value {
            SvcParamValue::Ipv4Hint(hint) => hint.0.iter().map(|a| IpAddr::V4(a.0)).collect(),
            SvcParamValue::Ipv6Hint(hint) => hint.0.iter().map(|a| IpAddr::V6(a.0)).collect(),
            _ => Vec::new(),
        }
    })
}

fn without_ech(svcb: &mut SVCB) -> bool {
    let is_ech = |key: &SvcParamKey| *key == SvcParamKey::EchConfigList;
    if !svcb.svc_params.iter().any(|(key, _)| is_ech(key)) {
        return false;
    }
    svcb.svc_params.retain(|(key, _)| !is_ech(key));
    // A mandatory key that is not there makes the whole record void (RFC 9460 section 8).
    for (_, value) in &mut svcb.svc_params {
        if let SvcParamValue::Mandatory(mandatory) = value {
            mandatory.0.retain(|key| !is_ech(key));
        }
    }
    let is_void = |value: &SvcParamValue| match value {
        SvcParamValue::Mandatory(mandatory) => mandatory.0.is_empty(),
        _ => false,
    };
    svcb.svc_params.retain(|(_, value)| !is_void(value));
    true
}

/// Where the first question ends, if its name is written out.
fn question_end(raw: &[u8]) -> Option<usize> {
    let mut at = HEADER_BYTES;
    loop {
        match usize::from(*raw.get(at)?) {
            0 => break,
            length @ 1..=63 => at += 1 + length,
            _ => return None,
        }
    }
    let end = at + 5;
    (end <= raw.len()).then_some(end)
}

/// A reply to a message whose question cannot be read.
fn bare(header: &[u8], code: ResponseCode) -> Vec<u8> {
    let byte = |at: usize| header.get(at).copied().unwrap_or_default();
    let mut reply = vec![byte(0), byte(1), QR | (byte(2) & (OPCODE | 1)), code.low()];
    reply.resize(HEADER_BYTES, 0);
    reply
}

fn put(message: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = message.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}
