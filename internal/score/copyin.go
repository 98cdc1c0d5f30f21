package score

import (
	"encoding/binary"
	"math"
	"time"
)

const oidFloat8 = 701

// encoder writes rows in the format of COPY … FROM STDIN (FORMAT binary).
type encoder struct{ buf []byte }

func (e *encoder) header() { e.buf = append(append(e.buf, copySignature...), 0, 0, 0, 0, 0, 0, 0, 0) }

func (e *encoder) trailer() { e.buf = append(e.buf, 0xff, 0xff) }

func (e *encoder) row(columns int) { e.buf = binary.BigEndian.AppendUint16(e.buf, uint16(columns)) }

// value takes a value as it came from PostgreSQL, nil for NULL.
func (e *encoder) value(v []byte) {
	if v == nil {
		e.buf = append(e.buf, 0xff, 0xff, 0xff, 0xff)
		return
	}
	e.buf = append(binary.BigEndian.AppendUint32(e.buf, uint32(len(v))), v...)
}

func (e *encoder) text(s string) {
	e.buf = append(binary.BigEndian.AppendUint32(e.buf, uint32(len(s))), s...)
}

func (e *encoder) float(v float64) {
	e.buf = binary.BigEndian.AppendUint64(append(e.buf, 0, 0, 0, 8), math.Float64bits(v))
}

func (e *encoder) int4(v int32) {
	e.buf = binary.BigEndian.AppendUint32(append(e.buf, 0, 0, 0, 4), uint32(v))
}

// epoch2000 is where PostgreSQL's timestamps begin.
const epoch2000 = 946684800

func (e *encoder) timestamp(t time.Time) {
	micros := (t.Unix()-epoch2000)*1e6 + int64(t.Nanosecond()/1e3)
	e.buf = binary.BigEndian.AppendUint64(append(e.buf, 0, 0, 0, 8), uint64(micros))
}

// floats takes a double precision[] of one dimension.
func (e *encoder) floats(values []float64) {
	const header, element = 20, 12
	e.buf = binary.BigEndian.AppendUint32(e.buf, uint32(header+element*len(values)))
	for _, v := range [...]uint32{1, 0, oidFloat8, uint32(len(values)), 1} {
		e.buf = binary.BigEndian.AppendUint32(e.buf, v)
	}
	for _, v := range values {
		e.float(v)
	}
}
