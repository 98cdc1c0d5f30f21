package predict

import (
	"bytes"
	"unicode/utf8"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// jsonDepth is how deep values may nest. PostgreSQL's own limit is its stack; ours is a number.
const jsonDepth = 1000

// A scanner reads JSON text once, front to back, without building anything. Strings come back as slices of the text, decoded into buf only
// where they hold escapes.
type scanner struct {
	text []byte
	pos  int
	buf  []byte // decoded strings, appended to: earlier slices stay valid
}

// fault says where the text stops being JSON. Positions are counted in bytes from one.
func (s *scanner) fault(what string) *rowcast.Error {
	e := rowcast.Errorf(rowcast.CodeInvalidText, "invalid JSON: %s", what)
	if s.pos >= len(s.text) {
		return e.WithDetail("the text ends after %d bytes", len(s.text))
	}
	return e.WithDetail("at byte %d: %q", s.pos+1, excerpt(s.text[s.pos:]))
}

func (s *scanner) space() {
	for s.pos < len(s.text) {
		switch s.text[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

// peek skips white space and returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	s.space()
	if s.pos < len(s.text) {
		return s.text[s.pos]
	}
	return 0
}

// end reports an error unless only white space is left.
func (s *scanner) end() error {
	s.space()
	if s.pos < len(s.text) {
		return s.fault("unexpected text after the value")
	}
	return nil
}

// str reads a string; the next byte must be the quote.
func (s *scanner) str() ([]byte, error) {
	if s.peek() != '"' {
		return nil, s.fault("expected a string")
	}
	s.pos++
	start := s.pos
	for i := start; i < len(s.text); i++ {
		switch c := s.text[i]; {
		case c == '"':
			s.pos = i + 1
			return s.text[start:i:i], nil
		case c == '\\':
			return s.escaped(start, i)
		case c < ' ':
			s.pos = i
			return nil, s.fault("control character in a string")
		}
	}
	s.pos = len(s.text)
	return nil, s.fault("a string does not end")
}

// escaped goes on with a string that began at start and has its first backslash at i.
func (s *scanner) escaped(start, i int) ([]byte, error) {
	from := len(s.buf)
	s.buf = append(s.buf, s.text[start:i]...)
	for i < len(s.text) {
		c := s.text[i]
		if c == '"' {
			s.pos = i + 1
			return s.buf[from:len(s.buf):len(s.buf)], nil
		}
		if c < ' ' {
			s.pos = i
			return nil, s.fault("control character in a string")
		}
		if c != '\\' {
			s.buf = append(s.buf, c)
			i++
			continue
		}
		s.pos = i
		if i+1 >= len(s.text) {
			break
		}
		i += 2
		switch s.text[i-1] {
		case '"', '\\', '/':
			s.buf = append(s.buf, s.text[i-1])
		case 'b':
			s.buf = append(s.buf, '\b')
		case 'f':
			s.buf = append(s.buf, '\f')
		case 'n':
			s.buf = append(s.buf, '\n')
		case 'r':
			s.buf = append(s.buf, '\r')
		case 't':
			s.buf = append(s.buf, '\t')
		case 'u':
			r, n := decodeUnicode(s.text[i:])
			switch {
			case n == 0:
				return nil, s.fault(`\u is not followed by four hexadecimal digits, or is half of a surrogate pair`)
			case r == 0:
				return nil, s.fault(`\u0000 cannot be part of a text`)
			}
			s.buf = utf8.AppendRune(s.buf, r)
			i += n
		default:
			return nil, s.fault("unknown escape in a string")
		}
	}
	s.pos = len(s.text)
	return nil, s.fault("a string does not end")
}

// decodeUnicode reads what follows \u: four digits, or a surrogate pair, and returns how many bytes that took, 0 where it is malformed.
func decodeUnicode(text []byte) (rune, int) {
	r, ok := hex4(text)
	switch {
	case !ok, r >= 0xdc00 && r < 0xe000:
		return 0, 0
	case r < 0xd800 || r >= 0xe000:
		return r, 4
	}
	if len(text) < 10 || text[4] != '\\' || text[5] != 'u' {
		return 0, 0
	}
	low, ok := hex4(text[6:])
	if !ok || low < 0xdc00 || low >= 0xe000 {
		return 0, 0
	}
	return (r-0xd800)<<10 | (low - 0xdc00) + 0x10000, 10
}

func hex4(text []byte) (rune, bool) {
	if len(text) < 4 {
		return 0, false
	}
	var r rune
	for _, c := range text[:4] {
		d := hexValues[c]
		if d > 15 {
			return 0, false
		}
		r = r<<4 | rune(d)
	}
	return r, true
}

// number reads a number and returns its text.
func (s *scanner) number() ([]byte, error) {
	s.space()
	start := s.pos
	n := numberLength(s.text[start:])
	if n == 0 {
		return nil, s.fault("expected a value")
	}
	s.pos += n
	return s.text[start:s.pos:s.pos], nil
}

// numberLength returns how many bytes at the front of text are a JSON number, 0 where there is none.
func numberLength(text []byte) int {
	i := 0
	if i < len(text) && text[i] == '-' {
		i++
	}
	digits := func() bool {
		from := i
		for i < len(text) && text[i] >= '0' && text[i] <= '9' {
			i++
		}
		return i > from
	}
	first := i
	if !digits() || text[first] == '0' && i > first+1 {
		return 0
	}
	if i < len(text) && text[i] == '.' {
		i++
		if !digits() {
			return 0
		}
	}
	if i < len(text) && (text[i] == 'e' || text[i] == 'E') {
		i++
		if i < len(text) && (text[i] == '+' || text[i] == '-') {
			i++
		}
		if !digits() {
			return 0
		}
	}
	return i
}

// value reads any value. Of objects and arrays only the kind comes back.
func (s *scanner) value() (cell, error) {
	switch c := s.peek(); c {
	case '"':
		text, err := s.str()
		return cell{kind: cellString, text: text}, err
	case '{', '[':
		kind := cellObject
		if c == '[' {
			kind = cellArray
		}
		return cell{kind: kind}, s.skip(0)
	case 'n':
		return cell{kind: cellNull}, s.word("null")
	case 't':
		return cell{kind: cellTrue}, s.word("true")
	case 'f':
		return cell{kind: cellFalse}, s.word("false")
	default:
		text, err := s.number()
		return cell{kind: cellNumber, text: text}, err
	}
}

func (s *scanner) word(w string) error {
	if !bytes.HasPrefix(s.text[s.pos:], []byte(w)) {
		return s.fault("expected a value")
	}
	s.pos += len(w)
	return nil
}

// skip passes over an object or an array.
func (s *scanner) skip(depth int) error {
	if depth > jsonDepth {
		return rowcast.Errorf(rowcast.CodeTooLarge, "JSON nests deeper than %d levels", jsonDepth)
	}
	keep := len(s.buf)
	defer func() { s.buf = s.buf[:keep] }()
	element := func() error {
		if c := s.peek(); c == '{' || c == '[' {
			return s.skip(depth + 1)
		}
		_, err := s.value()
		return err
	}
	if s.peek() == '[' {
		return s.array(element)
	}
	return s.object(func([]byte) error { return element() })
}

// object reads an object, calling member with each key when the value is next.
func (s *scanner) object(member func(key []byte) error) error {
	if s.peek() != '{' {
		return s.fault("expected an object")
	}
	s.pos++
	if s.peek() == '}' {
		s.pos++
		return nil
	}
	for {
		key, err := s.str()
		if err != nil {
			return err
		}
		if s.peek() != ':' {
			return s.fault("expected a colon after a key")
		}
		s.pos++
		if err := member(key); err != nil {
			return err
		}
		switch s.peek() {
		case ',':
			s.pos++
		case '}':
			s.pos++
			return nil
		default:
			return s.fault("expected a comma or the end of the object")
		}
	}
}

// array reads an array, calling element when each value is next.
func (s *scanner) array(element func() error) error {
	if s.peek() != '[' {
		return s.fault("expected an array")
	}
	s.pos++
	if s.peek() == ']' {
		s.pos++
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		switch s.peek() {
		case ',':
			s.pos++
		case ']':
			s.pos++
			return nil
		default:
			return s.fault("expected a comma or the end of the array")
		}
	}
}

// excerpt cuts text for a message, at the border of a character.
func excerpt(text []byte) string {
	const most = 40
	if len(text) <= most {
		return string(text)
	}
	n := most
	for n > most-utf8.UTFMax && !utf8.RuneStart(text[n]) {
		n--
	}
	return string(text[:n]) + "..."
}
