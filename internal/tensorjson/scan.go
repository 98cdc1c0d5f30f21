package tensorjson

import (
	"bytes"
	"strconv"
	"unicode/utf8"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// jsonDepth is how deep values may nest. PostgreSQL's own limit is its stack; ours is a number.
const jsonDepth = 1000

// A Scanner reads JSON text once, front to back, without building anything. Strings come back as slices of the text, decoded into buf only
// where they hold escapes.
type Scanner struct {
	text []byte
	pos  int
	buf  []byte // decoded strings, appended to: earlier slices stay valid
}

// Reset starts over with another text. Strings that came from the one before are lost.
func (s *Scanner) Reset(text []byte) {
	s.text, s.pos, s.buf = text, 0, s.buf[:0]
}

// Shrink gives back the memory of decoded strings where it is more than that many bytes.
func (s *Scanner) Shrink(most int) {
	if cap(s.buf) > most {
		s.buf = nil
	}
}

// Fault says where the text stops being JSON. Positions are counted in bytes from one.
func (s *Scanner) Fault(what string) *rowcast.Error {
	e := rowcast.Errorf(rowcast.CodeInvalidText, "invalid JSON: %s", what)
	if s.pos >= len(s.text) {
		return e.WithDetail("the text ends after %d bytes", len(s.text))
	}
	return e.WithDetail("at byte %d: %q", s.pos+1, Excerpt(s.text[s.pos:]))
}

func (s *Scanner) space() {
	for s.pos < len(s.text) {
		switch s.text[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

// Peek skips white space and returns the next byte, 0 at the end.
func (s *Scanner) Peek() byte {
	s.space()
	if s.pos < len(s.text) {
		return s.text[s.pos]
	}
	return 0
}

// Advance passes over the byte that Peek returned.
func (s *Scanner) Advance() { s.pos++ }

// End reports an error unless only white space is left.
func (s *Scanner) End() error {
	s.space()
	if s.pos < len(s.text) {
		return s.Fault("unexpected text after the value")
	}
	return nil
}

// Str reads a string; the next byte must be the quote.
func (s *Scanner) Str() ([]byte, error) {
	if s.Peek() != '"' {
		return nil, s.Fault("expected a string")
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
			return nil, s.Fault("control character in a string")
		}
	}
	s.pos = len(s.text)
	return nil, s.Fault("a string does not end")
}

// escaped goes on with a string that began at start and has its first backslash at i.
func (s *Scanner) escaped(start, i int) ([]byte, error) {
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
			return nil, s.Fault("control character in a string")
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
				return nil, s.Fault(`\u is not followed by four hexadecimal digits, or is half of a surrogate pair`)
			case r == 0:
				return nil, s.Fault(`\u0000 cannot be part of a text`)
			}
			s.buf = utf8.AppendRune(s.buf, r)
			i += n
		default:
			return nil, s.Fault("unknown escape in a string")
		}
	}
	s.pos = len(s.text)
	return nil, s.Fault("a string does not end")
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
	r, err := strconv.ParseUint(string(text[:4]), 16, 16)
	return rune(r), err == nil
}

// number reads a number and returns its text.
func (s *Scanner) number() ([]byte, error) {
	s.space()
	start := s.pos
	n := numberLength(s.text[start:])
	if n == 0 {
		return nil, s.Fault("expected a value")
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

// Value reads any value. Of objects and arrays only the kind comes back.
func (s *Scanner) Value() (Value, error) {
	switch c := s.Peek(); c {
	case '"':
		text, err := s.Str()
		return Value{Kind: String, Text: text}, err
	case '{', '[':
		kind := Object
		if c == '[' {
			kind = Array
		}
		return Value{Kind: kind}, s.skip(0)
	case 'n':
		return Value{Kind: Null}, s.word("null")
	case 't':
		return Value{Kind: True}, s.word("true")
	case 'f':
		return Value{Kind: False}, s.word("false")
	default:
		text, err := s.number()
		return Value{Kind: Number, Text: text}, err
	}
}

func (s *Scanner) word(w string) error {
	if !bytes.HasPrefix(s.text[s.pos:], []byte(w)) {
		return s.Fault("expected a value")
	}
	s.pos += len(w)
	return nil
}

// skip passes over an object or an array.
func (s *Scanner) skip(depth int) error {
	if depth > jsonDepth {
		return rowcast.Errorf(rowcast.CodeTooLarge, "JSON nests deeper than %d levels", jsonDepth)
	}
	keep := len(s.buf)
	defer func() { s.buf = s.buf[:keep] }()
	element := func() error {
		if c := s.Peek(); c == '{' || c == '[' {
			return s.skip(depth + 1)
		}
		_, err := s.Value()
		return err
	}
	if s.Peek() == '[' {
		return s.array(element)
	}
	return s.object(func([]byte) error { return element() })
}

// object reads an object, calling member with each key when the value is next.
func (s *Scanner) object(member func(key []byte) error) error {
	if s.Peek() != '{' {
		return s.Fault("expected an object")
	}
	s.pos++
	if s.Peek() == '}' {
		s.pos++
		return nil
	}
	for {
		key, err := s.Str()
		if err != nil {
			return err
		}
		if s.Peek() != ':' {
			return s.Fault("expected a colon after a key")
		}
		s.pos++
		if err := member(key); err != nil {
			return err
		}
		switch s.Peek() {
		case ',':
			s.pos++
		case '}':
			s.pos++
			return nil
		default:
			return s.Fault("expected a comma or the end of the object")
		}
	}
}

// array reads an array, calling element when each value is next.
func (s *Scanner) array(element func() error) error {
	if s.Peek() != '[' {
		return s.Fault("expected an array")
	}
	s.pos++
	if s.Peek() == ']' {
		s.pos++
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		switch s.Peek() {
		case ',':
			s.pos++
		case ']':
			s.pos++
			return nil
		default:
			return s.Fault("expected a comma or the end of the array")
		}
	}
}
