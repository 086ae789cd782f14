//! The resolver before a scripted name server, and what its journal says about flows.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::svcb::{EchConfigList, SVCB, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{CNAME, HTTPS};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UdpSocket};
use weir_gateway::config::{Config, DnsCheck, HostPattern};
use weir_gateway::dns::NameCheck;
use weir_tests::ca::TestCa;
use weir_tests::client::Connection;
use weir_tests::dns::{FakeDns, Sent, a, answer, ask_tcp, ask_udp, name, question, record};
use weir_tests::gateway::{DST, NAME, TestGateway};

use crate::wire::https_origin_with;

/// That of [`DST`].
const IP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

fn gateway(change: impl FnOnce(&mut Config)) -> TestGateway {
    TestGateway::start(TestCa::new("weir test CA"), change, &[])
}

fn before(servers: &[&FakeDns]) -> TestGateway {
    let upstream: Vec<SocketAddr> = servers.iter().map(|server| server.addr()).collect();
    gateway(|config| {
        config.dns.upstream = upstream;
        config.dns.timeout = Duration::from_millis(1200);
    })
}

fn own(message: &Message) -> Sent {
    Sent::Own(message.to_vec().unwrap())
}

fn resolver(gateway: &TestGateway) -> SocketAddr {
    gateway.inner().dns_addr()
}

/// Asks for an A record over UDP.
async fn ask(gateway: &TestGateway, qname: &str) -> Message {
    let question = question(99, qname, RecordType::A, None);
    Message::from_vec(&ask_udp(resolver(gateway), &question).await.unwrap()).unwrap()
}

async fn answering() -> FakeDns {
    FakeDns::start(|q, _| vec![own(&answer(q, vec![a(&q.queries[0].name().to_ascii(), IP)]))]).await
}

#[tokio::test]
async fn udp_and_tcp_are_forwarded_recorded_and_remembered() {
    let server = answering().await;
    let gateway = before(&[&server]);
    let asked = question(0xbeef, "MiXeD.Example.", RecordType::A, None);
    let over_udp = ask_udp(resolver(&gateway), &asked).await.unwrap();
    let again = question(0xcafe, "mixed.example.", RecordType::A, None).to_vec().unwrap();
    let over_tcp = ask_tcp(resolver(&gateway), &[asked.to_vec().unwrap(), again]).await.unwrap();
    assert_eq!(over_udp, over_tcp[0]);
    assert_eq!(over_udp[..2], [0xbe, 0xef]);
    assert_eq!(over_udp[12..27], *b"\x05MiXeD\x07Example\0");
    assert_eq!(Message::from_vec(&over_tcp[1]).unwrap().metadata.id, 0xcafe);
    assert_eq!(Message::from_vec(&over_udp).unwrap().answers, [a("mixed.example.", IP)]);
    // Forwarded as they were, but under ids of our own.
    let raw = server.raw();
    assert_eq!(raw[0][2..], asked.to_vec().unwrap()[2..]);
    let ids: Vec<_> = raw.iter().map(|raw| [raw[0], raw[1]]).collect();
    assert!(ids.iter().filter(|id| **id == [0xbe, 0xef]).count() < 2, "{ids:?}");
    let journal = gateway.inner().journal();
    assert_eq!(journal.check("mixed.example", IP.into(), Instant::now()), NameCheck::Known);
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.counter("dns_queries_total"), 3);
    assert_eq!(recorded.dns.len(), 3);
    let row = &recorded.dns[0];
    assert_eq!((row.text("qname"), row.text("qtype")), ("mixed.example", "A"));
    assert_eq!((row.text("rcode"), row.text("decision")), ("NOERROR", "forwarded"));
    assert_eq!((row.text("outcome"), row.text("proto")), ("ok", "udp"));
    assert_eq!(row.value("answers")[0], "A 203.0.113.10");
    assert_eq!(row.text("upstream"), server.addr().to_string());
    assert!(row.number("client_port") > 0 && row.number("dur_us") > 0);
    assert_eq!(recorded.dns[1].text("proto"), "tcp");
}

#[tokio::test]
async fn forged_answers_are_ignored() {
    let evil = Ipv4Addr::new(198, 51, 100, 66);
    let server = FakeDns::start(move |q, _| {
        let qname = q.queries[0].name().to_ascii();
        let forged = answer(q, vec![a(&qname, evil)]);
        let mut other_id = forged.clone();
        other_id.metadata.id = q.metadata.id.wrapping_add(1);
        let mut other_name = forged.clone();
        other_name.queries[0].set_name(name("other.example."));
        let right = answer(q, vec![a(&qname, IP)]);
        let stranger = Sent::Stranger(forged.to_vec().unwrap());
        let garbage = Sent::Own(vec![0xff; 7]);
        vec![stranger, own(&other_id), own(&other_name), garbage, own(&right)]
    })
    .await;
    let gateway = before(&[&server]);
    let reply = ask(&gateway, "a.example.").await;
    assert_eq!(reply.answers, [a("a.example.", IP)]);
    let journal = gateway.inner().journal();
    assert_eq!(journal.check("a.example", evil.into(), Instant::now()), NameCheck::Mismatch);
    let recorded = gateway.shutdown().await;
    // The stranger's datagram does not even arrive.
    assert_eq!(recorded.counter("dns_mismatched_total"), 3);
}

#[tokio::test]
async fn a_silent_server_gives_way_to_the_next_and_then_to_servfail() {
    let silent = FakeDns::start(|_, _| Vec::new()).await;
    let failing = FakeDns::start(|q, _| {
        let mut failed = answer(q, Vec::new());
        failed.metadata.response_code = ResponseCode::ServFail;
        vec![own(&failed)]
    })
    .await;
    let good = answering().await;
    let gateway = before(&[&silent, &failing, &good]);
    assert_eq!(ask(&gateway, "a.example.").await.answers, [a("a.example.", IP)]);
    assert_eq!((silent.asked(), failing.asked(), good.asked()), (1, 1, 1));
    gateway.shutdown().await;

    let gateway = before(&[&silent]);
    let begun = Instant::now();
    let reply = ask(&gateway, "a.example.").await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert!(
        begun.elapsed() >= Duration::from_millis(1100) && begun.elapsed() < Duration::from_secs(4)
    );
    assert_eq!(reply.metadata.id, 99);
    assert_eq!(silent.asked(), 3, "each server twice");
    let recorded = gateway.shutdown().await;
    let row = &recorded.dns[0];
    assert_eq!((row.text("decision"), row.text("outcome")), ("failed", "dns_timeout"));
    assert_eq!((row.text("rcode"), row.text("upstream")), ("SERVFAIL", ""));
    assert_eq!(recorded.counter("dns_failed_total"), 1);
}

#[tokio::test]
async fn refused_names_are_not_looked_up_not_even_as_an_alias() {
    let server = FakeDns::start(|q, _| {
        let to = RData::CNAME(CNAME(name("x.Evil.example.")));
        let alias = record(&q.queries[0].name().to_ascii(), to);
        vec![own(&answer(q, vec![alias, a("x.evil.example.", IP)]))]
    })
    .await;
    let upstream = server.addr();
    let gateway = gateway(|config| {
        config.dns.upstream = vec![upstream];
        config.dns.refuse = vec![HostPattern::parse("*.evil.example").unwrap()];
    });
    for (qname, asked) in [("y.EVIL.example.", 0), ("innocent.example.", 1)] {
        let reply = ask(&gateway, qname).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
        assert!(reply.answers.is_empty());
        assert_eq!((reply.queries[0].name().to_ascii(), server.asked()), (qname.to_owned(), asked));
    }
    let transfer = question(1, "example.", RecordType::AXFR, None).to_vec().unwrap();
    let reply = &ask_tcp(resolver(&gateway), &[transfer]).await.unwrap()[0];
    assert_eq!(Message::from_vec(reply).unwrap().metadata.response_code, ResponseCode::Refused);
    assert_eq!(gateway.inner().journal().names(), 0);
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.counter("dns_refused_total"), 3);
    let outcomes: Vec<_> = recorded.dns.iter().map(|row| row.text("outcome")).collect();
    assert_eq!(outcomes, ["dns_refused", "dns_refused", "dns_zone_transfer"]);
    assert!(recorded.dns.iter().all(|row| row.text("decision") == "refused"));
}

#[tokio::test]
async fn ech_does_not_reach_the_client() {
    let server = FakeDns::start(|q, _| {
        let ech = SvcParamValue::EchConfigList(EchConfigList(b"ech-config-bytes".to_vec()));
        let params =
            vec![(SvcParamKey::Port, SvcParamValue::Port(8443)), (SvcParamKey::EchConfigList, ech)];
        let svcb = HTTPS(SVCB::new(1, Name::root(), params));
        vec![own(&answer(q, vec![record("a.example.", RData::HTTPS(svcb))]))]
    })
    .await;
    let gateway = before(&[&server]);
    let asked = question(3, "a.example.", RecordType::HTTPS, Some(1232));
    let reply = ask_udp(resolver(&gateway), &asked).await.unwrap();
    assert!(!reply.windows(10).any(|w| w == b"ech-config"));
    let params = vec![(SvcParamKey::Port, SvcParamValue::Port(8443))];
    let want = RData::HTTPS(HTTPS(SVCB::new(1, Name::root(), params)));
    assert_eq!(Message::from_vec(&reply).unwrap().answers, [record("a.example.", want)]);
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.dns[0].number("ech_removed"), 1);
    assert_eq!(recorded.counter("dns_ech_removed_total"), 1);
}

#[tokio::test]
async fn large_answers_are_cut_over_udp_and_whole_over_tcp() {
    let server = FakeDns::start(|q, tcp| {
        let many = if q.queries[0].name() == &name("huge.example.") { 400 } else { 100 };
        let owner = q.queries[0].name().to_ascii();
        let ip = |n: u16| Ipv4Addr::from(0xc633_0000 + u32::from(n));
        let whole = answer(q, (0..many).map(|n| a(&owner, ip(n))).collect());
        let mut cut = whole.truncate();
        cut.metadata.truncation = true;
        let honest = q.queries[0].name() == &name("honest.example.");
        vec![own(if honest && !tcp { &cut } else { &whole })]
    })
    .await;
    let gateway = before(&[&server]);
    let at = resolver(&gateway);
    for (qname, edns, whole) in [
        ("large.example.", Some(1232), false),
        ("large.example.", Some(4096), true),
        ("honest.example.", Some(4096), false),
        ("large.example.", None, false),
        // More than we take in a datagram: asked for over TCP, and cut for the client.
        ("huge.example.", Some(65_535), false),
    ] {
        let asked = question(7, qname, RecordType::A, edns);
        let raw = ask_udp(at, &asked).await.unwrap();
        assert!(raw.len() <= usize::from(edns.unwrap_or(512)).min(4096), "{qname} {}", raw.len());
        let reply = Message::from_vec(&raw).unwrap();
        assert_eq!((reply.metadata.truncation, reply.answers.len() == 100), (!whole, whole));
        let raw = &ask_tcp(at, &[asked.to_vec().unwrap()]).await.unwrap()[0];
        let reply = Message::from_vec(raw).unwrap();
        let many = if qname == "huge.example." { 400 } else { 100 };
        assert_eq!((reply.metadata.truncation, reply.answers.len()), (false, many), "{qname}");
    }
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.counter("dns_truncated_total"), 3);
    assert_eq!(recorded.dns[0].length("answers"), 64);
}

#[tokio::test]
async fn a_flood_is_bounded() {
    let silent = FakeDns::start(|_, _| Vec::new()).await;
    let upstream = silent.addr();
    let gateway = gateway(|config| {
        config.dns.upstream = vec![upstream];
        config.dns.timeout = Duration::from_secs(2);
        config.dns.max_inflight = 8;
        config.dns.max_connections = 4;
    });
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let flood = question(1, "a.example.", RecordType::A, None).to_vec().unwrap();
    for _ in 0..200 {
        socket.send_to(&flood, resolver(&gateway)).await.unwrap();
        tokio::task::yield_now().await;
    }
    gateway.until("the drops", |m| m.dns_over_limit_total.value() >= 192).await;
    gateway.until("the questions", |_| silent.asked() >= 8).await;
    assert_eq!(silent.asked(), 8);
    let mut connections = Vec::new();
    for _ in 0..10 {
        connections.push(TcpStream::connect(resolver(&gateway)).await.unwrap());
    }
    gateway.until("the closes", |m| m.dns_over_limit_total.value() == 198).await;
    drop(connections);
    // Eight answers, all of them failures; then there is room again.
    let mut buffer = [0; 512];
    for _ in 0..8 {
        let received = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut buffer));
        let length = received.await.expect("an answer in time").unwrap();
        let reply = Message::from_vec(&buffer[..length]).unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    }
    assert_eq!(ask(&gateway, "b.example.").await.metadata.response_code, ResponseCode::ServFail);
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.dns.len(), 9);
}

#[tokio::test]
async fn hostile_clients_get_little() {
    let server = answering().await;
    let gateway = before(&[&server]);
    let at = resolver(&gateway);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let good = question(5, "a.example.", RecordType::A, None).to_vec().unwrap();
    let mut answer_of_ours = good.clone();
    answer_of_ours[2] |= 0x80;
    for raw in [vec![], vec![0; 11], vec![0xff; 5000], answer_of_ours] {
        socket.send_to(&raw, at).await.unwrap();
    }
    let mut no_question = good.clone();
    no_question[5] = 0;
    let broken = [vec![0; 12], no_question, good[..good.len() - 1].to_vec()];
    for raw in &broken {
        let reply = &ask_tcp(at, std::slice::from_ref(raw)).await.unwrap()[0];
        assert_eq!((reply.len(), reply[3] & 15), (12, 1), "FORMERR");
    }
    // Cut off inside a message.
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(&[0, 40, 1, 2, 3]).await.unwrap();
    drop(stream);
    assert_eq!(ask(&gateway, "a.example.").await.answers, [a("a.example.", IP)]);
    gateway.until("the count", |m| m.dns_malformed_total.value() == 7).await;
    let recorded = gateway.shutdown().await;
    assert_eq!((server.asked(), recorded.dns.len()), (1, 1));
}

/// A flow to [`DST`] as [`NAME`].
async fn visit(gateway: &TestGateway) -> anyhow::Result<u16> {
    let stream = gateway.tls(DST, NAME, gateway.trusting(&["http/1.1"])).await?;
    let mut connection = Connection::over(stream, false).await?;
    Ok(connection.get(NAME, "/status/200").await?.status().as_u16())
}

async fn server_with(ip: Ipv4Addr) -> FakeDns {
    FakeDns::start(move |q, _| vec![own(&answer(q, vec![a(&format!("{NAME}."), ip)]))]).await
}

#[tokio::test]
async fn flows_record_whether_their_name_was_resolved_to_their_address() {
    let elsewhere = Ipv4Addr::new(198, 51, 100, 1);
    for (resolved, want) in [(None, "unknown"), (Some(elsewhere), "mismatch"), (Some(IP), "known")]
    {
        let server = server_with(resolved.unwrap_or(elsewhere)).await;
        let upstream = server.addr();
        let (gateway, origin) =
            https_origin_with(&["http/1.1"], |c| c.dns.upstream = vec![upstream]).await;
        if resolved.is_some() {
            ask(&gateway, NAME).await;
        }
        assert_eq!(visit(&gateway).await.unwrap(), 200, "recorded, not refused");
        gateway.quiet().await;
        assert_eq!(origin.seen().requests(), 1);
        let recorded = gateway.shutdown().await;
        let row = recorded.flow();
        assert_eq!((row.text("dns_check"), row.text("outcome")), (want, "ok"));
        assert_eq!(recorded.counter(&format!("dns_check_{want}_total")), 1);
    }
}

#[tokio::test]
async fn enforced_flows_must_go_where_their_name_was_resolved_to() {
    let elsewhere = Ipv4Addr::new(198, 51, 100, 1);
    for passthrough in [false, true] {
        for (resolved, want) in
            [(None, "unknown"), (Some(elsewhere), "mismatch"), (Some(IP), "known")]
        {
            let server = server_with(resolved.unwrap_or(elsewhere)).await;
            let upstream = server.addr();
            let (gateway, origin) = https_origin_with(&["http/1.1"], |config| {
                config.dns.upstream = vec![upstream];
                config.policy.dns_check = DnsCheck::Enforce;
                if passthrough {
                    config.tls.passthrough = vec![HostPattern::parse(NAME).unwrap()];
                }
            })
            .await;
            if resolved.is_some() {
                ask(&gateway, NAME).await;
            }
            let client = if passthrough {
                std::sync::Arc::unwrap_or_clone(gateway.ca.client_config(&["http/1.1"]))
            } else {
                gateway.trusting(&["http/1.1"])
            };
            let opened = gateway.tls(DST, NAME, client).await;
            if want == "known" {
                drop(opened.unwrap());
            } else {
                let error = format!("{:#}", opened.unwrap_err());
                assert!(error.contains("AccessDenied"), "{error}");
                assert_eq!(origin.seen().tcp_connections(), 0, "{want}");
            }
            gateway.quiet().await;
            let recorded = gateway.shutdown().await;
            let row = recorded.flow();
            assert_eq!(row.text("dns_check"), want);
            let refused = row.text("outcome") == "destination_not_resolved";
            assert_eq!(refused, want != "known", "{}", row.text("outcome"));
            if refused {
                assert_eq!((row.text("fault"), row.text("mode")), ("policy", "refused"));
            }
        }
    }
}

#[tokio::test]
async fn nothing_is_checked_when_it_is_off_or_there_is_no_name() {
    let (gateway, _origin) =
        https_origin_with(&["http/1.1"], |c| c.policy.dns_check = DnsCheck::Off).await;
    assert_eq!(visit(&gateway).await.unwrap(), 200);
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.flow().text("dns_check"), "");

    let (gateway, origin) =
        https_origin_with(&["http/1.1"], |c| c.policy.dns_check = DnsCheck::Enforce).await;
    // An address as the name sends no SNI. The origin has no certificate for it.
    let address = DST.ip().to_string();
    let opened = gateway.tls(DST, &address, gateway.trusting(&["http/1.1"])).await;
    assert!(opened.is_err());
    gateway.quiet().await;
    assert_eq!(origin.seen().tcp_connections(), 1, "it was not the check that refused");
    let recorded = gateway.shutdown().await;
    let row = recorded.flow();
    assert_eq!((row.text("dns_check"), row.text("outcome")), ("", "upstream_certificate"));
}
