#!/usr/bin/env bash
# Puts a card and an update bundle together: slot.sh BOARD IN OUT
#
# IN holds rootfs.squashfs, Image.gz, perhaps initramfs.img, and boot/ with what the
# board's own firmware needs on the boot partition. OUT gets
#   BOARD.img     the card
#   BOARD.raucb   the signed update
# RAUC_CERT and RAUC_KEY sign the bundle; RAUC_CA is the authority in the image.
# VERSION is the bundle's. CONSOLE is where Linux speaks, if not where the board's
# own kernel does. Used by Buildroot (post-image.sh) and by the twin.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
board=$1 in=$(realpath "$2") out=$(realpath "$3")
common=$(dirname "$(realpath "$0")")
console=${CONSOLE:-}
# shellcheck source=/dev/null
. "$common/../$board/board.env"
if ! [[ $VERSION =~ ^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?(\+[0-9A-Za-z.]+)?$ ]]; then
	echo "slot.sh: VERSION is $VERSION: it must be of the form 1.2.3 or 1.2.3-rc.1, so that an older one can be told" >&2
	exit 1
fi
# RAUC takes it for no version at all, and its service would not start.
if [[ $VERSION == 0.0.0-* ]]; then
	echo "slot.sh: VERSION is $VERSION: RAUC knows of nothing before 0.0.0" >&2
	exit 1
fi

# Unpacked, and with what Linux clears behind it (its header says how much: Linux,
# Documentation/arch/arm64/booting.rst), the kernel must not reach what it is unpacked from.
needs=$({ gzip -dc "$in/Image.gz" 2>/dev/null || true; } | od -A n -t u8 --endian=little -j 16 -N 8 2>/dev/null | tr -d ' ' || true)
room=$((FIT - KERNEL_LOAD))
if ! [[ $needs =~ ^[0-9]+$ ]] || [ "$needs" -eq 0 ]; then
	echo "slot.sh: $in/Image.gz is no packed kernel of arm64" >&2
	exit 1
fi
if [ "$needs" -gt $room ]; then
	echo "slot.sh: the kernel needs $needs bytes of memory, and U-Boot of $board leaves it $room" >&2
	exit 1
fi

work=$(mktemp -d "$out/work.XXXXXX")
trap 'rm -rf "$work"' EXIT

# The kernel with its checksums, behind the squashfs: U-Boot finds it there.
ramdisk=
if [ -e "$in/initramfs.img" ]; then
	ramdisk="ramdisk { description = \"initramfs\"; data = /incbin/(\"$in/initramfs.img\"); type = \"ramdisk\"; arch = \"arm64\"; os = \"linux\"; compression = \"none\"; hash { algo = \"sha256\"; }; };"
fi
cat >"$work/slot.its" <<EOF
/dts-v1/;
/ {
	description = "fieldgate $board";
	#address-cells = <1>;
	images {
		kernel {
			description = "Linux";
			data = /incbin/("$in/Image.gz");
			type = "kernel"; arch = "arm64"; os = "linux"; compression = "gzip";
			load = <$KERNEL_LOAD>; entry = <$KERNEL_LOAD>;
			hash { algo = "sha256"; };
		};
		$ramdisk
	};
};
EOF
mkimage -f "$work/slot.its" "$work/slot.fit" >/dev/null
mkdir "$work/images" "$work/root" "$work/root/boot"
cp "$in/rootfs.squashfs" "$work/images/slot.img"
truncate -s %4096 "$work/images/slot.img"
cat "$work/slot.fit" >>"$work/images/slot.img"
truncate -s %4096 "$work/images/slot.img"
size=$(stat -c %s "$work/images/slot.img")
if [ "$size" -gt $((128 << 20)) ]; then
	echo "slot.sh: $size bytes do not fit a slot of 128 MiB" >&2
	exit 1
fi

# The boot partition.
if [ -d "$in/boot" ]; then
	cp -r "$in/boot/." "$work/root/boot/"
fi
sed "s/@CONSOLE@/${console:-$CONSOLE}/" "$common/boot.cmd" >"$work/boot.cmd"
mkimage -A arm64 -T script -C none -n "fieldgate $board" -d "$work/boot.cmd" "$work/root/boot/boot.scr" >/dev/null

# The card.
case $TABLE in
hybrid) boot='partition-type = 0xC' ;;
*) boot= ;;
esac
sed -e "s/@NAME@/$board/; s/@TABLE@/$TABLE/; s/@BOOT@/$boot/" "$common/genimage.cfg" >"$work/genimage.cfg"
genimage --loglevel 1 --config "$work/genimage.cfg" --rootpath "$work/root" --tmppath "$work/tmp" \
	--inputpath "$work/images" --outputpath "$work/images"
mv "$work/images/$board.img" "$out/$board.img"

# The update.
mkdir "$work/bundle"
mv "$work/images/slot.img" "$work/bundle/slot.img"
cat >"$work/bundle/manifest.raucm" <<EOF
[update]
compatible=fieldgate-$board
version=$VERSION

[bundle]
format=verity

[image.rootfs]
filename=slot.img
EOF
rm -f "$out/$board.raucb"
rauc --cert="$RAUC_CERT" --key="$RAUC_KEY" bundle "$work/bundle" "$out/$board.raucb" >/dev/null
