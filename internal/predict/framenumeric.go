package predict

import (
	"encoding/binary"
	"math"
	"strconv"
)

// Signs in the binary format of PostgreSQL's numeric.
const (
	numericPositive = 0x0000
	numericNegative = 0x4000
	numericNaN      = 0xC000
	numericInf      = 0xD000
	numericNegInf   = 0xF000
)

// numericText reads numerics; it keeps the memory for the text of long ones.
type numericText struct {
	text []byte
}

// read reads a numeric: number of base-10000 digits, weight of the first, sign, decimals shown, digits, each of two bytes. ok is false where it is
// none. An integer within int64 is exact; what has at most 15 decimal digits becomes the nearest double; anything else stays text.
func (n *numericText) read(value []byte) (c cell, ok bool) {
	if len(value) < 8 {
		return c, false
	}
	count, weight := int(binary.BigEndian.Uint16(value)), int(int16(binary.BigEndian.Uint16(value[2:])))
	sign, digits := binary.BigEndian.Uint16(value[4:]), value[8:]
	switch sign {
	case numericPositive, numericNegative:
	case numericNaN:
		return cell{kind: cellFloat, float: math.NaN()}, count == 0
	case numericInf:
		return cell{kind: cellFloat, float: math.Inf(1)}, count == 0
	case numericNegInf:
		return cell{kind: cellFloat, float: math.Inf(-1)}, count == 0
	default:
		return c, false
	}
	if len(digits) != 2*count {
		return c, false
	}
	for i := 0; i < len(digits); i += 2 {
		if binary.BigEndian.Uint16(digits[i:]) > 9999 {
			return c, false
		}
	}
	// The value is the digits as one integer, times 10000 to the power of scale.
	scale := weight - count + 1
	if count <= 4 && scale <= 4-count && scale >= -5 {
		mantissa := int64(0)
		for i := 0; i < len(digits); i += 2 {
			mantissa = mantissa*10000 + int64(binary.BigEndian.Uint16(digits[i:]))
		}
		for ; scale > 0; scale-- {
			mantissa *= 10000
		}
		if sign == numericNegative {
			mantissa = -mantissa
		}
		if scale == 0 {
			return cell{kind: cellInt, int: mantissa}, true
		}
		if mantissa > -1<<53 && mantissa < 1<<53 {
			divisor := 1.0
			for ; scale < 0; scale++ {
				divisor *= 10000 // exact up to 1e22
			}
			return cell{kind: cellFloat, float: float64(mantissa) / divisor}, true
		}
	}
	n.write(digits, weight, sign == numericNegative)
	return cell{kind: cellNumber, text: n.text}, true
}

// write writes the decimal, with an exponent: the digits of 1e131071 need not be written out.
func (n *numericText) write(digits []byte, weight int, negative bool) {
	n.text = n.text[:0]
	if negative {
		n.text = append(n.text, '-')
	}
	for i := 0; i < len(digits); i += 2 {
		d := binary.BigEndian.Uint16(digits[i:])
		n.text = append(n.text, '0'+byte(d/1000), '0'+byte(d/100%10), '0'+byte(d/10%10), '0'+byte(d%10))
	}
	if len(digits) == 0 {
		n.text = append(n.text, '0')
	}
	n.text = append(n.text, 'e')
	n.text = strconv.AppendInt(n.text, int64(4*(weight+1-len(digits)/2)), 10)
}
