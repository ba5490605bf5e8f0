#!/usr/bin/env bash
# Shapes the root of an image, after the overlay is in it: root.sh BOARD ROOT
#
# RAUC_CA is the authority whose updates the image will take, VERSION what is in it. Used by Buildroot
# (post-build.sh) and by the twin.
set -euo pipefail
board=$1 root=$2
common=$(dirname "$(realpath "$0")")

# Mount points and the folders that a read-only root must already have.
mkdir -p "$root"/{boot,data,tmp,var,srv,etc/fieldgate,etc/rauc,usr/share/fieldgate}
mkdir -p "$root"/etc/credstore{,.encrypted}
chmod 700 "$root"/etc/credstore{,.encrypted}
ln -sf ../proc/self/mounts "$root/etc/mtab"
sed "s/@BOARD@/$board/; s/@VERSION@/$VERSION/" "$common/rauc/system.conf" >"$root/etc/rauc/system.conf"
cp "$RAUC_CA" "$root/etc/rauc/keyring.pem"
: >"$root/etc/machine-id"
echo fieldgate >"$root/etc/hostname"
ln -sf /run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"

# Nobody has a password. Not "!", which would also refuse root's key.
sed -i -E 's/^([^:]+):[^:]*:/\1:*:/' "$root/etc/shadow"

# What RAUC would have noted had it put the card's own first slot there.
sed "s/@BOARD@/$board/; s/@VERSION@/$VERSION/" "$common/rauc/central.raucs" >"$root/usr/share/fieldgate/central.raucs"

# Generators for what the card has not: they cost seconds at each start, and one of
# them would open a socket for SSH.
for generator in gpt-auto hibernate-resume rc-local run ssh system-update sysv tpm2; do
	rm -f "$root/usr/lib/systemd/system-generators/systemd-$generator-generator"
done

# Views of the kernel that nothing here needs.
for unit in dev-hugepages.mount sys-kernel-debug.mount sys-kernel-tracing.mount proc-sys-fs-binfmt_misc.automount; do
	ln -sf /dev/null "$root/etc/systemd/system/$unit"
done

# What would write into /etc or /usr at the start has nothing to do here.
for unit in ldconfig systemd-hwdb-update systemd-journal-catalog-update systemd-update-done systemd-firstboot systemd-sysusers; do
	ln -sf /dev/null "$root/etc/systemd/system/$unit.service"
done
