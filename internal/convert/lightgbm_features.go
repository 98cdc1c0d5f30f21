package convert

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// view is how a split sees its feature's value.
type view uint8

// The views. Numerical splits see the value itself, or NaN instead of zero where the model was trained with zero_as_missing; categorical splits see the
// integer that C makes of the value, cutting its fraction off.
const (
	viewValue view = 1 << iota
	viewZero
	viewCode
)

// lightgbmFeature is a column of the model.
type lightgbmFeature struct {
	name    string
	views   view
	misses  bool // a split says where missing values go
	splits  bool // a split asks for it
	kind    rowcast.FeatureType
	texts   []string  // category i is the text i
	numbers []float64 // category i is the number i
}

type lightgbmFeatures struct {
	list     []lightgbmFeature
	wide     bool // a feature has several views: the matrix holds all columns once per view
	warnings []string
}

// features reads names and types, and from the trees how each feature is used.
func (f *lightgbmFile) features() (*lightgbmFeatures, error) {
	last, err := f.integer("max_feature_idx", -1)
	if err != nil {
		return nil, err
	}
	names := words(f.header["feature_names"])
	if len(names) == 0 || len(names) != last+1 {
		return nil, damaged(f.lines["feature_names"], "it names %d features, but max_feature_idx is %d", len(names), last)
	}
	fs := &lightgbmFeatures{list: make([]lightgbmFeature, len(names))}
	seen := make(map[string]bool, len(names))
	for i, name := range names {
		if seen[name] {
			return nil, damaged(f.lines["feature_names"], "it names the feature %q twice", clip(name))
		}
		seen[name] = true
		fs.list[i] = lightgbmFeature{name: name, kind: rowcast.TypeDouble}
	}
	for n := range f.trees {
		if err := fs.use(&f.trees[n], n); err != nil {
			return nil, err
		}
	}
	if err := f.categories(fs); err != nil {
		return nil, err
	}
	for i := range fs.list {
		fs.wide = fs.wide || fs.list[i].views&(fs.list[i].views-1) != 0
	}
	return fs, nil
}

// use notes how a tree's splits see the features.
func (fs *lightgbmFeatures) use(t *lightgbmTree, number int) error {
	for s, at := range t.features {
		if at < 0 || int(at) >= len(fs.list) {
			return refused("the LightGBM file can't be read: tree %d splits on feature %d, but the model has %d features", number, at, len(fs.list)).
				WithHint("The file may be edited. Save the model again with booster.save_model('model.txt').")
		}
		f := &fs.list[at]
		f.splits = true
		f.views |= t.view(s)
		f.misses = f.misses || t.decisions[s]&decisionMissing != 0
	}
	return nil
}

func (t *lightgbmTree) view(split int) view {
	switch d := t.decisions[split]; {
	case d&decisionCategorical != 0:
		return viewCode
	case d&decisionMissing == missingZero:
		return viewZero
	}
	return viewValue
}

// column is the column of the operator's input that a split compares.
func (fs *lightgbmFeatures) column(t *lightgbmTree, split int) int {
	at := int(t.features[split])
	if fs.wide {
		switch t.view(split) {
		case viewZero:
			at += len(fs.list)
		case viewCode:
			at += 2 * len(fs.list)
		}
	}
	return at
}

// categories matches the lists of pandas_categorical with the features. The file does not say which list is whose: pandas lists its categorical columns in
// order, and in the same order are the features that the training was told are categorical, and those whose feature_infos hold categories.
func (f *lightgbmFile) categories(fs *lightgbmFeatures) error {
	if text := strings.TrimSpace(f.pandas); text == "" || text == "null" || text == "[]" {
		return nil
	}
	var lists [][]any
	decoder := json.NewDecoder(strings.NewReader(f.pandas))
	decoder.UseNumber()
	if err := decoder.Decode(&lists); err != nil {
		return damaged(f.pandasLine, "pandas_categorical is no JSON list of lists").WithCause(err)
	}
	infos := words(f.header["feature_infos"])
	if len(infos) != len(fs.list) {
		infos = make([]string, len(fs.list))
	}
	owners := fs.declared(f.parameters["categorical_feature"])
	if len(owners) != len(lists) { // a column of one category is declared, but not in feature_infos
		owners = nil
		for i := range fs.list {
			if fs.list[i].views&viewCode != 0 || listsCategories(infos[i]) {
				owners = append(owners, i)
			}
		}
	}
	fits := len(owners) == len(lists)
	for n := 0; n < len(lists) && fits; n++ {
		fits = codesBelow(infos[owners[n]], len(lists[n])) && fs.list[owners[n]].views&^viewCode == 0
	}
	if !fits {
		fs.warnings = append(fs.warnings, "The file holds the categories of "+strconv.Itoa(len(lists))+
			" columns of a data frame. Which features they belong to can't be told, so categorical features take pandas' codes (0, 1, …).")
		return nil
	}
	for n, owner := range owners {
		f := &fs.list[owner]
		if !f.known(lists[n]) {
			fs.warnings = append(fs.warnings, "The categories of feature "+strconv.Quote(clip(f.name))+
				" are neither texts nor numbers, so it takes pandas' codes (0, 1, …).")
		}
	}
	return nil
}

// declared reads the indexes that the training's categorical_feature lists; nil where it lists something else.
func (fs *lightgbmFeatures) declared(text string) []int {
	var list []int
	for word := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 0 || n >= len(fs.list) || len(list) > 0 && n <= list[len(list)-1] {
			return nil
		}
		list = append(list, n)
	}
	return list
}

// codesBelow reports whether all categories of a feature_infos are below n, as the codes of a list of n are.
func codesBelow(info string, n int) bool {
	if !listsCategories(info) {
		return info == "" || info == "none"
	}
	for code := range strings.SplitSeq(info, ":") {
		if c, err := strconv.Atoi(code); err != nil || c >= n {
			return false
		}
	}
	return true
}

// listsCategories tells feature_infos of a categorical feature, such as 3:0:1, from [0.5:12] and none.
func listsCategories(info string) bool {
	return info != "none" && info != "" && info[0] != '['
}

// known takes the categories that pandas knew, which LightGBM knows by their number in the list.
func (f *lightgbmFeature) known(list []any) bool {
	var texts []string
	var numbers []float64
	integral, boolean, counted := true, true, true
	for i, c := range list {
		switch v := c.(type) {
		case string:
			texts = append(texts, v)
		case bool:
			numbers = append(numbers, float64(flag(v)))
			integral = false
		case json.Number:
			x, err := v.Float64()
			if err != nil {
				return false
			}
			numbers = append(numbers, x)
			integral = integral && x == math.Trunc(x) && math.Abs(x) < 1<<53
			boolean = false
		default:
			return false
		}
		counted = counted && len(numbers) == i+1 && numbers[i] == float64(i)
	}
	switch {
	case len(list) == 0 || len(texts) > 0 && len(numbers) > 0 || repeats(texts) || repeats(numbers):
		return false
	case len(texts) > 0:
		f.kind, f.texts = rowcast.TypeText, texts
		return true
	case boolean:
		f.kind = rowcast.TypeBoolean
	case integral:
		f.kind = rowcast.TypeBigint
	}
	if !counted {
		f.numbers = numbers
	}
	return true
}

func repeats[T string | float64](list []T) bool {
	sorted := slices.Sorted(slices.Values(list))
	return len(slices.Compact(sorted)) < len(list)
}

// unlisted is a text that is none of the feature's categories: what stands for NULL.
func (f *lightgbmFeature) unlisted() string {
	text := ""
	for slices.Contains(f.texts, text) {
		text += "?"
	}
	return text
}

// feature is f in the words of model.yaml.
func (f *lightgbmFeature) feature() rowcast.Feature {
	out := rowcast.Feature{Name: f.name, Type: f.kind}
	missing := f.misses || !f.splits
	switch {
	case missing && f.kind == rowcast.TypeText:
		out.Default, _ = json.Marshal(f.unlisted()) // a string always marshals
	default:
		out.Missing = missing
	}
	return out
}

// inputs declares the inputs and returns the name of the matrix that the trees read.
func (b *lightgbmBuilder) inputs(fs *lightgbmFeatures) string {
	columns := false
	for i := range fs.list {
		f := &fs.list[i]
		b.result.Features = append(b.result.Features, f.feature())
		columns = columns || f.texts != nil || f.numbers != nil
	}
	matrix := "features"
	if columns {
		var list []string
		for i := range fs.list {
			list = append(list, b.columnInput(&fs.list[i], i))
		}
		matrix = b.name("matrix")
		b.graph.node("Concat", list, []string{matrix}, intAttribute("axis", 1))
	} else {
		b.taken[matrix] = true
		b.graph.inputs = append(b.graph.inputs, rowcast.Port{Name: matrix, DType: rowcast.Float64, Shape: []int64{-1, int64(len(fs.list))}})
	}
	return b.views(fs, matrix)
}

// columnInput declares a feature's own input and returns the name of its numbers.
func (b *lightgbmBuilder) columnInput(f *lightgbmFeature, i int) string {
	b.taken[f.name] = true
	port := rowcast.Port{Name: f.name, DType: rowcast.Float64, Shape: []int64{-1, 1}}
	var keys []byte
	switch {
	case f.texts != nil:
		port.DType = rowcast.String
		keys = stringTensor(f.texts)
	case f.numbers != nil:
		keys = doubleTensor(f.numbers, []int64{int64(len(f.numbers))})
	}
	b.graph.inputs = append(b.graph.inputs, port)
	if keys == nil {
		return f.name
	}
	codes := make([]float64, max(len(f.texts), len(f.numbers)))
	for c := range codes {
		codes[c] = float64(c)
	}
	out := b.name("codes" + strconv.Itoa(i))
	// What is not listed is missing, as pandas makes it.
	b.graph.domainNode(domainML, "LabelEncoder", []string{f.name}, []string{out}, tensorAttribute("keys_tensor", keys), doublesAttribute("values_tensor", codes),
		doublesAttribute("default_tensor", []float64{math.NaN()}))
	return out
}

// views makes the columns as the splits see them.
func (b *lightgbmBuilder) views(fs *lightgbmFeatures, matrix string) string {
	var used view
	zeros := make([]byte, len(fs.list)) // booleans
	codes := make([]byte, len(fs.list))
	for i := range fs.list {
		f := &fs.list[i]
		if f.texts != nil || f.numbers != nil {
			f.views &^= viewCode // codes are whole already
		}
		used |= f.views
		zeros[i], codes[i] = byte(flag(f.views&viewZero != 0)), byte(flag(f.views&viewCode != 0))
	}
	zero, code := matrix, matrix
	if used&viewZero != 0 {
		b.scalar("zero_threshold", zeroThreshold)
		b.scalar("missing", math.NaN())
		blank := b.apply("LessOrEqual", b.apply("Abs", matrix), b.name("zero_threshold"))
		if !fs.wide {
			b.graph.bools(b.name("zero_columns"), zeros)
			blank = b.apply("And", blank, b.name("zero_columns"))
		}
		zero = b.apply("Where", blank, b.name("missing"), matrix)
	}
	if used&viewCode != 0 {
		source := zero
		if fs.wide {
			source = matrix
		}
		b.scalar("unit", 1)
		b.last++
		fraction := b.name(strconv.Itoa(b.last))
		b.graph.node("Mod", []string{source, b.name("unit")}, []string{fraction}, intAttribute("fmod", 1))
		code = b.apply("Sub", source, fraction)
		if !fs.wide {
			b.graph.bools(b.name("code_columns"), codes)
			code = b.apply("Where", b.name("code_columns"), code, source)
		}
	}
	switch {
	case fs.wide:
		return b.concat(matrix, zero, code)
	case used&viewCode != 0:
		return code
	}
	return zero
}

func (b *lightgbmBuilder) concat(list ...string) string {
	out := b.name("views")
	b.graph.node("Concat", list, []string{out}, intAttribute("axis", 1))
	return out
}

// metadata names the columns of a matrix, for whoever opens the file elsewhere.
func (b *lightgbmBuilder) metadata(fs *lightgbmFeatures) []pair {
	names := make([]string, len(fs.list))
	for i := range fs.list {
		names[i] = fs.list[i].name
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if encoder.Encode(names) != nil {
		return nil
	}
	return []pair{{"feature_names", strings.TrimSpace(text.String())}}
}
