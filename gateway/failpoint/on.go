//go:build failpoints

package failpoint

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// armed is the point that kills, and how many passes it has left until then.
var armed = struct {
	point Point
	left  atomic.Int64
}{}

func init() {
	text := os.Getenv(Variable)
	if text == "" {
		return
	}
	name, number, _ := strings.Cut(text, ":")
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 1 || !slices.Contains(Points(), Point(name)) {
		panic(Variable + " is " + text + ": write POINT:N")
	}
	armed.point = Point(name)
	armed.left.Store(n)
}

// Hit is a pass of the process at a point. It does not return when the process
// is to die here.
func Hit(p Point) {
	if p == armed.point && armed.left.Add(-1) == 0 {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal may reach another thread first
	}
}
