package convert

import (
	"math"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// A document is what a JSON or UBJ file says: map[string]any, []any, []float64 (a list of numbers or booleans alone), string, float64, bool or nil.
// XGBoost's lists hold int32, uint8 and float32, all of which a float64 carries.

// Bounds on what is read; real models stay far below.
const (
	maxDocumentDepth = 64
	maxKeys          = 1 << 26 // of all objects of a document
)

// unread names lists that a conversion never looks at. They are as long as the ones it needs, so they are passed over without being kept.
func unread(key string) bool {
	switch key {
	case "base_weights", "loss_changes", "sum_hessian", "parents", "sorted_idx":
		return true
	}
	return false
}

// object is a document's object with the path to it, for messages.
type object struct {
	path   string
	fields map[string]any
}

func (o object) has(key string) bool {
	v, ok := o.fields[key]
	return ok && v != nil
}

// object returns a field that must be an object.
func (o object) object(key string) (object, error) {
	fields, ok := o.fields[key].(map[string]any)
	if !ok {
		return object{}, o.missing(key, "an object")
	}
	return object{path: o.path + "." + key, fields: fields}, nil
}

// text returns a field that must be text.
func (o object) text(key string) (string, error) {
	s, ok := o.fields[key].(string)
	if !ok {
		return "", o.missing(key, "text")
	}
	return s, nil
}

// numbers returns a field that must be a list of numbers.
func (o object) numbers(key string) ([]float64, error) {
	switch v := o.fields[key].(type) {
	case []float64:
		return v, nil
	case []any:
		if len(v) == 0 {
			return nil, nil
		}
	}
	return nil, o.missing(key, "a list of numbers")
}

// optionalNumbers is numbers for a field that older files lack.
func (o object) optionalNumbers(key string) ([]float64, error) {
	if !o.has(key) {
		return nil, nil
	}
	return o.numbers(key)
}

// list returns a field that must be a list of anything but numbers.
func (o object) list(key string) ([]any, error) {
	switch v := o.fields[key].(type) {
	case []any:
		return v, nil
	case []float64:
		if len(v) == 0 {
			return nil, nil
		}
	}
	return nil, o.missing(key, "a list")
}

// texts returns a list of text; nil where the field is absent.
func (o object) texts(key string) ([]string, error) {
	if !o.has(key) {
		return nil, nil
	}
	list, err := o.list(key)
	if err != nil {
		return nil, err
	}
	out := make([]string, len(list))
	for i, v := range list {
		s, ok := v.(string)
		if !ok {
			return nil, o.missing(key, "a list of text")
		}
		out[i] = s
	}
	return out, nil
}

func (o object) missing(key, expected string) *rowcast.Error {
	if o.has(key) {
		return damagedXGBoost("%s.%s is not %s", clip(o.path), key, expected)
	}
	return damagedXGBoost("%s.%s, which should be %s, is absent", clip(o.path), key, expected)
}

// index reads a number that counts or numbers something: an integer from least to most.
func index(v float64, least, most int) (int, bool) {
	if !(v >= float64(least) && v <= float64(most)) || v != math.Trunc(v) {
		return 0, false
	}
	return int(v), true
}

// listBuilder keeps a list of numbers as []float64 until something else comes.
type listBuilder struct {
	numbers []float64
	others  []any
}

func (l *listBuilder) add(v any) {
	n, ok := numeric(v)
	if ok && l.others == nil {
		l.numbers = append(l.numbers, n)
		return
	}
	if l.others == nil {
		l.others = make([]any, 0, len(l.numbers)+1)
		for _, n := range l.numbers {
			l.others = append(l.others, n)
		}
		l.numbers = nil
	}
	l.others = append(l.others, v)
}

func (l *listBuilder) list() any {
	if l.others != nil {
		return l.others
	}
	return l.numbers
}

// numeric reads a number, or a boolean as older files write one (default_left), as a number.
func numeric(v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

// damagedXGBoost is the error of a file that does not hold together.
func damagedXGBoost(format string, args ...any) *rowcast.Error {
	return refused("the file is damaged or no XGBoost model: "+format, args...).WithHint(`Save the model again: booster.save_model("model.ubj").`)
}
