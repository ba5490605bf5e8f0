#!/usr/bin/env bash
# Fetches the part of Debian's kernel source that says which symbols there are, into
# kconfig/, so that the fragments of board/ can be merged and compared.
set -euo pipefail
cd "$(dirname "$0")"
if [ -e kconfig/complete ]; then
	exit 0
fi
# The mirror is the one that this machine's own packages come from.
: "${DEBIAN:=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | sed -n '/\/debian$/{p;q}')}"
: "${DEBIAN:?set DEBIAN to the address of a Debian mirror}"
rm -rf kconfig
mkdir -p kconfig/src
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $DEBIAN trixie main" >kconfig/sources.list
mkdir -p kconfig/lists/partial kconfig/empty.d
: >kconfig/status
apt=(-qq -o Dir::State="$PWD/kconfig" -o Dir::State::status="$PWD/kconfig/status" -o Dir::Etc::sourcelist="$PWD/kconfig/sources.list"
	-o Dir::Etc::sourceparts="$PWD/kconfig/empty.d" -o Dir::Cache="$PWD/kconfig" -o APT::Sandbox::User=root -o Acquire::Languages=none)
apt-get "${apt[@]}" update
(cd kconfig && apt-get "${apt[@]}" download linux-source-6.12)
dpkg-deb --fsys-tarfile kconfig/linux-source-*.deb | tar -xO --wildcards './usr/src/linux-source-*.tar.xz' | xz -T0 -dc |
	tar -x -C kconfig/src --strip-components=1 --wildcards '*/Kconfig*' '*/scripts/*' '*/arch/arm64/configs/*' '*/Makefile' '*/arch/arm64/*.sh'
rm -rf kconfig/linux-source-*.deb kconfig/lists kconfig/*.bin kconfig/archives
touch kconfig/complete
