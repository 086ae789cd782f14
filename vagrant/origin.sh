#!/usr/bin/env bash
# The origin: HTTPS endpoints and a git repository, as a system service.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends git busybox-static

install -m 0755 /tmp/origin /usr/local/bin/origin
install -d -m 0755 /var/lib/origin /var/lib/origin/public
install -d -m 0755 /var/lib/origin/repositories

cat > /etc/systemd/system/origin.service <<'UNIT'
[Unit]
Description=Test origin over HTTPS
After=network-online.target

[Service]
ExecStart=/usr/local/bin/origin --listen 0.0.0.0:443 --name api.weir.test --name git.weir.test \
    --out /var/lib/origin --git-root /var/lib/origin/repositories --git-repository demo.git
# The key stays here; only the CA certificate is for the client.
ExecStartPost=/bin/sh -c 'until [ -s /var/lib/origin/ca.pem ]; do sleep 0.1; done; \
    cp /var/lib/origin/ca.pem /var/lib/origin/public/'
Restart=on-failure

[Install]
WantedBy=multi-user.target
UNIT

# The client takes the CA certificate from port 80 once, when it is set up.
cat > /etc/systemd/system/origin-ca.service <<'UNIT'
[Unit]
Description=CA certificate of the test origin
After=origin.service

[Service]
ExecStart=/bin/busybox httpd -f -p 80 -h /var/lib/origin/public
Restart=on-failure

[Install]
WantedBy=multi-user.target
UNIT

systemctl daemon-reload
systemctl enable --now origin.service origin-ca.service
