//! The gateway asks the provider itself, past its own capture.

use weir_tests::appliance::number;

use crate::world::World;

#[test]
fn questions_to_the_provider_are_never_captured() {
    // Without exclusions, captured processes reach also the provider's loopback address through the
    // gateway only.
    let world = World::up_with("require = \"deny\"", |site| {
        site.reconfigure("[capture]\n", "[capture]\nexclude = []\n");
    });
    let keys = format!("{}/.well-known/openid-configuration", world.idp.ci("github"));
    let ask = format!("curl -sSf -m 20 -o /dev/null '{keys}'");
    let job = world.job(100, &format!("{ask} && {ask} && $GET last"));
    let (code, said) = world.finish(job);
    assert_eq!(code, Some(0), "{said}{}", world.site.log());
    for what in ["metadata", "keys", "tokens"] {
        assert!(world.idp.asked("github", what) > 0, "the gateway asked for {what}");
    }
    // The job's own questions were captured: that is the way of whoever is inside.
    let port = world.idp.issuer().rsplit(':').next().unwrap();
    let of_provider = format!("dst_ip = toIPv6('127.0.0.1') AND dst_port = {port}");
    let rows = world.site.rows(2, &format!("SELECT identity, exe FROM flows WHERE {of_provider}"));
    assert!(rows.iter().all(|row| row["identity"] == "acme/app#100"), "{rows:#?}");
    assert_eq!(world.exchange("last")["outcome"], "ok");
    // And nothing else, of anybody: not even a connection that was refused.
    let sql = "SELECT identity, process, dst_port, outcome FROM flows";
    let flows = world.site.rows(3, sql);
    assert_eq!(flows.len(), 3, "{flows:#?}");
    let sql = format!("SELECT pid FROM flows WHERE {of_provider}");
    let gateway = world.site.part("gateway").unwrap();
    for row in world.site.query(&sql) {
        assert_ne!(number(&row["pid"]), u64::from(gateway));
    }
    let own = std::fs::read_to_string(format!("/proc/{gateway}/cgroup")).unwrap();
    assert!(own.contains(&format!("0::/{}/gateway", world.site.id)), "{own}");
    let alarms = world.site.query("SELECT kind, detail FROM alarms");
    assert!(alarms.is_empty(), "{alarms:#?}");
}
