//! Jobs on one host, under one user, in one cgroup: each has its own identity, and keeps it.

use weir_tests::appliance::wait_for;

use crate::world::{RUNNER, World};

/// Waits for a file.
const WAIT: &str = "await() { until [ -e out/$1 ]; do sleep 0.05; done; }; ";

#[test]
fn two_jobs_at_once_keep_their_identities_also_of_children_and_daemons() {
    let world = World::up("require = \"deny\"");
    let steps = |run: u32| {
        format!(
            "{WAIT} touch out/begun-{run}; await both; $GET own-{run}; (bash -c '$GET child-{run}; true'); \
             setsid bash -c '(until [ -e out/orphan ]; do sleep 0.05; done; $GET orphan-{run}; \
             touch out/orphaned-{run}) </dev/null >/dev/null 2>&1 & \
             ($GET daemon-{run}; touch out/daemon-{run}) </dev/null >/dev/null 2>&1 &'; \
             await daemon-{run}; $WEIR --config weir.toml whoami; echo $BASHPID > out/pid-{run}.tmp; \
             mv out/pid-{run}.tmp out/pid-{run}; await end"
        )
    };
    let jobs = [100, 200].map(|run| world.job(run, &steps(run)));
    for run in [100, 200] {
        world.await_file(&format!("begun-{run}"));
    }
    world.make_file("both");
    for run in [100, 200] {
        let file = format!("pid-{run}");
        world.await_file(&file);
        let pid = world.body_of(&file);
        let whois = world.site.said(&["whois", pid.trim()]);
        assert!(
            whois.starts_with(&format!("acme/app#{run} (active, github_oidc by fork)")),
            "{whois}"
        );
    }
    let listed = world.site.said(&["identities"]);
    assert!(listed.contains("acme/app#100") && listed.contains("acme/app#200"), "{listed}");
    world.make_file("end");
    for (run, job) in [100, 200].into_iter().zip(jobs) {
        let (code, said) = world.finish(job);
        assert_eq!(code, Some(0), "{said}{}", world.site.log());
        assert!(said.contains(&format!("weir: this job is acme/app#{run}\n200\n200\n")), "{said}");
        assert!(said.contains(&format!("acme/app#{run} (active, github_oidc by fork)")), "{said}");
        for tag in ["own", "child", "daemon"] {
            let flow = world.flow(&format!("{tag}-{run}"));
            assert_eq!(flow["identity"], format!("acme/app#{run}"), "{tag}: {flow}");
            assert_eq!(flow["identity_src"], "github_oidc", "{tag}: {flow}");
            let want = format!(
                "github_oidc fork active repo:acme/app:ref:refs/heads/main acme/app#77 build \
                 {run}.1 {run}1 octocat"
            );
            for table in ["flows", "exchanges"] {
                assert_eq!(world.who(table, &format!("{tag}-{run}")), want, "{table}");
            }
        }
    }
    // The orphans of both are nobody's now, whatever runs next.
    let next = world.job(300, &format!("{WAIT} touch out/next; await over; $GET next"));
    world.await_file("next");
    world.make_file("orphan");
    for run in [100, 200] {
        world.await_file(&format!("orphaned-{run}"));
        let refused = world.exchange(&format!("orphan-{run}"));
        assert_eq!(refused["outcome"], "identity_expired", "{refused}");
        assert_eq!(refused["identity"], format!("acme/app#{run}"), "{refused}");
        assert!(world.body(&format!("orphan-{run}")).contains("has ended"));
    }
    world.make_file("over");
    assert_eq!(world.finish(next).0, Some(0));
    assert_eq!(world.exchange("next")["identity"], "acme/app#300");
}

#[test]
fn a_job_with_another_jobs_credential_is_refused_and_told() {
    let world = World::up("");
    let honest = world.job(100, &format!("{WAIT} touch out/honest; await stolen; $GET honest"));
    world.await_file("honest");
    // What a job of the same user reads in the other one's environment.
    let steal = "ACTIONS_ID_TOKEN_REQUEST_TOKEN=credential-100 $WEIR --config weir.toml ci-hook \
                 job-started --kind github --require";
    let thief = world.job(200, &format!("{steal}; echo thief $?; $GET thief"));
    let (code, said) = world.finish(thief);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("thief 1\n200\n"), "{said}{}", world.site.log());
    // A tree that has none yet: a worker by name, with the stolen credential.
    let worker = world.site.show("Runner.Worker");
    let mut other = world.captured(&[&worker, "true"]);
    other.env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "credential-100");
    assert_eq!(other.status().unwrap().code(), Some(8));
    world.make_file("stolen");
    assert_eq!(world.finish(honest).0, Some(0));
    assert_eq!(world.exchange("honest")["identity"], "acme/app#100");
    assert_eq!(world.exchange("thief")["identity"], "acme/app#200");
    let told =
        "SELECT identity, uid, process, count FROM alarms WHERE kind = 'token_second_anchor'";
    let told = world.site.rows(2, told);
    let mut whose: Vec<&str> = told.iter().map(|row| row["identity"].as_str().unwrap()).collect();
    whose.sort_unstable();
    assert_eq!(whose, ["acme/app#200", &format!("uid:{RUNNER}")], "{told:?}");
}

#[test]
fn who_may_not_register_a_job_is_refused_and_told() {
    let world = World::up("");
    let worker = world.site.show("Runner.Worker");
    let mut stranger = world
        .site
        .captured("runner", &["setpriv", "--reuid=4712", "--clear-groups", &worker, "true"]);
    stranger.env("DIR", world.site.path("")).env("WEIR", world.site.path("weir"));
    assert_eq!(stranger.status().unwrap().code(), Some(8));
    let told = world.site.rows(1, "SELECT uid FROM alarms WHERE kind = 'identity_refused'");
    assert_eq!(told[0]["uid"], 4712);
    // Nor revoke, nor ask about others, nor list.
    let weir = world.site.show("weir");
    let config = world.site.show("weir.toml");
    for order in [&["revoke", "x"][..], &["identities"], &["whois", "1"]] {
        let asked = world
            .captured(&[&[weir.as_str(), "--config", config.as_str()], order].concat())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&asked.stderr).into_owned();
        assert!(!asked.status.success() && said.contains("not_allowed"), "{order:?}: {said}");
    }
    wait_for("the gateway goes on", || world.site.ask(&["identities"]).status.success());
}
