#!/bin/sh
# deb.sh BINARY ARCH VERSION FILE: makes the Debian package FILE. The same input makes
# the same bytes, where SOURCE_DATE_EPOCH says what time it is.
set -eu
binary=$1 arch=$2 version=$3 file=$4
here=$(dirname "$0")
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"
umask 022

"$here/install.sh" "$binary" "$tree" /usr
mkdir "$tree/DEBIAN"
for script in postinst prerm postrm; do
	install -m 755 "$here/debian/$script" "$tree/DEBIAN/$script"
done
# What dpkg is to ask about before it replaces what an administrator has changed.
(cd "$tree" && find etc -type f -printf '/%p\n' 2>/dev/null | sort) >"$tree/DEBIAN/conffiles"
(cd "$tree" && find usr -type f -exec md5sum {} + | sort -k 2) >"$tree/DEBIAN/md5sums"
cat >"$tree/DEBIAN/control" <<CONTROL
Package: fieldgate
Version: $version
Architecture: $arch
Maintainer: Fieldgate <fieldgate@localhost>
Installed-Size: $(du -sk --apparent-size --exclude=DEBIAN "$tree" | cut -f 1)
Pre-Depends: init-system-helpers (>= 1.54~)
Depends: systemd (>= 252), ca-certificates
Recommends: bluez, systemd-timesyncd | time-daemon
Section: net
Priority: optional
Homepage: https://github.com/fieldgate/fieldgate
Description: field gateway between leaf devices and an IoT hub
 Takes messages from leaf devices over MQTT, serial lines, Modbus and Bluetooth LE,
 keeps them safe on flash while the hub cannot be reached, and carries them to an
 IoT hub over one connection.
CONTROL
dpkg-deb --root-owner-group -Zxz --build "$tree" "$file" >/dev/null
