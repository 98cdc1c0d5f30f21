package predict

import (
	"fmt"
	"math"
	"strconv"
)

// cellKind says what a payload wrote for one feature.
type cellKind byte

const (
	cellAbsent cellKind = iota // a key that a JSON object does not have
	cellNull
	cellTrue
	cellFalse
	cellFloat  // an element of array_send
	cellNumber // a JSON number
	cellWord   // an element of an array literal: a number or a boolean, still text
	cellString // a JSON string
	cellText   // the raw text of a text overload
	cellObject
	cellArray
)

// A cell is one value of a row before its feature's type is known.
type cell struct {
	kind  cellKind
	text  []byte
	float float64
}

// describe says for a message what came.
func (c cell) describe() string {
	switch c.kind {
	case cellAbsent:
		return "nothing"
	case cellNull:
		return "NULL"
	case cellTrue:
		return "the boolean true"
	case cellFalse:
		return "the boolean false"
	case cellFloat:
		return "the number " + string(appendFloat64(nil, c.float))
	case cellNumber:
		return "the number " + excerpt(c.text)
	case cellWord:
		return fmt.Sprintf("%q", excerpt(c.text))
	case cellString, cellText:
		return fmt.Sprintf("the text %q", excerpt(c.text))
	case cellObject:
		return "a JSON object"
	default:
		return "a JSON array"
	}
}

// number reads a cell as float64. nonFinite names in strings are taken as PostgreSQL's to_jsonb writes them. known is false where the cell is
// no number at all; a finite number beyond float64 comes back as an infinity with exceeds set.
func (c cell) number() (v float64, exceeds, known bool) {
	switch c.kind {
	case cellFloat:
		return c.float, false, true
	case cellString:
		v, known = nonFinite(c.text)
		return v, false, known
	case cellWord:
		text := trimSpace(c.text)
		if v, known = spelledNonFinite(text); known {
			return v, false, true
		}
		if !isDecimal(text) {
			return 0, false, false
		}
		v, exceeds = parseFloat(text)
		return v, exceeds, true
	case cellNumber:
		v, exceeds = parseFloat(c.text)
		return v, exceeds, true
	}
	return 0, false, false
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
	case cellString:
		_, known = nonFinite(c.text)
		return 0, false, known, known
	case cellWord:
		text := trimSpace(c.text)
		if _, infinite := spelledNonFinite(text); infinite {
			return 0, false, true, true
		}
		if !isDecimal(text) {
			return 0, false, false, false
		}
		v, fraction, exceeds = parseInt64(text)
		return v, fraction, exceeds, true
	case cellNumber:
		v, fraction, exceeds = parseInt64(c.text)
		return v, fraction, exceeds, true
	}
	return 0, false, false, false
}

// boolean reads a cell as PostgreSQL would: true and false, 0 and 1, and in quotes what its boolean type accepts.
func (c cell) boolean() (v, known bool) {
	switch c.kind {
	case cellTrue, cellFalse:
		return c.kind == cellTrue, true
	case cellFloat, cellNumber:
		f, _, _ := c.number()
		return f == 1, f == 0 || f == 1
	case cellString:
		return parseBool(trimSpace(c.text))
	case cellWord:
		if v, known = parseBool(trimSpace(c.text)); known {
			return v, true
		}
		if f, _, number := c.number(); number {
			return f == 1, f == 0 || f == 1
		}
	}
	return false, false
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

// nonFinite reads the strings that PostgreSQL's to_jsonb writes for numbers that JSON has no word for.
func nonFinite(text []byte) (float64, bool) {
	switch string(text) {
	case "NaN":
		return math.NaN(), true
	case "Infinity":
		return math.Inf(1), true
	case "-Infinity":
		return math.Inf(-1), true
	}
	return 0, false
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

// parseFloat reads a decimal that isDecimal or the JSON scanner has accepted. exceeds: it is finite, but no float64 is that large.
func parseFloat(text []byte) (v float64, exceeds bool) {
	v, err := strconv.ParseFloat(string(text), 64)
	return v, err != nil && math.IsInf(v, 0)
}

// parseInt64 reads a decimal exactly. fraction: it is not integral; exceeds: it is outside int64.
func parseInt64(text []byte) (v int64, fraction, exceeds bool) {
	magnitude, negative, fraction, exceeds := parseInteger(text)
	switch {
	case fraction || exceeds:
		return 0, fraction, exceeds
	case negative && magnitude <= 1<<63:
		return -int64(magnitude), false, false
	case magnitude < 1<<63:
		return int64(magnitude), false, false
	}
	return 0, false, true
}

// parseInteger reads a decimal, with or without point and exponent, as sign and magnitude. 2.50e1 is the integer 25.
func parseInteger(text []byte) (magnitude uint64, negative, fraction, exceeds bool) {
	if len(text) > 0 && (text[0] == '-' || text[0] == '+') {
		negative = text[0] == '-'
		text = text[1:]
	}
	// The value is the digits without the point, times ten to the power of scale.
	scale, point := 0, false
	mantissa := text
	for i, c := range text {
		if c == 'e' || c == 'E' {
			mantissa = text[:i]
			exponent, err := strconv.Atoi(string(text[i+1:]))
			if err != nil { // out of range even for the exponent
				exponent = 1 << 30
				if text[i+1] == '-' {
					exponent = -1 << 30
				}
			}
			scale = exponent
			break
		}
	}
	last := 0 // significant digits up to the last that is not zero
	count := 0
	for _, c := range mantissa {
		if c == '.' {
			point = true
			continue
		}
		count++
		if c != '0' {
			last = count
		}
		if point {
			scale--
		}
	}
	if last == 0 {
		return 0, negative, false, false
	}
	scale += count - last
	if scale < 0 {
		return 0, negative, true, false
	}
	n := 0
	for _, c := range mantissa {
		if c == '.' {
			continue
		}
		if n++; n > last {
			break
		}
		d := uint64(c - '0')
		if magnitude > (math.MaxUint64-d)/10 {
			return 0, negative, false, true
		}
		magnitude = magnitude*10 + d
	}
	for ; scale > 0; scale-- {
		if magnitude > math.MaxUint64/10 {
			return 0, negative, false, true
		}
		magnitude *= 10
	}
	return magnitude, negative, false, false
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
