package tensorjson

import (
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/rowcast/rowcast/internal/onnx"
)

// Append writes an object of tensors.
func Append(dst []byte, tensors []onnx.Tensor) []byte {
	dst = append(dst, '{')
	for i := range tensors {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(AppendString(dst, tensors[i].Name), ':')
		dst = AppendTensor(dst, &tensors[i])
	}
	return append(dst, '}')
}

// AppendTensor writes a tensor as nested arrays, as a bare value for rank 0, and as {"shape": ..., "data": []} where nesting cannot say the shape: a
// dimension of 0 hides every one that follows.
func AppendTensor(dst []byte, t *onnx.Tensor) []byte {
	if empty := slices.Index(t.Shape, 0); empty >= 0 && empty < len(t.Shape)-1 {
		dst = append(dst, `{"shape":[`...)
		for i, d := range t.Shape {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = strconv.AppendInt(dst, d, 10)
		}
		return append(dst, `],"data":[]}`...)
	}
	dst, _ = appendNested(dst, t, t.Shape, 0)
	return dst
}

func appendNested(dst []byte, t *onnx.Tensor, shape []int64, at int) ([]byte, int) {
	if len(shape) == 0 {
		return AppendElement(dst, t, at), at + 1
	}
	dst = append(dst, '[')
	for i := range shape[0] {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst, at = appendNested(dst, t, shape[1:], at)
	}
	return append(dst, ']'), at
}

// AppendElement writes element i.
func AppendElement(dst []byte, t *onnx.Tensor, i int) []byte {
	switch d := t.Data.(type) {
	case []int8:
		return strconv.AppendInt(dst, int64(d[i]), 10)
	case []int16:
		return strconv.AppendInt(dst, int64(d[i]), 10)
	case []int32:
		return strconv.AppendInt(dst, int64(d[i]), 10)
	case []int64:
		return strconv.AppendInt(dst, d[i], 10)
	case []uint8:
		return strconv.AppendUint(dst, uint64(d[i]), 10)
	case []uint32:
		return strconv.AppendUint(dst, uint64(d[i]), 10)
	case []uint64:
		return strconv.AppendUint(dst, d[i], 10)
	case []bool:
		return strconv.AppendBool(dst, d[i])
	case []string:
		return AppendString(dst, d[i])
	}
	v, bits := onnx.FloatAt(t.Data, t.DType, i)
	return AppendFloat(dst, v, bits)
}

// AppendFloat writes a float of 32 or 64 bits as a JSON number, or as a string where it is not finite, as to_jsonb does.
func AppendFloat(dst []byte, v float64, bits int) []byte {
	if v-v != 0 { // NaN or infinite
		dst = append(dst, '"')
		return append(AppendDecimal(dst, v, bits), '"')
	}
	return AppendDecimal(dst, v, bits)
}

// AppendDecimal writes a float of 32 or 64 bits with the fewest digits that read back as v, the non-finite spelled as PostgreSQL spells them. A float32 is
// written 0.1, not 0.10000000149011612, and that decimal is what PostgreSQL reads into its double precision.
func AppendDecimal(dst []byte, v float64, bits int) []byte {
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

// AppendString writes s as a JSON string. What is not UTF-8, which only a model can produce, becomes U+FFFD, and so does a NUL, which
// PostgreSQL's jsonb cannot hold.
func AppendString(dst []byte, s string) []byte {
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
