package control

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// The groups whose members may use the socket. Root and the daemon's own user
// may do everything.
const (
	ReadGroup  = "fieldgate"
	AdminGroup = "fieldgate-admin"
)

// access is what a peer may do.
type access int

const (
	nothing access = iota
	reading
	changing
)

type accessKey struct{}

// withAccess notes what the peer of a connection may do.
func withAccess(ctx context.Context, c net.Conn) context.Context {
	p, _ := c.(*visitor)
	if p == nil {
		return ctx
	}
	return context.WithValue(ctx, accessKey{}, p.peer)
}

// peer is who is at the other end.
type peer struct {
	access access
	who    string
}

// peerAccess asks the kernel who is at the other end.
func peerAccess(c net.Conn) (access, string) {
	socket, ok := c.(*net.UnixConn)
	if !ok {
		return nothing, "somebody who is not on this machine"
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return nothing, "somebody unknown"
	}
	var cred *unix.Ucred
	failed := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if failed != nil || err != nil {
		return nothing, "somebody unknown"
	}
	return judge(cred, groupsOf(cred), os.Geteuid(), groupID), fmt.Sprintf("user %d", cred.Uid)
}

// judge says what a peer with these groups may do. group returns the id of a
// group by its name, "" if there is none.
func judge(cred *unix.Ucred, groups []string, own int, group func(name string) string) access {
	in := func(name string) bool {
		id := group(name)
		return id != "" && slices.Contains(groups, id)
	}
	switch {
	case cred.Uid == 0, int(cred.Uid) == own, in(AdminGroup):
		return changing
	case in(ReadGroup):
		return reading
	}
	return nothing
}

// groupsOf returns the ids of the peer's groups: the one it runs as, and those
// of its user in the machine's group file.
func groupsOf(cred *unix.Ucred) []string {
	groups := []string{strconv.FormatUint(uint64(cred.Gid), 10)}
	u, err := user.LookupId(strconv.FormatUint(uint64(cred.Uid), 10))
	if err != nil {
		return groups
	}
	more, err := u.GroupIds()
	if err != nil {
		return groups
	}
	return append(groups, more...)
}

func groupID(name string) string {
	g, err := user.LookupGroup(name)
	if err != nil {
		return ""
	}
	return g.Gid
}
