//! Containers that captured jobs start, through the proxy before Docker's socket.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use weir_tests::appliance::{API, text};
use weir_tests::docker::{IMAGE, isolated};

use crate::World;
use crate::https::{exchange, host_entry};

impl World {
    /// `docker WORDS` of a captured job, at the proxy.
    fn of_job(&self, job: &str, words: &[&str]) -> Command {
        self.command_of(job, &[&["docker"], words].concat())
    }

    /// A command of a captured job that finds the proxy.
    pub(crate) fn command_of(&self, job: &str, words: &[&str]) -> Command {
        let host = format!("DOCKER_HOST=unix://{}", self.site.show("proxy.sock"));
        let config = format!("DOCKER_CONFIG={}", self.docker.path("job").display());
        let start = ["env", &host, &config, "DOCKER_BUILDKIT=0"];
        self.site.captured(job, &[&start, words].concat())
    }

    fn ask_of(&self, job: &str, words: &[&str]) -> Output {
        self.of_job(job, words).stdin(Stdio::null()).output().unwrap()
    }

    fn said_of(&self, job: &str, words: &[&str]) -> String {
        let output = self.ask_of(job, words);
        assert!(output.status.success(), "{words:?}: {}{}", text(&output), self.site.log());
        let said = String::from_utf8(output.stdout).unwrap();
        // `weir run` tells that the job's containers still run.
        let lines = said.lines().filter(|line| !line.starts_with("weir: processes of this job"));
        lines.collect::<Vec<_>>().join("\n").trim().to_owned()
    }
}

#[test]
fn a_container_belongs_to_the_job_that_started_it() {
    isolated(|| {
        let world = World::new(false);
        let entry = host_entry(&world);
        for (network, job, status) in [("bridge", "build-7", "200"), ("host", "build-8", "203")] {
            let path = &format!("/status/{status}");
            let url = format!("https://{API}{path}");
            let words = [
                "run",
                "--rm",
                "--network",
                network,
                "--add-host",
                &entry,
                IMAGE,
                "curl",
                "-sS",
                "-w",
                "%{http_code}",
                &url,
            ];
            assert_eq!(world.said_of(job, &words), status);
            let row = exchange(&world, path);
            assert_eq!(
                (row["job_id"].as_str(), row["exe"].as_str()),
                (Some(job), Some("/bin/curl"))
            );
            let cgroup = row["cgroup"].as_str().unwrap();
            let start = format!("{}/captured/{job}/", world.site.id);
            assert_eq!(cgroup.strip_prefix(&start).unwrap().len(), 64, "{cgroup}");
            assert_eq!(row["argv"][0], "curl", "{row:#}");
        }
    });
}

#[test]
fn attach_exec_and_build_work_and_other_jobs_are_kept_out() {
    isolated(|| {
        // dockerd is captured, too: otherwise nothing may make it connect.
        let world = World::new(true);
        let mut run = world.of_job("a", &["run", "--rm", "--interactive", IMAGE, "cat"]);
        let mut run = run.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        run.stdin.take().unwrap().write_all(b"through a tunnel").unwrap();
        assert_eq!(run.wait_with_output().unwrap().stdout, b"through a tunnel");

        world.said_of("a", &["run", "--detach", "--name", "one", IMAGE, "sleep", "1000"]);
        let cgroup = world.said_of("a", &["exec", "one", "grep", "^0::", "/proc/self/cgroup"]);
        let id = world.docker.inspect("one")["Id"].as_str().unwrap().to_owned();
        assert_eq!(cgroup, format!("0::/{}/captured/a/{id}", world.site.id));
        let labels = world.docker.inspect("one")["Config"]["Labels"].clone();
        assert_eq!(labels["weir.job"], "a");
        assert!(labels["weir.pid"].as_str().unwrap().parse::<u32>().unwrap() > 1);

        world.docker.said(&["run", "--detach", "--name", "ours", IMAGE, "sleep", "1000"]);
        for (job, name) in [("b", "one"), ("a", "ours"), ("a", "none")] {
            for words in [
                ["exec", name, "id"],
                ["cp", &format!("{name}:/tmp"), "/tmp/x"],
                ["rm", "--force", name],
                ["logs", "--timestamps", name],
                ["kill", "--signal=9", name],
            ] {
                let output = world.ask_of(job, &words);
                assert!(!output.status.success(), "{words:?}: {}", text(&output));
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(said.contains("is not one of job"), "{words:?}: {said}");
            }
        }
        for name in ["one", "ours"] {
            assert_eq!(world.docker.inspect(name)["State"]["Running"], true);
        }

        let context = world.docker.path("context");
        std::fs::create_dir(&context).unwrap();
        let file = format!("FROM {IMAGE}\nRUN grep ^0:: /proc/self/cgroup > /tmp/where\n");
        std::fs::write(context.join("Dockerfile"), file).unwrap();
        let context = context.display().to_string();
        world.said_of("a", &["build", "--cgroup-parent", "/elsewhere", "--tag", "built", &context]);
        let words =
            ["run", "--rm", "built", "cat", "/tmp/where", "/etc/ssl/certs/ca-certificates.crt"];
        let said = world.said_of("a", &words);
        let start = format!("0::/{}/captured/a/", world.site.id);
        assert!(said.starts_with(&start), "{said:.200}");
        let refused = world.ask_of("a", &["pull", "no-such-registry.invalid/x"]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!said.contains("weir:"), "a captured dockerd may try: {said}");
    });
}

/// What must not be asked of Docker: request, body.
fn refusals(world: &World) -> Vec<(String, Value)> {
    let host = |member: &str, value: Value| {
        (
            "POST /containers/create".to_owned(),
            json!({ "Image": IMAGE, "HostConfig": { member: value } }),
        )
    };
    let bind = |source: &str| host("Binds", json!([format!("{source}:/h")]));
    let mut all = vec![
        host("Privileged", json!(true)),
        host("CgroupnsMode", json!("host")),
        host("PidMode", json!("host")),
        host("UsernsMode", json!("host")),
        host("Devices", json!([{ "PathOnHost": "/dev/kvm", "PathInContainer": "/dev/kvm" }])),
        host("SecurityOpt", json!(["seccomp=unconfined"])),
        host("Runtime", json!("runc")),
        host("NetworkMode", json!("container:ours")),
        bind("/"),
        bind("/sys/fs/cgroup"),
        bind(&world.docker.socket().display().to_string()),
        bind(&world.site.show("upstream.sock")),
        bind(&world.site.show("ca")),
        bind(&world.site.show("spool")),
        bind(&world.site.show("store.sock")),
        ("POST /session".into(), Value::Null),
        ("POST /containers/ours/exec".into(), json!({ "Cmd": ["id"] })),
        ("POST /containers/%6furs/exec".into(), json!({ "Cmd": ["id"] })),
        ("POST /volumes/create".into(), json!({ "Name": "v", "DriverOpts": { "device": "/" } })),
        ("POST /networks/create".into(), json!({ "Name": "n", "Driver": "macvlan" })),
        ("POST /networks/bridge/connect".into(), json!({ "Container": "ours" })),
        ("POST /images/create?fromImage=x".into(), Value::Null),
        ("POST /build".into(), Value::Null),
        ("POST /swarm/init".into(), json!({})),
        ("POST /plugins/pull?remote=x".into(), json!([])),
    ];
    for name in ["SYS_ADMIN", "NET_ADMIN", "NET_RAW", "BPF", "SYS_PTRACE", "SYS_MODULE", "ALL"] {
        all.push(host("CapAdd", json!([name])));
    }
    all
}

#[test]
fn what_leads_out_of_the_capture_is_refused_and_docker_never_sees_it() {
    isolated(|| {
        let world = World::new(false);
        world.docker.said(&["run", "--detach", "--name", "ours", IMAGE, "sleep", "1000"]);
        let asked = |request: &str, body: &Value| {
            let (method, path) = request.split_once(' ').unwrap();
            let (socket, url) = (world.site.show("proxy.sock"), format!("http://d/v1.41{path}"));
            let body = if body.is_null() { String::new() } else { body.to_string() };
            let words = [
                "curl",
                "-sS",
                "--path-as-is",
                "--unix-socket",
                &socket,
                "-X",
                method,
                "-H",
                "content-type: application/json",
                "-d",
                &body,
                "-w",
                "\n%{http_code}",
                &url,
            ];
            world.site.run("bad", &words)
        };
        let all = refusals(&world);
        let made = world.docker.calls("POST /");
        for (request, body) in &all {
            let said = asked(request, body);
            let (message, status) = said.trim().rsplit_once('\n').unwrap();
            let expected = if request.contains('%') { "400" } else { "403" };
            assert_eq!(status, expected, "{request} {body}: {said}");
            let message: Value = serde_json::from_str(message).unwrap();
            assert!(message["message"].as_str().unwrap().starts_with("weir: "), "{message}");
        }
        assert_eq!(world.docker.calls("POST /"), made, "{}", world.docker.log());
        // The same request without anything of that is taken: the table is not refusing everything.
        let said = asked("POST /containers/create", &json!({ "Image": IMAGE, "Cmd": ["id"] }));
        assert!(said.trim().ends_with("201"), "{said}");
        assert_eq!(world.docker.calls("POST /"), made + 1);

        // A container that got the proxy's socket is the job's, and so is what it makes.
        let socket = format!("{}:/s", world.site.show("proxy.sock"));
        let script = "curl -s -o /dev/null -w '%{http_code} ' --unix-socket /s http://d/containers/ours/json
            curl -s -o /dev/null -w %{http_code} --unix-socket /s -H 'content-type: application/json' \
                -d '{\"Image\":\"box\",\"Cmd\":[\"id\"]}' 'http://d/containers/create?name=inner'";
        let words = ["run", "--rm", "--volume", &socket, IMAGE, "sh", "-c", script];
        assert_eq!(world.said_of("bad", &words), "403 201");
        let parent = world.docker.inspect("inner")["HostConfig"]["CgroupParent"].clone();
        assert_eq!(parent, format!("/{}/captured/bad", world.site.id));
        // Who is not captured gets Docker as it is.
        let proxy = format!("unix://{}", world.site.show("proxy.sock"));
        let mut command = world.docker.command(&["exec", "ours", "echo", "passed"]);
        assert_eq!(command.env("DOCKER_HOST", proxy).output().unwrap().stdout, b"passed\n");
    });
}
