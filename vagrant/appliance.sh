#!/usr/bin/env bash
# The appliance: a ClickHouse server that receives the records of all clients.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends clickhouse-server clickhouse-client || {
    echo "no clickhouse-server in the configured package sources:" >&2
    echo "add its vendor's source as its manual says, then run this script again" >&2
    exit 1
}

# Listen on the private network; one user for weir, with its own database and no more.
install -d /etc/clickhouse-server/config.d /etc/clickhouse-server/users.d
cat > /etc/clickhouse-server/config.d/weir.xml <<'XML'
<clickhouse>
  <listen_host>192.168.77.10</listen_host>
  <listen_host>127.0.0.1</listen_host>
</clickhouse>
XML
password=$(head -c 24 /dev/urandom | base64 | tr -d '+/=')
hash=$(printf %s "$password" | sha256sum | cut -d ' ' -f 1)
cat > /etc/clickhouse-server/users.d/weir.xml <<XML
<clickhouse>
  <users>
    <weir>
      <password_sha256_hex>$hash</password_sha256_hex>
      <networks><ip>192.168.77.0/24</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
      <allow_databases><database>weir</database></allow_databases>
    </weir>
  </users>
</clickhouse>
XML
systemctl enable clickhouse-server
systemctl restart clickhouse-server

# For the client: `vagrant ssh appliance -c 'sudo cat /root/weir.password'`.
umask 077
printf %s "$password" > /root/weir.password
