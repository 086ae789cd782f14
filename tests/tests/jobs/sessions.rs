//! A person in one of several login sessions: those of logind, and those of the audit system.

use std::process::{Child, Stdio};

use weir_tests::appliance::{text, wait_for};

use crate::world::World;

/// Waits for a file.
const WAIT: &str = "await() { until [ -e out/$1 ]; do sleep 0.05; done; }; ";
/// What logs in, and what runs beside it.
const PERSON: &str = "$WEIR --config weir.toml login --device > out/login || exit 8; \
     $GET own; setsid bash -c '$GET daemon; touch out/daemon' </dev/null >/dev/null 2>&1 & \
     await daemon; touch out/logged-in; await over";
const OTHER: &str = "await logged-in; $GET other; $WEIR --config weir.toml whoami; touch out/over";

/// A user of this run alone, since its slice is made and removed.
fn uid() -> u32 {
    1_900_000_000 + std::process::id()
}

impl World {
    /// Steps of a user in a login session: a cgroup of that name below the captured one, and an audit
    /// session of its own (`Some(uid)`) or none.
    fn session(&self, cgroup: &str, login: Option<u32>, steps: &str) -> Child {
        let login = login.unwrap_or(u32::MAX);
        let script = format!(
            "cd {dir} || exit 9; read -r now < /proc/self/loginuid; \
             [ $now = {login} ] || echo {login} > /proc/self/loginuid || exit 9; \
             exec setpriv --reuid={uid} --clear-groups bash -c \"$1\"",
            dir = self.site.show(""),
            uid = uid(),
        );
        let steps = format!("{WAIT} {steps}");
        let mut command = self.site.captured(cgroup, &["bash", "-c", &script, "login", &steps]);
        command.env("DIR", self.site.path("")).env("WEIR", self.site.path("weir"));
        command.env("GET", self.site.path("get"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
    }

    /// Approves what `weir login` shows, as Alice.
    fn approve(&self) {
        let shown = || std::fs::read_to_string(self.site.path("out/login")).unwrap_or_default();
        wait_for("a code", || shown().contains("and enter ") && shown().ends_with('\n'));
        let shown = shown();
        let after = |start: &str| {
            let found = shown.lines().find_map(|line| line.strip_prefix(start));
            assert!(found.is_some(), "no {start}: {shown}");
            found.unwrap().to_owned()
        };
        self.idp.device(&after("open "), &after("and enter "), "alice", true);
    }

    /// One session logs in, the other one of that user does not; then the first ends.
    fn one_of_two_sessions_is_alice(&self, person: Child, other: Child) {
        self.approve();
        let [person, other] = [person, other].map(|one| one.wait_with_output().unwrap());
        assert!(person.status.success(), "{}{}", text(&person), self.site.log());
        assert!(other.status.success(), "{}{}", text(&other), self.site.log());
        for tag in ["own", "daemon"] {
            let exchange = self.exchange(tag);
            assert_eq!(
                (&exchange["identity"], &exchange["outcome"]),
                (&"Alice".into(), &"ok".into())
            );
            let who = self.who("flows", tag);
            assert!(who.starts_with("person_oidc session active alice"), "{who}");
        }
        let refused = self.exchange("other");
        assert_eq!(refused["outcome"], "unidentified", "{refused}");
        assert_eq!(refused["identity"], format!("uid:{}", uid()), "{refused}");
        let said = String::from_utf8_lossy(&other.stdout).into_owned();
        assert!(said.starts_with("403\nnobody (unidentified"), "{said}");
        wait_for("the end of the login", || !self.site.said(&["identities"]).contains("Alice"));
    }
}

#[test]
fn a_session_of_logind_is_a_login_of_its_own() {
    let slice = format!("user.slice/user-{}.slice", uid());
    let world = World::up_with("require = \"deny\"", |site| {
        site.reconfigure(
            &format!("cgroup = \"{}/captured\"", site.id),
            &format!("cgroup = {slice:?}"),
        );
    });
    let person = world.session("session-3.scope", None, PERSON);
    let other = world.session("session-4.scope", None, OTHER);
    world.one_of_two_sessions_is_alice(person, other);
}

#[test]
fn an_audit_session_is_a_login_of_its_own() {
    let world = World::up("require = \"deny\"");
    let person = world.session("logins", Some(uid()), PERSON);
    let other = world.session("logins-2", Some(uid()), OTHER);
    world.one_of_two_sessions_is_alice(person, other);
}
