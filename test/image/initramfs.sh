#!/bin/busybox sh
# shellcheck shell=dash
# The twin's first program: loads what the product's kernel has built in, mounts the
# root that the command line names, and hands over.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
while read -r module; do
	insmod "$module"
done </load
label=$(sed -n 's/.*root=PARTLABEL=\([^ ]*\).*/\1/p' /proc/cmdline)
device=
while [ -z "$device" ]; do
	for event in /sys/class/block/*/uevent; do
		if grep -qx "PARTNAME=$label" "$event"; then
			device=/dev/$(sed -n 's/^DEVNAME=//p' "$event")
		fi
	done
	[ -n "$device" ] || sleep 0.2
done
mount -t squashfs -o ro "$device" /root || reboot -f
umount /proc /sys
mount --move /dev /root/dev
exec switch_root /root /lib/systemd/systemd
