package score

import (
	"bytes"
	"encoding/binary"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// signature begins every binary COPY; flags and the length of an extension follow.
const (
	copySignature = "PGCOPY\n\xff\r\n\x00"
	copyHeader    = len(copySignature) + 8
)

// decoder cuts the stream of COPY … TO STDOUT (FORMAT binary) into rows. It is an io.Writer, as pgconn wants one: PostgreSQL sends a row a message, so
// that rows are usually looked at where they came in. What a message leaves incomplete is kept for the next.
type decoder struct {
	columns int
	row     func(values [][]byte) error // values are valid during the call; nil is NULL

	values  [][]byte
	rest    []byte
	started bool
	ended   bool
}

// Write takes the next piece of the stream.
func (d *decoder) Write(p []byte) (int, error) {
	data := p
	if len(d.rest) > 0 {
		d.rest = append(d.rest, p...)
		data = d.rest
	}
	used, err := d.decode(data)
	if err != nil {
		return 0, err
	}
	d.rest = append(d.rest[:0], data[used:]...)
	return len(p), nil
}

// decode reads the whole rows in data and returns how many bytes they were.
func (d *decoder) decode(data []byte) (used int, err error) {
	if !d.started {
		if len(data) < copyHeader {
			return 0, nil
		}
		extension := int(binary.BigEndian.Uint32(data[len(copySignature)+4:]))
		if !bytes.HasPrefix(data, []byte(copySignature)) || extension < 0 || extension > 1<<16 {
			return 0, garbled("it does not begin as a binary COPY")
		}
		if len(data) < copyHeader+extension {
			return 0, nil
		}
		used = copyHeader + extension
		d.started = true
		d.values = make([][]byte, d.columns)
	}
	for {
		n, err := d.decodeRow(data[used:])
		if n == 0 || err != nil {
			return used, err
		}
		used += n
	}
}

// decodeRow reads one row; 0 where data holds no whole one.
func (d *decoder) decodeRow(data []byte) (int, error) {
	if len(data) < 2 || d.ended {
		return 0, nil
	}
	switch n := int(int16(binary.BigEndian.Uint16(data))); {
	case n == -1:
		d.ended = true
		return 2, nil
	case n != d.columns:
		return 0, garbled("a row has another number of columns")
	}
	at := 2
	for i := range d.values {
		if len(data)-at < 4 {
			return 0, nil
		}
		size := int(int32(binary.BigEndian.Uint32(data[at:])))
		at += 4
		if size < 0 {
			d.values[i] = nil
			continue
		}
		if len(data)-at < size {
			return 0, nil
		}
		d.values[i] = data[at : at+size : at+size]
		at += size
	}
	return at, d.row(d.values)
}

func garbled(how string) error {
	return rowcast.Errorf(rowcast.CodeProtocol, "PostgreSQL's COPY stream cannot be read: %s", how)
}
