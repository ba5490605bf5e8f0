#!/usr/bin/env bash
# Builds the twin of the product image from packages of Debian 13: twin.sh PROGRAM OUT
#
# PROGRAM is fieldgate for arm64. OUT gets qemu_aarch64.img, qemu_aarch64.raucb and
# u-boot.bin, which is the product's. Nothing of Debian's is installed on this machine, none of its
# programs is run, and root is not needed: packages are unpacked.
#
# KEYS names the folder with the keys that sign updates, VERSION the version.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
here=$(dirname "$(realpath "$0")")
top=$(realpath "$here/../..")
program=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
board=qemu_aarch64
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
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${DEBIAN%/debian}/${suite%/*} ${suite#*/} main"
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
mapfile -t packages < <(grep -v '^#' "$here/packages.txt")
# Debian's lists are good for a day: an image is built many times in one.
if [ -z "$(find "$cache/" -maxdepth 1 -name updated -mtime -1)" ]; then
	apt-get -qq update
	touch "$cache/updated"
fi
# Downloaded once, unpacked once per set of versions.
apt-get -qq -s install "${packages[@]}" | awk '$1 == "Inst" {v = substr($3, 2); gsub(":", "%3a", v); print $2 "_" v "_"}' | sort >"$cache/wanted"
if ! cmp -s "$cache/wanted" "$cache/unpacked"; then
	apt-get -qq -y --download-only install "${packages[@]}" >/dev/null
	rm -rf "$cache/root"
	mkdir "$cache/root"
	while read -r deb; do
		dpkg-deb --fsys-tarfile "$cache/archives/$deb"*.deb | tar -x -C "$cache/root" --no-same-owner --keep-directory-symlink \
			--exclude './usr/share/doc/*' --exclude './usr/share/man/*' --exclude './usr/share/locale/*' --exclude './usr/share/info/*' \
			--exclude './usr/lib/aarch64-linux-gnu/gconv/*' --exclude './usr/lib/linux-image-*' --exclude './usr/share/initramfs-tools/*'
	done <"$cache/wanted"
	mv "$cache/wanted" "$cache/unpacked"
fi

work=$(mktemp -d "$out/twin.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root
cp -a --reflink=auto "$cache/root" "$root"
kernel=$(basename "$root"/boot/vmlinuz-*)
kernel=${kernel#vmlinuz-}

# The kernel. The product's has all that mounts the root built in; Debian's has it in
# modules, which a small initramfs loads.
mkdir -p "$work/in" "$work/initramfs"/{bin,dev,proc,sys,root,modules}
gzip -6 -c "$root/boot/vmlinuz-$kernel" >"$work/in/Image.gz"
modules=$root/usr/lib/modules/$kernel
keep=$(grep -v '^#' "$here/modules.txt" | paste -sd'|' -)
(cd "$modules/kernel" && find . -type f | grep -vE "/($keep)(/|\\.ko)" | xargs -r rm && find . -type f -exec xz -d {} +)
depmod -b "$root" "$kernel"
: >"$work/initramfs/load"
for module in virtio_pci virtio_blk virtio_mmio squashfs; do
	modprobe -d "$root" -S "$kernel" --show-depends "$module" 2>/dev/null | awk '$1 == "insmod" {print $2}'
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

mksquashfs "$root" "$work/in/rootfs.squashfs" -quiet -no-progress -all-root -noappend -b 32K -comp zstd -Xcompression-level 15
"$top/board/common/slot.sh" "$board" "$work/in" "$out"
"$here/uboot.sh" "$board" "$out/u-boot"
cp "$out/u-boot/u-boot.bin" "$out/u-boot.bin"
