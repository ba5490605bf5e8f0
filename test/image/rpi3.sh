#!/usr/bin/env bash
# Makes a card of the Raspberry Pi 3 for QEMU's raspi3b, out of a twin: rpi3.sh TWIN
#
# TWIN/rpi3 gets rpi3.img, u-boot.bin and rpi3.dtb. U-Boot, boot script, layout and the
# form of a slot are the product's. The kernel in it is Debian's, and the root holds
# nothing: what is to be seen ends where the kernel begins.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
twin=$(realpath "$1") out=$(realpath "$1")/rpi3
"$here/uboot.sh" rpi3 "$out"
export VERSION=0.0.1 RAUC_CA=$twin/keys/ca.pem RAUC_CERT=$twin/keys/sign.pem RAUC_KEY=$twin/keys/sign.key
work=$(mktemp -d "$out/rpi3.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/root" "$work/in/boot"
cp "$here/../../board/rpi3/config.txt" "$work/in/boot/"
mksquashfs "$work/root" "$work/in/rootfs.squashfs" -quiet -no-progress -all-root -noappend
gzip -6 -c "$twin"/debian/root/boot/vmlinuz-* >"$work/in/Image.gz"
kernel=$(grep '^linux-image-[0-9]' "$twin/debian/unpacked")
dpkg-deb --fsys-tarfile "$twin/debian/archives/$kernel"*.deb | tar -xO --wildcards '*/broadcom/bcm2837-rpi-3-b.dtb' >"$out/rpi3.dtb"
"$here/../../board/common/slot.sh" rpi3 "$work/in" "$out"
