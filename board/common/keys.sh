#!/usr/bin/env bash
# Makes an authority and a key that sign updates, where there are none yet:
# keys.sh DIR. For images of one's own; whoever has the key can change every
# gateway that has the authority, so it belongs on no shared machine.
set -euo pipefail
dir=$1
[ ! -e "$dir/ca.pem" ] || exit 0
umask 077
mkdir -p "$dir"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 7300 -subj "/CN=Fieldgate updates" \
	-keyout "$dir/ca.key" -out "$dir/ca.new" \
	-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=Fieldgate image" \
	-keyout "$dir/sign.key" -out "$dir/sign.csr" 2>/dev/null
openssl x509 -req -in "$dir/sign.csr" -CA "$dir/ca.new" -CAkey "$dir/ca.key" -CAcreateserial -days 7300 -out "$dir/sign.pem" \
	-extfile <(printf 'keyUsage=critical,digitalSignature\nextendedKeyUsage=codeSigning\n') 2>/dev/null
mv "$dir/ca.new" "$dir/ca.pem"
