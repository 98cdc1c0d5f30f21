package predict

import (
	"math"
	"strconv"
	"unicode/utf8"
)

// appendFloat64 appends the shortest decimal that reads back as v, with the non-finite spelled as PostgreSQL spells them.
func appendFloat64(dst []byte, v float64) []byte { return appendDecimal(dst, v, 64) }

// appendDecimal likewise for a float of 32 or 64 bits. A float32 is written 0.1, not 0.10000000149011612, and that decimal is what PostgreSQL reads into
// its double precision.
func appendDecimal(dst []byte, v float64, bits int) []byte {
	switch {
	case v != v:
		return append(dst, "NaN"...)
	case v > math.MaxFloat64:
		return append(dst, "Infinity"...)
	case v < -math.MaxFloat64:
		return append(dst, "-Infinity"...)
	}
	return strconv.AppendFloat(dst, v, 'g', -1, bits)
}

// appendJSONFloat appends a JSON number, or a string where v is not finite, as to_jsonb does.
func appendJSONFloat(dst []byte, v float64, bits int) []byte {
	if v-v != 0 { // NaN or infinite
		dst = append(dst, '"')
		return append(appendDecimal(dst, v, bits), '"')
	}
	return appendDecimal(dst, v, bits)
}

// appendJSONString appends s as a JSON string. What is not UTF-8, which only a model can produce, becomes U+FFFD, and so does a NUL, which
// PostgreSQL's jsonb cannot hold.
func appendJSONString(dst []byte, s string) []byte {
	const digits = "0123456789abcdef"
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			i++
			switch {
			case c == '"' || c == '\\':
				dst = append(dst, '\\', c)
			case c == '\n':
				dst = append(dst, '\\', 'n')
			case c == '\t':
				dst = append(dst, '\\', 't')
			case c == '\r':
				dst = append(dst, '\\', 'r')
			case c == 0:
				dst = utf8.AppendRune(dst, utf8.RuneError)
			case c < ' ':
				dst = append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
			default:
				dst = append(dst, c)
			}
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		i += n
		dst = utf8.AppendRune(dst, r)
	}
	return append(dst, '"')
}

// appendText appends s as a text value of PostgreSQL: valid UTF-8 without NUL.
func appendText(dst []byte, s string) []byte {
	for _, r := range s { // ranging over invalid UTF-8 yields U+FFFD
		if r == 0 {
			r = utf8.RuneError
		}
		dst = utf8.AppendRune(dst, r)
	}
	return dst
}
