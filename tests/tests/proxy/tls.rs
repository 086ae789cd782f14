//! TLS on both sides: whom the client sees, whom the gateway believes.

use std::sync::Arc;
use std::time::Duration;

use rustls::version::TLS12;
use rustls::{ClientConfig, HandshakeKind};
use tokio::io::{AsyncWriteExt as _, copy_bidirectional};
use tokio_rustls::TlsConnector;
use weir_gateway::config::HostPattern;
use weir_tests::ca::{Flaw, TestCa};
use weir_tests::client::{Connection, empty};
use weir_tests::gateway::{BLACK_HOLE, DST, NAME, TestGateway};
use weir_tests::origin::{ALPN, Options, Origin};

use crate::wire::{https_origin, https_origin_with, rest, say, until};

const IP: &str = "203.0.113.10";

#[tokio::test]
async fn the_leaf_is_the_gateways_own_for_the_name_or_the_address() {
    let ca = TestCa::new("weir test CA");
    let origin = Origin::start(&ca, &[NAME, IP]).await;
    let gateway = TestGateway::start(ca, |_| {}, &[(DST, origin.addr())]);
    for name in [NAME, IP] {
        // the client verifies name or address against the gateway's CA alone
        let stream = gateway.tls(DST, name, gateway.trusting(&ALPN)).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let mut connection = Connection::over(stream, true).await.unwrap();
        assert_eq!(connection.get(name, "/status/200").await.unwrap().status(), 200);
    }
    let seen: Vec<_> = origin.seen().heads().into_iter().map(|head| head.sni).collect();
    assert_eq!(seen, [Some(NAME.to_owned()), None]);
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.counter("leaves_minted_total"), 2);
    let snis: Vec<_> = recorded.flows.iter().map(|row| row.text("sni")).collect();
    assert_eq!(snis, [NAME, ""]);
    assert_eq!(recorded.exchanges[1].text("dst_host"), IP);
    assert_eq!(recorded.exchanges[1].text("dst_ip"), "::ffff:203.0.113.10");
}

#[tokio::test]
async fn bad_upstream_certificates_are_never_covered_up() {
    let flaws =
        [Flaw::Expired, Flaw::NotYetValid, Flaw::SelfSigned, Flaw::WrongName, Flaw::UnknownCa];
    for flaw in flaws {
        let ca = TestCa::new("weir test CA");
        let origin = Origin::flawed(&ca, &[NAME], flaw).await;
        let gateway = TestGateway::start(ca, |_| {}, &[(DST, origin.addr())]);
        let error = gateway.tls(DST, NAME, gateway.trusting(&ALPN)).await.unwrap_err();
        assert!(format!("{error:#}").contains("BadCertificate"), "{flaw:?}: {error:#}");
        gateway.quiet().await;
        assert_eq!(origin.seen().requests(), 0);
        let recorded = gateway.shutdown().await;
        let row = recorded.flow();
        assert_eq!((row.text("outcome"), row.text("fault")), ("upstream_certificate", "upstream"));
        assert_eq!(recorded.metrics.outcome_count("upstream_certificate"), 1);
        assert_eq!(recorded.counter("leaves_minted_total"), 0);
        assert!(recorded.exchanges.is_empty());
    }
}

#[tokio::test]
async fn unreachable_upstreams_are_502_and_504_with_the_id_of_the_row() {
    let ca = TestCa::new("weir test CA");
    let short = Duration::from_millis(200);
    let gateway = TestGateway::start(
        ca,
        |config| {
            // equal, as the defaults are: the wait for upstream is not the client's
            config.gateway.connect_timeout = short;
            config.gateway.handshake_timeout = short;
        },
        &[],
    );
    for (dst, status, outcome) in
        [(DST, 502, "upstream_connect"), (BLACK_HOLE, 504, "upstream_timeout")]
    {
        let stream = gateway.tls(dst, NAME, gateway.trusting(&["http/1.1"])).await.unwrap();
        let mut connection = Connection::over(stream, false).await.unwrap();
        let answer = connection.get(NAME, &format!("/{status}")).await.unwrap();
        assert_eq!(answer.status().as_u16(), status);
        let id = answer.headers()["x-weir-request"].to_str().unwrap().to_owned();
        assert!(String::from_utf8_lossy(answer.body()).contains(&id));
        assert_eq!(gateway.metrics().outcome_count(outcome), 1);
        drop(connection);
        gateway.until(outcome, |m| m.outcome_count(outcome) == 1).await;
    }
    let recorded = gateway.shutdown().await;
    for (path, outcome) in [("/502", "upstream_connect"), ("/504", "upstream_timeout")] {
        let row = recorded.at(path);
        assert_eq!((row.text("outcome"), row.text("fault")), (outcome, "upstream"));
        assert_eq!((row.text("decision"), row.text("upstream_proto")), ("error", ""));
        assert_eq!(path[1..].parse(), Ok(row.number("status")));
    }
}

#[tokio::test]
async fn a_client_that_does_not_trust_the_ca_is_told_apart() {
    for versions in [rustls::DEFAULT_VERSIONS, &[&TLS12]] {
        let (gateway, origin) = https_origin(&ALPN).await;
        let config = ClientConfig::builder_with_protocol_versions(versions)
            .with_root_certificates(gateway.ca.roots())
            .with_no_client_auth();
        let error = gateway.tls(DST, NAME, config).await.unwrap_err();
        assert!(format!("{error:#}").contains("UnknownIssuer"), "{error:#}");
        gateway.quiet().await;
        assert_eq!(origin.seen().requests(), 0);
        let recorded = gateway.shutdown().await;
        let row = recorded.flow();
        let outcome = row.text("outcome");
        assert_eq!((outcome, row.text("fault")), ("client_distrusts_ca", "downstream"));
        assert_eq!(recorded.metrics.outcome_count("client_distrusts_ca"), 1);
    }
}

#[tokio::test]
async fn a_client_that_only_shakes_hands_is_recorded() {
    let (gateway, _origin) = https_origin(&ALPN).await;
    for alpn in ALPN {
        let mut stream = gateway.tls(DST, NAME, gateway.trusting(&[alpn])).await.unwrap();
        stream.shutdown().await.unwrap();
        rest(&mut stream).await;
    }
    gateway.quiet().await;
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.flows.len(), 2);
    for row in &recorded.flows {
        assert_eq!((row.text("outcome"), row.text("mode")), ("no_request", "terminated"));
    }
    assert_eq!(recorded.metrics.outcome_count("no_request"), 2);
}

#[tokio::test]
async fn passthrough_hosts_keep_their_own_certificate() {
    let (gateway, origin) = https_origin_with(&["http/1.1"], |config| {
        config.tls.passthrough = vec![HostPattern::parse("*.origin.test").unwrap()];
    })
    .await;
    // trusts the origin's CA alone
    let config = Arc::unwrap_or_clone(gateway.ca.client_config(&["http/1.1"]));
    let stream = gateway.tls(DST, NAME, config).await.unwrap();
    let mut connection = Connection::over(stream, false).await.unwrap();
    let answer = connection.get(NAME, "/bytes/100000").await.unwrap();
    assert_eq!(answer.body().len(), 100_000);
    drop(connection);
    gateway.quiet().await;
    assert_eq!(origin.seen().requests(), 1);
    let recorded = gateway.shutdown().await;
    let row = recorded.flow();
    assert_eq!((row.text("mode"), row.text("outcome")), ("passthrough", "ok"));
    assert_eq!((row.text("sni"), row.number("exchanges")), (NAME, 0));
    assert!(row.number("down_bytes") > 100_000);
    assert!(recorded.exchanges.is_empty());
    assert_eq!(recorded.counter("leaves_minted_total"), 0);
}

#[tokio::test]
async fn a_tls12_client_works() {
    let (gateway, _origin) = https_origin(&ALPN).await;
    let mut config = ClientConfig::builder_with_protocol_versions(&[&TLS12])
        .with_root_certificates(gateway.roots())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = gateway.tls(DST, NAME, config).await.unwrap();
    let version = stream.get_ref().1.protocol_version();
    assert_eq!(version, Some(rustls::ProtocolVersion::TLSv1_2));
    let mut connection = Connection::over(stream, false).await.unwrap();
    assert_eq!(connection.get(NAME, "/status/200").await.unwrap().status(), 200);
    drop(connection);
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.exchange().text("outcome"), "ok");
}

#[tokio::test]
async fn early_data_is_not_accepted() {
    let (gateway, origin) = https_origin(&["http/1.1"]).await;
    let mut config = gateway.trusting(&["http/1.1"]);
    config.enable_early_data = true;
    let config = Arc::new(config);
    let ask = format!("GET /status/200 HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n");
    for round in 0..2 {
        let tcp = gateway.tcp(DST).await.unwrap();
        let connector = TlsConnector::from(Arc::clone(&config));
        let name = NAME.try_into().unwrap();
        let offered = |session: &mut rustls::ClientConnection| {
            assert!(session.early_data().is_none(), "the ticket allows no early data");
        };
        let mut stream = connector.connect_with(name, tcp, offered).await.unwrap();
        say(&mut stream, &ask).await;
        let got = until(&mut stream, "\r\n\r\n").await;
        assert!(got.starts_with("HTTP/1.1 200"), "{got}");
        rest(&mut stream).await;
        let session = stream.get_ref().1;
        assert!(!session.is_early_data_accepted());
        let kind = if round == 0 { HandshakeKind::Full } else { HandshakeKind::Resumed };
        assert_eq!(session.handshake_kind(), Some(kind));
    }
    assert_eq!(origin.seen().requests(), 2);
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.exchanges.len(), 2);
}

#[tokio::test]
async fn a_client_hello_in_tiny_pieces_is_put_together() {
    let (gateway, _origin) = https_origin(&ALPN).await;
    let mut tcp = gateway.tcp(DST).await.unwrap();
    // every write is at most 7 bytes and its own segment
    let (near, mut far) = tokio::io::duplex(7);
    let pump = tokio::spawn(async move { drop(copy_bidirectional(&mut far, &mut tcp).await) });
    let connector = TlsConnector::from(Arc::new(gateway.trusting(&ALPN)));
    let stream = connector.connect(NAME.try_into().unwrap(), near).await.unwrap();
    let mut connection = Connection::over(stream, true).await.unwrap();
    assert_eq!(connection.get(NAME, "/bytes/1000").await.unwrap().body().len(), 1000);
    drop(connection);
    pump.abort();
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.exchange().text("outcome"), "ok");
}

#[tokio::test]
async fn upstream_that_wants_http11_is_not_asked_for_more() {
    let (gateway, origin) = https_origin(&ALPN).await;
    let mut connection = gateway.https(&["http/1.1"]).await.unwrap();
    let response = connection.request("GET", NAME, "/headers", empty()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(origin.seen().heads()[0].version, http::Version::HTTP_11);
    drop((response, connection));
    gateway.shutdown().await;
}

#[tokio::test]
async fn an_upstream_that_wants_a_client_certificate_is_502() {
    let ca = TestCa::new("weir test CA");
    let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(ca.roots())).build();
    let leaf = ca.leaf(&[NAME], Flaw::None);
    let tls = rustls::ServerConfig::builder()
        .with_client_cert_verifier(verifier.unwrap())
        .with_single_cert(leaf.chain.clone(), leaf.key.clone_key())
        .unwrap();
    let options = Options { tls: Some(Arc::new(tls)), ..Options::default() };
    let origin = Origin::with(options).await.unwrap();
    let gateway = TestGateway::start(ca, |_| {}, &[(DST, origin.addr())]);
    let mut connection = gateway.https(&["http/1.1"]).await.unwrap();
    assert_eq!(connection.get(NAME, "/x").await.unwrap().status(), 502);
    drop(connection);
    assert_eq!(origin.seen().requests(), 0);
    let recorded = gateway.shutdown().await;
    assert_eq!(recorded.exchange().text("fault"), "upstream");
    assert_ne!(recorded.exchange().text("outcome"), "ok");
}
