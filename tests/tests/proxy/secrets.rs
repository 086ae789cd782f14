//! Credentials reach upstream and never the record, except inside bodies.

use weir_tests::client::{self, full};
use weir_tests::gateway::{NAME, PLAIN};
use weir_tests::origin::raw::Step;

use crate::wire::{https_origin, raw_origin, talk};

const SECRET: &str = "s3cr3t-0123456789-v4lue";

#[tokio::test]
async fn credentials_are_in_no_recorded_byte_but_bodies() {
    for alpn in ["http/1.1", "h2"] {
        let (gateway, origin) = https_origin(&[alpn]).await;
        let mut connection = gateway.https(&[alpn]).await.unwrap();
        let query = format!("/echo?token={SECRET}&a=1&api_key={SECRET}&X-Amz-Signature={SECRET}");
        // also where weir answers itself
        for host in [NAME, "evil.test"] {
            let body = full(format!("body {SECRET}"));
            let mut request =
                client::request(connection.is_h2(), "POST", host, &query, body).unwrap();
            for (name, value) in [
                ("authorization", format!("Bearer {SECRET}")),
                ("proxy-authorization", format!("{SECRET} without a scheme")),
                ("cookie", format!("sid={SECRET}; other={SECRET}")),
                ("x-api-key", SECRET.to_owned()),
                ("x-goog-api-key", SECRET.to_owned()),
                ("private-token", SECRET.to_owned()),
                ("x-vault-token", SECRET.to_owned()),
                ("referer", format!("https://u:{SECRET}@o.test/?access_token={SECRET}")),
            ] {
                request.headers_mut().insert(name, value.parse().unwrap());
            }
            let response = connection.send(request).await.unwrap();
            client::collect(response, 1 << 20).await.unwrap();
        }
        drop(connection);
        let seen = &origin.seen().heads()[0];
        assert_eq!(seen.headers["authorization"], format!("Bearer {SECRET}"));
        assert!(seen.uri.ends_with(&query), "{}", seen.uri);
        let recorded = gateway.shutdown().await;
        let raw = &recorded.raw_without_bodies;
        let found = raw.windows(SECRET.len()).position(|bytes| bytes == SECRET.as_bytes());
        assert_eq!(found, None, "{}", String::from_utf8_lossy(raw));
        let row = &recorded.exchanges[0];
        let masked = "token=[masked]&a=1&api_key=[masked]&X-Amz-Signature=[masked]";
        assert_eq!(row.text("query_masked"), masked);
        assert_eq!(row.field("req_headers", "authorization"), ["Bearer [masked]"]);
        assert_eq!(row.field("req_headers", "cookie").concat(), "sid=[masked]; other=[masked]");
        assert_eq!(row.field("req_headers", "x-api-key"), ["[masked]"]);
        assert_eq!(recorded.body(row, "request"), format!("body {SECRET}"));
    }
}

#[tokio::test]
async fn credentials_in_answers_and_authorities_are_masked_too() {
    let answer = format!(
        "HTTP/1.1 302 Found\r\nSet-Cookie: sid={SECRET}; Path=/\r\nX-Subject-Token: {SECRET}\r\n\
         Location: https://u:{SECRET}@o.test/?code={SECRET}\r\nContent-Length: 0\r\n\r\n"
    );
    let (gateway, _origin) = raw_origin(vec![Step::ReadHead, Step::text(&answer)]).await;
    let ask = b"GET / HTTP/1.1\r\nHost: o.test\r\nConnection: close\r\n\r\n";
    let got = talk(&gateway, PLAIN, ask).await;
    assert_eq!(got.matches(SECRET).count(), 4, "the client gets all of it: {got}");
    let with_user = format!(
        "GET http://u:{SECRET}@o.test/ HTTP/1.1\r\nHost: o.test\r\nConnection: close\r\n\r\n"
    );
    let got = talk(&gateway, PLAIN, with_user.as_bytes()).await;
    assert!(got.starts_with("HTTP/1.1 400") && !got.contains(SECRET), "{got}");
    let recorded = gateway.shutdown().await;
    let raw = &recorded.raw_without_bodies;
    let found = raw.windows(SECRET.len()).position(|bytes| bytes == SECRET.as_bytes());
    assert_eq!(found, None, "{}", String::from_utf8_lossy(raw));
    let row = &recorded.exchanges[0];
    assert_eq!(row.field("resp_headers", "set-cookie"), ["sid=[masked]; Path=/"]);
}
