use proptest::prelude::*;

use super::*;

#[test]
fn an_insert_carries_its_token_in_the_statement() {
    let query = "query=INSERT+INTO+flows+FORMAT%20RowBinaryWithNamesAndTypes&database=weir\
                 &insert_deduplication_token=h%2F1%27x%5C";
    let request = Request::parse(query).unwrap();
    assert_eq!(request.database, "weir");
    let insert = request.insert().unwrap();
    assert_eq!(insert.format, "RowBinaryWithNamesAndTypes");
    assert_eq!(insert.sql, r"INSERT INTO flows SETTINGS insert_deduplication_token = 'h/1\'x\\'");
}

#[test]
fn a_select_is_not_an_insert() {
    let request = Request::parse("query=SELECT%201").unwrap();
    assert_eq!(request.insert(), None);
    assert_eq!(request.format, "TabSeparated");
}

#[test]
fn what_is_not_served_is_refused_with_a_code() {
    for (query, code) in [
        ("session_id=1", 48),
        ("role=admin", 48),
        ("decompress=1", 48),
        ("wait_end_of_query=1", 48),
        ("max_threads=1", 115),
        ("database=a`b", 36),
        ("default_format=x%20y", 36),
        ("query=%ff", 36),
    ] {
        assert_eq!(Request::parse(query).unwrap_err().code, code, "{query}");
    }
    let many = "param_a=1&".repeat(MAX_PAIRS + 1);
    assert_eq!(Request::parse(&many).unwrap_err().code, 36);
}

#[test]
fn format_is_found_as_a_word_only() {
    for sql in ["SELECT 1 FORMAT JSON", "select 1\nformat\tCSV", "SELECT 1 FORMAT/**/JSON"] {
        assert!(mentions_format(sql), "{sql}");
    }
    for sql in ["SELECT formatReadableSize(1)", "SELECT my_format FROM t", "SELECT 1"] {
        assert!(!mentions_format(sql), "{sql}");
    }
}

#[test]
fn multipart_fields_are_read() {
    let body = "--b\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT {a:String}\r\n\
                --b\r\nContent-Disposition: form-data; name=\"param_a\"\r\n\r\nx\r\ny\r\n--b--\r\n";
    let mut request = Request::parse("").unwrap();
    request.add_multipart("b", body).unwrap();
    assert_eq!(request.query, "SELECT {a:String}");
    assert_eq!(request.params, [("a".to_owned(), "x\r\ny".to_owned())]);
}

#[test]
fn external_data_and_cut_bodies_are_refused() {
    let part = |name: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n1\r\n--b--\r\n")
    };
    let mut request = Request::parse("").unwrap();
    assert_eq!(request.add_multipart("b", &part("temp_table")).unwrap_err().code, 48);
    let whole = part("query");
    for cut in 0..whole.len() - 4 {
        let mut request = Request::parse("").unwrap();
        assert!(request.add_multipart("b", whole.get(..cut).unwrap()).is_err(), "{cut}");
    }
}

#[test]
fn boundaries_are_found() {
    assert_eq!(boundary("multipart/form-data; boundary=abc"), Some("abc"));
    assert_eq!(boundary("multipart/form-data; boundary=\"a b\"; charset=utf-8"), Some("a b"));
    assert_eq!(boundary("multipart/form-data"), None);
    assert_eq!(boundary("text/plain; boundary=abc"), None);
}

proptest! {
    #[test]
    fn any_query_string_and_body_are_answered(query in ".{0,200}", body in ".{0,200}") {
        if let Ok(mut request) = Request::parse(&query) {
            let insert = request.insert();
            prop_assert!(insert.is_none() || request.query.trim_start().len() >= 6);
            let added = request.add_multipart("b", &body);
            prop_assert!(added.is_err() || body.starts_with("--b"));
        }
    }
}
