package record

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// copyStatement names the columns in the order in which appendRow writes them. sqlc generates no COPY of rows that are encoded already.
const copyStatement = `COPY ml_private.prediction (at, model_id, version, sha256, reference, entry, caller, key, input_hash, inputs, value, label,
	probability, probabilities, outputs, latency_ms) FROM STDIN (FORMAT binary)`

const columns = 16

func copyHeader() []byte  { return []byte("PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00") }
func copyTrailer() []byte { return []byte{0xff, 0xff} }

// appendRow writes a prediction as a row of binary COPY: each field its length, -1 for NULL, and its value as PostgreSQL's receive functions take it.
func appendRow(dst []byte, p *rowcast.Prediction) []byte {
	q := p.Request
	dst = binary.BigEndian.AppendUint16(dst, columns)
	dst = appendInt64(dst, p.At.UnixMicro()-time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro())
	dst = appendInt64(dst, q.ModelID)
	dst = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(dst, 4), uint32(p.Version))
	dst = appendBytes(dst, p.SHA256[:])
	dst = appendText(dst, q.Reference, true)
	if q.Entry != 0 {
		dst = appendInt64(dst, q.Entry)
	} else {
		dst = appendNull(dst)
	}
	dst = appendText(dst, q.Caller, true)
	dst = appendText(dst, p.Key, p.HasKey)
	dst = appendBytes(dst, p.InputHash[:])
	if q.Inputs {
		dst = appendJSONB(dst, p.Inputs)
	} else {
		dst = appendNull(dst)
	}
	dst = appendFloat(dst, p.Value, p.HasValue)
	dst = appendText(dst, p.Label, p.HasLabel)
	dst = appendFloat(dst, p.Probability, len(p.Probabilities) > 0 && p.Probability == p.Probability)
	dst = appendFloats(dst, p.Probabilities)
	dst = appendJSONB(dst, p.Outputs)
	milliseconds := float32(float64(p.Latency) / float64(time.Millisecond))
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(dst, 4), math.Float32bits(milliseconds))
}

func appendNull(dst []byte) []byte { return binary.BigEndian.AppendUint32(dst, math.MaxUint32) }

func appendBytes(dst, b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(b))), b...)
}

func appendText(dst []byte, s string, has bool) []byte {
	if !has {
		return appendNull(dst)
	}
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(s))), s...)
}

func appendInt64(dst []byte, v int64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(dst, 8), uint64(v))
}

func appendFloat(dst []byte, v float64, has bool) []byte {
	if !has {
		return appendNull(dst)
	}
	return appendInt64(dst, int64(math.Float64bits(v)))
}

// appendFloats writes a double precision[] of one dimension; NULL where there is none.
func appendFloats(dst []byte, list []float64) []byte {
	if len(list) == 0 {
		return appendNull(dst)
	}
	const header, element, float8 = 20, 12, 701
	dst = binary.BigEndian.AppendUint32(dst, uint32(header+element*len(list)))
	for _, v := range []uint32{1, 0, float8, uint32(len(list)), 1} { // dimensions, no NULLs, type, length, lower bound
		dst = binary.BigEndian.AppendUint32(dst, v)
	}
	for _, v := range list {
		dst = appendFloat(dst, v, true)
	}
	return dst
}

// appendJSONB writes JSON with the number of jsonb's binary format before it; NULL where there is none.
func appendJSONB(dst, text []byte) []byte {
	if len(text) == 0 {
		return appendNull(dst)
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(1+len(text)))
	return append(append(dst, 1), text...)
}
