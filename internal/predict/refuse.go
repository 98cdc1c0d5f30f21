package predict

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/agnivade/levenshtein"

	"github.com/rowcast/rowcast/internal/rowcast"
	"github.com/rowcast/rowcast/internal/tensorjson"
)

// nameModel starts every message about a call.
func nameModel(c *rowcast.Call) string {
	return fmt.Sprintf("model %q version %d", c.Model, c.Version)
}

// about makes an error whose message starts with the model that c calls: the model is the subject of what follows, unless that starts with a colon.
func about(c *rowcast.Call, code rowcast.Code, format string, args ...any) *rowcast.Error {
	message := fmt.Sprintf(format, args...)
	if strings.HasPrefix(message, ":") {
		return rowcast.Errorf(code, "%s%s", nameModel(c), message)
	}
	return rowcast.Errorf(code, "%s %s", nameModel(c), message)
}

// withModel puts the model in front of an error that was made where only the text, the tensors or the artifact were known. err is left as it
// is: several callers may share it.
func withModel(c *rowcast.Call, err error) error {
	var e *rowcast.Error
	if !errors.As(err, &e) {
		return rowcast.Errorf(rowcast.CodeInternal, "%s", nameModel(c)).WithCause(err)
	}
	named := *e
	if !strings.HasPrefix(named.Message, nameModel(c)) {
		named.Message = nameModel(c) + ": " + named.Message
	}
	return &named
}

func (r *filler) errorf(code rowcast.Code, format string, args ...any) *rowcast.Error {
	return about(r.call, code, format, args...)
}

func (r *filler) wrap(err error) error { return withModel(r.call, err) }

// expected lists the features with their types.
func (r *filler) expected() string {
	names := make([]string, len(r.plan.features))
	for i, f := range r.plan.features {
		names[i] = fmt.Sprintf("%q %s", f.name, f.kind)
	}
	return "The features are " + tensorjson.Listed(names) + "."
}

func (r *filler) noValue(f *feature, v cell) error {
	const hint = "Pass a value, or register the model with a default for the feature or with missing: true."
	switch v.kind {
	case cellAbsent:
		return r.errorf(rowcast.CodeMissingFeature, "needs feature %q (%s)", f.name, f.kind).WithHint(hint)
	case cellNull:
		return r.errorf(rowcast.CodeNullFeature, ": feature %q (%s) is NULL and has no default", f.name, f.kind).WithHint(hint)
	}
	return r.errorf(rowcast.CodeFeatureRange, ": feature %q (%s) is NaN and has no default", f.name, f.kind).WithHint(hint)
}

func (r *filler) wrongType(f *feature, v cell) error {
	return r.errorf(rowcast.CodeFeatureType, ": feature %q takes %s, got %s", f.name, f.takes(), v.describe())
}

func (f *feature) takes() string {
	switch f.kind {
	case rowcast.TypeBigint:
		return "a bigint"
	case rowcast.TypeBoolean:
		return "a boolean"
	case rowcast.TypeText:
		return "text"
	}
	switch f.dtype {
	case rowcast.Float16, rowcast.BFloat16, rowcast.Float32, rowcast.Float64:
		return "a number (" + string(f.kind) + ")"
	}
	return "an integer (its tensor is " + string(f.dtype) + ")"
}

func (r *filler) outOfRange(f *feature, v cell) error {
	return r.errorf(rowcast.CodeFeatureRange, ": feature %q (%s, tensor of %s) cannot hold %s", f.name, f.kind, f.dtype, v.describe())
}

func (r *filler) infinite(f *feature, v cell) error {
	return r.errorf(rowcast.CodeFeatureRange, ": feature %q takes finite numbers, got %s", f.name, v.describe()).
		WithHint("Register the model with allow_infinity: true if it is meant to take infinities.")
}

// absent names every feature that an object lacks.
func (r *filler) absent(seen []bool) error {
	var lacking []feature
	for i, f := range r.plan.features {
		if !seen[i] && f.fallback.kind == cellAbsent && !f.missing {
			lacking = append(lacking, f)
		}
	}
	e := r.errorf(rowcast.CodeMissingFeature, ": %s missing", areNamed(lacking)).WithDetail("%s", r.expected())
	if r.call.Format == rowcast.FormatRecord {
		return e.WithHint("A row is read by its column names: select the feature, or give the column its name with AS.")
	}
	return e
}

// stranger says that a record has no feature at all. A bare ROW(1, 2) has columns named f1, f2.
func (r *filler) stranger() error {
	return r.errorf(rowcast.CodeMissingFeature, ": the row has no column with the name of a feature").WithDetail("%s", r.expected()).
		WithHint("A row is read by its column names; ROW(...) has none. Pass a table row, a subquery's row or an array.")
}

func (r *filler) unknownKey(key string) error {
	e := r.errorf(rowcast.CodeUnknownFeature, "has no feature %q", tensorjson.Excerpt([]byte(key))).WithDetail("%s", r.expected())
	names := make([]string, len(r.plan.features))
	for i, f := range r.plan.features {
		names[i] = f.name
	}
	if near := nearest(key, names); near != "" {
		return e.WithHint("Perhaps you mean %q.", near)
	}
	return e
}

func (r *filler) twice(f *feature) error {
	what := "key"
	if r.call.Format == rowcast.FormatRecord {
		what = "column"
	}
	return r.errorf(rowcast.CodeInvalidText, ": feature %q is given twice", f.name).WithHint("Leave one %s of that name.", what)
}

func (r *filler) notARow(payload []byte) error {
	return r.errorf(rowcast.CodeInvalidText, "takes an array or a JSON object, got the text %q", tensorjson.Excerpt(payload)).
		WithDetail("%s", r.expected()).WithHint("Write %s.", r.sample())
}

func (r *filler) notAnObject(s *tensorjson.Scanner) error {
	v, err := s.Value()
	if err != nil {
		return r.wrap(err)
	}
	return r.errorf(rowcast.CodeInvalidText, "takes a JSON object by feature name, got %s", v.Describe()).
		WithDetail("%s", r.expected()).WithHint("Write %s.", r.sample())
}

// sample writes how a row of this model looks as text.
func (r *filler) sample() string {
	f := r.plan.features[0]
	value := "1"
	switch f.kind {
	case rowcast.TypeText:
		value = `"..."`
	case rowcast.TypeBoolean:
		value = "true"
	}
	object := fmt.Sprintf("'{%q: %s, ...}'", f.name, value)
	if len(r.plan.features) == 1 {
		object = fmt.Sprintf("'{%q: %s}'", f.name, value)
	}
	if r.plan.text >= 0 {
		return object
	}
	switch n := len(r.plan.features); n {
	case 1:
		return "'{1}' or " + object
	case 2:
		return "'{1,2}' or " + object
	default:
		return "'{1,2,...}' (" + plural(n, "number") + ") or " + object
	}
}

// nearest returns the name that is most like s, empty where none is near.
func nearest(s string, names []string) string {
	best, least := "", max(2, utf8.RuneCountInString(s)/3)+1
	if len(s) > 200 {
		return ""
	}
	lower := strings.ToLower(s)
	for _, name := range names {
		if d := levenshtein.ComputeDistance(lower, strings.ToLower(name)); d < least && d < utf8.RuneCountInString(name) {
			best, least = name, d
		}
	}
	return best
}

// areNamed says `feature "a" is` or `features "a", "b" are`.
func areNamed(features []feature) string {
	names := make([]string, len(features))
	for i, f := range features {
		names[i] = strconv.Quote(f.name)
	}
	if len(names) == 1 {
		return "feature " + names[0] + " is"
	}
	return "features " + tensorjson.Listed(names) + " are"
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func times(dims []int) string {
	parts := make([]string, len(dims))
	for i, d := range dims {
		parts[i] = strconv.Itoa(d)
	}
	return strings.Join(parts, " x ")
}
