//! What a captured job may ask of a container: what `rules` allows, and everything else must be empty.
//!
//! - input: the JSON of `containers/create`, `update`, `exec`, `volumes/create`, `networks/create`
//! - output: the JSON to pass on, and the containers that it refers to
//! - bound: `super::MAX_BODY_BYTES`, read before
//! - on failure: [`DockerError::Refused`] with the member and the reason
//!
//! dockerd takes members in any letter case and ignores those that it does not know. Here a member
//! that is not spelled as in the table must be empty and is removed, so that both read the same; newer
//! members are refused until somebody has looked at them.

use serde_json::{Map, Value, json};

use super::caller::Job;
use super::rules::{CREATE, Check, EXEC, HOST, NETWORK, Rule, Table, VOLUME};
use super::{DockerError, Site, refused};

/// Checks the body of `containers/create` and makes the container the job's. Answers the containers
/// that it refers to, which must be the job's as well.
///
/// # Errors
/// [`DockerError::Refused`]
pub fn create(
    body: &mut Value,
    job: &Job,
    pid: u32,
    site: &Site,
) -> Result<Vec<String>, DockerError> {
    let containers = checked(body, CREATE, site)?;
    let body = body.as_object_mut().ok_or_else(|| refused("the body is no object"))?;
    let host = body.entry("HostConfig").or_insert_with(|| json!({}));
    if host.is_null() {
        *host = json!({});
    }
    let host = host.as_object_mut().ok_or_else(|| refused("HostConfig is no object"))?;
    host.insert("CgroupParent".into(), Value::from(job.parent.clone()));
    label(body, job, pid)?;
    Ok(containers)
}

/// Says on what behalf something was made. For people: what is checked is the cgroup.
fn label(body: &mut Map<String, Value>, job: &Job, pid: u32) -> Result<(), DockerError> {
    let labels = body.entry("Labels").or_insert_with(|| json!({}));
    if labels.is_null() {
        *labels = json!({});
    }
    let labels = labels.as_object_mut().ok_or_else(|| refused("Labels is no object"))?;
    labels.insert("weir.job".into(), Value::from(job.name.clone()));
    labels.insert("weir.pid".into(), Value::from(pid.to_string()));
    Ok(())
}

/// Checks the body of `containers/ID/update`: a part of `HostConfig`.
///
/// # Errors
/// [`DockerError::Refused`]
pub fn update(body: &mut Value, site: &Site) -> Result<Vec<String>, DockerError> {
    if let Some(body) = body.as_object_mut() {
        body.remove("CgroupParent");
    }
    checked(body, HOST, site)
}

/// Checks the body of `containers/ID/exec`.
///
/// # Errors
/// [`DockerError::Refused`]
pub fn exec(body: &mut Value, site: &Site) -> Result<(), DockerError> {
    checked(body, EXEC, site).map(drop)
}

/// Checks the body of `volumes/create`.
///
/// # Errors
/// [`DockerError::Refused`]
pub fn volume(body: &mut Value, site: &Site) -> Result<(), DockerError> {
    checked(body, VOLUME, site).map(drop)
}

/// Checks the body of `networks/create`.
///
/// # Errors
/// [`DockerError::Refused`]
pub fn network(body: &mut Value, site: &Site) -> Result<(), DockerError> {
    checked(body, NETWORK, site).map(drop)
}

/// A network of a build, which takes it in its query string.
///
/// # Errors
/// [`DockerError::Refused`]: a build has no containers of the job to share with.
pub fn build_network(mode: &str) -> Result<(), DockerError> {
    if mode.starts_with("container:") {
        return Err(refused("networkmode: a build cannot share a container's network"));
    }
    Ok(())
}

fn checked(body: &mut Value, table: Table, site: &Site) -> Result<Vec<String>, DockerError> {
    let mut check = Check { site, containers: Vec::new() };
    members(body, table, &mut check).map_err(refused)?;
    Ok(check.containers)
}

/// Checks an object, or each of a list, and removes the members that the table does not have: even
/// an empty one could replace what it has in another letter case.
pub(super) fn members(
    value: &mut Value,
    table: Table,
    check: &mut Check<'_>,
) -> Result<(), String> {
    let object = match value {
        Value::Null => return Ok(()),
        Value::Object(object) => object,
        Value::Array(all) => return all.iter_mut().try_for_each(|one| members(one, table, check)),
        _ => return Err("not an object".into()),
    };
    let known = |name: &str| table.iter().find(|(known, _)| *known == name);
    for (name, value) in object.iter_mut() {
        let rule =
            known(name).map_or(Rule::Empty("not known to this version of weir"), |row| row.1);
        apply(rule, value, check).map_err(|what| format!("{name}: {what}"))?;
    }
    object.retain(|name, _| known(name).is_some());
    Ok(())
}

fn apply(rule: Rule, value: &mut Value, check: &mut Check<'_>) -> Result<(), String> {
    match rule {
        Rule::Any => Ok(()),
        Rule::Empty(why) if !is_empty(value) => Err(format!("refused: {why}")),
        Rule::Null(why) if !value.is_null() => Err(format!("refused: {why}")),
        Rule::Empty(_) | Rule::Null(_) => Ok(()),
        Rule::OneOf(known, why) => {
            let fits = value.as_str().is_some_and(|text| known.contains(&text));
            if fits || is_empty(value) { Ok(()) } else { Err(format!("refused: {why}")) }
        }
        Rule::Members(table) => members(value, table, check),
        Rule::With(test) => test(value, check),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site() -> Site {
        Site {
            listen: "/run/weir/docker.sock".into(),
            upstream: "/run/docker.sock".into(),
            captured: "weir/captured".into(),
            protect: Vec::new(),
        }
    }

    fn job() -> Job {
        Job { name: "build".into(), parent: "/weir/captured/build".into() }
    }

    fn asked(host: &Value) -> Result<Vec<String>, String> {
        let mut body = json!({ "Image": "x", "HostConfig": host });
        create(&mut body, &job(), 7, &site()).map_err(|error| error.to_string())
    }

    /// Every way out that is known, one per row: member, value.
    fn refusals() -> Vec<(&'static str, Value)> {
        let mut all = vec![
            ("Privileged", json!(true)),
            ("privileged", json!(true)),
            ("CgroupnsMode", json!("host")),
            ("PidMode", json!("host")),
            ("IpcMode", json!("host")),
            ("UTSMode", json!("host")),
            ("UsernsMode", json!("host")),
            ("Cgroup", json!("container:x")),
            ("Runtime", json!("runc")),
            ("Devices", json!([{ "PathOnHost": "/dev/kvm" }])),
            ("DeviceRequests", json!([{ "Driver": "nvidia" }])),
            ("DeviceCgroupRules", json!(["a *:* rwm"])),
            ("SecurityOpt", json!(["seccomp=unconfined"])),
            ("SecurityOpt", json!(["no-new-privileges:false"])),
            ("MaskedPaths", json!([])),
            ("ReadonlyPaths", json!([])),
            ("Annotations", json!({ "run.oci.handler": "x" })),
            ("LogConfig", json!({ "Type": "syslog", "Config": {} })),
            ("logconfig", json!({ "Type": "syslog", "Config": {} })),
            ("VolumeDriver", json!("other")),
            ("Binds", json!(["/:/host"])),
            ("Binds", json!(["v:/v", "/sys/fs/cgroup:/c:ro"])),
            ("Binds", json!(["/run/docker.sock:/s"])),
            ("Binds", json!(["/var/run/docker.sock:/s"])),
            ("Binds", json!(["../x:/s"])),
            ("Binds", json!(["~/x:/s"])),
            ("Mounts", json!([{ "Type": "bind", "Source": "/", "Target": "/h" }])),
            ("Mounts", json!([{ "type": "bind", "Source": "/", "Target": "/h" }])),
            ("Mounts", json!([{ "Source": "/etc", "Target": "/h" }])),
            ("Mounts", json!([{ "Type": "npipe", "Source": "x", "Target": "/h" }])),
            (
                "Mounts",
                json!([{ "Type": "volume", "Target": "/h", "VolumeOptions":
                { "DriverConfig": { "Options": { "device": "/", "o": "bind" } } } }]),
            ),
            (
                "Mounts",
                json!([{ "Type": "volume", "Target": "/h", "VolumeOptions":
                { "driverconfig": { "Options": { "device": "/", "o": "bind" } } } }]),
            ),
            ("SomethingNew", json!("x")),
        ];
        for name in ["SYS_ADMIN", "NET_ADMIN", "NET_RAW", "BPF", "SYS_PTRACE", "SYS_MODULE", "ALL"]
        {
            all.push(("CapAdd", json!(["CHOWN", name])));
            all.push(("CapAdd", json!([format!("cap_{}", name.to_lowercase())])));
        }
        all
    }

    #[test]
    fn every_known_way_out_is_refused_by_its_name() {
        for (member, value) in refusals() {
            let error = asked(&json!({ member: value })).expect_err(member);
            assert!(error.contains(member), "{member}: {error}");
        }
        let mut body = json!({ "Image": "x", "hostconfig": { "Privileged": true } });
        assert!(create(&mut body, &job(), 7, &site()).is_err());
        assert!(create(&mut json!([]), &job(), 7, &site()).is_err());
        assert!(create(&mut json!({ "HostConfig": 7 }), &job(), 7, &site()).is_err());
    }

    #[test]
    fn what_docker_run_sends_is_taken_and_becomes_the_jobs() {
        // As the command line of docker 28 writes it.
        let host = json!({
            "Binds": ["data:/data"], "ContainerIDFile": "", "LogConfig": { "Type": "", "Config": {} },
            "NetworkMode": "default", "PortBindings": {}, "RestartPolicy": { "Name": "no" },
            "AutoRemove": true, "VolumeDriver": "", "VolumesFrom": null, "ConsoleSize": [24, 80],
            "CapAdd": ["cap_chown"], "CapDrop": null, "CgroupnsMode": "", "Dns": [], "GroupAdd": null,
            "IpcMode": "", "Cgroup": "", "Links": null, "OomScoreAdj": 0, "PidMode": "",
            "Privileged": false, "PublishAllPorts": false, "ReadonlyRootfs": false,
            "SecurityOpt": ["no-new-privileges"], "UTSMode": "", "UsernsMode": "", "ShmSize": 0,
            "Isolation": "", "CpuShares": 0, "Memory": 0, "NanoCpus": 0, "CgroupParent": "/evil",
            "Devices": [], "DeviceCgroupRules": null, "DeviceRequests": null, "PidsLimit": 0,
            "Ulimits": [], "CpuCount": 0, "IOMaximumIOps": 0, "MaskedPaths": null,
            "ReadonlyPaths": null,
        });
        let mut body =
            json!({ "Image": "x", "Labels": { "weir.job": "other" }, "HostConfig": host });
        assert_eq!(create(&mut body, &job(), 7, &site()).unwrap(), Vec::<String>::new());
        assert_eq!(body["HostConfig"]["CgroupParent"], "/weir/captured/build");
        assert_eq!(body["Labels"], json!({ "weir.job": "build", "weir.pid": "7" }));
        // Nothing that dockerd would take for one of ours, or for null, is left.
        let mut twice = json!({ "HostConfig": { "cgroupparent": "" }, "hostconfig": null });
        create(&mut twice, &job(), 7, &site()).unwrap();
        assert_eq!(twice["HostConfig"], json!({ "CgroupParent": "/weir/captured/build" }));
        assert!(twice.get("hostconfig").is_none());
        for mut small in [json!({}), json!({ "HostConfig": null, "Labels": null })] {
            create(&mut small, &job(), 7, &site()).unwrap();
            assert_eq!(small["HostConfig"]["CgroupParent"], "/weir/captured/build");
        }
    }

    #[test]
    fn containers_that_are_shared_with_are_told() {
        let host = json!({ "NetworkMode": "container:a", "PidMode": "container:b",
            "IpcMode": "container:c", "VolumesFrom": ["d:ro", "e"] });
        assert_eq!(asked(&host).unwrap(), ["a", "b", "c", "d", "e"]);
        assert_eq!(asked(&json!({ "NetworkMode": "host" })).unwrap(), Vec::<String>::new());
        assert!(build_network("container:a").is_err());
        build_network("host").unwrap();
    }

    #[test]
    fn other_bodies_have_their_own_tables() {
        exec(&mut json!({ "Cmd": ["sh"], "Privileged": false, "Env": null }), &site()).unwrap();
        assert!(exec(&mut json!({ "Cmd": ["sh"], "Privileged": true }), &site()).is_err());
        assert!(exec(&mut json!({ "Cmd": ["sh"], "PRIVILEGED": true }), &site()).is_err());
        volume(&mut json!({ "Name": "x", "Driver": "local", "DriverOpts": {} }), &site()).unwrap();
        let mut bind = json!({ "DriverOpts": { "type": "none", "o": "bind", "device": "/" } });
        assert!(volume(&mut bind, &site()).is_err());
        network(&mut json!({ "Name": "n", "Driver": "bridge", "Options": {} }), &site()).unwrap();
        assert!(network(&mut json!({ "Name": "n", "Driver": "macvlan" }), &site()).is_err());
        let mut memory = json!({ "Memory": 7, "CgroupParent": "/x" });
        update(&mut memory, &site()).unwrap();
        assert_eq!(memory, json!({ "Memory": 7 }));
        assert!(update(&mut json!({ "Devices": [{}] }), &site()).is_err());
    }
}
