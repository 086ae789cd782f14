//! A configuration of weir that touches nothing outside one directory and its own cgroups.

use std::path::Path;

use anyhow::Result;

use crate::sh;

/// For `weir --config`, with the gateway as the user of the directory: own port, sockets, cgroups and pins, named after `kind` and our pid.
pub(crate) fn config(directory: &Path, kind: &str, port: u16) -> Result<String> {
    let directory = directory.display().to_string();
    let id = format!("{kind}-{}", std::process::id());
    let mut text = format!(
        "[host]\nid = \"{kind}\"\norg = \"demo\"\nproject = \"{kind}\"\n\n\
         [capture]\ncgroup = \"{id}/captured\"\ngateway_cgroup = \"{id}/gateway\"\n\
         pin_dir = \"/sys/fs/bpf/{id}\"\n\
         nftables = false\ndevices = []\n\n\
         [gateway]\nuser = \"root\"\nport = {port}\ndrain_timeout = \"2s\"\n\n\
         [tls]\nca_dir = \"{directory}/weir-ca\"\nextra_roots = [\"{directory}/ca.pem\"]\n\n\
         [inspect]\nstate_dir = \"{directory}/inspect\"\n\n\
         [spool]\ndir = \"{directory}/spool\"\nmax_size = \"4GiB\"\nseal_after = \"200ms\"\n\n\
         [store]\nsocket = \"{directory}/store.sock\"\ndata_dir = \"{directory}/store\"\n"
    );
    let engine = crate::engine::setup()?;
    text.push_str(&format!("engine = \"{}\"\n", engine.display()));
    text.push_str(&format!("\n[admin]\nsocket = \"{directory}/admin.sock\"\n"));
    sh::check()?;
    Ok(text)
}
