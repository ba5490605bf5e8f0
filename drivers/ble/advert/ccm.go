package advert

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
)

// openCCM decrypts what AES-CCM has encrypted (RFC 3610), with a tag of 4 octets.
// nonce has 7 to 13 octets, ad fewer than 65280, and the text fewer than 65536: an
// advertisement has none that are longer. ok is false when the tag does not fit.
func openCCM(key, nonce, sealed, tag, ad []byte) (plain []byte, ok bool) {
	block, err := aes.NewCipher(key)
	if err != nil || len(nonce) < 7 || len(nonce) > 13 || len(tag) != 4 {
		return nil, false
	}
	var a [16]byte // A_i: flags, nonce, counter
	a[0] = byte(14 - len(nonce))
	copy(a[1:], nonce)
	plain = make([]byte, len(sealed))
	mask := make([]byte, 16)
	stream := cipher.NewCTR(block, a[:])
	stream.XORKeyStream(mask, mask) // S_0 is for the tag
	stream.XORKeyStream(plain, sealed)
	mac := macCCM(block, nonce, plain, ad)
	subtle.XORBytes(mac, mac, mask)
	return plain, subtle.ConstantTimeCompare(mac[:4], tag) == 1
}

// macCCM is the CBC-MAC of CCM before it is masked.
func macCCM(block cipher.Block, nonce, plain, ad []byte) []byte {
	x := make([]byte, 16) // B_0: flags, nonce, length
	x[0] = byte(14-len(nonce)) | (4-2)/2<<3
	if len(ad) > 0 {
		x[0] |= 0x40
	}
	copy(x[1:], nonce)
	binary.BigEndian.PutUint16(x[14:], uint16(len(plain)))
	block.Encrypt(x, x)
	if len(ad) > 0 {
		macBlocks(block, x, append(binary.BigEndian.AppendUint16(nil, uint16(len(ad))), ad...))
	}
	macBlocks(block, x, plain)
	return x
}

// macBlocks goes on with the MAC over data, filled up with zeros.
func macBlocks(block cipher.Block, x, data []byte) {
	for len(data) > 0 {
		n := subtle.XORBytes(x, x, data[:min(16, len(data))])
		data = data[n:]
		block.Encrypt(x, x)
	}
}
