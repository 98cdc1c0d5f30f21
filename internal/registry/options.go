package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/agnivade/levenshtein"
	"github.com/goccy/go-yaml"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// Options is what a person says about a model: model.yaml beside the file, or the options of ml.register_model. Everything is optional; what is empty is
// read from the graph.
type Options struct {
	Name        string            `json:"name,omitempty"`
	Description string            `json:"description,omitempty"`
	Task        rowcast.Task      `json:"task,omitempty"`
	Inputs      rowcast.Layout    `json:"inputs,omitempty"`
	Features    []rowcast.Feature `json:"features,omitempty"` // in order; an empty Type is read from the graph
	Labels      []json.RawMessage `json:"labels,omitempty"`   // in the order of the probabilities: JSON strings or integers
	Target      string            `json:"target,omitempty"`
	TrainedWith string            `json:"trained_with,omitempty"`

	// Example is run at registration and at every load: {"inputs": {…}, "outputs": {…}} in the form of ml.infer (outputs may be left out), or one row of
	// features as an array or an object.
	Example json.RawMessage `json:"example,omitempty"`

	Outputs       OutputNames    `json:"outputs,omitzero"`
	Parameters    map[string]any `json:"parameters,omitempty"`
	Tags          map[string]any `json:"tags,omitempty"`
	AllowInfinity bool           `json:"allow_infinity,omitempty"`
}

// OutputNames says which output of the graph means what, where the graph itself does not.
type OutputNames struct {
	Label       string `json:"label,omitempty"`
	Probability string `json:"probability,omitempty"`
	Score       string `json:"score,omitempty"`
	Value       string `json:"value,omitempty"`
}

const (
	maxOptionsBytes = 4 << 20
	maxFeatures     = 100_000
)

// ParseYAML reads model.yaml. Errors: CodeInvalidArgument, naming the key.
func ParseYAML(text []byte) (Options, error) {
	if len(text) > maxOptionsBytes {
		return Options{}, rowcast.Errorf(rowcast.CodeTooLarge, "model.yaml is larger than %d bytes", maxOptionsBytes)
	}
	var document any
	if err := yaml.Unmarshal(text, &document); err != nil {
		return Options{}, rowcast.Errorf(rowcast.CodeInvalidArgument, "model.yaml is no YAML").WithDetail("%s", yamlReason(err))
	}
	if document == nil {
		return Options{}, nil
	}
	object, err := json.Marshal(jsonable(document, 0))
	if err != nil {
		return Options{}, rowcast.Errorf(rowcast.CodeInvalidArgument, "model.yaml holds what JSON can't say").WithCause(err)
	}
	return parseOptions(object, "model.yaml")
}

func yamlReason(err error) string {
	reason, _, _ := strings.Cut(err.Error(), "\n")
	return reason
}

// jsonable turns what YAML gives into what JSON takes: mappings with keys that are no text, and the numbers that JSON lacks.
func jsonable(v any, depth int) any {
	if depth > 100 {
		return nil
	}
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			v[k] = jsonable(e, depth+1)
		}
		return v
	case map[any]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[yamlKey(k)] = jsonable(e, depth+1)
		}
		return out
	case []any:
		for i, e := range v {
			v[i] = jsonable(e, depth+1)
		}
		return v
	case float64:
		switch {
		case math.IsNaN(v):
			return "NaN"
		case math.IsInf(v, 1):
			return "Infinity"
		case math.IsInf(v, -1):
			return "-Infinity"
		}
	}
	return v
}

func yamlKey(k any) string {
	switch k := k.(type) {
	case string:
		return k
	case uint64:
		return strconv.FormatUint(k, 10)
	case int64:
		return strconv.FormatInt(k, 10)
	case bool:
		return strconv.FormatBool(k)
	}
	text, _ := json.Marshal(k)
	return string(text)
}

// ParseJSON reads the options of ml.register_model. Errors: CodeInvalidArgument, naming the key.
func ParseJSON(text []byte) (Options, error) {
	if len(text) > maxOptionsBytes {
		return Options{}, rowcast.Errorf(rowcast.CodeTooLarge, "the options are larger than %d bytes", maxOptionsBytes)
	}
	return parseOptions(text, "the options")
}

// JSON writes options in the form that ParseJSON reads.
func (o Options) JSON() ([]byte, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return nil, rowcast.Errorf(rowcast.CodeInvalidArgument, "the options can't be written as JSON").WithCause(err)
	}
	return text, nil
}

func parseOptions(text []byte, where string) (Options, error) {
	var o Options
	fields, err := object(text, where)
	if err != nil {
		return o, err
	}
	err = eachKey(fields, where, map[string]func(json.RawMessage) error{
		"name":           func(v json.RawMessage) error { return textOption(v, "name", &o.Name) },
		"description":    func(v json.RawMessage) error { return textOption(v, "description", &o.Description) },
		"target":         func(v json.RawMessage) error { return textOption(v, "target", &o.Target) },
		"trained_with":   func(v json.RawMessage) error { return textOption(v, "trained_with", &o.TrainedWith) },
		"task":           func(v json.RawMessage) error { return oneOf(v, "task", &o.Task, tasks()) },
		"inputs":         func(v json.RawMessage) error { return oneOf(v, "inputs", &o.Inputs, layouts()) },
		"features":       func(v json.RawMessage) (err error) { o.Features, err = parseFeatures(v); return err },
		"labels":         func(v json.RawMessage) (err error) { o.Labels, err = parseLabels(v); return err },
		"example":        func(v json.RawMessage) error { o.Example = v; return nil },
		"outputs":        func(v json.RawMessage) error { return parseOutputs(v, &o.Outputs) },
		"parameters":     func(v json.RawMessage) error { return mapOption(v, "parameters", &o.Parameters) },
		"tags":           func(v json.RawMessage) error { return mapOption(v, "tags", &o.Tags) },
		"allow_infinity": func(v json.RawMessage) error { return boolOption(v, "allow_infinity", &o.AllowInfinity) },
	})
	return o, err
}

func tasks() []rowcast.Task {
	return []rowcast.Task{rowcast.TaskClassification, rowcast.TaskRegression, rowcast.TaskAnomaly, rowcast.TaskClustering, rowcast.TaskTensors}
}

func layouts() []rowcast.Layout {
	return []rowcast.Layout{rowcast.LayoutMatrix, rowcast.LayoutColumns, rowcast.LayoutTensors}
}

// object splits a JSON object. A key that comes twice is an error: which one counts would be a guess.
func object(text []byte, where string) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	wrong := func(err error) error {
		return rowcast.Errorf(rowcast.CodeInvalidArgument, "%s must be an object of keys and values", where).WithCause(err)
	}
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, wrong(err)
	}
	fields := map[string]json.RawMessage{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, wrong(err)
		}
		name, _ := key.(string)
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, wrong(err)
		}
		if _, twice := fields[name]; twice {
			return nil, rowcast.Errorf(rowcast.CodeInvalidArgument, "%s has the key %q twice", where, name)
		}
		fields[name] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, wrong(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, wrong(errors.New("something follows the object"))
	}
	return fields, nil
}

// eachKey hands each value to its reader, in the order of the keys, so that of several mistakes the same one is told each time. null counts as absent.
func eachKey(fields map[string]json.RawMessage, where string, readers map[string]func(json.RawMessage) error) error {
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		read, known := readers[name]
		if !known {
			return unknownKey(name, where, readers)
		}
		if value := fields[name]; string(value) != "null" {
			if err := read(value); err != nil {
				return err
			}
		}
	}
	return nil
}

func unknownKey(name, where string, readers map[string]func(json.RawMessage) error) error {
	known := make([]string, 0, len(readers))
	for key := range readers {
		known = append(known, key)
	}
	slices.Sort(known)
	e := rowcast.Errorf(rowcast.CodeInvalidArgument, "%s has the unknown key %q", where, clip(name)).
		WithDetail("The keys are %s.", strings.Join(known, ", "))
	if near, ok := nearest(name, known); ok {
		return e.WithHint("Perhaps you mean %q.", near)
	}
	return e
}

// nearest is the candidate with the fewest edits, where there are few.
func nearest(name string, candidates []string) (string, bool) {
	best, least := "", 3
	if len(name) > 200 {
		return "", false
	}
	for _, c := range candidates {
		if d := levenshtein.ComputeDistance(strings.ToLower(name), strings.ToLower(c)); d < least && d < len(c) {
			best, least = c, d
		}
	}
	return best, best != ""
}

// clip keeps what a person wrote from flooding a message.
func clip(s string) string {
	if r := []rune(s); len(r) > 80 {
		return string(r[:80]) + "…"
	}
	return s
}

func textOption(v json.RawMessage, name string, into *string) error {
	if json.Unmarshal(v, into) != nil {
		return rowcast.Errorf(rowcast.CodeInvalidArgument, "%s must be text, not %s", name, clip(string(v)))
	}
	return nil
}

func boolOption(v json.RawMessage, name string, into *bool) error {
	if json.Unmarshal(v, into) != nil {
		return rowcast.Errorf(rowcast.CodeInvalidArgument, "%s must be true or false, not %s", name, clip(string(v)))
	}
	return nil
}

func mapOption(v json.RawMessage, name string, into *map[string]any) error {
	d := json.NewDecoder(bytes.NewReader(v))
	d.UseNumber() // a seed of 19 digits stays what it is
	if d.Decode(into) != nil {
		return rowcast.Errorf(rowcast.CodeInvalidArgument, "%s must be an object of names and values, not %s", name, clip(string(v)))
	}
	return nil
}

func oneOf[T ~string](v json.RawMessage, name string, into *T, allowed []T) error {
	var s string
	if json.Unmarshal(v, &s) == nil && slices.Contains(allowed, T(s)) {
		*into = T(s)
		return nil
	}
	list := make([]string, len(allowed))
	for i, a := range allowed {
		list[i] = string(a)
	}
	e := rowcast.Errorf(rowcast.CodeInvalidArgument, "%s must be one of %s, not %s", name, strings.Join(list, ", "), clip(string(v)))
	if near, ok := nearest(s, list); ok {
		return e.WithHint("Perhaps you mean %q.", near)
	}
	return e
}

func parseOutputs(v json.RawMessage, o *OutputNames) error {
	fields, err := object(v, "outputs")
	if err != nil {
		return err
	}
	return eachKey(fields, "outputs", map[string]func(json.RawMessage) error{
		"label":       func(v json.RawMessage) error { return textOption(v, "outputs.label", &o.Label) },
		"probability": func(v json.RawMessage) error { return textOption(v, "outputs.probability", &o.Probability) },
		"score":       func(v json.RawMessage) error { return textOption(v, "outputs.score", &o.Score) },
		"value":       func(v json.RawMessage) error { return textOption(v, "outputs.value", &o.Value) },
	})
}

// parseLabels takes text and integers; an integral float, as YAML and Python write some classes, counts as its integer.
func parseLabels(v json.RawMessage) ([]json.RawMessage, error) {
	var list []json.RawMessage
	if json.Unmarshal(v, &list) != nil || len(list) == 0 {
		return nil, rowcast.Errorf(rowcast.CodeInvalidArgument, "labels must be a list of text or integers, not %s", clip(string(v)))
	}
	texts := 0
	for i, label := range list {
		canonical, text, ok := canonicalLabel(label)
		if !ok {
			return nil, rowcast.Errorf(rowcast.CodeInvalidArgument, "label %d, %s, is neither text nor an integer", i+1, clip(string(label)))
		}
		if text {
			texts++
		}
		list[i] = canonical
	}
	if texts != 0 && texts != len(list) {
		return nil, rowcast.Errorf(rowcast.CodeInvalidArgument, "labels must be all text or all integers").
			WithHint("Quote the numbers, or take the quotes away: YAML reads no, yes and 1 as it likes.")
	}
	seen := map[string]bool{}
	for _, label := range list {
		if seen[string(label)] {
			return nil, rowcast.Errorf(rowcast.CodeInvalidArgument, "the label %s comes twice", clip(string(label)))
		}
		seen[string(label)] = true
	}
	return list, nil
}

// canonicalLabel writes equal labels as equal bytes.
func canonicalLabel(v json.RawMessage) (canonical json.RawMessage, text, ok bool) {
	var s string
	if json.Unmarshal(v, &s) == nil && len(v) > 0 && v[0] == '"' {
		canonical, _ = json.Marshal(s) // a string always marshals
		return canonical, true, true
	}
	if n, err := strconv.ParseInt(string(v), 10, 64); err == nil {
		return strconv.AppendInt(nil, n, 10), false, true
	}
	var f float64
	if json.Unmarshal(v, &f) == nil && len(v) > 0 && v[0] != 'n' && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		return strconv.AppendInt(nil, int64(f), 10), false, true
	}
	return nil, false, false
}

// parseFeatures takes a list of {name, type, missing, default}, or of bare names.
func parseFeatures(v json.RawMessage) ([]rowcast.Feature, error) {
	var list []json.RawMessage
	if json.Unmarshal(v, &list) != nil || len(list) == 0 {
		return nil, rowcast.Errorf(rowcast.CodeInvalidArgument, "features must be a list of names, or of {name, type, missing, default}")
	}
	if len(list) > maxFeatures {
		return nil, rowcast.Errorf(rowcast.CodeTooLarge, "%d features are more than %d", len(list), maxFeatures)
	}
	features := make([]rowcast.Feature, len(list))
	seen := map[string]bool{}
	for i, entry := range list {
		f, err := parseFeature(entry, i+1)
		if err != nil {
			return nil, err
		}
		if seen[f.Name] {
			return nil, rowcast.Errorf(rowcast.CodeInvalidArgument, "two features are named %q", clip(f.Name))
		}
		seen[f.Name], features[i] = true, f
	}
	return features, nil
}

func parseFeature(v json.RawMessage, number int) (rowcast.Feature, error) {
	var f rowcast.Feature
	if v[0] == '"' {
		_ = json.Unmarshal(v, &f.Name) // the decoder has read it as a string before
	} else {
		where := "feature " + strconv.Itoa(number)
		fields, err := object(v, where)
		if err != nil {
			return f, err
		}
		err = eachKey(fields, where, map[string]func(json.RawMessage) error{
			"name":    func(v json.RawMessage) error { return textOption(v, where+"'s name", &f.Name) },
			"type":    func(v json.RawMessage) error { return featureType(v, where, &f.Type) },
			"missing": func(v json.RawMessage) error { return boolOption(v, where+"'s missing", &f.Missing) },
			"default": func(v json.RawMessage) error { return scalarOption(v, where+"'s default", &f.Default) },
		})
		if err != nil {
			return f, err
		}
	}
	if f.Name == "" {
		return f, rowcast.Errorf(rowcast.CodeInvalidArgument, "feature %d has no name", number)
	}
	if strings.ContainsRune(f.Name, 0) || strings.ContainsRune(f.Name, '\uFFFD') {
		return f, rowcast.Errorf(rowcast.CodeInvalidArgument, "the name of feature %d, %q, is no valid text", number, clip(f.Name))
	}
	return f, nil
}

// featureType takes SQL's own names for the five types.
func featureType(v json.RawMessage, where string, into *rowcast.FeatureType) error {
	s := "no type"
	_ = json.Unmarshal(v, &s) // what is no string is no type either
	switch strings.ToLower(strings.Join(strings.Fields(s), " ")) {
	case "":
		*into = "" // read from the graph
	case "real", "float4":
		*into = rowcast.TypeReal
	case "double precision", "double", "float8", "float", "numeric":
		*into = rowcast.TypeDouble
	case "bigint", "integer", "int", "smallint", "int8", "int4", "int2":
		*into = rowcast.TypeBigint
	case "boolean", "bool":
		*into = rowcast.TypeBoolean
	case "text", "varchar", "character varying":
		*into = rowcast.TypeText
	default:
		return rowcast.Errorf(rowcast.CodeInvalidArgument, "%s's type must be real, double precision, bigint, boolean or text, not %s", where, clip(string(v)))
	}
	return nil
}

func scalarOption(v json.RawMessage, name string, into *json.RawMessage) error {
	if v[0] == '{' || v[0] == '[' {
		return rowcast.Errorf(rowcast.CodeInvalidArgument, "%s must be one value, not %s", name, clip(string(v)))
	}
	*into = v
	return nil
}
