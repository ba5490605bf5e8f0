package main

// eventKind is a kind of event that the log names in "event". Its id is for good:
// operators search and alert by it.
type eventKind struct {
	name    string
	id      string // MESSAGE_ID: 128 bits in hexadecimal
	subject string
	text    string // for journalctl -x; @FIELD@ stands for that field of the line
}

// eventKinds are all of them. systemd/fieldgate.catalog is made of this.
var eventKinds = []eventKind{
	{
		"pairing-opened", "30559777eb6942bb8d35e326aa0cd332",
		"The pairing window is open",
		`An operator, or the button of the board, has opened the window in which a new leaf
may pair. It closes by itself.`,
	},
	{
		"pairing-closed", "6ca804cf77214a8b914ed6a6abf2dc8f",
		"The pairing window is closed",
		`No new leaf can pair any more. The reason is in the line.`,
	},
	{
		"pairing-claimed", "eadfbbe69f4342a88297b800b823bd36",
		"Leaf @FIELDGATE_LEAF@ wants to pair",
		`Somebody with the right code asks to become the leaf @FIELDGATE_LEAF@. Compare the
key in the line with that of the device, then run:
    fieldgate device approve @FIELDGATE_LEAF@
or, if it is not yours: fieldgate device reject @FIELDGATE_LEAF@`,
	},
	{
		"pairing-wrong-code", "81313753d56e43049e7f19fca0f81ec6",
		"A wrong pairing code was tried",
		`Whoever it was, with the address in the line, has not paired. The fifth wrong code
closes the window.`,
	},
	{
		"pairing-guessed", "955b01c853614ec982381eccc40df136",
		"The pairing window was closed by wrong codes",
		`Five wrong codes were tried, as by somebody who guesses. A new window can be opened
after the wait in the line, which doubles each time until a leaf has paired.`,
	},
	{
		"pairing-code-reused", "6430c410bdeb4616875f155f80a61e1c",
		"A pairing code was used twice",
		`The code belongs to the first leaf that has made a request with it. Somebody else,
who knows it too, was refused. If that was a device of yours, open another window
for it: fieldgate pair open`,
	},
	{
		"pairing-known-leaf", "d993c4e8f56b425390cb71fa58313f12",
		"Somebody wants to pair as leaf @FIELDGATE_LEAF@, which is there already",
		`This can be an attack: somebody with the code of the window, and another key, asked
to become a leaf that there is. Nothing has changed for that leaf, and the window is
closed. If a device was replaced, remove the leaf first, then pair again:
    fieldgate device remove @FIELDGATE_LEAF@`,
	},
	{
		"pairing-approved", "006cc761926b44a7955aea59c17b8d8c",
		"Leaf @FIELDGATE_LEAF@ was approved",
		`An operator has approved the new leaf. It connects with its own certificate or
password from now on.`,
	},
	{
		"pairing-rejected", "465c903ada3545e2b9ac3883d76cad5a",
		"Leaf @FIELDGATE_LEAF@ was rejected",
		`An operator has said no to who wanted to pair. Nothing is kept of it.`,
	},
	{
		"pairing-failed", "713674eae235400a9aaeb5a55b4393bc",
		"Leaf @FIELDGATE_LEAF@ could not be admitted",
		`The leaf was approved, and could not be written down. The error is in the line; most
often the daemon may not write into leaf.d, or the disk is full. Run: fieldgate check`,
	},
	{
		"pairing-bound", "b7641068429848e08c118a8ed7911c5f",
		"Leaf @FIELDGATE_LEAF@ was bound to a device over @FIELDGATE_TRANSPORT@",
		`What comes from that port or address is the leaf's from now on.`,
	},
	{
		"leaf-added", "ccd0557e02b34ad4acbe5fda9e54f7d1",
		"Leaf @FIELDGATE_LEAF@ was added by an operator",
		`It may connect with the secret that was shown at that time.`,
	},
	{
		"leaf-changed", "a5a722148f14443bb874ad8a34b80faf",
		"Leaf @FIELDGATE_LEAF@ was changed by an operator",
		`It was renamed, disabled or enabled. Its connections have ended if it may not come
any more.`,
	},
	{
		"leaf-removed", "4ec2aa7486fe4c86b1750dc8eee810de",
		"Leaf @FIELDGATE_LEAF@ was forgotten",
		`An operator has removed the leaf. Its connections have ended, and its certificate or
password counts no more. What it had handed over still goes to the hub.`,
	},
	{
		"leaf-connected", "ce164a1abd934cf98f8776e9fc8ca07d",
		"Leaf @FIELDGATE_LEAF@ has connected",
		`It has proven who it is.`,
	},
	{
		"leaf-unproven", "6de4cf81ce3b4d46a58b9eaa95bdd8f5",
		"Another device is at the port of leaf @FIELDGATE_LEAF@",
		`It has answered HELLO with another key or another name, so nothing of what it says is
taken. If the device was replaced, or its firmware has another key now, pair it again:
    fieldgate device remove @FIELDGATE_LEAF@
    fieldgate pair serial PORT --as @FIELDGATE_LEAF@ --key-file FILE`,
	},
	{
		"leaf-disconnected", "109411ee6f2f45259d98d9f1ce5259c7",
		"Leaf @FIELDGATE_LEAF@ has disconnected",
		`The reason is in the line.`,
	},
	{
		"own-device-refused", "507a8e099f1a4c9d8e6e7105340481b3",
		"The hub refuses the gateway's own device",
		`Leaves go on, but the hub hears nothing of the gateway itself: its state, its methods,
its updates. The hub's words are in the line; most often the device is disabled there,
or its key is another one. Run: fieldgate check`,
	},
	{
		"own-device-taken", "d043fb0641d840c7bb127e1842b4467b",
		"The hub takes the gateway's own device again",
		`What was wrong with it at the hub, or with its key, is mended.`,
	},
	{
		"leaf-refused", "18644e2bb4bb4c54a273278defcc829e",
		"The hub refuses leaf @FIELDGATE_LEAF@",
		`Messages of this leaf wait on flash, those of others go on. The hub's words are in
the line; most often the device is disabled there, or its key is another one.
Run: fieldgate device show @FIELDGATE_LEAF@`,
	},
	{
		"leaf-accepted", "2aedcc7472c04bc0810a4e638ae02fd6",
		"The hub takes leaf @FIELDGATE_LEAF@ again",
		`What has waited is sent now.`,
	},
	{
		"link-up", "1a8ac092d87444ab94515ef29c3f6f22",
		"There is a connection to the hub",
		`What has waited on flash is sent now.`,
	},
	{
		"link-down", "7dc8eb0a5bbe4ed6a9132c52e6c5a475",
		"There is no connection to the hub",
		`Leaves go on as before: what they send is acknowledged and waits on flash. The
gateway tries again by itself. What stands in the way is said by: fieldgate check`,
	},
	{
		"store-full", "723c95fae5844bff9a08d4866afbd5da",
		"The store takes no more messages",
		`Leaves are not acknowledged any more, and send again later: nothing is lost, and
nothing new is taken. Run: fieldgate store status`,
	},
	{
		"store-failed", "0670528b35db4b2d8db67708cf4552d9",
		"The store cannot write",
		`Leaves are not acknowledged any more. The error is in the line: most often the disk
is read-only or worn out. Run: fieldgate check`,
	},
	{
		"store-well", "cb68d91128bb4b5587d8e24ccf656970",
		"The store takes messages again",
		`Leaves are acknowledged again.`,
	},
	{
		"lane-full", "5e9fa7bee00e424e98ba63f4fd65d2eb",
		"Messages were given up, for their lane is full",
		`The configuration says that old messages make room for new ones. They are counted,
and the hub is told how many are missing. Run: fieldgate store status`,
	},
	{
		"configuration-applied", "33953ddf2c994228ac6c49109d0e4d8f",
		"A configuration counts",
		`It can be undone with: fieldgate config rollback`,
	},
	{
		"configuration-rolled-back", "36b9ab0f23a5448e9163c30c2f058273",
		"The configuration was rolled back",
		`What was applied has not proven itself, and the last good configuration counts
again. The reason is in the line. Run: fieldgate config history`,
	},
	{
		"factory-reset", "75f28a173fb74799b25256fe5add1266",
		"A factory reset was asked for",
		`At the next start of the machine the configuration, all keys and all data are
deleted.`,
	},
	{
		"operator-stands-in", "34f0d87f66904ec883f00df07978cde9",
		"An operator stands in for leaf @FIELDGATE_LEAF@",
		`Somebody publishes or listens in the place of the leaf, which its table allows with
stand_in = true. The hub sees fieldgate-trust = operator in such messages.`,
	},
	{
		"operator-refused", "f3e598df94154841a98757ce37b8171d",
		"Somebody on this machine was refused",
		`A user asked the daemon for something that needs the group fieldgate or
fieldgate-admin. The user's number is in the line.`,
	},
}

// messageID is the MESSAGE_ID of a kind, "" for none.
func messageID(event string) string {
	for _, k := range eventKinds {
		if k.name == event {
			return k.id
		}
	}
	return ""
}
