#!/usr/bin/env bash
# Installs what the tests use beside Go: Debian packages and the vendor's Node
# packages. What is there already is left alone, so that without a network, or
# the second time, this does nothing. What cannot be installed is only
# mentioned: the tests that need it say so themselves.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin

# One "program package" a line; python:NAME is a module of the system's own Python.
needs='
aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
bison bison
cpio cpio
depmod kmod
dbus-daemon dbus-daemon
flex flex
gcc gcc
openssl openssl
genimage genimage
jq jq
git git
mbpoll mbpoll
mcopy mtools
mkfs.vfat dosfstools
mkimage u-boot-tools
dtc device-tree-compiler
mksquashfs squashfs-tools
nbdkit nbdkit
mosquitto mosquitto
mosquitto_pub mosquitto-clients
qemu-aarch64 qemu-user
qemu-system-aarch64 qemu-system-arm
rauc rauc
ssh openssh-client
qemu-system-x86_64 qemu-system-x86
socat socat
systemd-analyze systemd
tinyproxy tinyproxy
tmux tmux
swtpm swtpm
node nodejs
npm npm
python:proton python3-qpid-proton
python:pymodbus python3-pymodbus
python:serial_asyncio python3-serial-asyncio
'

have() {
	case $1 in
	python:*) /usr/bin/python3 -c "import ${1#python:}" 2>/dev/null ;;
	*) command -v "$1" >/dev/null ;;
	esac
}

missing=()
while read -r program package; do
	[ -n "$program" ] || continue
	have "$program" || missing+=("$package")
done <<<"$needs"

install_packages() {
	local policy=/usr/sbin/policy-rc.d
	# Debian starts a server when it installs one. The tests start their own.
	if [ ! -e "$policy" ]; then
		printf '#!/bin/sh\nexit 101\n' | "$@" tee "$policy" >/dev/null
		"$@" chmod +x "$policy"
		# shellcheck disable=SC2064  # the words as they are now
		trap "$* rm -f $policy" EXIT
	fi
	"$@" apt-get update -q
	"$@" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

if [ ${#missing[@]} -gt 0 ]; then
	echo "setup: missing Debian packages: ${missing[*]}"
	if ! command -v apt-get >/dev/null; then
		echo "setup: no apt-get here; tests that need them will be skipped"
	elif [ "$(id -u)" = 0 ]; then
		install_packages env
	elif sudo -n true 2>/dev/null; then
		install_packages sudo -n
	else
		echo "setup: not root; tests that need them will be skipped. To install: sudo apt-get install ${missing[*]}"
	fi
fi

# npm notes in node_modules/.package-lock.json what it installed.
lock=test/node/package-lock.json
if [ -f "$lock" ] && [ ! test/node/node_modules/.package-lock.json -nt "$lock" ]; then
	if command -v npm >/dev/null; then
		(cd test/node && npm ci --no-audit --no-fund)
		touch test/node/node_modules/.package-lock.json
	else
		echo "setup: no npm; tests with the vendor's device SDK will be skipped"
	fi
fi

# The virtual machine with a true BlueZ is made of packages that are not installed.
if ! cmp -s test/truebluez/fetch.sh test/truebluez/vm/complete; then
	# shellcheck source=/dev/null
	if [ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] && (. /etc/os-release && [ "$VERSION_ID" = 12 ]); then
		test/truebluez/fetch.sh || echo "setup: could not fetch it; the test with a true BlueZ will be skipped"
	else
		echo "setup: not Debian 12 on amd64; the test with a true BlueZ will be skipped"
	fi
fi

# So is what says which symbols Linux and U-Boot have.
test/image/fetch.sh || echo "setup: could not fetch it; the tests of their configurations will be skipped"
