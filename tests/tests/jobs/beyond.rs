//! Who is who in what is no flow: questions for names, and alarms.

use serde_json::{Value, json};

use crate::world::{RUNNER, World};

/// Asks for a name that is refused, and tries QUIC, which is refused, too.
const TRY: &str = "\
import socket
name = b'\\2no\\7example\\0'
s = socket.socket(type=socket.SOCK_DGRAM)
s.settimeout(20)
s.sendto(b'\\x12\\x34\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0' + name + b'\\0\\1\\0\\1', ('198.51.100.53', 53))
assert s.recv(512)[3] & 15 == 5
try:
    socket.socket(type=socket.SOCK_DGRAM).connect(('198.51.100.7', 443))
    raise SystemExit('connected')
except ConnectionRefusedError:
    pass
";

/// Whose the rows of a table are: one line for each identity.
fn whose(world: &World, table: &str, which: &str) -> Vec<Value> {
    let sql = format!(
        "SELECT identity, identity_method AS method, identity_confidence AS confidence, \
         identity_state AS state, repository, run, actor FROM {table} WHERE {which} \
         GROUP BY ALL ORDER BY identity"
    );
    world.site.rows(3, &sql)
}

#[test]
fn questions_and_alarms_have_the_identity_of_their_job() {
    let world = World::up_with("", |site| {
        site.reconfigure("[dns]\n", "[dns]\nrefuse = [\"no.example\"]\n");
    });
    std::fs::write(world.site.path("try.py"), TRY).unwrap();
    // They live until their rows are read: their state is that of this time.
    let steps = |run: u32| {
        format!(
            "/usr/bin/python3 try.py && touch out/tried-{run}; \
             until [ -e out/end ]; do sleep 0.05; done"
        )
    };
    let jobs = [100, 200].map(|run| world.job(run, &steps(run)));
    for run in [100, 200] {
        world.await_file(&format!("tried-{run}"));
    }
    let script = world.site.show("try.py");
    let nobody = world.captured(&["/usr/bin/python3", &script]).status().unwrap();
    assert!(nobody.success(), "{}", world.site.log());
    let job = |run: u32| {
        json!({
            "identity": format!("acme/app#{run}"), "method": "github_oidc", "confidence": "fork",
            "state": "active", "repository": "acme/app#77", "run": format!("{run}.1"),
            "actor": "octocat",
        })
    };
    let user = json!({
        "identity": format!("uid:{RUNNER}"), "method": "uid", "confidence": "uid",
        "state": "", "repository": "", "run": "", "actor": "",
    });
    let want = [job(100), job(200), user];
    assert_eq!(whose(&world, "dns_queries", "startsWith(qname, 'no.example')"), want);
    assert_eq!(whose(&world, "alarms", "kind = 'udp_connect_refused'"), want);
    // Sessions tell the jobs apart, too, and are those of their flows.
    let sessions = "SELECT session_id FROM dns_queries WHERE run != '' INTERSECT \
                    SELECT session_id FROM alarms WHERE run != ''";
    assert_eq!(world.site.rows(2, sessions).len(), 2);
    world.make_file("end");
    for job in jobs {
        let (code, said) = world.finish(job);
        assert_eq!(code, Some(0), "{said}{}", world.site.log());
    }
}
