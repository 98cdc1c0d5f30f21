package convert

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// XGBoost converts a model that XGBoost saved as JSON or UBJ (save_model, save_raw), of any version since 1.0. The answers equal the library's:
// predict's value, predict_proba's probabilities, with the rounds up to best_iteration where training stopped early.
//
// A categorical feature whose names the file keeps (version 3.1 and later, trained from a data frame) is a text or bigint feature that takes the
// category itself and stands in an input of its own, named like the feature; without names it takes the category's code. All other features are
// columns of one matrix. Every feature may be missing.
//
// Errors are of CodeArtifactRefused: a file that is damaged or no XGBoost model, multi-output trees, and objectives that are not known here.
func XGBoost(data []byte) (*Result, error) {
	document, err := xgboostDocument(data)
	if err != nil {
		return nil, err
	}
	m, err := readXGBoost(document)
	if err != nil {
		return nil, err
	}
	return m.convert()
}

// xgboostDocument tells JSON from UBJ as XGBoost does: after the brace of the first comes a quotation mark or white space.
func xgboostDocument(data []byte) (any, error) {
	if len(data) > 0 && data[0] != '{' && data[0] != '[' && data[0] > ' ' || bytes.HasPrefix(data, []byte{0}) {
		return nil, refused("the file is no XGBoost model in JSON or UBJ").
			WithHint(`Save it in one of these formats: booster.save_model("model.ubj").`)
	}
	trimmed := bytes.TrimLeft(data, " \t\r\n")
	if len(trimmed) > 0 && trimmed[0] == '[' {
		return nil, refused("the file is a list, as dump_model writes for people to read; it lacks what predictions need").
			WithHint(`Save the model itself: booster.save_model("model.json").`)
	}
	if len(trimmed) > 1 && (trimmed[1] == '"' || trimmed[1] == '}' || trimmed[1] <= ' ' && trimmed[1] != 0) {
		return readJSON(data)
	}
	return readUBJ(data)
}

// xgboost is a model as its file tells it.
type xgboost struct {
	version    string
	objective  string
	booster    string
	features   int
	groups     int       // outputs of the trees: classes, targets or 1
	base       []float32 // margin of each group, as its objective has transformed it
	names      []string
	types      []string
	attributes map[string]string
	parameters map[string]string
	categories []categories // by feature; nil where the file keeps no names

	trees    []xgboostTree
	weights  []float32 // of the trees of a dart booster, or of a linear one
	rounds   int       // trees up to this one count
	dropped  int       // trees behind it
	warnings []string
}

func readXGBoost(document any) (*xgboost, error) {
	fields, _ := document.(map[string]any)
	root := object{path: "file", fields: fields}
	learner, err := root.object("learner")
	if err != nil {
		return nil, refused("the file is no XGBoost model: it has no learner").WithHint(`Save the model with booster.save_model("model.ubj").`)
	}
	m := &xgboost{attributes: map[string]string{}, parameters: map[string]string{}}
	if version, err := root.numbers("version"); err == nil {
		var parts []string
		for _, v := range version[:min(len(version), 3)] {
			parts = append(parts, strconv.Itoa(int(max(min(v, 1e6), 0))))
		}
		m.version = strings.Join(parts, ".")
	}
	for _, read := range []func(object) error{m.readObjective, m.readNames, m.readParameters, m.readAttributes, m.readBooster} {
		if err := read(learner); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *xgboost) readObjective(learner object) error {
	objective, err := learner.object("objective")
	if err != nil {
		return err
	}
	if m.objective, err = objective.text("name"); err != nil {
		return err
	}
	m.parameters["objective"] = m.objective
	for key, group := range objective.fields {
		settings, ok := group.(map[string]any)
		if !ok {
			continue
		}
		for name, v := range settings {
			if s, ok := v.(string); ok && len(m.parameters) < 100 && key != "name" {
				m.parameters[readable(name)] = readable(s)
			}
		}
	}
	return nil
}

// readable keeps what becomes metadata valid UTF-8 and of a bounded size.
func readable(s string) string {
	if len(s) > 1<<16 {
		s = s[:1<<16]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "")
}

func (m *xgboost) readNames(learner object) (err error) {
	if m.names, err = learner.texts("feature_names"); err != nil {
		return err
	}
	m.types, err = learner.texts("feature_types")
	return err
}

// maxFeatures and maxGroups are what registration and one probability per class can carry.
const (
	maxFeatures = 100_000
	maxGroups   = 10_000
	maxColumns  = 9_000 // inputs of a graph
)

func (m *xgboost) readParameters(learner object) error {
	parameters, err := learner.object("learner_model_param")
	if err != nil {
		return err
	}
	if m.features, err = counted(parameters, "num_feature", 1, maxFeatures); err != nil {
		return err
	}
	classes, err := counted(parameters, "num_class", 0, maxGroups)
	if err != nil {
		return err
	}
	targets := 1
	if parameters.has("num_target") {
		if targets, err = counted(parameters, "num_target", 0, maxGroups); err != nil {
			return err
		}
	}
	m.groups = max(classes, targets, 1)
	for _, list := range []struct {
		key   string
		names []string
	}{{"feature_names", m.names}, {"feature_types", m.types}} {
		if n := len(list.names); n != 0 && n != m.features {
			return damagedXGBoost("it has %d features and %d %s", m.features, n, list.key)
		}
	}
	return m.readBase(parameters)
}

// counted reads a count, which XGBoost writes as text.
func counted(o object, key string, least, most int) (int, error) {
	text, err := o.text(key)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		return 0, damagedXGBoost("%s is %q, expected is a number from %d to %d", key, clip(text), least, most)
	}
	return n, nil
}

// readBase reads the base score: one number for all groups, or since 3.1 a list with one for each.
func (m *xgboost) readBase(parameters object) error {
	text, err := parameters.text("base_score")
	if err != nil {
		return err
	}
	list := strings.Split(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"), ",")
	if len(list) != 1 && len(list) != m.groups {
		return damagedXGBoost("it has %d base scores for %d outputs", len(list), m.groups)
	}
	for _, item := range list {
		v, err := strconv.ParseFloat(strings.TrimSpace(item), 32)
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
			return damagedXGBoost("base_score is %q, expected is a number", clip(text))
		}
		margin, ok := baseMargin(m.objective, float32(v))
		if !ok {
			return damagedXGBoost("base_score, %s, is no value that the objective %s can start from", clip(text), clip(m.objective))
		}
		m.base = append(m.base, margin)
	}
	for len(m.base) < m.groups {
		m.base = append(m.base, m.base[0])
	}
	m.parameters["base_score"] = readable(text)
	return nil
}

func (m *xgboost) readAttributes(learner object) error {
	if !learner.has("attributes") {
		return nil
	}
	attributes, err := learner.object("attributes")
	if err != nil {
		return err
	}
	for key, v := range attributes.fields {
		if s, ok := v.(string); ok && len(m.attributes) < 10_000 {
			m.attributes[readable(key)] = readable(s)
		}
	}
	return nil
}

// featureList describes the features in the words of model.yaml. A text feature can't be NaN in
// its tensor; it has a default that stands for NULL and is encoded as NaN.
func (m *xgboost) featureList() ([]rowcast.Feature, error) {
	list := make([]rowcast.Feature, m.features)
	seen := make(map[string]bool, m.features)
	for i := range list {
		f := rowcast.Feature{Name: "f" + strconv.Itoa(i), Type: rowcast.TypeReal, Missing: true}
		if len(m.names) > 0 {
			f.Name = m.names[i]
		}
		if f.Name == "" || seen[f.Name] || !utf8.ValidString(f.Name) || strings.ContainsRune(f.Name, 0) {
			return nil, damagedXGBoost("feature %d has the name %q, which is empty, not UTF-8 or the name of another", i+1, clip(f.Name))
		}
		seen[f.Name] = true
		if len(m.types) > 0 {
			switch m.types[i] {
			case "int", "c":
				f.Type = rowcast.TypeBigint
			case "i":
				f.Type = rowcast.TypeBoolean
			case "float", "q":
			default:
				return nil, damagedXGBoost("feature %q has the type %q, expected is float, int, i, q or c", clip(f.Name), clip(m.types[i]))
			}
		}
		if m.categories != nil && m.categories[i].texts != nil {
			f.Type, f.Missing = rowcast.TypeText, false
			f.Default, _ = json.Marshal(m.categories[i].absent()) // a string always marshals
		}
		list[i] = f
	}
	return list, nil
}

// convert writes the graph.
func (m *xgboost) convert() (*Result, error) {
	features, err := m.featureList()
	if err != nil {
		return nil, err
	}
	l, ok := linkOf(m.objective)
	if !ok {
		return nil, refused("the model's objective %q is not known", clip(m.objective)).
			WithHint("Its raw sums could be served, but what they mean can't: convert the model in Python and register the ONNX file.")
	}
	if l.classes && m.groups < 2 || !l.classes && l.labels > 0 && m.groups > 1 {
		return nil, refused("the model's objective %s does not go with its %d outputs", clip(m.objective), m.groups).
			WithHint("A classification of several labels a row is served as one model per label.")
	}
	g := &graph{}
	if m.categories != nil && len(features) > maxColumns {
		return nil, refused("the model has %d features, some with named categories", len(features)).
			WithDetail("Features with named categories make each feature an input of its own, and a graph has at most %d.", maxColumns).
			WithHint("Train on the codes of the categories.")
	}
	input := m.inputs(g, features)
	result := &Result{
		TrainedWith: strings.TrimSpace("XGBoost " + m.version),
		Features:    features,
		Parameters:  m.parameters,
		Attributes:  m.attributes,
		Warnings:    m.warnings,
	}
	var failed error
	l.write(g, m.groups, func(output, transform string, negate bool) {
		if m.booster == "gblinear" {
			m.linear(g, input, output, transform, negate)
			return
		}
		e, err := m.ensemble(negate)
		if err != nil {
			failed = err
			return
		}
		e.write(g, input, output, transform)
	}, result)
	if failed != nil {
		return nil, failed
	}
	if m.dropped > 0 {
		result.Warnings = append(result.Warnings, fmt.Sprintf("Training stopped early: the %d trees behind the best iteration are left out.", m.dropped))
	}
	var metadata []pair
	for key, value := range m.attributes {
		metadata = append(metadata, pair{key, value})
	}
	slices.SortFunc(metadata, func(a, b pair) int { return strings.Compare(a.key, b.key) })
	result.ONNX = g.model("XGBoost", m.version, metadata)
	return result, nil
}

// inputs adds the graph's inputs and returns the name of the matrix of float32 that holds the features.
func (m *xgboost) inputs(g *graph, features []rowcast.Feature) string {
	if m.categories == nil {
		const name = "features"
		g.input(rowcast.Port{Name: name, DType: rowcast.Float32, Shape: []int64{-1, int64(m.features)}})
		return name
	}
	columns := make([]string, len(features))
	for i, f := range features {
		columns[i] = f.Name
		g.input(rowcast.Port{Name: f.Name, DType: rowcast.Float32, Shape: []int64{-1, 1}})
	}
	for i, f := range features {
		if c := m.categories[i]; c.count() > 0 {
			columns[i] = g.unused("/code" + strconv.Itoa(i))
			g.inputs[i].DType = c.encode(g, f.Name, columns[i])
		}
	}
	matrix := g.unused("/features")
	g.node("Concat", columns, []string{matrix}, intAttribute("axis", 1))
	return matrix
}
