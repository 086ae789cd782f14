//! Which requests of a captured job are passed on, and after which check: one table.
//!
//! - input: method and segments of a path
//! - output: [`Action`]
//! - bound: one pass over [`TABLE`]
//! - on failure: what is not in the table is refused

/// What is done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Passed on as it is.
    Pass,
    /// Passed on if the container at this segment is the job's.
    Own,
    /// The same, without the body: old versions of the API took a configuration in it.
    Start,
    /// `containers/create`: checked by `rules`, and made the job's.
    Create,
    /// `containers/ID/update`, of the job's own container.
    Update,
    /// `containers/ID/exec`, in the job's own container.
    ExecCreate,
    /// `exec/ID/…`, of a container of the job.
    Exec,
    /// `commit`: the container is in the query.
    Commit,
    /// `build`: put below the job's cgroup.
    Build,
    /// `images/create`: from the body, or over the network.
    ImageCreate,
    /// dockerd itself connects: allowed where dockerd is captured.
    Network,
    /// `volumes/create`
    VolumeCreate,
    /// `networks/create`
    NetworkCreate,
    /// Not passed on, for this reason.
    Refuse(&'static str),
}

use Action::{
    Build, Commit, Create, Exec, ExecCreate, ImageCreate, Network, NetworkCreate, Own, Pass,
    Refuse, Start, Update, VolumeCreate,
};

const SWARM: Action = Refuse("tasks of a swarm would not be the job's");
const PLUGINS: Action = Refuse("plugins are privileged");
const PRUNE: Action = Refuse("it would remove what belongs to others");
const BUILDKIT: Action =
    Refuse("BuildKit's sessions are not checked; set DOCKER_BUILDKIT=0 to build without it");
const ATTACHED: Action = Refuse(
    "a network that is attached later is not registered: name all networks when making the container",
);

/// Method, path (`*` is one segment, `**` one or more), action. The first row that fits counts.
pub const TABLE: &[(&str, &str, Action)] = &[
    ("GET", "_ping", Pass),
    ("HEAD", "_ping", Pass),
    ("GET", "version", Pass),
    ("GET", "info", Pass),
    ("GET", "events", Pass),
    ("GET", "system/df", Pass),
    ("POST", "auth", Network),
    ("POST", "session", BUILDKIT),
    ("POST", "grpc", BUILDKIT),
    ("GET", "containers/json", Pass),
    ("POST", "containers/create", Create),
    ("POST", "containers/prune", PRUNE),
    ("POST", "containers/*/start", Start),
    ("POST", "containers/*/update", Update),
    ("POST", "containers/*/exec", ExecCreate),
    ("POST", "containers/*/restart", Own),
    ("GET", "containers/*/checkpoints", Own),
    ("*", "containers/*/checkpoints", Refuse("connections of a checkpoint are not captured")),
    ("*", "containers/*/checkpoints/*", Refuse("connections of a checkpoint are not captured")),
    ("*", "containers/**", Own),
    ("GET", "exec/*/json", Exec),
    ("POST", "exec/*/start", Exec),
    ("POST", "exec/*/resize", Exec),
    ("POST", "commit", Commit),
    ("POST", "build", Build),
    ("POST", "build/prune", PRUNE),
    ("POST", "build/cancel", Pass),
    ("GET", "images/search", Network),
    ("POST", "images/create", ImageCreate),
    ("POST", "images/prune", PRUNE),
    ("POST", "images/load", Pass),
    ("POST", "images/**/push", Network),
    ("POST", "images/**/tag", Pass),
    ("GET", "images/**", Pass),
    ("DELETE", "images/**", Pass),
    ("GET", "distribution/**", Network),
    ("GET", "volumes", Pass),
    ("GET", "volumes/*", Pass),
    ("POST", "volumes/create", VolumeCreate),
    ("POST", "volumes/prune", PRUNE),
    ("DELETE", "volumes/*", Pass),
    ("GET", "networks", Pass),
    ("GET", "networks/*", Pass),
    ("POST", "networks/create", NetworkCreate),
    ("POST", "networks/prune", PRUNE),
    ("POST", "networks/*/connect", ATTACHED),
    ("POST", "networks/*/disconnect", ATTACHED),
    ("DELETE", "networks/*", Pass),
    ("*", "swarm", SWARM),
    ("*", "swarm/**", SWARM),
    ("*", "services", SWARM),
    ("*", "services/**", SWARM),
    ("*", "nodes", SWARM),
    ("*", "nodes/**", SWARM),
    ("*", "tasks", SWARM),
    ("*", "tasks/**", SWARM),
    ("*", "secrets", SWARM),
    ("*", "secrets/**", SWARM),
    ("*", "configs", SWARM),
    ("*", "configs/**", SWARM),
    ("*", "plugins", PLUGINS),
    ("*", "plugins/**", PLUGINS),
];

/// Looks a request up.
pub fn action(method: &str, segments: &[&str]) -> Action {
    let fits = |(wanted, pattern, _): &&(&str, &str, Action)| {
        (*wanted == "*" || *wanted == method)
            && matches(&pattern.split('/').collect::<Vec<_>>(), segments)
    };
    let row = TABLE.iter().find(fits);
    row.map_or(Refuse("not a request that this version of weir knows"), |(_, _, action)| *action)
}

fn matches(pattern: &[&str], segments: &[&str]) -> bool {
    match (pattern.split_first(), segments.split_first()) {
        (None, None) => true,
        (Some((&"**", rest)), Some((_, others))) => {
            matches(rest, others) || matches(pattern, others)
        }
        (Some((word, rest)), Some((segment, others))) => {
            (*word == "*" || word == segment) && matches(rest, others)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(request: &str) -> Action {
        let (method, path) = request.split_once(" /").unwrap();
        action(method, &path.split('/').collect::<Vec<_>>())
    }

    #[test]
    fn what_is_not_in_the_table_is_refused() {
        for odd in ["POST /new", "PUT /info", "POST /images/x/y", "PATCH /exec/x/start"] {
            assert!(matches!(of(odd), Refuse(_)), "{odd}");
        }
        for odd in ["POST /session", "POST /grpc", "POST /plugins/pull", "POST /swarm/init"] {
            assert!(matches!(of(odd), Refuse(_)), "{odd}");
        }
    }

    #[test]
    fn requests_find_their_row() {
        for (request, expected) in [
            ("HEAD /_ping", Pass),
            ("POST /containers/create", Create),
            ("GET /containers/json", Pass),
            ("GET /containers/x/json", Own),
            ("GET /containers/x/archive", Own),
            ("PUT /containers/x/archive", Own),
            ("POST /containers/x/attach", Own),
            ("GET /containers/x/attach/ws", Own),
            ("DELETE /containers/x", Own),
            ("POST /containers/x/start", Start),
            ("POST /containers/x/exec", ExecCreate),
            ("POST /exec/x/start", Exec),
            ("POST /images/a/b/c/push", Network),
            ("GET /images/a/b:1/json", Pass),
            ("POST /images/create", ImageCreate),
            ("GET /distribution/a/b/json", Network),
            ("POST /build", Build),
        ] {
            assert_eq!(of(request), expected, "{request}");
        }
    }
}
