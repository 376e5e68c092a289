#!/usr/bin/env bash
# The first process of a simulated host: gives it a root of its own over this machine's, which it can
# not change, then serves SSH. Everything it mounts and starts ends with it.
#
#   host_init.sh NAME ADDRESS FILES      FILES: authorized_keys, bashrc, passwd, and perhaps shared/
set -euo pipefail
name=$1 address=$2 files=$3

mount -t tmpfs -o size=8g,mode=755 tmpfs /mnt # only our own view of /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
cd /mnt/root
mount --rbind /dev dev
mount -t tmpfs -o size=2g tmpfs dev/shm
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs -o size=6g,mode=1777 tmpfs tmp
mount -t tmpfs -o size=64m tmpfs run
mount -t tmpfs -o size=6g tmpfs home
install -d -m 700 home/thaw home/thaw/.ssh
install -m 600 "$files/authorized_keys" home/thaw/.ssh/authorized_keys
install -m 644 "$files/bashrc" home/thaw/.bashrc
install -m 644 "$files/passwd" etc/passwd
if [ -d "$files/shared" ]; then
    mkdir -p shared
    mount --bind "$files/shared" shared
fi
mkdir -p run/sshd old
pivot_root . old
cd /
umount -l /old

hostname "$name"
printf '127.0.0.1 localhost\n%s %s\n' "$address" "$name" >/etc/hosts
export HOME=/home/thaw
cd "$HOME"
ssh-keygen -A >/dev/null
until ip -o addr show eth0 2>/dev/null | grep -qF " $address/"; do # plugged in by who started us
    sleep 0.1
done
/usr/sbin/sshd -D -e -o ListenAddress="$address" -o PasswordAuthentication=no -o UsePAM=no \
    -o PermitRootLogin=prohibit-password -o MaxStartups=50 -o MaxSessions=50 &
while :; do # whatever loses its parent becomes ours, and must be waited for
    wait || true
    sleep 1
done
