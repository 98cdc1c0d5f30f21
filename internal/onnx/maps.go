package onnx

import (
	"slices"

	"github.com/rowcast/rowcast/internal/rowcast"
	ort "github.com/yalue/onnxruntime_go"
)

// readMaps flattens a sequence of maps, one map per row, to [rows, keys].
func readMaps(t *Tensor, sequence *ort.Sequence) error {
	rows, err := sequence.GetValues()
	if err != nil {
		return rowcast.Errorf(rowcast.CodeModelFailed, "output %q can't be read", t.Name).WithCause(err)
	}
	var numbers []float32
	t.MapKeys = nil
	for _, row := range rows {
		m, ok := row.(*ort.Map)
		if !ok {
			return rowcast.Errorf(rowcast.CodeModelFailed, "output %q is a sequence of %s, which Rowcast can't carry", t.Name, row.GetONNXType())
		}
		keys, values, err := m.GetKeysAndValues()
		if err != nil {
			return rowcast.Errorf(rowcast.CodeModelFailed, "output %q can't be read", t.Name).WithCause(err)
		}
		names, err := contents(keys)
		if err != nil {
			return rowcast.Errorf(rowcast.CodeModelFailed, "the keys of output %q can't be read", t.Name).WithCause(err)
		}
		list, err := contents(values)
		floats, ok := list.([]float32)
		if err != nil || !ok {
			return rowcast.Errorf(rowcast.CodeModelFailed, "the values of output %q are no float32", t.Name).WithCause(err)
		}
		if t.MapKeys == nil {
			t.MapKeys = names
		} else if !sameKeys(t.MapKeys, names) {
			return rowcast.Errorf(rowcast.CodeModelFailed, "the maps of output %q have different keys", t.Name)
		}
		numbers = append(numbers, floats...)
	}
	width := 0
	if t.MapKeys != nil {
		width = DataLen(t.MapKeys)
	}
	t.DType, t.Data, t.Shape = rowcast.Float32, numbers, []int64{int64(len(rows)), int64(width)}
	return nil
}

func sameKeys(a, b any) bool {
	switch a := a.(type) {
	case []string:
		b, ok := b.([]string)
		return ok && slices.Equal(a, b)
	case []int64:
		b, ok := b.([]int64)
		return ok && slices.Equal(a, b)
	}
	return false
}
