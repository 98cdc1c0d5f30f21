package convert

import (
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// readJSON reads a JSON document as XGBoost writes it: with the numbers NaN, Infinity and -Infinity, which are not in the standard, and with numbers
// that are not integers rounded to float32, as XGBoost reads them.
func readJSON(data []byte) (any, error) {
	r := jsonReader{data: data}
	v, err := r.value(0)
	if err != nil {
		return nil, err
	}
	r.space()
	if r.at < len(r.data) {
		return nil, r.wrong("something follows the document")
	}
	return v, nil
}

type jsonReader struct {
	data []byte
	at   int
	keys int
}

func (r *jsonReader) wrong(reason string) *rowcast.Error {
	return damagedXGBoost("it is no valid JSON: %s at byte %d", reason, r.at)
}

func (r *jsonReader) space() {
	for r.at < len(r.data) {
		switch r.data[r.at] {
		case ' ', '\t', '\r', '\n':
			r.at++
		default:
			return
		}
	}
}

// next skips white space and returns the byte that follows, 0 at the end.
func (r *jsonReader) next() byte {
	r.space()
	if r.at < len(r.data) {
		return r.data[r.at]
	}
	return 0
}

func (r *jsonReader) value(depth int) (any, error) {
	if depth > maxDocumentDepth {
		return nil, r.wrong("it nests too deep")
	}
	switch c := r.next(); c {
	case '{':
		return r.object(depth)
	case '[':
		return r.list(depth, true)
	case '"':
		return r.text()
	case 0:
		return nil, r.wrong("it ends early")
	default:
		if r.word("null") {
			return nil, nil
		}
		if r.word("true") {
			return true, nil
		}
		if r.word("false") {
			return false, nil
		}
		return r.number()
	}
}

func (r *jsonReader) word(w string) bool {
	if len(r.data)-r.at >= len(w) && string(r.data[r.at:r.at+len(w)]) == w {
		r.at += len(w)
		return true
	}
	return false
}

func (r *jsonReader) object(depth int) (any, error) {
	var fields map[string]any // made with the first key: a file of empty objects takes no more memory than it is long
	r.at++
	if r.next() == '}' {
		r.at++
		return fields, nil
	}
	for {
		if r.next() != '"' {
			return nil, r.wrong("a key is expected")
		}
		key, err := r.text()
		if err != nil {
			return nil, err
		}
		if r.keys++; r.keys > maxKeys {
			return nil, r.wrong("it has too many keys")
		}
		if r.next() != ':' {
			return nil, r.wrong("a colon is expected")
		}
		r.at++
		var v any
		if unread(key) && r.next() == '[' {
			_, err = r.list(depth+1, false)
		} else {
			v, err = r.value(depth + 1)
		}
		if err != nil {
			return nil, err
		}
		if fields == nil {
			fields = map[string]any{}
		}
		fields[key] = v
		switch r.next() {
		case ',':
			r.at++
		case '}':
			r.at++
			return fields, nil
		default:
			return nil, r.wrong("a comma or a brace is expected")
		}
	}
}

// list reads a list: of numbers and booleans alone as []float64. Where keep is false, numbers are read and forgotten.
func (r *jsonReader) list(depth int, keep bool) (any, error) {
	var l listBuilder
	r.at++
	if r.next() == ']' {
		r.at++
		return l.list(), nil
	}
	for {
		v, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		if keep {
			l.add(v)
		}
		switch r.next() {
		case ',':
			r.at++
		case ']':
			r.at++
			return l.list(), nil
		default:
			return nil, r.wrong("a comma or a bracket is expected")
		}
	}
}

func (r *jsonReader) number() (any, error) {
	switch {
	case r.word("NaN"):
		return math.NaN(), nil
	case r.word("Infinity"):
		return math.Inf(1), nil
	case r.word("-Infinity"):
		return math.Inf(-1), nil
	}
	start := r.at
	integer := true
	for r.at < len(r.data) && r.at-start < 64 {
		c := r.data[r.at]
		if c == '.' || c == 'e' || c == 'E' {
			integer = false
		} else if (c < '0' || c > '9') && c != '-' && c != '+' {
			break
		}
		r.at++
	}
	text := string(r.data[start:r.at])
	if integer {
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return float64(n), nil
		}
	}
	f, err := strconv.ParseFloat(text, 32)
	if err != nil && !math.IsInf(f, 0) {
		r.at = start
		return nil, r.wrong("a value is expected")
	}
	return f, nil
}

func (r *jsonReader) text() (string, error) {
	r.at++
	start := r.at
	for r.at < len(r.data) && r.data[r.at] != '"' && r.data[r.at] != '\\' {
		r.at++
	}
	if r.at < len(r.data) && r.data[r.at] == '"' { // most have no escape
		s := string(r.data[start:r.at])
		r.at++
		return s, nil
	}
	out := append([]byte(nil), r.data[start:r.at]...)
	for r.at < len(r.data) {
		c := r.data[r.at]
		r.at++
		switch c {
		case '"':
			return string(out), nil
		case '\\':
			var err error
			if out, err = r.escape(out); err != nil {
				return "", err
			}
		default:
			out = append(out, c)
		}
	}
	return "", r.wrong("text has no end")
}

func (r *jsonReader) escape(out []byte) ([]byte, error) {
	if r.at >= len(r.data) {
		return nil, r.wrong("text has no end")
	}
	c := r.data[r.at]
	r.at++
	switch c {
	case '"', '\\', '/':
		return append(out, c), nil
	case 'b':
		return append(out, '\b'), nil
	case 'f':
		return append(out, '\f'), nil
	case 'n':
		return append(out, '\n'), nil
	case 'r':
		return append(out, '\r'), nil
	case 't':
		return append(out, '\t'), nil
	case 'u':
		first, ok := r.hex()
		if !ok {
			return nil, r.wrong("an escape is wrong")
		}
		if utf16.IsSurrogate(first) && r.word(`\u`) {
			second, ok := r.hex()
			if !ok {
				return nil, r.wrong("an escape is wrong")
			}
			first = utf16.DecodeRune(first, second)
		}
		return utf8.AppendRune(out, first), nil
	}
	return nil, r.wrong("an escape is wrong")
}

func (r *jsonReader) hex() (rune, bool) {
	if len(r.data)-r.at < 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(r.data[r.at:r.at+4]), 16, 16)
	r.at += 4
	return rune(n), err == nil
}
