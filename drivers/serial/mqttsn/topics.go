package mqttsn

import (
	"hash/fnv"
	"strconv"
	"unicode/utf8"

	"github.com/fieldgate/fieldgate/gateway/plain"
)

const (
	// maxTopics bounds the topics of one leaf that have ids.
	maxTopics = 256
	// maxName bounds the name of a topic, in octets: a message that holds it must
	// fit into a frame.
	maxName = 512
)

// topicID is a topic with an id, for one leaf.
type topicID struct {
	name string
	told bool // the leaf knows it, on this connection
	leaf bool // it was the leaf that wanted it
}

// topicIDs are the topics of one leaf by their ids. Ids belong to the session
// (section 6.5).
type topicIDs map[uint16]*topicID

// find returns the id of a name.
func (t topicIDs) find(name string) (uint16, *topicID) {
	id := hashID(name)
	for x := t[id]; x != nil; x = t[id] {
		if x.name == name {
			return id, x
		}
		id = nextID(id)
	}
	return 0, nil
}

// get returns the id of a name, a new one if there is none; nil when there are too
// many. What the leaf has asked for is never given up for what it has not.
func (t topicIDs) get(name string, byLeaf bool) (uint16, *topicID) {
	if id, x := t.find(name); x != nil {
		x.leaf = x.leaf || byLeaf
		return id, x
	}
	if len(t) >= maxTopics && !t.dropOne() {
		return 0, nil
	}
	id := hashID(name)
	for t[id] != nil {
		id = nextID(id)
	}
	t[id] = &topicID{name: name, leaf: byLeaf}
	return id, t[id]
}

// dropOne forgets a topic that only the gateway has wanted. A topic whose id was
// next to it by chance may get another one; it is told to the leaf before it is used.
func (t topicIDs) dropOne() bool {
	for id, x := range t {
		if !x.leaf {
			delete(t, id)
			return true
		}
	}
	return false
}

// untell notes that the leaf may have forgotten all ids.
func (t topicIDs) untell() {
	for _, x := range t {
		x.told = false
	}
}

// hashID is the id at which a name is looked for first.
func hashID(name string) uint16 {
	h := fnv.New32a()
	h.Write([]byte(name))
	sum := h.Sum32()
	return nextID(uint16(sum>>16) ^ uint16(sum))
}

// nextID returns the id after another: 0000 and FFFF are reserved (section 5.3.11).
func nextID(id uint16) uint16 {
	if id >= 0xFFFE {
		return 1
	}
	return id + 1
}

// table holds the topics that need no registration, behind leaf/{id}/.
type table struct{ predefined, short map[uint16]string }

func newTable(c *Config) table {
	t := table{make(map[uint16]string), make(map[uint16]string)}
	for id, rest := range c.Predefined {
		n, _ := strconv.ParseUint(id, 10, 16) // Validate has looked
		t.predefined[uint16(n)] = rest
	}
	for name, rest := range c.Short {
		t.short[uint16(name[0])<<8|uint16(name[1])] = rest
	}
	return t
}

// rest returns what stands behind leaf/{id}/.
func (t *table) rest(kind TopicKind, id uint16) (string, bool) {
	if kind == ShortName {
		rest, ok := t.short[id]
		return rest, ok
	}
	rest, ok := t.predefined[id]
	return rest, ok && kind == Predefined
}

// ofPlain says whether a topic is one on which this leaf publishes, or hears from
// the gateway.
func ofPlain(leaf, topic string) bool {
	if _, ok := plain.ParseMessage(leaf, topic); ok {
		return true
	}
	if _, ok := plain.ParseRequest(leaf, topic); ok {
		return true
	}
	id, rest, ok := plain.Cut(topic)
	if !ok || !plain.Names(id, leaf) {
		return false
	}
	for _, t := range [...]string{plain.Command, plain.Call, plain.Desired, plain.Document, plain.Error} {
		if plain.Overlap(rest, t) {
			return true
		}
	}
	return false
}

// validName says whether a text can be the name of a topic.
func validName(b []byte) bool {
	if len(b) > maxName || !utf8.Valid(b) {
		return false
	}
	for _, x := range b {
		if x < ' ' || x == 0x7F {
			return false
		}
	}
	return true
}
