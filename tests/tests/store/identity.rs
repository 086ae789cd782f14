//! Who a process acts for: columns, old rows, views, the command line.

use std::path::Path;
use std::sync::Arc;

use clickhouse::Client;
use uuid::Uuid;
use weir_gateway::identify::who::Who;
use weir_gateway::record::row::{ExchangeRow, FlowRow, Ids, Table};
use weir_gateway::sink::{self, ClickHouseSink, RowSink as _};

use super::support::{Store, batch, exchange, flow};

/// A job of a CI system, whose provider lets everybody choose names.
fn job(run: &str) -> Arc<Who> {
    Arc::new(Who {
        display: "acme/app#test".into(),
        method: "github_oidc",
        confidence: "fork",
        state: "active",
        issuer: "https://ci.example".into(),
        subject: "repo:acme/app:ref:refs/heads/main".into(),
        repository: "acme/app#4711".into(),
        workflow: "test \u{1b}[31m".into(),
        run: run.into(),
        ci_job: format!("job-of-{run}").into(),
        actor: "octocat".into(),
        runner: "runner-1".into(),
        ids: vec![("run_id".into(), run.into()), ("repository_id".into(), "4711".into())],
        ..Who::default()
    })
}

fn person() -> Arc<Who> {
    Arc::new(Who {
        display: "alice@corp.example".into(),
        method: "people_oidc",
        confidence: "session",
        state: "expired",
        issuer: "https://idp.example".into(),
        subject: "u-1".into(),
        groups: vec!["dev".into(), "größe".into()],
        ..Who::default()
    })
}

fn rows(n: u64, who: &Arc<Who>) -> (FlowRow, ExchangeRow) {
    let mut flow = flow(n);
    flow.session_id = Uuid::from_u128(u128::from(n));
    flow.identity = Arc::clone(&who.display);
    flow.identity_src = who.method;
    (flow.who, flow.ids) = (Arc::clone(who), Ids(Arc::clone(who)));
    let mut exchange = exchange(n);
    (exchange.session_id, exchange.flow_id) = (flow.session_id, flow.flow_id);
    exchange.identity = Arc::clone(&who.display);
    exchange.who = Arc::clone(who);
    (flow, exchange)
}

/// Two runs of one workflow by one uid in one cgroup, a person, and a user of the host.
async fn recorded() -> Store {
    let (store, client) = Store::migrated().await;
    let user = super::support::user();
    let all = [rows(1, &job("100.1")), rows(2, &job("101.1")), rows(3, &person()), rows(4, &user)];
    let (flows, exchanges): (Vec<_>, Vec<_>) = all.into_iter().unzip();
    let sink = ClickHouseSink::new(client);
    sink.insert(Table::Flows, "f", batch(&flows, 1)).await.unwrap();
    sink.insert(Table::Exchanges, "e", batch(&exchanges, 5)).await.unwrap();
    store
}

async fn texts(client: &Client, sql: &str) -> Vec<String> {
    client.query_raw(sql).fetch_all().await.unwrap_or_else(|e| panic!("{sql}: {e}"))
}

const WHO: &str = "arrayStringConcat([toString(identity), toString(identity_method), \
    toString(identity_confidence), toString(identity_state), toString(issuer), subject, \
    arrayStringConcat(groups, '+'), toString(repository), toString(workflow), run, ci_job, \
    toString(actor), runner], '|')";

#[tokio::test]
async fn flows_and_exchanges_carry_who() {
    let store = recorded().await;
    let want = [
        "acme/app#test|github_oidc|fork|active|https://ci.example|\
         repo:acme/app:ref:refs/heads/main||acme/app#4711|test \u{1b}[31m|100.1|job-of-100.1|\
         octocat|runner-1",
        "alice@corp.example|people_oidc|session|expired|https://idp.example|u-1|dev+größe||||||",
        "uid:1000|uid|uid||||||||||",
    ];
    for table in ["flows", "exchanges", "timeline"] {
        let sql =
            format!("SELECT DISTINCT {WHO} AS who FROM {table} WHERE run != '101.1' ORDER BY who");
        // Every exchange is in the timeline; these flows are decrypted and fine, so they are not.
        assert_eq!(texts(&store.reader(), &sql).await, want, "{table}");
    }
    let sql = "SELECT arrayStringConcat(mapValues(ids), ' ') FROM flows ORDER BY ts";
    assert_eq!(texts(&store.reader(), sql).await, ["100.1 4711", "101.1 4711", "", ""]);
}

#[tokio::test]
async fn identities_are_counted() {
    let store = recorded().await;
    let sql = "SELECT concat(identity, ' ', toString(count())) FROM exchanges GROUP BY identity \
               ORDER BY identity";
    let want = ["acme/app#test 2", "alice@corp.example 1", "uid:1000 1"];
    assert_eq!(texts(&store.reader(), sql).await, want);
    let sql = "SELECT concat(identity, ' ', toString(jobs), ' ', toString(flows), ' ', \
               toString(exchanges), ' ', toString(alarms), ' ', arrayStringConcat(actors, ',')) \
               FROM identities ORDER BY identity";
    let want =
        ["acme/app#test 2 2 2 0 octocat", "alice@corp.example 0 1 1 0 ", "uid:1000 0 1 1 0 "];
    assert_eq!(texts(&store.reader(), sql).await, want);
}

#[tokio::test]
async fn a_session_is_shown_with_what_was_verified() {
    let (store, client) = Store::migrated().await;
    let (named, _) = rows(1, &job("100.1"));
    // The same session later: its process was not known to belong to the job.
    let later = FlowRow { session_id: named.session_id, ..flow(2) };
    let sink = ClickHouseSink::new(client);
    sink.insert(Table::Flows, "f", batch(&[named, later], 1)).await.unwrap();
    let sql = "SELECT concat(identity, ' ', run, ' ', actor, ' ', toString(flows)) \
               FROM session_summary";
    assert_eq!(texts(&store.reader(), sql).await, ["acme/app#test 100.1 octocat 2"]);
    let shown = String::from_utf8(store.weir(&["sessions", "--repository", "acme/app"]).stdout);
    let shown = shown.unwrap();
    assert!(shown.contains("github_oidc, fork") && shown.contains("acme/app#4711"), "{shown}");
    assert!(store.weir(&["sessions", "--person", "mallory"]).stdout.is_empty());
}

#[tokio::test]
async fn the_timeline_groups_and_filters_by_who() {
    let store = recorded().await;
    let run = |args: &[&str]| {
        let output = store.weir(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.contains('\u{1b}'), "{text:?}");
        text
    };
    let titles = |text: &str| -> Vec<String> {
        text.lines().filter_map(|line| line.strip_prefix("== ")).map(str::to_owned).collect()
    };
    let by_job = run(&["timeline", "--by", "job"]);
    let title = |run: &str| {
        format!(
            "acme/app#test  repository acme/app#4711  workflow test \\x1b[31m  run {run}  \
             job job-of-{run}  actor octocat  (github_oidc, fork)"
        )
    };
    // The person and the user of the host are in one cgroup, which is their job.
    assert_eq!(titles(&by_job), [title("100.1"), title("101.1"), "job job-1".to_owned()]);
    assert!(by_job.contains("alice@corp.example (expired)"), "{by_job}");
    let by_person = run(&["timeline", "--by", "person"]);
    assert_eq!(
        titles(&by_person),
        [
            "octocat  (starts jobs, github_oidc)",
            "alice@corp.example  (people_oidc, session)",
            "uid:1000  (uid)"
        ]
    );
    for (args, lines) in [
        (["--repository", "acme/app"], 2),
        (["--repository", "acme/app#4711"], 2),
        (["--repository", "acme/ap"], 0),
        (["--actor", "octocat"], 2),
        (["--person", "octocat"], 2),
        (["--person", "u-1"], 1),
        (["--person", "alice@corp.example"], 1),
        (["--job", "job-of-101.1"], 1),
        (["--job", "job-1"], 4),
    ] {
        let text = run(&["timeline", args[0], args[1]]);
        assert_eq!(text.lines().count(), lines, "{args:?}: {text}");
    }
    let shown = run(&["show", &exchange(1).exchange_id.to_string()]);
    for line in
        ["known by     github_oidc, fork, active", "run          100.1", "ci job       job-of"]
    {
        assert!(shown.contains(line), "{line:?} not in {shown}");
    }
}

/// Applies a file as `clickhouse-client` does.
async fn by_hand(client: &Client, file: &str) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/clickhouse");
    let sql = std::fs::read_to_string(dir.join(file)).unwrap();
    let lines: Vec<&str> = sql.lines().filter(|line| !line.trim().starts_with("--")).collect();
    for statement in lines.join("\n").split(";\n").filter(|s| !s.trim().is_empty()) {
        let statement = statement.trim().trim_end_matches(';');
        client.query_raw(statement).execute().await.unwrap_or_else(|e| panic!("{statement}: {e}"));
    }
}

#[tokio::test]
async fn rows_of_schema_4_and_of_older_gateways_name_users() {
    let store = Store::start();
    let client = store.writer();
    let outside = client.clone().with_database("default");
    outside.query_raw("CREATE DATABASE weir").execute().await.unwrap();
    let inside = client.clone().with_database("weir");
    for file in ["0001_record.sql", "0002_dns.sql", "0003_alarms.sql", "0004_dns_process.sql"] {
        by_hand(&inside, file).await;
    }
    let old = [
        "INSERT INTO flows (seq, ts, expires_at, identity, identity_src) \
         VALUES (1, now(), now() + 9999, 'user:ci', 'uid')",
        "INSERT INTO exchanges (seq, ts, expires_at, identity) \
         VALUES (2, now(), now() + 9999, 'user:ci')",
        "INSERT INTO dns_queries (seq, ts, expires_at, qname) VALUES (3, now(), now() + 9999, 'a')",
        "INSERT INTO alarms (seq, ts, expires_at, identity) \
         VALUES (4, now(), now() + 9999, 'user:ci')",
    ];
    for sql in old {
        inside.query_raw(sql).execute().await.unwrap();
    }
    assert!(sink::migrate(&client, "weir").await.unwrap().version >= 5);
    // An older gateway goes on.
    for sql in old {
        inside.query_raw(sql).execute().await.unwrap();
    }
    let want = "user:ci|uid|uid||||||||||";
    for (table, want) in
        [("flows", want), ("exchanges", want), ("alarms", want), ("dns_queries", "||||||||||||")]
    {
        let sql = format!("SELECT {WHO} FROM {table}");
        assert_eq!(texts(&store.reader(), &sql).await, [want, want], "{table}");
    }
    let sql =
        "SELECT concat(identity, ' ', toString(flows), ' ', toString(exchanges)) FROM identities";
    assert_eq!(texts(&store.reader(), sql).await, ["user:ci 2 2"]);
}
