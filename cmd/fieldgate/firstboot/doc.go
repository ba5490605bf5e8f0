// Package firstboot applies what an operator has put on the card, or on a stick, for a
// gateway that has neither screen nor keyboard: the configuration, with secrets in it,
// SSH keys, a Wi-Fi network.
//
// sheet.go reads the file, apply.go puts everything in its place, reset.go takes it
// all away again, card.go writes to the card, wipe.go overwrites what editors have left
// on it.
//
// The program may be killed and the power cut at every moment. What makes that
// harmless: nothing is taken from the card before all of it is in its place; the new
// configuration names secrets in a folder of their own, made for it, so that its
// renaming is the one moment in which everything changes; and secrets on the card are
// overwritten at places noted before, as often as it takes.
package firstboot
