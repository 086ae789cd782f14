//! From a captured process's question to the row that says that its destination was the answer.

use serde_json::json;
use weir_tests::appliance::{API, Site};
use weir_tests::dns::{FakeDns, Sent, a, answer};

use crate::PYTHON;

/// libc's resolver; the name is in no hosts file.
const LIBC: &str = "import socket, sys; print(socket.gethostbyname(sys.argv[1]))";
/// A question for the origin's name, which is in the hosts file.
const RAW: &str = "\
import socket, sys
name = b''.join(bytes([len(part)]) + part for part in sys.argv[1].encode().split(b'.'))
s = socket.socket(type=socket.SOCK_DGRAM)
s.settimeout(10)
s.sendto(b'\\x12\\x34\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0' + name + b'\\0\\0\\1\\0\\1', ('198.51.100.53', 53))
print(s.recvfrom(512)[1])
";

#[test]
fn names_are_resolved_recorded_and_compared() {
    let mut site = Site::new("");
    let inside = site.network.inside;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(FakeDns::start(move |q, _| {
        let owner = q.queries[0].name().to_ascii();
        let is_a = q.queries[0].query_type() == hickory_proto::rr::RecordType::A;
        let records = if is_a { vec![a(&owner, inside)] } else { Vec::new() };
        vec![Sent::Own(answer(q, records).to_vec().unwrap())]
    }));
    let path = site.path("weir.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let with = format!("[dns]\nupstream = [\"{}\"]\nrefuse = [\"no.example\"]\n", server.addr());
    std::fs::write(&path, text.replace("[dns]\n", &with)).unwrap();
    site.start();

    let url = format!("https://{API}/status/200");
    let curl = ["curl", "-sS", "-o", "/dev/null", &url];
    site.run("before", &curl);
    let asked = site.run("dns", &[PYTHON, "-c", LIBC, "weir-test.example"]);
    assert_eq!(asked, format!("{inside}\n"));
    let asked = site.run("dns", &[PYTHON, "-c", RAW, API]);
    assert_eq!(asked, "('198.51.100.53', 53)\n");
    site.run("dns", &[PYTHON, "-c", RAW, "no.example"]);
    site.run("after", &curl);

    let rows = site.rows(2, "SELECT job_id, dns_check FROM flows ORDER BY ts");
    let want = [
        json!({"job_id": "before", "dns_check": "unknown"}),
        json!({"job_id": "after", "dns_check": "known"}),
    ];
    assert_eq!(rows, want);
    let sql = "SELECT job_id, asked_ip, pid > 1 AS has_pid, exe LIKE '%/python3%' AS is_python \
               FROM dns_queries WHERE qname = 'no.example'";
    let who = site.rows(1, sql);
    assert_eq!((&who[0]["job_id"], &who[0]["has_pid"]), (&json!("dns"), &json!(1)), "{who:?}");
    assert_eq!(
        (&who[0]["is_python"], &who[0]["asked_ip"]),
        (&json!(1), &json!("::ffff:198.51.100.53"))
    );
    let sql = "SELECT qname, decision, rcode, upstream, answers FROM dns_queries \
               WHERE qtype = 'A' ORDER BY ts";
    let rows = site.rows(3, sql);
    let names: Vec<_> = rows.iter().map(|row| row["qname"].as_str().unwrap()).collect();
    assert_eq!(names, ["weir-test.example", API, "no.example"]);
    assert_eq!(rows[1]["answers"], json!([format!("A {inside}")]));
    assert_eq!(rows[1]["upstream"], json!(server.addr().to_string()));
    assert_eq!((&rows[2]["decision"], &rows[2]["rcode"]), (&json!("refused"), &json!("REFUSED")));
}
