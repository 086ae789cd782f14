//! `weir login`, `whoami` and `logout` as a person uses them, against a whole gateway.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use weir_gateway::config::Config;
use weir_tests::ca::TestCa;
use weir_tests::gateway::TestGateway;
use weir_tests::idp::Idp;

struct Desk {
    idp: Idp,
    gateway: TestGateway,
}

impl Desk {
    fn new() -> Self {
        let idp = Idp::start();
        let issuer = format!(
            "[[identity.issuer]]\nname = \"corp\"\nissuer = \"{}\"\nkind = \"people\"\n\
             client_id = \"weir-cli\"\ndanger_allow_http = true\n",
            idp.issuer()
        );
        let identity = Config::parse(&issuer).unwrap().identity;
        let change = |config: &mut Config| {
            let state_dir = config.spool.dir.with_file_name("identity");
            config.identity.clone_from(&identity);
            config.identity.state_dir = state_dir;
        };
        let gateway = TestGateway::start(TestCa::new("people"), change, &[]);
        let socket = gateway.dir().join("admin.sock");
        let text = format!("[admin]\nsocket = \"{}\"\n", socket.display());
        std::fs::write(gateway.dir().join("weir.toml"), text).unwrap();
        Self { idp, gateway }
    }

    fn weir(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("--config").arg(self.gateway.dir().join("weir.toml")).args(args);
        command.env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY");
        // No browser of the machine that tests run on.
        command.env("PATH", "/nowhere").stdin(Stdio::null());
        command
    }

    fn output(&self, args: &[&str]) -> (bool, String) {
        let Output { status, stdout, stderr } = self.weir(args).output().unwrap();
        let both = [stdout, stderr].concat();
        (status.success(), String::from_utf8(both).unwrap())
    }

    fn begin(&self, args: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
        let mut child = self.weir(args).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        (child, out)
    }
}

/// What comes after `before` on a line of its own.
fn line(out: &mut BufReader<std::process::ChildStdout>, before: &str) -> String {
    loop {
        let mut line = String::new();
        assert!(out.read_line(&mut line).unwrap() > 0, "no line {before:?}");
        if let Some(rest) = line.trim_end().strip_prefix(before) {
            return rest.to_owned();
        }
    }
}

fn rest(mut child: Child, mut out: BufReader<std::process::ChildStdout>) -> (bool, String) {
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    (child.wait().unwrap().success(), text)
}

fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let weir = test.parent().unwrap().parent().unwrap().join("weir");
    assert!(weir.exists(), "build it first: cargo build -p weir-gateway");
    weir
}

#[test]
fn a_person_logs_in_with_a_browser_and_out_again() {
    let desk = Desk::new();
    assert!(!desk.output(&["logout"]).0);
    let (child, mut out) = desk.begin(&["login", "--browser"]);
    let url = line(&mut out, "open ");
    let jar = desk.gateway.dir().join("jar");
    let port = url.split("127.0.0.1%3A").nth(1).unwrap().split('%').next().unwrap();
    // A stranger's calls first: they end nothing.
    for path in ["", "cb?code=x&state=wrong"] {
        let stray = format!("http://127.0.0.1:{port}/{path}");
        let answer = Command::new("curl").args(["-s", &stray]).output().unwrap();
        assert!(!String::from_utf8_lossy(&answer.stdout).contains("logged in,"));
    }
    let page = Command::new("curl")
        .args(["-sL", "-b", jar.to_str().unwrap(), "-c", jar.to_str().unwrap(), &url])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&page.stdout), "weir: logged in, this page can be closed");
    let (ok, text) = rest(child, out);
    assert_eq!((ok, text.trim()), (true, "logged in as Alice (groups: eng copilot-users)"));
    let (ok, who) = desk.output(&["whoami"]);
    assert!(ok && who.starts_with("Alice (active, person_oidc by session)"), "{who}");
    assert_eq!(desk.output(&["logout"]), (true, "logged out\n".to_owned()));
    let (_, who) = desk.output(&["whoami"]);
    assert!(who.starts_with("nobody (unidentified"), "{who}");
}

#[test]
fn a_person_logs_in_with_a_code_or_denies_it() {
    let desk = Desk::new();
    for (approve, expected) in [(false, ""), (true, "logged in as Bob (groups: eng approvers)")] {
        let (child, mut out) = desk.begin(&["login"]);
        let url = line(&mut out, "open ");
        let code = line(&mut out, "and enter ");
        desk.idp.device(&url, &code, "bob", approve);
        let (ok, text) = rest(child, out);
        assert_eq!((ok, text.trim()), (approve, expected));
    }
    let (_, who) = desk.output(&["whoami"]);
    assert!(who.starts_with("Bob (active"), "{who}");
}

#[test]
fn who_hangs_up_takes_a_code_back() {
    let desk = Desk::new();
    let (mut child, mut out) = desk.begin(&["login", "--issuer", "corp"]);
    let url = line(&mut out, "open ");
    let code = line(&mut out, "and enter ");
    child.kill().unwrap();
    child.wait().unwrap();
    // The last poll may be under way; afterwards nobody asks for the tokens.
    let polls = || {
        let counts = desk.idp.people(&serde_json::json!({}));
        counts["urn:ietf:params:oauth:grant-type:device_code"].as_u64().unwrap_or_default()
    };
    let before = polls();
    desk.idp.device(&url, &code, "bob", true);
    let (_, who) = desk.output(&["whoami"]);
    assert!(who.starts_with("nobody"), "{who}");
    assert!(polls() <= before + 1);
    let (ok, text) = desk.output(&["login", "--issuer", "other"]);
    assert!(!ok && text.contains("login_no_provider"), "{text}");
}
