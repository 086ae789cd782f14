//! What becomes of those for whom nobody vouches, and of those who are revoked.

use std::process::Stdio;
use std::time::{Duration, Instant};

use weir_tests::appliance::{API, try_wait, wait_for};

use crate::world::World;

#[test]
fn nobody_without_identity_gets_out_and_is_told_what_to_do() {
    let world = World::up("require = \"deny\"");
    let get = world.site.show("get");
    let said = world.captured(&[&get, "nobody"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "403\n", "{}", world.site.log());
    let body = world.body("nobody");
    assert!(body.contains("weir login") && body.contains("identity.require"), "{body}");
    let exchange = world.exchange("nobody");
    assert_eq!(exchange["outcome"], "unidentified", "{exchange}");
    assert_eq!(world.site.said(&["whoami"]).trim(), "nobody (unidentified)");
}

#[test]
fn a_refused_person_at_a_terminal_is_told_where_to_log_in() {
    let world = World::up("require = \"deny\"");
    let url = format!("https://{API}/headers?tag=");
    // A shell at a terminal, which stays: with its user's last process a login ends.
    let shell = format!(
        "cd $DIR/out; ask() {{ curl -sS '{url}'$1 > $1; }}; n=0; \
         until ask first && grep -q ' and enter ' first || [ $((n += 1)) -gt 100 ]; do sleep 0.1; done; \
         ask second; touch asked; \
         until [ -e logged-in ] || [ $((n += 1)) -gt 1200 ]; do sleep 0.05; done; ask third"
    );
    let script = ["script", "-qec", &shell, "/dev/null"];
    let mut person = world.captured(&script).stdin(Stdio::null()).spawn().unwrap();
    world.await_file("asked");
    let first = world.body_of("first");
    let line = first.lines().find_map(|line| line.split_once(": open ")).map(|(_, rest)| rest);
    let line = line.unwrap_or_else(|| panic!("no address: {first}{}", world.site.log()));
    let (page, rest) = line.split_once(" and enter ").unwrap();
    let code = rest.split(' ').next().unwrap();
    assert!(page.ends_with("/device") && first.contains("identity.require"), "{first}");
    let second = world.body_of("second");
    assert!(second.contains(code), "not another flow with each request: {second}");
    // Without a terminal nobody would read a code.
    let get = world.site.show("get");
    let stranger = ["setpriv", "--reuid=4712", "--clear-groups", &get, "daemon"];
    let said = world.site.captured("daemon", &stranger).env("DIR", world.site.path("")).output();
    assert_eq!(String::from_utf8_lossy(&said.unwrap().stdout), "403\n", "{}", world.site.log());
    let body = world.body("daemon");
    assert!(body.contains("run \"weir login\"") && !body.contains("enter"), "{body}");
    world.idp.device(page, code, "bob", true);
    let (weir, config) = (world.site.show("weir"), world.site.show("weir.toml"));
    wait_for("bob", || {
        let who = world.captured(&[&weir, "--config", &config, "whoami"]).output().unwrap();
        String::from_utf8_lossy(&who.stdout).starts_with("Bob (active, person_oidc by session)")
    });
    world.make_file("logged-in");
    assert!(person.wait().unwrap().success(), "{}", world.site.log());
    assert!(world.body_of("third").contains("user-agent"), "{}", world.site.log());
    assert_eq!(world.exchange("third")["identity"], "Bob");
    assert_eq!(world.exchange("second")["outcome"], "unidentified");
}

#[test]
fn exempt_hosts_are_for_everybody() {
    let world = World::up(&format!("require = \"deny\"\nexempt = [\"{API}\"]"));
    let get = world.site.show("get");
    let said = world.captured(&[&get, "exempt"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "200\n", "{}", world.site.log());
    // In the clear a name is what the client says.
    let url = format!("http://{API}/headers");
    let words = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", &url];
    let said = world.captured(&words).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "403", "{}", world.site.log());
}

#[test]
fn revoking_a_job_cuts_its_stream_within_a_second() {
    let world = World::up("");
    let url = format!("https://{API}/sse?events=600&gap_ms=100");
    let steps = format!(
        "curl -sSN '{url}' > out/stream & stream=$!; wait $stream; echo cut $?; touch out/cut; $GET after"
    );
    let job = world.job(100, &steps);
    let stream = world.site.path("out/stream");
    let flows = || std::fs::metadata(&stream).is_ok_and(|file| file.len() > 0);
    assert!(try_wait(flows), "{}", world.site.log());
    let begun = Instant::now();
    assert_eq!(world.site.said(&["revoke", "acme/app#100"]).trim(), "revoked: 1");
    let revoked = Instant::now();
    world.await_file("cut");
    let took = revoked.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?} after {:?}", revoked - begun);
    let (code, said) = world.finish(job);
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("cut 0\n") && said.ends_with("403\n"), "{said}");
    assert_eq!(world.exchange("after")["outcome"], "identity_revoked");
    let cut = "SELECT identity FROM flows WHERE outcome = 'identity_revoked' AND down_bytes > 1000";
    assert_eq!(world.site.rows(1, cut)[0]["identity"], "acme/app#100");
    let again = world.site.weir(&["revoke", "acme/app#100"]).stderr(Stdio::null()).status();
    assert!(!again.unwrap().success(), "nobody is left");
}
