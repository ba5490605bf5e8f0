#!/usr/bin/env bash
# Builds the twin of the product image from packages of Debian 13: twin.sh PROGRAM OUT [BOARD]
#
# PROGRAM is fieldgate for arm64. BOARD is qemu_aarch64, if not given, or rpi3 or rpi4.
# OUT gets BOARD.img, BOARD.raucb and BOARD/ with the product's U-Boot, u-boot.bin, and
# the device trees of a Raspberry Pi. Nothing of Debian's is installed on this machine,
# none of its programs is run, and root is not needed: packages are unpacked.
#
# KEYS names the folder with the keys that sign updates, VERSION the version.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
here=$(dirname "$(realpath "$0")")
top=$(realpath "$here/../..")
program=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
board=${3:-qemu_aarch64}
# What of Debian's goes in, what its initramfs loads, and what of a Raspberry Pi's
# firmware and device trees. As gpu_mem=16 wants it: the cut-down firmware.
firmware=() trees=none
case $board in
qemu_aarch64) of=virt load=(virtio_pci virtio_blk virtio_mmio squashfs) ;;
rpi3) of=rpi firmware=(bootcode.bin start_cd.elf fixup_cd.dat) trees=bcm2837-rpi ;;
rpi4) of=rpi firmware=(start4cd.elf fixup4cd.dat) trees=bcm2711-rpi ;;
*)
	echo "twin.sh: there is no twin for $board, only for qemu_aarch64, rpi3 and rpi4" >&2
	exit 1
	;;
esac
lists=("$here"/packages.txt) kept=("$here"/modules.txt) components=main
if [ $of = rpi ]; then
	lists+=("$here"/packages-rpi.txt) kept+=("$here"/modules-rpi.txt)
	load=(fixed gpio-regulator sdhci-iproc bcm2835 squashfs)
	components="main non-free-firmware"
fi
cache=$out/debian
: "${KEYS:=$out/keys}" "${VERSION:=0.0.0}"
export VERSION RAUC_CA=$KEYS/ca.pem RAUC_CERT=$KEYS/sign.pem RAUC_KEY=$KEYS/sign.key
"$top/board/common/keys.sh" "$KEYS"

# An apt of its own, that knows only Debian 13 and arm64, from the mirror that this
# machine's own packages come from.
: "${DEBIAN:=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | sed -n '/\/debian$/{p;q}')}"
: "${DEBIAN:?set DEBIAN to the address of a Debian mirror}"
mkdir -p "$cache"/{lists/partial,archives/partial,empty.d}
: >"$cache/status"
for suite in debian/trixie debian/trixie-updates debian-security/trixie-security; do
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${DEBIAN%/debian}/${suite%/*} ${suite#*/} $components"
done >"$cache/sources.list"
cat >"$cache/apt.conf" <<EOF
Dir::State "$cache";
Dir::State::status "$cache/status";
Dir::Cache "$cache";
Dir::Etc::sourcelist "$cache/sources.list";
Dir::Etc::sourceparts "$cache/empty.d";
APT::Architecture "arm64";
APT::Architectures "arm64";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
EOF
export APT_CONFIG=$cache/apt.conf
mapfile -t packages < <(grep -hv '^#' "${lists[@]}")
# Debian's lists are good for a day: an image is built many times in one.
if [ -z "$(find "$cache/" -maxdepth 1 -name updated -mtime -1)" ] || ! cmp -s "$cache/sources.list" "$cache/updated"; then
	apt-get -qq update
	rm -rf "$cache"/archives/raspi-firmware_* "$cache"/{root,unpacked} # the last two are of earlier versions
	cp "$cache/sources.list" "$cache/updated"
fi
# Downloaded once, unpacked once per set of versions.
apt-get -qq -s install "${packages[@]}" | awk '$1 == "Inst" {v = substr($3, 2); gsub(":", "%3a", v); print $2 "_" v "_"}' | sort >"$cache/wanted"
if ! cmp -s "$cache/wanted" "$cache/unpacked-$of"; then
	apt-get -qq -y --download-only install "${packages[@]}" >/dev/null
	rm -rf "$cache/root-$of"
	mkdir "$cache/root-$of"
	while read -r deb; do
		dpkg-deb --fsys-tarfile "$cache/archives/$deb"*.deb | tar -x -C "$cache/root-$of" --no-same-owner --keep-directory-symlink \
			--exclude './usr/share/doc/*' --exclude './usr/share/man/*' --exclude './usr/share/locale/*' --exclude './usr/share/info/*' \
			--exclude './usr/lib/aarch64-linux-gnu/gconv/*' --exclude './usr/lib/linux-image-*' --exclude './usr/share/initramfs-tools/*'
	done <"$cache/wanted"
	mv "$cache/wanted" "$cache/unpacked-$of"
fi

work=$(mktemp -d "$out/twin.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root
cp -a --reflink=auto "$cache/root-$of" "$root"
kernel=$(basename "$root"/boot/vmlinuz-*)
kernel=${kernel#vmlinuz-}

# The kernel. The product's has all that mounts the root built in; Debian's has it in
# modules, which a small initramfs loads.
mkdir -p "$work/in" "$out/$board" "$work/initramfs"/{bin,dev,proc,sys,root,modules}
gzip -6 -c "$root/boot/vmlinuz-$kernel" >"$work/in/Image.gz"
modules=$root/usr/lib/modules/$kernel
keep=$(grep -hv '^#' "${kept[@]}" | paste -sd'|' -)
(cd "$modules/kernel" && find . -type f | grep -vE "/($keep)(/|\\.ko)" | xargs -r rm && find . -type f -exec xz -d {} +)
depmod -b "$root" "$kernel"
: >"$work/initramfs/load"
for module in "${load[@]}"; do
	modprobe -d "$root" -S "$kernel" --show-depends "$module" | awk '$1 == "insmod" {print $2}'
done | awk '!seen[$0]++' | while read -r module; do
	cp "$module" "$work/initramfs/modules/"
	echo "/modules/$(basename "$module")" >>"$work/initramfs/load"
done
cp "$root/usr/bin/busybox" "$work/initramfs/bin/busybox"
install -m 755 "$here/initramfs.sh" "$work/initramfs/init"
(cd "$work/initramfs" && find . | sort | cpio --quiet -o -H newc -R 0:0 | gzip -9) >"$work/in/initramfs.img"

# What Debian's own scripts would do at installation.
cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
sed 's/:.*/:*:19700::::::/' "$root/etc/passwd" >"$root/etc/shadow"
sed 's/:.*/:*::/' "$root/etc/group" >"$root/etc/gshadow"
cat "$root"/usr/share/ca-certificates/mozilla/*.crt >"$root/etc/ssl/certs/ca-certificates.crt"
ln -sf bash "$root/usr/bin/sh"

# What an appliance has no use for.
rm -rf "${root:?}"/{boot,home,media,mnt,opt,srv,var} "$root"/usr/share/{ca-certificates,perl5,bash-completion,zsh,lintian,bug,base-passwd,keyrings}
rm -rf "$root"/usr/lib/aarch64-linux-gnu/perl* "$root"/usr/share/{common-licenses,debconf,dpkg,alsa,polkit-1,i18n,pam-configs,pixmaps,menu,misc,doc-base}
rm -f "$root"/usr/bin/perl* "$root"/etc/ssh/sshd_config.d/* "$root"/usr/lib/tmpfiles.d/debian.conf
mkdir -p "$root"/{home,mnt,run,proc,sys,dev,root}

# From here on as in the product.
cp -r "$top/board/common/overlay/." "$root/"
"$top/systemd/install.sh" "$program" "$root" /usr appliance
sed -i 's/^u!/u/' "$root"/usr/lib/sysusers.d/*.conf # the older systemd of the machine that builds does not know it
systemd-sysusers --root="$root" 2>/dev/null
"$top/board/common/root.sh" "$board" "$root"
rm -rf "$root"/etc/systemd/system/*.wants
systemctl --root="$root" preset-all 2>/dev/null

# A Raspberry Pi's own firmware and device trees, and what its radio is loaded with. Of
# the package of the firmware only files are wanted, not what it depends on.
"$here/uboot.sh" "$board" "$out/$board"
if [ $of = rpi ]; then
	mkdir -p "$work/in/boot/licences" "$work/raspi-firmware"
	if ! ls "$cache"/archives/raspi-firmware_*.deb >/dev/null 2>&1; then
		(cd "$cache/archives" && apt-get -qq download raspi-firmware)
	fi
	dpkg-deb --fsys-tarfile "$cache"/archives/raspi-firmware_*.deb | tar -x -C "$work/raspi-firmware"
	(cd "$work/raspi-firmware/usr/lib/raspi-firmware" && cp "${firmware[@]}" "$work/in/boot/")
	cp "$work/raspi-firmware/usr/share/doc/raspi-firmware/copyright" "$work/in/boot/licences/raspi-firmware.txt"
	cp "$work"/raspi-firmware/usr/lib/firmware/brcm/* "$root/usr/lib/firmware/brcm/"
	# Whoever passes it on has to pass on the terms as well.
	for package in firmware-brcm80211 bluez-firmware; do
		dpkg-deb --fsys-tarfile "$cache/archives/$(grep "^${package}_" "$cache/unpacked-$of")"*.deb |
			tar -xO "./usr/share/doc/$package/copyright" >"$work/in/boot/licences/$package.txt"
	done
	# Of the radios only those of the boards.
	find "$root/usr/lib/firmware" ! -type d ! -name 'regulatory.db*' ! -name 'BCM43*.hcd' \
		! -name 'brcmfmac43430-*' ! -name 'cyfmac43430-*' ! -name 'brcmfmac43455-*' ! -name 'cyfmac43455-*' -delete
	ln -s regulatory.db-debian "$root/usr/lib/firmware/regulatory.db"
	ln -s regulatory.db.p7s-debian "$root/usr/lib/firmware/regulatory.db.p7s"
	if [ "$(find "$root/usr/lib/firmware" -xtype l -print)" ]; then
		find "$root/usr/lib/firmware" -xtype l -printf 'twin.sh: %p leads nowhere\n' >&2
		exit 1
	fi
	dpkg-deb --fsys-tarfile "$cache"/archives/"$(grep '^linux-image-[0-9]' "$cache/unpacked-$of")"*.deb |
		tar -x -C "$out/$board" --wildcards --transform 's|.*/||' "*/broadcom/$trees-*.dtb"
	cp "$out/$board"/{u-boot.bin,*.dtb} "$top/board/$board/config.txt" "$work/in/boot/"
	# Debian's device trees are Linux' own; the product's are of the Raspberry Pi's kernel.
	echo upstream_kernel=1 >>"$work/in/boot/config.txt"
	export CONSOLE=ttyS1,115200
fi

mksquashfs "$root" "$work/in/rootfs.squashfs" -quiet -no-progress -all-root -noappend -b 32K -comp zstd -Xcompression-level 15
"$top/board/common/slot.sh" "$board" "$work/in" "$out"
