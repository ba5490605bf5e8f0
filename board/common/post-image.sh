#!/usr/bin/env bash
# Called by Buildroot with the folder of images and the board's name.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
images=$1 board=$2
rm -rf "$images/in"
mkdir -p "$images/in/boot"
ln "$images/rootfs.squashfs" "$images/Image.gz" "$images/in/"
if [ -d "$images/rpi-firmware" ]; then
	cp -r "$images/rpi-firmware/." "$images/in/boot/"
	cp "$images/u-boot.bin" "$images"/*.dtb "$images/in/boot/"
	rm -f "$images/in/boot/cmdline.txt"
fi
PATH=$HOST_DIR/bin:$HOST_DIR/sbin:$PATH "$here/slot.sh" "$board" "$images/in" "$images"
