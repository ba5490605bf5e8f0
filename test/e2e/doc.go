// Package e2e tests the real programs together: fieldgate as it is shipped,
// hubsim, and leaves, simulated and from stock client libraries. It looks at
// the gateway only from outside: ports, files, exit codes, logs and metrics.
package e2e
