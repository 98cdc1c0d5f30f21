package predict

import (
	"fmt"
	"math"
	"strconv"

	"github.com/rowcast/rowcast/internal/tensorjson"
)

// cellKind says what a payload wrote for one feature.
type cellKind byte

// What JSON can write has the number of its tensorjson.Kind.
const (
	cellAbsent cellKind = 0 // a key that a JSON object does not have
	cellNull            = cellKind(tensorjson.Null)
	cellTrue            = cellKind(tensorjson.True)
	cellFalse           = cellKind(tensorjson.False)
	cellNumber          = cellKind(tensorjson.Number)
	cellString          = cellKind(tensorjson.String)
)

// What only the other formats can.
const (
	cellFloat = cellKind(tensorjson.Array) + 1 + iota // an element of array_send
	cellWord                                          // an element of an array literal: a number or a boolean, still text
	cellText                                          // the raw text of a text overload
	cellInt                                           // an integer column
)

// A cell is one value of a row before its feature's type is known.
type cell struct {
	kind  cellKind
	text  []byte
	float float64
	int   int64
}

func jsonCell(v tensorjson.Value) cell { return cell{kind: cellKind(v.Kind), text: v.Text} }

// json is the cell as the JSON value that it came from.
func (c cell) json() tensorjson.Value {
	return tensorjson.Value{Kind: tensorjson.Kind(c.kind), Text: c.text}
}

// describe says for a message what came.
func (c cell) describe() string {
	switch c.kind {
	case cellAbsent:
		return "nothing"
	case cellFloat:
		return "the number " + string(tensorjson.AppendDecimal(nil, c.float, 64))
	case cellInt:
		return "the number " + strconv.FormatInt(c.int, 10)
	case cellWord:
		return fmt.Sprintf("%q", tensorjson.Excerpt(c.text))
	case cellText:
		return fmt.Sprintf("the text %q", tensorjson.Excerpt(c.text))
	}
	return c.json().Describe()
}

// number reads a cell as float64. NaN and the infinities in strings are taken as PostgreSQL's to_jsonb writes them. known is false where the cell is
// no number at all; a finite number beyond float64 comes back as an infinity with exceeds set.
func (c cell) number() (v float64, exceeds, known bool) {
	switch c.kind {
	case cellFloat:
		return c.float, false, true
	case cellInt:
		return float64(c.int), false, true
	case cellWord:
		text := trimSpace(c.text)
		if v, known = spelledNonFinite(text); known {
			return v, false, true
		}
		if !isDecimal(text) {
			return 0, false, false
		}
		v, exceeds = tensorjson.ParseFloat(text)
		return v, exceeds, true
	case cellNumber: // as Float reads it; most cells are numbers
		v, exceeds = tensorjson.ParseFloat(c.text)
		return v, exceeds, true
	}
	return c.json().Float()
}

// integer reads a cell as int64 exactly. known is false where it is no number; otherwise at most one of fraction and exceeds is set.
func (c cell) integer() (v int64, fraction, exceeds, known bool) {
	switch c.kind {
	case cellFloat:
		f := c.float
		switch {
		case math.IsInf(f, 0) || f < -1<<63 || f >= 1<<63:
			return 0, false, true, true
		case f != math.Trunc(f):
			return 0, true, false, true
		}
		return int64(f), false, false, true
	case cellInt:
		return c.int, false, false, true
	case cellWord:
		text := trimSpace(c.text)
		if _, infinite := spelledNonFinite(text); infinite {
			return 0, false, true, true
		}
		if !isDecimal(text) {
			return 0, false, false, false
		}
		v, fraction, exceeds = tensorjson.ParseInt64(text)
		return v, fraction, exceeds, true
	}
	return c.json().Integer()
}

// boolean reads a cell as PostgreSQL would: true and false, 0 and 1, and in quotes what its boolean type accepts.
func (c cell) boolean() (v, known bool) {
	switch c.kind {
	case cellFloat:
		return c.float == 1, c.float == 0 || c.float == 1
	case cellInt:
		return c.int == 1, c.int == 0 || c.int == 1
	case cellString:
		return parseBool(trimSpace(c.text))
	case cellWord:
		if v, known = parseBool(trimSpace(c.text)); known {
			return v, true
		}
		if f, _, number := c.number(); number {
			return f == 1, f == 0 || f == 1
		}
		return false, false
	}
	return c.json().Bool()
}

// isNaN reports whether the cell is a number that is none.
func (c cell) isNaN() bool {
	switch c.kind {
	case cellFloat:
		return c.float != c.float
	case cellString:
		return string(c.text) == "NaN"
	case cellWord:
		return equalFold(trimSpace(c.text), "nan")
	}
	return false
}

// spelledNonFinite reads what PostgreSQL's float8in takes for the same.
func spelledNonFinite(text []byte) (float64, bool) {
	sign := 1
	rest := text
	if len(rest) > 0 && (rest[0] == '-' || rest[0] == '+') {
		if rest[0] == '-' {
			sign = -1
		}
		rest = rest[1:]
	}
	switch {
	case equalFold(rest, "inf"), equalFold(rest, "infinity"):
		return math.Inf(sign), true
	case equalFold(text, "nan"):
		return math.NaN(), true
	}
	return 0, false
}

// isDecimal reports whether text is a decimal number as SQL writes one: 1, +1, .5, 1., 1e5.
func isDecimal(text []byte) bool {
	i, digits := 0, 0
	if i < len(text) && (text[i] == '-' || text[i] == '+') {
		i++
	}
	for ; i < len(text) && text[i] >= '0' && text[i] <= '9'; i++ {
		digits++
	}
	if i < len(text) && text[i] == '.' {
		for i++; i < len(text) && text[i] >= '0' && text[i] <= '9'; i++ {
			digits++
		}
	}
	if digits == 0 {
		return false
	}
	if i < len(text) && (text[i] == 'e' || text[i] == 'E') {
		if i++; i < len(text) && (text[i] == '+' || text[i] == '-') {
			i++
		}
		from := i
		for ; i < len(text) && text[i] >= '0' && text[i] <= '9'; i++ {
		}
		if i == from {
			return false
		}
	}
	return i == len(text)
}

// parseBool takes what PostgreSQL's boolean type takes: unique prefixes of true, false, yes, no, on, off, and 1 and 0.
func parseBool(text []byte) (v, known bool) {
	prefix := func(word string) bool { return len(text) <= len(word) && equalFold(text, word[:len(text)]) }
	switch {
	case len(text) == 0:
		return false, false
	case prefix("true"), prefix("yes"), equalFold(text, "on"), string(text) == "1":
		return true, true
	case prefix("false"), prefix("no"), len(text) > 1 && prefix("off"), string(text) == "0":
		return false, true
	}
	return false, false
}

func trimSpace(text []byte) []byte {
	for len(text) > 0 && isArraySpace(text[0]) {
		text = text[1:]
	}
	for len(text) > 0 && isArraySpace(text[len(text)-1]) {
		text = text[:len(text)-1]
	}
	return text
}
