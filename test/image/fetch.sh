#!/usr/bin/env bash
# Fetches the part of the kernel's and of U-Boot's source that says which symbols there
# are, into kconfig/linux and kconfig/u-boot, so that the fragments of board/ can be
# merged and compared; and all of U-Boot's, packed, for uboot.sh.
set -euo pipefail
cd "$(dirname "$0")"
if cmp -s fetch.sh kconfig/complete; then
	exit 0
fi
# The mirror is the one that this machine's own packages come from.
: "${DEBIAN:=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | sed -n '/\/debian$/{p;q}')}"
: "${DEBIAN:?set DEBIAN to the address of a Debian mirror}"
rm -rf kconfig
mkdir -p kconfig/{linux,u-boot}
for kind in deb deb-src; do
	echo "$kind [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $DEBIAN trixie main"
done >kconfig/sources.list
mkdir -p kconfig/lists/partial kconfig/empty.d
: >kconfig/status
apt=(-qq -o Dir::State="$PWD/kconfig" -o Dir::State::status="$PWD/kconfig/status" -o Dir::Etc::sourcelist="$PWD/kconfig/sources.list"
	-o Dir::Etc::sourceparts="$PWD/kconfig/empty.d" -o Dir::Cache="$PWD/kconfig" -o APT::Sandbox::User=root -o Acquire::Languages=none)
apt-get "${apt[@]}" update
# Of U-Boot the release as it was published, without what Debian does to it: the same file
# that Buildroot takes. Another one has another name, and is not found here.
(cd kconfig && apt-get "${apt[@]}" download linux-source-6.12 && apt-get "${apt[@]}" source --download-only --tar-only u-boot >/dev/null)
mv kconfig/u-boot_2025.01.orig.tar.bz2 kconfig/u-boot.tar.bz2
tar -xjf kconfig/u-boot.tar.bz2 -C kconfig/u-boot --strip-components=1 --wildcards '*/Kconfig*' 'u-boot-*/scripts/*' \
	'*/configs/qemu_arm64_defconfig' '*/configs/rpi_*_defconfig' '*/Makefile' '*.mk' '*/include/host_arch.h' '*/board/raspberrypi/rpi/rpi.env' '*/board/emulation/qemu-arm/qemu-arm.env'
dpkg-deb --fsys-tarfile kconfig/linux-source-*.deb | tar -xO --wildcards './usr/src/linux-source-*.tar.xz' | xz -T0 -dc |
	tar -x -C kconfig/linux --strip-components=1 --wildcards '*/Kconfig*' '*/scripts/*' '*/arch/arm64/configs/*' '*/Makefile' '*/arch/arm64/*.sh'
rm -rf kconfig/linux-source-*.deb kconfig/lists kconfig/*.bin kconfig/archives
cp fetch.sh kconfig/complete
