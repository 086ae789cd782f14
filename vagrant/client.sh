#!/usr/bin/env bash
# The client: a runner or workstation whose captured processes go through weir's gateway.
set -euo pipefail

: "${ORIGIN:?address of the origin}" "${APPLIANCE:?address of the appliance}"

export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends ca-certificates curl git nodejs python3

install -m 0755 /tmp/weir /usr/local/bin/weir
install -d -m 0755 /etc/weir /var/lib/weir
id weir > /dev/null 2>&1 || useradd --system --no-create-home --shell /usr/sbin/nologin weir

# What DNS does on a real network.
cat >> /etc/hosts <<HOSTS
$ORIGIN api.weir.test git.weir.test
HOSTS
curl -sSf --retry 10 --retry-connrefused "http://$ORIGIN/ca.pem" -o /etc/weir/origin-ca.pem

# Records go to the appliance once /etc/weir/clickhouse.password is there; until then to the
# store on this machine, whose engine must be in /usr/local/lib/weir (`cargo xtask setup`).
{
    printf '[tls]\nextra_roots = ["/etc/weir/origin-ca.pem"]\n'
    if [ -s /etc/weir/clickhouse.password ]; then
        printf '\n[store]\nurl = "http://%s:8123"\n' "$APPLIANCE"
        printf 'password_file = "/etc/weir/clickhouse.password"\n'
        # The gateway reads it, and runs as this user.
        chown weir /etc/weir/clickhouse.password
    fi
} > /etc/weir/weir.toml
weir --config /etc/weir/weir.toml check-config

cat > /etc/systemd/system/weir.service <<'UNIT'
[Unit]
Description=weir: capture, gateway and store
After=network-online.target

[Service]
ExecStart=/usr/local/bin/weir up
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure

[Install]
WantedBy=multi-user.target
UNIT
systemctl daemon-reload
systemctl enable --now weir.service
weir doctor
