#!/usr/bin/env bash
# Fetches the kernel of the virtual machine of this folder's test, an arm64 one, from
# packages of Debian 12, into vm/. Nothing of it is installed on this machine, whose own
# lists of packages stay as they are.
set -euo pipefail
cd "$(dirname "$0")"
if cmp -s fetch.sh vm/complete; then
	exit 0
fi
rm -rf vm
mkdir -p vm/apt/lists/partial vm/apt/archives/partial
touch vm/apt/status
cat >vm/apt/conf <<X
Dir::State "$PWD/vm/apt";
Dir::State::status "$PWD/vm/apt/status";
Dir::Cache "$PWD/vm/apt";
APT::Architecture "arm64";
APT::Architectures "arm64";
X
export APT_CONFIG=$PWD/vm/apt/conf
apt-get update -q
kernel=$(apt-cache depends linux-image-arm64 | awk '/Depends: linux-image/ {print $2}')
(cd vm/apt && apt-get download -q "$kernel")
dpkg-deb --fsys-tarfile vm/apt/"$kernel"_*.deb | tar -x -C vm --strip-components=2 --wildcards './boot/vmlinuz-*'
mv vm/vmlinuz-* vm/vmlinuz
rm -r vm/apt
cp fetch.sh vm/complete
