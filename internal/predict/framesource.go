package predict

import (
	"encoding/binary"
	"math"
	"strconv"

	"github.com/rowcast/rowcast/internal/rowcast"
	"github.com/rowcast/rowcast/internal/tensorjson"
)

// The types of PostgreSQL whose binary format a Frame reads.
const (
	oidBool    = 16
	oidChar    = 18
	oidName    = 19
	oidInt8    = 20
	oidInt2    = 21
	oidInt4    = 23
	oidText    = 25
	oidOID     = 26
	oidJSON    = 114
	oidFloat4  = 700
	oidFloat8  = 701
	oidUnknown = 705
	oidBpchar  = 1042
	oidVarchar = 1043
	oidNumeric = 1700
	oidJSONB   = 3802
)

// Readable reports whether a Frame reads columns of a type. to_json() of any other is what a single row would be read from.
func Readable(oid uint32) bool {
	switch oid {
	case oidBool, oidChar, oidName, oidInt8, oidInt2, oidInt4, oidText, oidOID, oidFloat4, oidFloat8, oidUnknown, oidBpchar, oidVarchar, oidNumeric, oidJSON, oidJSONB:
		return true
	}
	return false
}

// source is a column that is a feature.
type source struct {
	column  int // of the row
	at      int // of the feature
	feature *feature
	oid     uint32
	quick   bool // a float or integer column of a number, in a tensor of floats: one of the two below
	width   int  // elements per row of that tensor

	float32s []float32
	float64s []float64
}

// bind finds the features among the columns.
func (f *Frame) bind(columns []Column) error {
	p := f.model.plan
	seen := make([]bool, len(p.features))
	for i, c := range columns {
		at, known := p.index[c.Name]
		if !known {
			continue
		}
		feature := &p.features[at]
		if seen[at] {
			return f.filler.twice(feature)
		}
		seen[at] = true
		if !Readable(c.OID) {
			return f.filler.errorf(rowcast.CodeFeatureType, ": feature %q takes %s, and its column is of a type that it cannot be read from", c.Name, feature.takes()).
				WithDetail("The type has the OID %d.", c.OID).WithHint("Cast the column to text, boolean or a number.")
		}
		f.sources = append(f.sources, source{column: i, at: at, feature: feature, oid: c.OID})
	}
	return nil
}

// quicken finds the sources that need no look at the rules.
func (f *Frame) quicken() {
	for i := range f.sources {
		s := &f.sources[i]
		switch s.oid {
		case oidFloat4, oidFloat8, oidInt2, oidInt4, oidInt8:
		default:
			continue
		}
		if k := s.feature.kind; k != rowcast.TypeReal && k != rowcast.TypeDouble {
			continue
		}
		s.width = f.filler.widths[s.feature.input]
		switch data := f.filler.inputs[s.feature.input].Data.(type) {
		case []float32:
			s.float32s, s.quick = data, true
		case []float64:
			s.float64s, s.quick = data, true
		}
	}
}

// number reads a value of a quick source. ok is false where it is not of the type's length.
func (s *source) number(value []byte) (x float64, ok bool) {
	switch len(value) {
	case 8:
		switch bits := binary.BigEndian.Uint64(value); s.oid {
		case oidFloat8:
			return math.Float64frombits(bits), true
		case oidInt8:
			return float64(int64(bits)), true
		}
	case 4:
		switch bits := binary.BigEndian.Uint32(value); s.oid {
		case oidFloat4:
			v := math.Float32frombits(bits)
			if s.float32s != nil {
				return float64(v), true
			}
			return decimal32(v), true
		case oidInt4:
			return float64(int32(bits)), true
		}
	case 2:
		if s.oid == oidInt2 {
			return float64(int16(binary.BigEndian.Uint16(value))), true
		}
	}
	return 0, false
}

// cell reads any value. The cell is good until the next one is read.
func (f *Frame) cell(s *source, value []byte) (cell, error) {
	if value == nil {
		return cell{kind: cellNull}, nil
	}
	size := len(value)
	switch s.oid {
	case oidFloat8:
		if size == 8 {
			return cell{kind: cellFloat, float: math.Float64frombits(binary.BigEndian.Uint64(value))}, nil
		}
	case oidFloat4:
		if size == 4 {
			return cell{kind: cellFloat, float: decimal32(math.Float32frombits(binary.BigEndian.Uint32(value)))}, nil
		}
	case oidInt8:
		if size == 8 {
			return cell{kind: cellInt, int: int64(binary.BigEndian.Uint64(value))}, nil
		}
	case oidInt4:
		if size == 4 {
			return cell{kind: cellInt, int: int64(int32(binary.BigEndian.Uint32(value)))}, nil
		}
	case oidOID:
		if size == 4 {
			return cell{kind: cellInt, int: int64(binary.BigEndian.Uint32(value))}, nil
		}
	case oidInt2:
		if size == 2 {
			return cell{kind: cellInt, int: int64(int16(binary.BigEndian.Uint16(value)))}, nil
		}
	case oidBool:
		if size == 1 && value[0] <= 1 {
			return cell{kind: cellFalse - cellKind(value[0])*(cellFalse-cellTrue)}, nil
		}
	case oidNumeric:
		if c, ok := f.numeric.read(value); ok {
			return c, nil
		}
	case oidJSON, oidJSONB:
		if s.oid == oidJSONB && size > 0 {
			value = value[1:] // a version
		}
		if v, err := tensorjson.ParseValue(value); err == nil {
			return jsonCell(v), nil
		}
	default:
		return cell{kind: cellString, text: value}, nil
	}
	return cell{}, about(&f.call, rowcast.CodeProtocol, ": feature %q came as %s, which its type of OID %d does not write", s.feature.name,
		plural(size, "byte"), s.oid)
}

// readDecimal is decimal32 for what is no small integer.
func readDecimal(v float32) float64 {
	if v-v != 0 {
		return float64(v)
	}
	var buf [24]byte
	x, _ := tensorjson.ParseFloat(strconv.AppendFloat(buf[:0], float64(v), 'g', -1, 32))
	return x
}
