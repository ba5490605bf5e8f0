// Package systemd holds only tests: of what systemd makes of the units, users and
// folders of the folder systemd, and of the Debian package. The judges are the
// programs of Debian.
package systemd
