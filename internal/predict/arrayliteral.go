package predict

import (
	"github.com/rowcast/rowcast/internal/rowcast"
	"github.com/rowcast/rowcast/internal/tensorjson"
)

// literal is an array literal such as {1,2.5,NULL,"x"}, read by PostgreSQL's rules for array_in: quotes, backslashes, nested braces, an optional
// [lower:upper]= in front. Its elements stay text.
type literal struct {
	cells []cell
	dims  []int  // rank and sizes; empty for {}
	buf   []byte // elements that held a backslash
}

type literalReader struct {
	text []byte
	pos  int
	out  *literal
}

// maxRank is the number of dimensions that PostgreSQL's arrays can have.
const maxRank = 6

func (r *literalReader) fault(what string) *rowcast.Error {
	e := rowcast.Errorf(rowcast.CodeInvalidText, "invalid array: %s", what)
	if r.pos >= len(r.text) {
		return e.WithDetail("the text ends after %d bytes", len(r.text))
	}
	return e.WithDetail("at byte %d: %q", r.pos+1, tensorjson.Excerpt(r.text[r.pos:]))
}

func isArraySpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

func (r *literalReader) peek() byte {
	for r.pos < len(r.text) && isArraySpace(r.text[r.pos]) {
		r.pos++
	}
	if r.pos < len(r.text) {
		return r.text[r.pos]
	}
	return 0
}

// read fills l from text, keeping the memory that l already has.
func (l *literal) read(text []byte) error {
	l.cells, l.dims, l.buf = l.cells[:0], l.dims[:0], l.buf[:0]
	r := literalReader{text: text, out: l}
	if err := r.bounds(); err != nil {
		return err
	}
	if err := r.level(0); err != nil {
		return err
	}
	if r.peek() != 0 || r.pos < len(r.text) {
		return r.fault("unexpected text after the closing brace")
	}
	for _, n := range l.dims {
		if n == 0 {
			l.dims = l.dims[:0]
			break
		}
	}
	return nil
}

// bounds passes over [lower:upper]...= : where an array starts to count says nothing about its features.
func (r *literalReader) bounds() error {
	if r.peek() != '[' {
		return nil
	}
	start := r.pos
	for r.peek() == '[' {
		for r.pos++; r.pos < len(r.text) && r.text[r.pos] != ']'; r.pos++ {
			if c := r.text[r.pos]; (c < '0' || c > '9') && c != ':' && c != '-' && c != '+' {
				r.pos = start
				return r.fault("an array literal starts with a brace").WithHint("write {1,2,3} instead of [1,2,3]")
			}
		}
		r.pos++
	}
	if r.peek() != '=' {
		r.pos = min(start, len(r.text))
		return r.fault("an array literal starts with a brace").WithHint("write {1,2,3} instead of [1,2,3]")
	}
	r.pos++
	return nil
}

// level reads one pair of braces at a depth counted from zero.
func (r *literalReader) level(depth int) error {
	if r.peek() != '{' {
		return r.fault("expected an opening brace")
	}
	if depth == maxRank {
		return r.fault("more than six dimensions")
	}
	r.pos++
	known := depth < len(r.out.dims)
	if !known {
		r.out.dims = append(r.out.dims, 0)
	}
	n := 0
	if r.peek() == '}' {
		r.pos++
	} else {
		for more := true; more; n++ {
			var err error
			if r.peek() == '{' {
				if depth+1 == len(r.out.dims) && (known || n > 0) {
					return r.fault("rows and single values are mixed")
				}
				err = r.level(depth + 1)
			} else {
				if depth+1 < len(r.out.dims) {
					return r.fault("rows and single values are mixed")
				}
				err = r.element()
			}
			if err != nil {
				return err
			}
			switch r.peek() {
			case ',':
				r.pos++
			case '}':
				r.pos++
				more = false
			default:
				return r.fault("expected a comma or a closing brace")
			}
		}
	}
	if known && r.out.dims[depth] != n {
		return r.fault("rows of different lengths")
	}
	r.out.dims[depth] = n
	return nil
}

// element reads one value, quoted or not.
func (r *literalReader) element() error {
	if r.peek() == '"' {
		return r.quoted()
	}
	start, end, from := r.pos, r.pos, -1
	for ; r.pos < len(r.text); r.pos++ {
		c := r.text[r.pos]
		if c == ',' || c == '}' || c == '{' || c == '"' {
			break
		}
		if c == '\\' {
			if from < 0 {
				from = len(r.out.buf)
				r.out.buf = append(r.out.buf, r.text[start:r.pos]...)
			}
			if r.pos++; r.pos == len(r.text) {
				return r.fault("a backslash ends the text")
			}
			r.out.buf = append(r.out.buf, r.text[r.pos])
			end = r.pos + 1
			continue
		}
		if from >= 0 {
			r.out.buf = append(r.out.buf, c)
		}
		if !isArraySpace(c) {
			end = r.pos + 1
		}
	}
	if end == start {
		return r.fault("an element is empty")
	}
	if r.pos < len(r.text) && (r.text[r.pos] == '{' || r.text[r.pos] == '"') {
		return r.fault("unexpected brace or quote inside an element")
	}
	word := r.text[start:end:end]
	if from >= 0 {
		r.out.buf = r.out.buf[:len(r.out.buf)-(r.pos-end)]
		word = r.out.buf[from:len(r.out.buf):len(r.out.buf)]
	} else if equalFold(word, "null") {
		r.out.cells = append(r.out.cells, cell{kind: cellNull})
		return nil
	}
	r.out.cells = append(r.out.cells, cell{kind: cellWord, text: word})
	return nil
}

func (r *literalReader) quoted() error {
	r.pos++
	start, from := r.pos, -1
	for ; r.pos < len(r.text); r.pos++ {
		c := r.text[r.pos]
		if c == '"' {
			word := r.text[start:r.pos:r.pos]
			if from >= 0 {
				word = r.out.buf[from:len(r.out.buf):len(r.out.buf)]
			}
			r.pos++
			r.out.cells = append(r.out.cells, cell{kind: cellWord, text: word})
			return nil
		}
		if c == '\\' {
			if from < 0 {
				from = len(r.out.buf)
				r.out.buf = append(r.out.buf, r.text[start:r.pos]...)
			}
			if r.pos++; r.pos == len(r.text) {
				break
			}
			c = r.text[r.pos]
		}
		if from >= 0 {
			r.out.buf = append(r.out.buf, c)
		}
	}
	return r.fault("a quoted element does not end")
}

// equalFold compares word with a lower-case ASCII word.
func equalFold(word []byte, lower string) bool {
	if len(word) != len(lower) {
		return false
	}
	for i, c := range word {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}
