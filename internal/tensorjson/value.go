package tensorjson

import (
	"fmt"
	"math"
	"strconv"
)

// Kind says what a Value is. Zero is none.
type Kind byte

// The kinds of JSON values.
const (
	Null Kind = iota + 1
	True
	False
	Number
	String
	Object
	Array
)

// Value is one JSON value. Text is a number's text or a string's contents; of objects and arrays only the kind is kept.
type Value struct {
	Kind Kind
	Text []byte
}

// ParseValue reads text that is one value.
func ParseValue(text []byte) (Value, error) {
	s := Scanner{text: text}
	v, err := s.Value()
	if err == nil {
		err = s.End()
	}
	return v, err
}

// Describe says for a message what came.
func (v Value) Describe() string {
	switch v.Kind {
	case Null:
		return "NULL"
	case True:
		return "the boolean true"
	case False:
		return "the boolean false"
	case Number:
		return "the number " + Excerpt(v.Text)
	case String:
		return fmt.Sprintf("the text %q", Excerpt(v.Text))
	case Object:
		return "a JSON object"
	default:
		return "a JSON array"
	}
}

// Float reads a number, or a string that names NaN or an infinity. known is false where it is neither; a finite number beyond float64 comes back as an
// infinity with exceeds set.
func (v Value) Float() (f float64, exceeds, known bool) {
	switch v.Kind {
	case Number:
		f, exceeds = ParseFloat(v.Text)
		return f, exceeds, true
	case String:
		f, known = nonFinite(v.Text)
		return f, false, known
	}
	return 0, false, false
}

// Integer reads a number as int64 exactly; the names of NaN and the infinities exceed it. known is false where it is neither; otherwise at most one of
// fraction and exceeds is set.
func (v Value) Integer() (n int64, fraction, exceeds, known bool) {
	switch v.Kind {
	case Number:
		n, fraction, exceeds = ParseInt64(v.Text)
		return n, fraction, exceeds, true
	case String:
		_, known = nonFinite(v.Text)
		return 0, false, known, known
	}
	return 0, false, false, false
}

// Bool reads true and false, 1 and 0.
func (v Value) Bool() (b, known bool) {
	switch v.Kind {
	case True, False:
		return v.Kind == True, true
	case Number:
		f, _ := ParseFloat(v.Text)
		return f == 1, f == 0 || f == 1
	}
	return false, false
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

// ParseFloat reads a decimal, already known to be one. exceeds: it is finite, but no float64 is that large.
func ParseFloat(text []byte) (v float64, exceeds bool) {
	v, err := strconv.ParseFloat(string(text), 64)
	return v, err != nil && math.IsInf(v, 0)
}

// ParseInt64 reads a decimal, already known to be one, exactly. fraction: it is not integral; exceeds: it is outside int64.
func ParseInt64(text []byte) (v int64, fraction, exceeds bool) {
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
