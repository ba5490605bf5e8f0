// Package image checks what the card image is made of and boots the one that
// can be built here. The image itself is made by board/common and
// test/image/twin.sh; this package has only tests.
package image
