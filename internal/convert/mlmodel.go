package convert

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/rowcast/rowcast/internal/rowcast"
)

const (
	maxAliases   = 100
	maxYAMLDepth = 64
	maxSignature = 100_000
)

// mlmodel is the file MLmodel of an MLflow model folder.
type mlmodel struct {
	fields  map[string]any
	flavors map[string]map[string]any
	inputs  []column
	named   bool
}

// column is one input of the signature.
type column struct {
	name     string
	kind     rowcast.FeatureType // "" where MLflow's type has none
	optional bool
}

// parseMLmodel reads the file MLmodel.
func parseMLmodel(text []byte) (*mlmodel, error) {
	fields, err := yamlObject(text)
	if err != nil {
		return nil, refused("%s can't be read", mlmodelName).WithCause(err)
	}
	m := &mlmodel{fields: fields, flavors: map[string]map[string]any{}}
	flavors, _ := fields["flavors"].(map[string]any)
	for name, v := range flavors {
		options, _ := v.(map[string]any)
		m.flavors[name] = options
	}
	signature, _ := fields["signature"].(map[string]any)
	if signature == nil || signature["inputs"] == nil {
		return m, nil
	}
	// The schema is JSON within YAML.
	schema, ok := signature["inputs"].(string)
	if !ok {
		return nil, refused("the signature's inputs in %s are no text", mlmodelName)
	}
	if m.inputs, m.named, err = parseColumns([]byte(schema)); err != nil {
		return nil, err
	}
	return m, nil
}

// columns are the signature's inputs, where it names columns rather than tensors.
func (m *mlmodel) columns() ([]column, bool) { return m.inputs, m.named }

// parseColumns reads the inputs of a signature; named is false where they are tensors, or where columns have no names.
func parseColumns(schema []byte) (columns []column, named bool, err error) {
	var specs []struct {
		Type     string `json:"type"`
		Name     any    `json:"name"`
		Required *bool  `json:"required"`
		Optional bool   `json:"optional"` // before MLflow 2.6
	}
	if err := json.Unmarshal(schema, &specs); err != nil {
		return nil, false, refused("the signature's inputs in %s can't be read", mlmodelName).WithCause(err)
	}
	if len(specs) > maxSignature {
		return nil, false, rowcast.Errorf(rowcast.CodeTooLarge, "the signature's %d inputs are more than %d", len(specs), maxSignature)
	}
	seen := map[string]bool{}
	for _, s := range specs {
		name := ""
		switch n := s.Name.(type) {
		case string:
			name = n
		case float64: // pandas numbers columns that nobody named
			if n == math.Trunc(n) {
				name = strconv.FormatInt(int64(n), 10)
			}
		}
		if s.Type == "tensor" || name == "" {
			return nil, false, nil
		}
		if seen[name] {
			return nil, false, refused("the signature in %s has two inputs %q", mlmodelName, clip(name))
		}
		seen[name] = true
		columns = append(columns, column{name: name, kind: columnType(s.Type), optional: s.Optional || s.Required != nil && !*s.Required})
	}
	return columns, len(columns) > 0, nil
}

// columnType is the SQL type of one of MLflow's types of columns.
func columnType(t string) rowcast.FeatureType {
	switch t {
	case "boolean":
		return rowcast.TypeBoolean
	case "integer", "long":
		return rowcast.TypeBigint
	case "float":
		return rowcast.TypeReal
	case "double":
		return rowcast.TypeDouble
	case "string":
		return rowcast.TypeText
	}
	return ""
}

// text is a field of MLmodel as text, "" where it has none.
func (m *mlmodel) text(key string) string {
	switch v := m.fields[key].(type) {
	case string:
		return v
	case nil:
		return ""
	default:
		return fmt.Sprint(v)
	}
}

// metadata is what the person who logged the model wrote down with it.
func (m *mlmodel) metadata() map[string]any {
	tags, _ := m.fields["metadata"].(map[string]any)
	return tags
}

type exampleInfo struct{ path string }

func (m *mlmodel) example() exampleInfo {
	info, _ := m.fields["saved_input_example_info"].(map[string]any)
	at, _ := info["artifact_path"].(string)
	return exampleInfo{path: at}
}

// registered says which model of MLflow's registry a folder was.
type registered struct{ Name, Version string }

func parseRegistered(text []byte) registered {
	fields, err := yamlObject(text)
	if err != nil {
		return registered{}
	}
	m := mlmodel{fields: fields}
	return registered{Name: m.text("model_name"), Version: m.text("model_version")}
}

// yamlObject reads a YAML mapping. Aliases, which could make few bytes large, are few and not nested.
func yamlObject(text []byte) (fields map[string]any, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the YAML can't be parsed: %v", r)
		}
	}()
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, firstLine(err)
	}
	counter := aliases{}
	for _, doc := range file.Docs {
		if doc.Body != nil {
			ast.Walk(&counter, doc.Body)
		}
	}
	if counter.nested || counter.count > maxAliases {
		return nil, fmt.Errorf("it has more than %d aliases, or aliases within anchors", maxAliases)
	}
	var document any
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, firstLine(err)
	}
	if document == nil {
		return map[string]any{}, nil
	}
	fields, ok := plain(document, 0).(map[string]any)
	if !ok {
		return nil, fmt.Errorf("it is no mapping of keys and values")
	}
	return fields, nil
}

func firstLine(err error) error {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return fmt.Errorf("%s", line)
}

// aliases counts what repeats other parts of a document.
type aliases struct {
	count  int
	nested bool
}

// Visit implements ast.Visitor.
func (a *aliases) Visit(n ast.Node) ast.Visitor {
	switch n := n.(type) {
	case *ast.AliasNode:
		a.count++
	case *ast.AnchorNode:
		inside := aliases{}
		if n.Value != nil {
			ast.Walk(&inside, n.Value)
		}
		a.count += inside.count
		a.nested = a.nested || inside.count > 0 || inside.nested
		return nil
	}
	return a
}

// plain gives mappings text for keys and numbers that JSON can say, so that everything can be kept with the version.
func plain(v any, depth int) any {
	if depth > maxYAMLDepth {
		return nil
	}
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			v[k] = plain(e, depth+1)
		}
	case map[any]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[fmt.Sprint(k)] = plain(e, depth+1)
		}
		return out
	case []any:
		for i, e := range v {
			v[i] = plain(e, depth+1)
		}
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Sprint(v)
		}
	case string, bool, int, int64, uint64, nil:
	default:
		return fmt.Sprint(v)
	}
	return v
}
