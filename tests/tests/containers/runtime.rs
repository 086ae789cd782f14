//! What the runtime changes in a container, and what it leaves.

use weir_tests::docker::{BARE, IMAGE, isolated};

use crate::World;

#[test]
fn a_container_of_the_operator_is_below_the_captured_cgroup_and_has_the_ca() {
    isolated(|| {
        let world = World::new(false);
        let docker = &world.docker;
        docker.said(&["run", "--detach", "--name", "one", IMAGE, "sleep", "1000"]);
        let inside = |script: &str| docker.said(&["exec", "one", "sh", "-c", script]);
        let id = docker.short_id("one");
        let cgroup = format!("0::/{}/captured/container-{id}", world.site.id);
        assert_eq!(inside("grep ^0:: /proc/1/cgroup"), cgroup);
        // A process that is added later is in the same place and has the same variables.
        assert_eq!(inside("grep ^0:: /proc/self/cgroup"), cgroup);
        for process in ["1", "self"] {
            let env = inside(&format!("cat /proc/{process}/environ")).replace('\0', "\n");
            for name in ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"] {
                assert!(env.lines().any(|line| line == format!("{name}=/dev/weir/bundle.pem")));
            }
            let status =
                inside(&format!("grep -E '^Cap(Eff|Bnd|Prm|Inh|Amb)' /proc/{process}/status"));
            for line in status.lines() {
                let set = u64::from_str_radix(line.split('\t').nth(1).unwrap(), 16).unwrap();
                assert_eq!(set & (1 << 13), 0, "CAP_NET_RAW: {line}");
            }
        }
        let ca = std::fs::read_to_string(world.site.path("ca/ca.pem")).unwrap();
        assert_eq!(inside("cat /dev/weir/ca.pem"), ca.trim());
        let bundle = inside("cat /etc/ssl/certs/ca-certificates.crt");
        assert!(bundle.contains(ca.trim()), "the image's own bundle is covered");
        assert!(!inside("cat /proc/mounts").contains("ca.key"));
        let denied = docker.ask(&["exec", "one", "sh", "-c", "echo x > /dev/weir/bundle.pem"]);
        assert!(!denied.status.success(), "read-only");
        // Nothing of it is in the container's own layer.
        assert_eq!(docker.said(&["diff", "one"]), "");
    });
}

#[test]
fn an_image_without_roots_stays_without_them_and_its_own_variables_stay() {
    isolated(|| {
        let world = World::new(false);
        let docker = &world.docker;
        let words = [
            "run",
            "--name",
            "two",
            "--env",
            "SSL_CERT_FILE=/own",
            BARE,
            "sh",
            "-c",
            "echo $SSL_CERT_FILE $CURL_CA_BUNDLE; cat /etc/ssl/certs/ca-certificates.crt || true",
        ];
        assert_eq!(docker.said(&words), "/own /dev/weir/bundle.pem");
        assert_eq!(docker.said(&["diff", "two"]), "");
    });
}

#[test]
fn no_container_is_made_while_nothing_is_attached() {
    isolated(|| {
        let mut world = World::new(false);
        world.site.stop();
        let output = world.docker.ask(&["run", "--rm", IMAGE, "id"]);
        assert!(!output.status.success());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("weir is not attached"), "{error}");
    });
}
