package convert

import (
	"encoding/binary"
	"math"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// Universal Binary JSON as XGBoost writes it: keys are a length and bytes; a list is "[" with "#" and its length, and no end mark, or "[$", one
// element type, "#" and its length, then bare big-endian elements. Lists and objects that end with a mark instead are read as well.

// readUBJ reads a UBJ document.
func readUBJ(data []byte) (any, error) {
	r := ubjReader{data: data}
	v, err := r.value(0)
	if err != nil {
		return nil, err
	}
	if r.at < len(r.data) {
		return nil, r.wrong("something follows the document")
	}
	return v, nil
}

type ubjReader struct {
	data []byte
	at   int
	keys int
}

func (r *ubjReader) wrong(reason string) *rowcast.Error {
	return damagedXGBoost("it is no valid UBJ: %s at byte %d", reason, r.at)
}

// take returns the next n bytes.
func (r *ubjReader) take(n int) ([]byte, error) {
	if n < 0 || n > len(r.data)-r.at {
		return nil, r.wrong("it ends early")
	}
	r.at += n
	return r.data[r.at-n : r.at], nil
}

// marker returns the next byte that is no padding.
func (r *ubjReader) marker() (byte, error) {
	for r.at < len(r.data) {
		c := r.data[r.at]
		r.at++
		if c != 'N' {
			return c, nil
		}
	}
	return 0, r.wrong("it ends early")
}

// numberSize is how many bytes a number of that type has, 0 for what is no number.
func numberSize(kind byte) int {
	switch kind {
	case 'i', 'U':
		return 1
	case 'I':
		return 2
	case 'l', 'd':
		return 4
	case 'L', 'D':
		return 8
	}
	return 0
}

// numberAt reads a number of a type from bytes that hold it.
func numberAt(kind byte, b []byte) float64 {
	switch kind {
	case 'i':
		return float64(int8(b[0]))
	case 'U':
		return float64(b[0])
	case 'I':
		return float64(int16(binary.BigEndian.Uint16(b)))
	case 'l':
		return float64(int32(binary.BigEndian.Uint32(b)))
	case 'L':
		return float64(int64(binary.BigEndian.Uint64(b)))
	case 'd':
		return float64(math.Float32frombits(binary.BigEndian.Uint32(b)))
	}
	return math.Float64frombits(binary.BigEndian.Uint64(b))
}

func (r *ubjReader) value(depth int) (any, error) {
	if depth > maxDocumentDepth {
		return nil, r.wrong("it nests too deep")
	}
	kind, err := r.marker()
	if err != nil {
		return nil, err
	}
	return r.valueOf(kind, depth)
}

func (r *ubjReader) valueOf(kind byte, depth int) (any, error) {
	switch kind {
	case '{':
		return r.object(depth)
	case '[':
		return r.list(depth, true)
	case 'S':
		return r.text()
	case 'C':
		b, err := r.take(1)
		return string(b), err
	case 'Z':
		return nil, nil
	case 'T':
		return true, nil
	case 'F':
		return false, nil
	}
	size := numberSize(kind)
	if size == 0 {
		r.at--
		return nil, r.wrong("a value is expected")
	}
	b, err := r.take(size)
	if err != nil {
		return nil, err
	}
	return numberAt(kind, b), nil
}

// length reads a length, which is an integer of any type. It is at most the number of bytes that follow, for everything that is counted has at least
// one.
func (r *ubjReader) length() (int, error) {
	kind, err := r.marker()
	if err != nil {
		return 0, err
	}
	size := numberSize(kind)
	if size == 0 || kind == 'd' || kind == 'D' {
		return 0, r.wrong("a length is expected")
	}
	b, err := r.take(size)
	if err != nil {
		return 0, err
	}
	n, ok := index(numberAt(kind, b), 0, len(r.data)-r.at)
	if !ok {
		return 0, r.wrong("a length goes beyond the end")
	}
	return n, nil
}

func (r *ubjReader) text() (string, error) {
	n, err := r.length()
	if err != nil {
		return "", err
	}
	b, err := r.take(n)
	return string(b), err
}

func (r *ubjReader) object(depth int) (any, error) {
	var fields map[string]any // made with the first key: a file of empty objects takes no more memory than it is long
	for {
		mark, err := r.marker()
		if err != nil {
			return nil, err
		}
		if mark == '}' {
			return fields, nil
		}
		if mark == '$' || mark == '#' {
			return nil, r.wrong("objects with a count are not read")
		}
		r.at--
		key, err := r.text()
		if err != nil {
			return nil, err
		}
		if r.keys++; r.keys > maxKeys {
			return nil, r.wrong("it has too many keys")
		}
		if mark, err = r.marker(); err != nil {
			return nil, err
		}
		if depth >= maxDocumentDepth {
			return nil, r.wrong("it nests too deep")
		}
		var v any
		if mark == '[' {
			v, err = r.list(depth+1, !unread(key))
		} else {
			v, err = r.valueOf(mark, depth+1)
		}
		if err != nil {
			return nil, err
		}
		if fields == nil {
			fields = map[string]any{}
		}
		fields[key] = v
	}
}

// list reads a list whose opening bracket was read. Where keep is false, a typed one is passed over.
func (r *ubjReader) list(depth int, keep bool) (any, error) {
	mark, err := r.marker()
	if err != nil {
		return nil, err
	}
	switch mark {
	case '$':
		return r.typedList(keep)
	case '#':
		n, err := r.length()
		if err != nil {
			return nil, err
		}
		var l listBuilder
		for range n {
			v, err := r.value(depth + 1)
			if err != nil {
				return nil, err
			}
			l.add(v)
		}
		return l.list(), nil
	}
	var l listBuilder
	for mark != ']' {
		if depth >= maxDocumentDepth {
			return nil, r.wrong("it nests too deep")
		}
		v, err := r.valueOf(mark, depth+1)
		if err != nil {
			return nil, err
		}
		l.add(v)
		if mark, err = r.marker(); err != nil {
			return nil, err
		}
	}
	return l.list(), nil
}

func (r *ubjReader) typedList(keep bool) (any, error) {
	kind, err := r.marker()
	if err != nil {
		return nil, err
	}
	size := numberSize(kind)
	if size == 0 {
		return nil, r.wrong("a list is of a type that is not read")
	}
	mark, err := r.marker()
	if err != nil {
		return nil, err
	}
	if mark != '#' {
		return nil, r.wrong("a list has a type and no length")
	}
	n, err := r.length()
	if err != nil {
		return nil, err
	}
	if n > (len(r.data)-r.at)/size {
		return nil, r.wrong("a list goes beyond the end")
	}
	b, err := r.take(n * size)
	if err != nil || !keep {
		return []float64{}, err
	}
	out := make([]float64, n)
	for i := range out {
		out[i] = numberAt(kind, b[i*size:])
	}
	return out, nil
}
