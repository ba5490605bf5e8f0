#!/bin/sh
# install.sh BINARY DESTDIR PREFIX: installs the program and what systemd has to know
# of it. The image and the Debian package are made by this as well. Where DESTDIR is
# empty the running system is told: users are made, and the service can be started.
set -eu
binary=$1 root=$2 prefix=$3
here=$(dirname "$0")
lib=$root$prefix/lib

install -D -m 755 "$binary" "$root$prefix/bin/fieldgate"
for unit in "$here"/*.service "$here"/*.timer; do
	[ -e "$unit" ] || continue
	install -D -m 644 /dev/null "$lib/systemd/system/$(basename "$unit")"
	sed "s#/usr/bin/fieldgate#$prefix/bin/fieldgate#" "$unit" >"$lib/systemd/system/$(basename "$unit")"
done
install -D -m 644 "$here/fieldgate.preset" "$lib/systemd/system-preset/50-fieldgate.preset"
install -D -m 644 "$here/sysusers.d/fieldgate.conf" "$lib/sysusers.d/fieldgate.conf"
install -D -m 644 "$here/tmpfiles.d/fieldgate.conf" "$lib/tmpfiles.d/fieldgate.conf"
install -D -m 644 "$here/udev/70-fieldgate.rules" "$lib/udev/rules.d/70-fieldgate.rules"

if [ -z "$root" ] && [ -d /run/systemd/system ]; then
	systemd-sysusers fieldgate.conf
	systemd-tmpfiles --create fieldgate.conf
	udevadm control --reload
	systemctl daemon-reload
	echo "write /etc/fieldgate/fieldgate.toml, then run: systemctl enable --now fieldgate"
fi
