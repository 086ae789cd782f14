//! Identities outlive the gateway that knew them: its crash, its restart and its successor.

use std::time::{Duration, Instant};

use weir_tests::appliance::{API, try_wait, wait_for};

use crate::world::World;

/// Waits for a file.
const WAIT: &str = "await() { until [ -e out/$1 ]; do sleep 0.05; done; }; ";

/// `kill -9` of the gateway; `weir up` starts another.
fn crash(world: &World) {
    let before = world.site.kill_part("gateway");
    world.site.wait_restarted("gateway", before);
}

#[test]
fn jobs_keep_their_identity_through_a_crash_and_a_handover_and_others_do_not_come_back() {
    let world = World::up("require = \"deny\"");
    let asks = |run: u32| {
        format!(
            "{WAIT} $GET before-{run}; touch out/begun-{run}; \
             await crashed; $GET crash-{run}; touch out/crash-{run}; \
             await handed; $GET handed-{run}; touch out/handed-{run}"
        )
    };
    let running = world.job(100, &asks(100));
    let revoked = world.job(300, &asks(300));
    let orphan = asks(200).replace('"', "\\\"");
    let ended = world.job(
        200,
        &format!(
            "{WAIT} setsid bash -c '{orphan}' </dev/null >/dev/null 2>&1 & {WAIT} await begun-200"
        ),
    );
    for run in [100, 200, 300] {
        world.await_file(&format!("begun-{run}"));
    }
    assert_eq!(world.finish(ended).0, Some(0));
    assert_eq!(world.site.said(&["revoke", "acme/app#300"]).trim(), "revoked: 1");

    crash(&world);
    world.make_file("crashed");
    for run in [100, 200, 300] {
        world.await_file(&format!("crash-{run}"));
    }
    // What the job presented is remembered: a thief comes too late also now.
    let worker = world.site.show("Runner.Worker");
    let mut thief = world.captured(&[&worker, "true"]);
    thief.env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "credential-100");
    assert_eq!(thief.status().unwrap().code(), Some(8));

    world.site.hand_over();
    world.make_file("handed");
    for run in [100, 200, 300] {
        world.await_file(&format!("handed-{run}"));
    }
    assert_eq!(world.finish(running).0, Some(0));
    assert_eq!(world.finish(revoked).0, Some(0));
    for when in ["crash", "handed"] {
        let outcomes = [100, 200, 300].map(|run| {
            let exchange = world.exchange(&format!("{when}-{run}"));
            assert_eq!(exchange["identity"], format!("acme/app#{run}"), "{when}: {exchange}");
            exchange["outcome"].as_str().unwrap().to_owned()
        });
        assert_eq!(outcomes, ["ok", "identity_expired", "identity_revoked"], "{when}");
        let tag = format!("{when}-100");
        let want = "github_oidc fork active repo:acme/app:ref:refs/heads/main acme/app#77 build \
                    100.1 1001 octocat";
        assert_eq!(world.who("flows", &tag), want, "{when}");
    }
    let sql = "SELECT count() AS n FROM alarms WHERE kind = 'token_second_anchor' HAVING n = 1";
    world.site.rows(1, sql);
    // Nothing of a token or credential is on disk.
    let state = world.site.path("identity/jobs");
    for file in std::fs::read_dir(&state).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(!text.contains("credential-") && !text.contains("eyJ"), "{text}");
    }
}

#[test]
fn revoking_cuts_a_stream_that_an_older_gateway_still_serves() {
    let world = World::up("require = \"deny\"");
    let url = format!("https://{API}/sse?events=6000&gap_ms=100");
    let steps = format!(
        "curl -sSN '{url}' > out/stream & stream=$!; wait $stream; echo cut $?; touch out/cut"
    );
    let job = world.job(100, &steps);
    let stream = world.site.path("out/stream");
    let length = || std::fs::metadata(&stream).map_or(0, |file| file.len());
    assert!(try_wait(|| length() > 0), "{}", world.site.log());
    let older = world.site.hand_over();
    // The newer one knows the job.
    wait_for("the newer gateway", || {
        let listed = world.site.said(&["identities"]);
        listed.lines().any(|line| line.contains("acme/app#100") && line.contains("active"))
    });
    let before = length();
    wait_for("the stream goes on", || length() > before);
    assert!(std::path::Path::new(&format!("/proc/{older}")).exists(), "it still has the stream");
    assert_eq!(world.site.said(&["revoke", "acme/app#100"]).trim(), "revoked: 1");
    let revoked = Instant::now();
    world.await_file("cut");
    let took = revoked.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    let (code, said) = world.finish(job);
    assert!(code == Some(0) && !said.contains("cut 0\n"), "{said}");
    let cut = "SELECT identity FROM flows WHERE outcome = 'identity_revoked' AND down_bytes > 1000";
    assert_eq!(world.site.rows(1, cut)[0]["identity"], "acme/app#100");
}

#[test]
fn a_broken_file_makes_its_job_nobody_until_the_hook_says_it_again() {
    let world = World::up("require = \"deny\"");
    let steps = format!(
        "{WAIT} touch out/begun; await crashed; $GET lost; \
         $WEIR --config weir.toml ci-hook job-started --kind github --require; $GET again"
    );
    let job = world.job(100, &steps);
    world.await_file("begun");
    let state = world.site.path("identity/jobs");
    let files: Vec<_> = std::fs::read_dir(&state).unwrap().map(|one| one.unwrap().path()).collect();
    let [file] = files.as_slice() else { panic!("one job, one file: {files:?}") };
    let good = std::fs::read_to_string(file).unwrap();
    std::fs::write(file, good.replace("acme/app#100", "acme/app\"")).unwrap();
    crash(&world);
    world.make_file("crashed");
    let (code, said) = world.finish(job);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(world.exchange("lost")["outcome"], "unidentified");
    assert_eq!(world.exchange("again")["identity"], "acme/app#100");
    let told = "SELECT severity FROM alarms WHERE kind = 'identity_state_broken'";
    assert_eq!(world.site.rows(1, told)[0]["severity"], "error");
}
