//! Garbage on the socket is answered, and the store lives on.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use weir_gateway::record::row::Table;

use super::support::{self, Store, batch, flow};

/// Sends bytes as they are and returns what comes back until the store closes.
fn send(store: &Store, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(&store.config.store.socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    // The store may answer and close before everything is sent.
    let sent = stream.write_all(bytes);
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    assert!(sent.is_ok() || read.is_ok() || !answer.is_empty(), "{sent:?} {read:?}");
    String::from_utf8_lossy(&answer).into_owned()
}

fn post(url: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut out =
        format!("POST {url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    out.extend_from_slice(body);
    out
}

#[tokio::test]
async fn garbage_is_answered_and_survived() {
    let (mut store, _client) = Store::migrated().await;
    let writer = "X-ClickHouse-User: weir\r\n";
    let long_url = format!("/?query={}", "a".repeat(1024 * 1024));
    let many_headers = "x-a: b\r\n".repeat(1000);
    let insert =
        "/?database=weir&query=INSERT%20INTO%20flows%20FORMAT%20RowBinaryWithNamesAndTypes";
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("noise", vec![0xff; 4096], "400"),
        ("tls", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3], "400"),
        ("long url", post(&long_url, "", b""), "4"),
        ("many headers", post("/", &many_headers, b"SELECT 1"), "431"),
        ("large statement", post("/", "", &vec![b' '; 5 * 1024 * 1024]), "229"),
        ("empty statement", post("/", "", b""), "Code: 62"),
        ("not utf-8", post("/", "", &[0xff, 0xfe]), "Code: 36"),
        ("path", post("/play", "", b""), "Code: 48"),
        ("user", post("/", "X-ClickHouse-User: root\r\n", b"SELECT 1"), "Code: 516"),
        ("session", post("/?session_id=1", "", b"SELECT 1"), "Code: 48"),
        ("setting", post("/?max_memory_usage=0", "", b"SELECT 1"), "Code: 115"),
        ("decompress", post("/?decompress=1", writer, b"x"), "Code: 48"),
        ("gzip", post("/", "Content-Encoding: gzip\r\n", b"x"), "Code: 48"),
        ("database", post("/?database=a%60b", "", b"SELECT 1"), "Code: 36"),
        ("no database", post("/?database=nope", "", b"SELECT 1"), "Code: 81"),
        (
            "external data",
            post(
                "/",
                "Content-Type: multipart/form-data; boundary=b\r\n",
                b"--b\r\nContent-Disposition: form-data; name=\"t\"\r\n\r\n1\r\n--b--\r\n",
            ),
            "Code: 48",
        ),
        (
            "bad multipart",
            post("/", "Content-Type: multipart/form-data; boundary=b\r\n", b"--b\r\nx"),
            "Code: 36",
        ),
        ("insert noise", post(insert, writer, &vec![0x7f; 100_000]), "Code: "),
        (
            "insert into nothing",
            post("/?database=weir&query=INSERT%20INTO%20nope%20FORMAT%20RowBinary", writer, b"x"),
            "Code: 60",
        ),
        ("insert without table", post("/?query=INSERT", writer, b"x"), "Code: 62"),
        (
            "unknown format",
            post("/?database=weir&query=INSERT%20INTO%20flows%20FORMAT%20Nope", writer, b"x"),
            "Code: 73",
        ),
        (
            "deep",
            post(
                "/",
                "",
                format!("SELECT {}1{}", "(".repeat(100_000), ")".repeat(100_000)).as_bytes(),
            ),
            "Code: ",
        ),
    ];
    for (name, bytes, want) in &cases {
        let answer = send(&store, bytes);
        assert!(answer.contains(want), "{name}: {answer:.400}");
        assert!(store.is_running(), "{name} ended the store");
    }
    let client = store.reader();
    assert_eq!(support::count(&client, Table::Flows).await, 0);
}

/// A client that dies in the middle of an insert must not leave half of it.
#[tokio::test]
async fn a_broken_off_insert_stores_nothing() {
    let (store, _client) = Store::migrated().await;
    let rows: Vec<_> = (0..1000).map(flow).collect();
    let data = batch(&rows, 1);
    // Right after a row: what has come is a well-formed insert of its own.
    let half = batch(&rows[..500], 1).len();
    let head = format!(
        "POST /?database=weir&query=INSERT%20INTO%20flows%20FORMAT%20RowBinaryWithNamesAndTypes \
         HTTP/1.1\r\nHost: x\r\nX-ClickHouse-User: weir\r\nContent-Length: {}\r\n\r\n",
        data.len()
    );
    for linger in [false, true, false, true] {
        let mut stream = UnixStream::connect(&store.config.store.socket).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&data[..half]).unwrap();
        if linger {
            // The engine has read all of it before the client goes.
            std::thread::sleep(Duration::from_millis(200));
        }
        drop(stream);
    }
    // Both writer connections take work again, so the broken inserts are over.
    for n in 0..4 {
        let sink = weir_gateway::sink::ClickHouseSink::new(store.writer());
        let data = batch(&[flow(n)], 5000 + n);
        weir_gateway::sink::RowSink::insert(&sink, Table::Flows, &format!("t{n}"), data)
            .await
            .unwrap();
    }
    assert_eq!(support::count(&store.reader(), Table::Flows).await, 4);
}

/// Readers that hold on to a large answer must not keep others from theirs for long.
#[tokio::test]
async fn abandoned_answers_free_their_connection() {
    let store = Store::start();
    for _ in 0..12 {
        let mut stream = UnixStream::connect(&store.config.store.socket).unwrap();
        let sql = b"SELECT number FROM numbers(1000000000)";
        stream.write_all(&post("/", "", sql)).unwrap();
        let mut first = [0_u8; 64];
        stream.read_exact(&mut first).unwrap();
    }
    let client = store.reader().with_database("default");
    let answer = tokio::time::timeout(
        Duration::from_secs(20),
        client.query_raw("SELECT 1").fetch_one::<u8>(),
    );
    assert_eq!(answer.await.unwrap().unwrap(), 1);
}
