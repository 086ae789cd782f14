//! Messages: what is read of them, what is changed, and that nothing panics.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::rdata::svcb::{
    Alpn, EchConfigList, IpHint, Mandatory, SVCB, SvcParamKey, SvcParamValue, Unknown,
};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HTTPS, NULL};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use proptest::prelude::*;

use super::journal::{Journal, NameCheck};
use super::message::{Answer, NotOurs, Query, Unanswerable, rcode};

const ID: u16 = 0x0102;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn question(qname: &str, kind: RecordType) -> Message {
    let mut message = Message::new(ID, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Question::query(name(qname), kind));
    message
}

fn query(qname: &str, kind: RecordType) -> Query {
    Query::parse(&question(qname, kind).to_vec().unwrap()).unwrap()
}

/// An answer to a query, under id 7.
fn response(qname: &str, kind: RecordType, answers: Vec<Record>) -> Message {
    let mut message = Message::new(7, MessageType::Response, OpCode::Query);
    message.add_query(Question::query(name(qname), kind));
    message.add_answers(answers);
    message
}

fn a(owner: &str, ttl: u32, ip: &str) -> Record {
    Record::from_rdata(name(owner), ttl, RData::A(A(ip.parse().unwrap())))
}

fn cname(owner: &str, ttl: u32, target: &str) -> Record {
    Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
}

fn https(owner: &str, target: &str, params: Vec<(SvcParamKey, SvcParamValue)>) -> Record {
    let svcb = SVCB::new(1, name(target), params);
    Record::from_rdata(name(owner), 60, RData::HTTPS(HTTPS(svcb)))
}

fn ech_params() -> Vec<(SvcParamKey, SvcParamValue)> {
    let hint4 = IpHint(vec![A("192.0.2.5".parse().unwrap())]);
    let hint6 = IpHint(vec![AAAA("2001:db8::5".parse().unwrap())]);
    let mandatory = Mandatory(vec![SvcParamKey::Alpn, SvcParamKey::EchConfigList]);
    vec![
        (SvcParamKey::Mandatory, SvcParamValue::Mandatory(mandatory)),
        (SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(vec!["h2".into(), "h3".into()]))),
        (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(hint4)),
        (
            SvcParamKey::EchConfigList,
            SvcParamValue::EchConfigList(EchConfigList(b"secret-ech-config".to_vec())),
        ),
        (SvcParamKey::Ipv6Hint, SvcParamValue::Ipv6Hint(hint6)),
        (SvcParamKey::Unknown(77), SvcParamValue::Unknown(Unknown(b"kept".to_vec()))),
    ]
}

fn parse(query: &Query, message: &Message) -> Answer {
    Answer::parse(query, 7, message.to_vec().unwrap()).unwrap()
}

fn taught(qname: &str, kind: RecordType, message: &Message) -> (Journal, Instant) {
    let (journal, now) = (Journal::default(), Instant::now());
    let query = query(qname, kind);
    parse(&query, message).teach(&query, &journal, now);
    (journal, now)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn what_is_no_question_is_not_forwarded() {
    let good = question("a.example.", RecordType::A).to_vec().unwrap();
    assert!(Query::parse(&good).is_ok());
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        Query::parse(&bytes).err()
    };
    assert_eq!(Query::parse(&good[..11]).err(), Some(Unanswerable::Silent));
    assert_eq!(with(2, 0x80), Some(Unanswerable::Silent), "a response");
    let code = |error: Option<Unanswerable>| match error {
        Some(Unanswerable::Reply(reply)) => {
            assert_eq!(reply[..2], good[..2]);
            Message::from_vec(&reply).unwrap().metadata.response_code
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(code(with(2, 5 << 3)), ResponseCode::NotImp, "an update");
    assert_eq!(code(with(5, 0)), ResponseCode::FormErr, "no question");
    assert_eq!(code(with(5, 2)), ResponseCode::FormErr, "two questions");
    assert_eq!(code(with(4, 0xff)), ResponseCode::FormErr, "65281 questions");
    assert_eq!(code(with(7, 1)), ResponseCode::FormErr, "an answer that is not there");
    assert_eq!(code(with(12, 0xc0)), ResponseCode::FormErr, "a compressed question");
    assert_eq!(code(with(11, 9)), ResponseCode::FormErr, "records that are not there");
    assert_eq!(code(Query::parse(&good[..good.len() - 1]).err()), ResponseCode::FormErr);
}

#[test]
fn an_answer_keeps_its_bytes_but_gets_the_clients_id_and_spelling() {
    let asked = query("WwW.ExAmPlE.", RecordType::A);
    let unknown =
        RData::Unknown { code: RecordType::Unknown(65_400), rdata: NULL::with(vec![1, 2]) };
    let mut message =
        response("www.example.", RecordType::A, vec![a("www.example.", 5, "192.0.2.1")]);
    message.add_additional(Record::from_rdata(name("x.www.example."), 1, unknown));
    let raw = message.to_vec().unwrap();
    let mut answer = Answer::parse(&asked, 7, raw.clone()).unwrap();
    assert!(!answer.remove_ech(&asked).unwrap());
    let (reply, cut) = answer.reply(&asked, 512);
    assert!(!cut);
    assert_eq!(reply[..2], ID.to_be_bytes());
    assert_eq!(reply[12..25], *b"\x03WwW\x07ExAmPlE\0");
    assert_eq!(reply[25..], raw[25..]);
}

#[test]
fn only_the_answer_to_our_question_counts() {
    let asked = query("a.example.", RecordType::A);
    let answer = |change: fn(&mut Message)| {
        let mut message =
            response("a.example.", RecordType::A, vec![a("a.example.", 1, "192.0.2.1")]);
        change(&mut message);
        Answer::parse(&asked, 7, message.to_vec().unwrap()).err()
    };
    assert_eq!(answer(|_| {}), None);
    let mismatch = Some(NotOurs::Mismatch);
    assert_eq!(answer(|m| m.metadata.id = 8), mismatch);
    assert_eq!(answer(|m| m.metadata.message_type = MessageType::Query), mismatch);
    assert_eq!(answer(|m| m.queries.clear()), mismatch);
    assert_eq!(
        answer(|m| m.queries[0] = Question::query(name("b.example."), RecordType::A)),
        mismatch
    );
    assert_eq!(
        answer(|m| m.queries[0] = Question::query(name("a.example."), RecordType::AAAA)),
        mismatch
    );
    let mut cut = response("a.example.", RecordType::A, vec![a("a.example.", 1, "192.0.2.1")]);
    let whole = cut.to_vec().unwrap();
    let part = whole[..whole.len() - 2].to_vec();
    assert_eq!(Answer::parse(&asked, 7, part).err(), Some(NotOurs::Malformed));
    cut.metadata.truncation = true;
    let whole = cut.to_vec().unwrap();
    let part = Answer::parse(&asked, 7, whole[..whole.len() - 2].to_vec()).unwrap();
    assert!(part.is_truncated(), "cut in the middle, and says so");
    let (reply, _) = part.reply(&asked, 512);
    let reply = Message::from_vec(&reply).unwrap();
    assert!(reply.metadata.truncation && reply.metadata.id == ID && reply.answers.is_empty());
}

#[test]
fn ech_is_taken_out_and_the_rest_stays() {
    let asked = query("A.example.", RecordType::HTTPS);
    let mut message =
        response("a.example.", RecordType::HTTPS, vec![https("a.example.", ".", ech_params())]);
    message.metadata.authentic_data = true;
    message.add_authority(a("ns.a.example.", 9, "192.0.2.53"));
    message.add_additional(https("b.a.example.", "c.a.example.", ech_params()));
    message.set_edns(Edns::new());
    let before = message.to_vec().unwrap();
    assert!(before.windows(10).any(|w| w == b"secret-ech"));
    let mut answer = Answer::parse(&asked, 7, before).unwrap();
    assert!(answer.remove_ech(&asked).unwrap());
    assert!(!answer.describe()[0].contains("ech"), "{:?}", answer.describe());
    let (reply, _) = answer.reply(&asked, 4096);
    assert!(!reply.windows(10).any(|w| w == b"secret-ech"));
    assert_eq!(reply[..2], ID.to_be_bytes());
    assert_eq!(reply[12..23], *b"\x01A\x07example\0");
    let after = Message::from_vec(&reply).unwrap();
    assert!(!after.metadata.authentic_data);
    let mut params = ech_params();
    params.retain(|(key, _)| *key != SvcParamKey::EchConfigList);
    params[0].1 = SvcParamValue::Mandatory(Mandatory(vec![SvcParamKey::Alpn]));
    assert_eq!(after.answers, [https("a.example.", ".", params.clone())]);
    assert_eq!(after.additionals, [https("b.a.example.", "c.a.example.", params)]);
    assert_eq!(after.authorities, message.authorities);
    assert!(after.edns.is_some());
}

#[test]
fn a_list_of_mandatory_keys_with_nothing_but_ech_goes_too() {
    let asked = query("a.example.", RecordType::SVCB);
    let ech = SvcParamValue::EchConfigList(EchConfigList(vec![1; 8]));
    let mandatory = SvcParamValue::Mandatory(Mandatory(vec![SvcParamKey::EchConfigList]));
    let svcb = SVCB::new(
        1,
        Name::root(),
        vec![(SvcParamKey::Mandatory, mandatory), (SvcParamKey::EchConfigList, ech)],
    );
    let record = Record::from_rdata(name("a.example."), 1, RData::SVCB(svcb));
    let mut answer = parse(&asked, &response("a.example.", RecordType::SVCB, vec![record]));
    assert!(answer.remove_ech(&asked).unwrap());
    let (reply, _) = answer.reply(&asked, 512);
    let RData::SVCB(svcb) = &Message::from_vec(&reply).unwrap().answers[0].data else { panic!() };
    assert!(svcb.svc_params.is_empty());
}

#[test]
fn what_does_not_fit_is_cut_to_the_question() {
    let answers: Vec<Record> =
        (0..100).map(|n| a("a.example.", 1, &format!("192.0.2.{n}"))).collect();
    let message = response("a.example.", RecordType::A, answers);
    let asked = query("a.example.", RecordType::A);
    assert_eq!(asked.udp_size(), 512);
    let (reply, cut) = parse(&asked, &message).reply(&asked, asked.udp_size());
    let short = Message::from_vec(&reply).unwrap();
    assert!(cut && short.metadata.truncation && short.answers.is_empty() && reply.len() < 512);
    assert_eq!((short.metadata.id, short.queries.len()), (ID, 1));
    for (announced, taken) in [(100, 512), (1232, 1232), (65_535, 4096)] {
        let mut edns = Edns::new();
        edns.set_max_payload(announced);
        let mut wide = question("a.example.", RecordType::A);
        wide.set_edns(edns);
        let wide = Query::parse(&wide.to_vec().unwrap()).unwrap();
        assert_eq!(wide.udp_size(), taken);
    }
    let (reply, cut) = parse(&asked, &message).reply(&asked, 4096);
    assert!(!cut && Message::from_vec(&reply).unwrap().answers.len() == 100);
}

#[test]
fn addresses_are_learnt_through_aliases_with_the_shortest_lifetime() {
    let answers = vec![
        // In the wrong order, with a stranger among them.
        a("c.example.", 3600, "192.0.2.1"),
        a("stranger.example.", 3600, "192.0.2.66"),
        cname("b.example.", 90, "C.example."),
        cname("A.example.", 3600, "b.example."),
    ];
    let (journal, now) =
        taught("a.EXAMPLE.", RecordType::A, &response("a.example.", RecordType::A, answers));
    let check =
        |name: &str, addr: &str, s| journal.check(name, ip(addr), now + Duration::from_secs(s));
    assert_eq!(check("a.example", "192.0.2.1", 89), NameCheck::Known);
    assert_eq!(check("a.example", "192.0.2.66", 0), NameCheck::Mismatch);
    assert_eq!(check("a.example", "192.0.2.1", 90), NameCheck::Unknown);
    for other in ["b.example", "c.example", "stranger.example"] {
        assert_eq!(check(other, "192.0.2.1", 0), NameCheck::Unknown, "{other}");
        assert_eq!(check(other, "192.0.2.66", 0), NameCheck::Unknown, "{other}");
    }
}

#[test]
fn an_answer_cannot_teach_about_a_name_that_was_not_asked_for() {
    let answers =
        vec![cname("evil.example.", 60, "bank.example."), a("bank.example.", 60, "192.0.2.66")];
    let (journal, now) =
        taught("evil.example.", RecordType::A, &response("evil.example.", RecordType::A, answers));
    assert_eq!(journal.check("evil.example", ip("192.0.2.66"), now), NameCheck::Known);
    assert_eq!(journal.check("bank.example", ip("192.0.2.66"), now), NameCheck::Unknown);
}

#[test]
fn aliases_in_a_circle_end() {
    let answers = vec![cname("a.", 60, "b."), cname("b.", 60, "a."), a("a.", 60, "192.0.2.1")];
    let (journal, now) = taught("a.", RecordType::A, &response("a.", RecordType::A, answers));
    assert_eq!(journal.check("a", ip("192.0.2.1"), now), NameCheck::Known);
}

#[test]
fn hints_and_targets_of_https_records_are_learnt() {
    let mut message = response(
        "_8443._https.a.example.",
        RecordType::HTTPS,
        vec![https("_8443._https.a.example.", "svc.example.", ech_params())],
    );
    message.add_additional(a("svc.example.", 60, "192.0.2.7"));
    message.add_additional(a("other.example.", 60, "192.0.2.8"));
    let (journal, now) = taught("_8443._https.a.example.", RecordType::HTTPS, &message);
    let check = |addr| journal.check("a.example", ip(addr), now);
    for known in ["192.0.2.5", "2001:db8::5", "192.0.2.7"] {
        assert_eq!(check(known), NameCheck::Known, "{known}");
    }
    assert_eq!(check("192.0.2.8"), NameCheck::Mismatch);
    // The target is resolved in a question of its own.
    journal.note("svc.example", &[(ip("192.0.2.9"), Duration::from_secs(60))], &[], now);
    assert_eq!(check("192.0.2.9"), NameCheck::Known);
}

#[test]
fn failures_teach_nothing() {
    let mut message = response("a.example.", RecordType::A, vec![a("a.example.", 60, "192.0.2.1")]);
    message.metadata.response_code = ResponseCode::NXDomain;
    let (journal, _) = taught("a.example.", RecordType::A, &message);
    assert_eq!(journal.names(), 0);
}

#[test]
fn recorded_answers_are_bounded() {
    let asked = query("a.example.", RecordType::TXT);
    let text = RData::TXT(hickory_proto::rr::rdata::TXT::new(vec!["\u{e4}".repeat(120); 4]));
    let record = Record::from_rdata(name("a.example."), 1, text);
    let message = response("a.example.", RecordType::TXT, vec![record; 100]);
    let shown = parse(&asked, &message).describe();
    assert_eq!(shown.len(), super::message::MAX_SHOWN);
    assert!(shown.iter().all(|line| line.len() <= super::message::MAX_SHOWN_BYTES));
    assert!(shown[0].starts_with("TXT "), "{}", shown[0]);
    assert_eq!(
        (rcode(ResponseCode::BADVERS), rcode(ResponseCode::NXDomain)),
        ("RCODE16".into(), "NXDOMAIN".into())
    );
}

/// Bytes that look like a message in their first part.
fn nearly(start: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    (prop::collection::vec((0..start.len() + 8, any::<u8>()), 0..6), any::<prop::sample::Index>())
        .prop_map(move |(changes, cut)| {
            let mut bytes = start.clone();
            for (at, byte) in changes {
                match bytes.get_mut(at) {
                    Some(place) => *place = byte,
                    None => bytes.push(byte),
                }
            }
            bytes.truncate(cut.index(bytes.len() + 1).max(bytes.len() / 2));
            bytes
        })
}

fn rich_answer() -> Vec<u8> {
    let mut message = response(
        "a.example.",
        RecordType::HTTPS,
        vec![cname("a.example.", 1, "b.example."), https("b.example.", ".", ech_params())],
    );
    message.add_additional(a("b.example.", 2, "192.0.2.1"));
    message.set_edns(Edns::new());
    message.to_vec().unwrap()
}

fn use_all(query: &Query, mut answer: Answer) -> Result<(), TestCaseError> {
    let journal = Journal::default();
    let removed = answer.remove_ech(query);
    answer.teach(query, &journal, Instant::now());
    prop_assert!(answer.describe().len() <= super::message::MAX_SHOWN);
    prop_assert!(answer.names().count() < 100);
    if removed.is_ok() {
        let (reply, _) = answer.reply(query, 512);
        prop_assert!(reply.len() <= 512);
        prop_assert_eq!(&reply[..2], &ID.to_be_bytes());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn garbage_from_clients_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(query) = Query::parse(&bytes) {
            prop_assert!(query.reply(ResponseCode::ServFail).len() >= 12);
        }
    }

    #[test]
    fn broken_queries_do_not_panic(
        bytes in nearly(question("a.example.", RecordType::HTTPS).to_vec().unwrap()),
    ) {
        match Query::parse(&bytes) {
            Ok(query) => {
                let reply = query.reply(ResponseCode::Refused);
                prop_assert_eq!(&reply[..2], &bytes[..2]);
                prop_assert!(Message::from_vec(&reply).is_ok());
            }
            Err(Unanswerable::Reply(reply)) => prop_assert_eq!(reply.len(), 12),
            Err(Unanswerable::Silent) => {}
        }
    }

    #[test]
    fn broken_answers_do_not_panic(bytes in nearly(rich_answer())) {
        let query = query("a.example.", RecordType::HTTPS);
        if let Ok(answer) = Answer::parse(&query, 7, bytes) {
            use_all(&query, answer)?;
        }
    }
}

#[test]
fn the_rich_answer_is_a_good_one() {
    let query = query("a.example.", RecordType::HTTPS);
    use_all(&query, Answer::parse(&query, 7, rich_answer()).unwrap()).unwrap();
}
