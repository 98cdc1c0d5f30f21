package convert

import (
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// categories are the values that a categorical feature had in training, in the order of their codes: text or integers. Neither where the feature is a
// number, or is given by code.
type categories struct {
	texts   []string
	numbers []float32
}

func (c categories) count() int { return len(c.texts) + len(c.numbers) }

// absent is a text that stands for NULL and is no category.
func (c categories) absent() string {
	for i, s := 0, ""; ; i++ {
		if !slices.Contains(c.texts, s) {
			return s
		}
		s = "missing " + strconv.Itoa(i)
	}
}

// encode adds the operator that turns the feature into its code and returns the type of its input. A category that training did not see becomes -1,
// which is in no set of categories; NULL becomes NaN.
func (c categories) encode(g *graph, input, output string) rowcast.DType {
	codes := make([]float32, 0, c.count()+1)
	for i := range c.count() {
		codes = append(codes, float32(i))
	}
	nan := float32(math.NaN())
	codes = append(codes, nan)
	keys := floatsAttribute("keys_floats", append(slices.Clone(c.numbers), nan))
	dtype := rowcast.Float32
	if c.texts != nil {
		keys = stringsAttribute("keys_strings", append(slices.Clone(c.texts), c.absent()))
		dtype = rowcast.String
	}
	g.opsetML = 4 // the first version that finds NaN among its keys
	g.domainNode(domainML, "LabelEncoder", []string{input}, []string{output}, keys,
		floatsAttribute("values_floats", codes), floatAttribute("default_float", -1))
	return dtype
}

// readCategories reads the names of categories that version 3.1 and later keep of a data frame.
func (m *xgboost) readCategories(model object) error {
	if !model.has("cats") {
		return nil
	}
	cats, err := model.object("cats")
	if err != nil {
		return err
	}
	list, err := cats.list("enc")
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return nil
	}
	if len(list) != m.features {
		return damagedXGBoost("it has %d features and the categories of %d", m.features, len(list))
	}
	all := make([]categories, m.features)
	found := false
	for i, item := range list {
		fields, _ := item.(map[string]any)
		o := object{path: "cats.enc[" + strconv.Itoa(i) + "]", fields: fields}
		values, err := o.numbers("values")
		if err != nil {
			return err
		}
		if len(values) == 0 || i < len(m.types) && m.types[i] != "c" {
			continue
		}
		found = true
		var reason string
		if o.has("offsets") {
			all[i].texts, reason, err = categoryTexts(o, values)
		} else {
			all[i].numbers, reason = categoryNumbers(values)
		}
		if err != nil {
			return err
		}
		if reason != "" {
			m.warnings = append(m.warnings, fmt.Sprintf(
				"Feature %d takes the codes of its categories, 0 to n-1 in the order of training, not their names: %s.", i+1, reason))
		}
	}
	if found {
		m.categories = all
	}
	return nil
}

// categoryTexts cuts the names out of the bytes that hold them all. XGBoost (3.2) counts characters where it writes offsets and bytes where it writes
// names, so that from the first letter beyond ASCII on its names are cut at wrong places.
func categoryTexts(o object, values []float64) (names []string, reason string, err error) {
	offsets, err := o.numbers("offsets")
	if err != nil {
		return nil, "", err
	}
	text := make([]byte, len(values))
	for i, v := range values {
		c, ok := index(v, 1, 127)
		if !ok {
			return nil, "XGBoost does not save names with letters beyond ASCII as they are", nil
		}
		text[i] = byte(c)
	}
	for i := range max(len(offsets)-1, 0) {
		from, ok := index(offsets[i], 0, len(text))
		to, ok2 := index(offsets[i+1], from, len(text))
		if !ok || !ok2 {
			return nil, "", damagedXGBoost("the names of categories in %s go beyond their text", o.path)
		}
		names = append(names, string(text[from:to]))
	}
	return names, "", nil
}

// categoryNumbers takes integers that float32, the type of the model's input, can tell apart.
func categoryNumbers(values []float64) (numbers []float32, reason string) {
	for _, v := range values {
		if _, ok := index(v, -maxCategory, maxCategory); !ok {
			return nil, "they are no integers that float32 can tell apart"
		}
		numbers = append(numbers, float32(v))
	}
	return numbers, ""
}
