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

// The views. Numerical splits see the value itself, or NaN instead of zero where the model was trained with zero_as_missing; categorical splits see
// the integer that C makes of the value, cutting its fraction off.
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
	listed  bool      // pandas listed its categories: a value is a code only if it is in the list
	texts   []string  // category i is the text i
	numbers []float64 // category i is the number i; nil where it is i itself
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

// categories matches the lists of pandas_categorical with the features. The file does not say which list is whose: pandas lists its categorical
// columns in order, and in the same order are the features that the training was told are categorical, and those whose feature_infos hold categories.
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
	ambiguous := fits && fs.alsoFit(owners, lists, infos)
	if !fits || ambiguous {
		text := "The file holds " + strconv.Itoa(len(lists)) + " lists of a data frame's categories, but not which features they belong to, " +
			"and here that can't be told: categorical features take pandas' codes (0, 1, …)."
		if ambiguous {
			text += " Train with the columns of numbers that look like such codes as categories too, and they take the categories."
		}
		fs.warnings = append(fs.warnings, text)
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

// alsoFit reports whether the lists fit other features as well, in order: whoever trains may say himself which columns are categorical, numbers among
// them, and leave out one that pandas lists. Such a column's codes are numbers then that go from 0 to the end of its list.
func (fs *lightgbmFeatures) alsoFit(owners []int, lists [][]any, infos []string) bool {
	// How long a list must be at least for an owner, and how long it must be for another feature, 0 where none will do.
	least, exact := make([]int, len(fs.list)), make([]int, len(fs.list))
	for _, owner := range owners {
		least[owner] = highestCode(infos[owner]) + 1
	}
	sizes := make(map[int]bool, len(lists))
	for _, list := range lists {
		sizes[len(list)] = len(list) > 1
	}
	others := false
	for i := range fs.list {
		if highest, ok := strings.CutPrefix(infos[i], "[0:"); ok && !slices.Contains(owners, i) {
			if n, err := strconv.Atoi(strings.TrimSuffix(highest, "]")); err == nil && n < math.MaxInt && sizes[n+1] {
				exact[i], others = n+1, true
			}
		}
	}
	if !others {
		return false
	}
	// The first n lists fit features that were seen; among those is, or is not, one that is no owner.
	with, without := make([]bool, len(lists)+1), make([]bool, len(lists)+1)
	without[0] = true
	owner := 0 // the next one
	for i := range fs.list {
		owns := owner < len(owners) && owners[owner] == i
		if owns {
			owner++
		}
		for n := min(len(lists)-1, i); n >= 0; n-- {
			switch {
			case owns && least[i] <= len(lists[n]):
				with[n+1] = with[n+1] || with[n]
				without[n+1] = without[n+1] || without[n]
			case !owns && exact[i] == len(lists[n]) && exact[i] > 0:
				with[n+1] = with[n+1] || with[n] || without[n]
			}
		}
	}
	return with[len(lists)]
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
	return highestCode(info) < n
}

// highestCode is the highest category of a feature_infos, -1 for none, more than any list has where one can't be read.
func highestCode(info string) int {
	highest := -1
	if !listsCategories(info) {
		return highest
	}
	for code := range strings.SplitSeq(info, ":") {
		c, err := strconv.Atoi(code)
		if err != nil {
			return math.MaxInt - 1
		}
		highest = max(highest, c)
	}
	return highest
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
		f.kind, f.listed, f.texts = rowcast.TypeText, true, texts
		return true
	case boolean:
		f.kind = rowcast.TypeBoolean
	case integral:
		f.kind = rowcast.TypeBigint
	}
	if f.listed = true; !counted {
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
	if columns {
		return b.views(fs, b.columns(fs))
	}
	const matrix = "features"
	b.graph.input(rowcast.Port{Name: matrix, DType: rowcast.Float64, Shape: []int64{-1, int64(len(fs.list))}})
	return b.views(fs, matrix)
}

// columns declares an input for each feature, and returns the name of the matrix of their numbers.
func (b *lightgbmBuilder) columns(fs *lightgbmFeatures) string {
	for i := range fs.list {
		port := rowcast.Port{Name: fs.list[i].name, DType: rowcast.Float64, Shape: []int64{-1, 1}}
		if fs.list[i].texts != nil {
			port.DType = rowcast.String
		}
		b.graph.input(port)
	}
	list := make([]string, len(fs.list))
	for i := range fs.list {
		f := &fs.list[i]
		switch list[i] = f.name; {
		case f.texts != nil:
			list[i] = b.encode(f.name, stringTensor(f.texts), len(f.texts))
		case f.numbers != nil:
			list[i] = b.encode(f.name, doubleTensor(f.numbers, []int64{int64(len(f.numbers))}), len(f.numbers))
		}
	}
	matrix := b.name("matrix")
	b.graph.node("Concat", list, []string{matrix}, intAttribute("axis", 1))
	return matrix
}

// encode turns each of n categories into its number; any other value is missing, as pandas makes it.
func (b *lightgbmBuilder) encode(input string, keys []byte, n int) string {
	codes := make([]float64, n)
	for c := range codes {
		codes[c] = float64(c)
	}
	b.last++
	out := b.name(strconv.Itoa(b.last))
	b.graph.domainNode(domainML, "LabelEncoder", []string{input}, []string{out}, tensorAttribute("keys_tensor", keys),
		doublesAttribute("values_tensor", codes), doublesAttribute("default_tensor", []float64{math.NaN()}))
	return out
}

// views makes the columns as the splits see them, and returns the name of the matrix that holds them.
func (b *lightgbmBuilder) views(fs *lightgbmFeatures, matrix string) string {
	var used view
	for i := range fs.list {
		if f := &fs.list[i]; f.listed {
			f.views = viewValue // what is no whole number is in no list
		}
		used |= fs.list[i].views
	}
	zero := matrix
	if used&viewZero != 0 {
		zero = b.withoutZeros(fs, matrix)
	}
	source := zero
	if fs.wide {
		source = matrix
	}
	code := source
	if used&viewCode != 0 {
		code = b.withoutFractions(fs, source, used != viewCode)
	}
	if !fs.wide {
		return code
	}
	out := b.name("views")
	b.graph.node("Concat", []string{matrix, zero, code}, []string{out}, intAttribute("axis", 1))
	return out
}

// withoutZeros puts NaN in the place of zeros in the columns of viewZero; in all columns where each view has its own.
func (b *lightgbmBuilder) withoutZeros(fs *lightgbmFeatures, matrix string) string {
	bounds := make([]float64, len(fs.list))
	for i := range bounds {
		bounds[i] = zeroThreshold
		if !fs.wide && fs.list[i].views&viewZero == 0 {
			bounds[i] = -1 // no number's size is below
		}
	}
	b.graph.floats64(b.name("zero_bounds"), bounds, int64(len(bounds)))
	b.scalar("missing", math.NaN())
	return b.apply("Where", b.apply("LessOrEqual", b.apply("Abs", matrix), b.name("zero_bounds")), b.name("missing"), matrix)
}

// withoutFractions cuts fractions off, in the columns of viewCode alone where there are others. An infinite code becomes NaN, which is in no set
// either.
func (b *lightgbmBuilder) withoutFractions(fs *lightgbmFeatures, matrix string, others bool) string {
	b.scalar("unit", 1)
	b.last++
	fraction := b.name(strconv.Itoa(b.last))
	b.graph.node("Mod", []string{matrix, b.name("unit")}, []string{fraction}, intAttribute("fmod", 1))
	whole := b.apply("Sub", matrix, fraction)
	if fs.wide || !others {
		return whole
	}
	columns := make([]byte, len(fs.list)) // booleans
	for i := range fs.list {
		columns[i] = byte(flag(fs.list[i].views&viewCode != 0))
	}
	b.graph.bools(b.name("code_columns"), columns)
	return b.apply("Where", b.name("code_columns"), whole, matrix)
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
