#!/bin/sh
# install.sh BINARY DESTDIR PREFIX [appliance]: installs the program and what systemd
# has to know of it. The image and the Debian package are made by this as well; with
# "appliance" come the units for a machine that is configured by its card. Where
# DESTDIR is empty the running system is told: users are made, and the service can be
# started.
set -eu
binary=$1 root=$2 prefix=$3 kind=${4:-}
here=$(dirname "$0")
lib=$root$prefix/lib

# put MODE FILE PLACE: with the program's own place in it.
put() {
	install -D -m "$1" /dev/null "$3"
	sed "s#/usr/bin/fieldgate#$prefix/bin/fieldgate#g" "$2" >"$3"
}

install -D -m 755 "$binary" "$root$prefix/bin/fieldgate"
put 644 "$here/fieldgate.service" "$lib/systemd/system/fieldgate.service"
put 644 "$here/fieldgate-renew.service" "$lib/systemd/system/fieldgate-renew.service"
put 644 "$here/fieldgate-renew.timer" "$lib/systemd/system/fieldgate-renew.timer"
put 644 "$here/fieldgate.preset" "$lib/systemd/system-preset/50-fieldgate.preset"
put 644 "$here/sysusers.d/fieldgate.conf" "$lib/sysusers.d/fieldgate.conf"
put 644 "$here/tmpfiles.d/fieldgate.conf" "$lib/tmpfiles.d/fieldgate.conf"
put 644 "$here/udev/70-fieldgate.rules" "$lib/udev/rules.d/70-fieldgate.rules"
put 644 "$here/fieldgate.catalog" "$lib/systemd/catalog/fieldgate.catalog"
put 755 "$here/20-fieldgate.motd" "$root/etc/update-motd.d/20-fieldgate"
for page in "$here"/../docs/man/*; do
	place=$root$prefix/share/man/man${page##*.}/$(basename "$page").gz
	install -D -m 644 /dev/null "$place"
	gzip -9nc "$page" >"$place"
done
if [ "$kind" = appliance ]; then
	for unit in "$here"/appliance/*.service "$here"/appliance/*.timer; do
		put 644 "$unit" "$lib/systemd/system/$(basename "$unit")"
	done
	put 644 "$here/appliance/fieldgate.service.d/reset.conf" "$lib/systemd/system/fieldgate.service.d/reset.conf"
	put 644 "$here/appliance/71-fieldgate-stick.rules" "$lib/udev/rules.d/71-fieldgate-stick.rules"
fi

if [ -z "$root" ] && [ -d /run/systemd/system ]; then
	systemd-sysusers fieldgate.conf
	systemd-tmpfiles --create fieldgate.conf
	journalctl --update-catalog
	udevadm control --reload
	systemctl daemon-reload
	echo "write /etc/fieldgate/fieldgate.toml, then run: systemctl enable --now fieldgate.service fieldgate-renew.timer"
fi
