// Package arch holds no code, only tests of the code's shape: who may import
// whom, which library is whose, and what must not occur anywhere. The table in
// arch_test.go is the drawing of the house; design section 4 says why.
package arch
