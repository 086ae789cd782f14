#!/bin/sh
# The first process of the machine: mounts, runs every test executable, says how many failed.
export PATH=/bin:/sbin
export HOME=/ TMPDIR=/tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t securityfs security /sys/kernel/security
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs run /run
ln -s /proc/self/fd /dev/fd
for module in $(cat /modules/order); do
    insmod "/modules/$module" || echo "weir-vm: module $module does not load"
done
ip link set lo up
# Something beside lo to bind sockets to.
ip link add weir0 type dummy && ip link set weir0 up
ulimit -n 65536
sysctl -q -w net.core.somaxconn=8192 net.ipv4.tcp_max_syn_backlog=8192
echo "weir-vm: fact Linux $(uname -r)"
echo "weir-vm: fact security modules: $(cat /sys/kernel/security/lsm)"
echo "weir-vm: fact BTF: $(wc -c < /sys/kernel/btf/vmlinux) bytes"
echo "weir-vm: fact unprivileged_bpf_disabled: $(cat /proc/sys/kernel/unprivileged_bpf_disabled)"
. /environment
failed=0
for test in $(cat /tests/order); do
    echo "weir-vm: running $test"
    "/tests/$test" --test-threads=1 --nocapture $FILTER || failed=$((failed + 1))
done
dmesg | grep -E 'BUG:|WARNING:|Oops|soft lockup|Call Trace' | head -n 20
echo "weir-vm: verdict $failed"
poweroff -f
