#!/usr/bin/env bash
# Builds the product's U-Boot of a board, as Buildroot would: uboot.sh BOARD OUT
#
# OUT gets u-boot.bin. It is made once: what it was made of stands beside it.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
top=$(realpath "$here/../..")
mkdir -p "$2"
out=$(realpath "$2")
fragment=$top/board/common/uboot.fragment
config=$(sed -n 's/^BR2_TARGET_UBOOT_BOARD_DEFCONFIG="\(.*\)"$/\1_defconfig/p' "$top/buildroot/configs/fieldgate_$1_defconfig")
"$here/fetch.sh"
cross=aarch64-linux-gnu-
of="$config $(${cross}gcc -dumpfullversion) $(cat "$0" "$fragment" "$here/kconfig/complete" | sha256sum)"
if [ -e "$out/u-boot.bin" ] && [ "$(cat "$out/made-of")" = "$of" ]; then
	exit 0
fi
work=$(mktemp -d "$out/u-boot.XXXXXX")
trap 'rm -rf "$work"' EXIT
tar -xjf "$here/kconfig/u-boot.tar.bz2" -C "$work" --strip-components=1
cd "$work"
# BOARD is a variable of U-Boot's as well, which would be overruled by that of "make BOARD=rpi4".
unset BOARD MAKEFLAGS MAKEOVERRIDES MFLAGS
make -s "$config"
# Programs for this machine, which the product's build uses libraries for, are not wanted.
cat "$fragment" - >>.config <<EOF
# CONFIG_TOOLS_LIBCRYPTO is not set
# CONFIG_TOOLS_MKEFICAPSULE is not set
EOF
make -s olddefconfig 2>/dev/null
nice make -s -j"$(nproc)" CROSS_COMPILE=$cross u-boot.bin
mv u-boot.bin "$out/u-boot.bin"
echo "$of" >"$out/made-of"
