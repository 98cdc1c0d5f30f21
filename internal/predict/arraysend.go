package predict

import (
	"github.com/rowcast/rowcast/internal/rowcast"
)

// hexValues holds at the index of a byte the value of the hexadecimal digit that it is, 255 for anything else. A table is twice as fast as
// comparisons, and reading digits is most of what an array costs.
const hexValues = none16 + none16 + none16 +
	"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\xff\xff\xff\xff\xff\xff" +
	"\xff\x0a\x0b\x0c\x0d\x0e\x0f\xff\xff\xff\xff\xff\xff\xff\xff\xff" + none16 +
	"\xff\x0a\x0b\x0c\x0d\x0e\x0f\xff\xff\xff\xff\xff\xff\xff\xff\xff" + none16 +
	none16 + none16 + none16 + none16 + none16 + none16 + none16 + none16

const none16 = "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"

const float8OID = 701

// sentArray is the output of array_send(double precision[]) as hexadecimal text: dimensions, null flag, element type, then per dimension its
// size and lower bound, then per element its length (-1 for NULL) and its bytes, all big-endian.
type sentArray struct {
	dims     [6]int // PostgreSQL's arrays have at most six
	rank     int
	elements []byte // hexadecimal
	plain    bool   // no NULL, every element the 24 digits that a float8 takes
}

func protocolFault(what string) *rowcast.Error {
	return rowcast.Errorf(rowcast.CodeProtocol, "malformed array: %s", what)
}

// hex32 reads eight hexadecimal digits.
func hex32(text []byte) (uint32, bool) {
	if len(text) < 8 {
		return 0, false
	}
	var v uint32
	var bad byte
	for _, c := range text[:8] {
		d := hexValues[c]
		bad |= d & 0xf0
		v = v<<4 | uint32(d&15)
	}
	return v, bad == 0
}

// hex64 reads sixteen hexadecimal digits.
func hex64(text []byte) (uint64, bool) {
	if len(text) < 16 {
		return 0, false
	}
	high, ok1 := hex32(text)
	low, ok2 := hex32(text[8:])
	return uint64(high)<<32 | uint64(low), ok1 && ok2
}

// readSentArray reads the header and leaves the elements for next.
func readSentArray(text []byte) (a sentArray, err error) {
	rank, ok1 := hex32(text)
	if !ok1 || len(text) < 24 {
		return a, protocolFault("the header is cut short")
	}
	_, ok2 := hex32(text[8:])
	oid, ok3 := hex32(text[16:])
	switch {
	case !ok2 || !ok3:
		return a, protocolFault("not hexadecimal")
	case rank > uint32(len(a.dims)):
		return a, protocolFault("more than six dimensions")
	case rank > 0 && oid != float8OID:
		return a, protocolFault("its elements are not double precision")
	}
	a.rank = int(rank)
	text = text[24:]
	count := 1
	for i := range a.rank {
		size, ok := hex32(text)
		if !ok || len(text) < 16 {
			return a, protocolFault("a dimension is cut short")
		}
		text = text[16:]
		// Each element takes at least eight digits, so that a size can be bounded before it is multiplied.
		if int(size) > len(text) {
			return a, protocolFault("shorter than its dimensions say")
		}
		a.dims[i] = int(size)
		if count *= int(size); count > len(text) {
			return a, protocolFault("shorter than its dimensions say")
		}
	}
	a.elements = text
	a.plain = len(text) == 24*count
	return a, nil
}

// next reads one element.
func (a *sentArray) next() (bits uint64, null bool, err error) {
	size, ok := hex32(a.elements)
	switch {
	case !ok:
		return 0, false, protocolFault("an element is cut short")
	case size == 1<<32-1:
		a.elements = a.elements[8:]
		return 0, true, nil
	case size != 8:
		return 0, false, protocolFault("an element is not eight bytes long")
	}
	if bits, ok = hex64(a.elements[8:]); !ok {
		return 0, false, protocolFault("an element is cut short")
	}
	a.elements = a.elements[24:]
	return bits, false, nil
}
