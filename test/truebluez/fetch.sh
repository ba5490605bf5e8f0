#!/usr/bin/env bash
# Fetches what the virtual machine of this folder's test is made of, from packages of
# Debian 12, into vm/: a kernel with the modules of Bluetooth, USB and a watchdog, BlueZ with its controller
# emulator, a bus. Nothing of it is installed on this machine.
set -euo pipefail
cd "$(dirname "$0")"
if cmp -s fetch.sh vm/complete; then
	exit 0 # with all that is asked for below
fi
rm -rf vm
mkdir -p vm/debs vm/root vm/kernel
kernel=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image/ {print $2}')
(cd vm/debs && apt-get download -q \
	"$kernel" bluez bluez-test-tools busybox-static dbus-daemon \
	libapparmor1 libasound2 libaudit1 libbz2-1.0 libc6 libcap-ng0 libcap2 libdbus-1-3 libdw1 libelf1 libexpat1 libgcrypt20 \
	libglib2.0-0 libgpg-error0 liblz4-1 liblzma5 libpcre2-8-0 libreadline8 libselinux1 libsystemd0 libtinfo6 libudev1 libzstd1 zlib1g)
for deb in vm/debs/*.deb; do
	case $deb in
	*/linux-image-*)
		dpkg-deb --fsys-tarfile "$deb" | tar -x -C vm/kernel --wildcards './boot/vmlinuz-*' './lib/modules/*/kernel/crypto/*' \
			'./lib/modules/*/kernel/net/bluetooth/*' './lib/modules/*/kernel/drivers/bluetooth/hci_vhci.ko' \
			'./lib/modules/*/kernel/net/rfkill/*' './lib/modules/*/kernel/lib/crc16.ko' \
			'./lib/modules/*/kernel/drivers/usb/common/*' './lib/modules/*/kernel/drivers/usb/core/*' \
			'./lib/modules/*/kernel/drivers/usb/host/xhci-*' './lib/modules/*/kernel/drivers/usb/serial/usbserial.ko' \
			'./lib/modules/*/kernel/drivers/usb/serial/ftdi_sio.ko' './lib/modules/*/kernel/drivers/watchdog/watchdog.ko' './lib/modules/*/kernel/drivers/watchdog/i6300esb.ko'
		;;
	*) dpkg-deb --fsys-tarfile "$deb" | tar -x -C vm/root --exclude './usr/share/*' --exclude '*/gconv/*' ;;
	esac
done
rm -r vm/debs
cp fetch.sh vm/complete
