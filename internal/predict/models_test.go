package predict

import (
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// fullRows is how many rows of a model are asked in every form and by every verb. The rest take turns: a single row of the isolation forest costs
// a millisecond, and it has five thousand.
const fullRows = 400

// Every row of every model equals what the framework predicted, in every form that can hold it.
func TestEveryModelPredictsWhatItsFrameworkDid(t *testing.T) {
	for _, dir := range folders(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			m := readFolder(t, dir)
			f := newFixture(t, m.name, m.artifact, m.sig)
			require.Len(t, m.expected, len(m.data))
			for i, row := range m.data {
				forms := rowForms(t, m.sig.Features, row)
				if i >= fullRows {
					forms = forms[i%len(forms):][:1]
				}
				f.compareRow(m, forms, m.expected[i], i < fullRows || i%5 == 0)
			}
		})
	}
}

type form struct {
	format  rowcast.Format
	payload string
}

// rowForms writes a row of CSV in every form that fits the features.
func rowForms(t *testing.T, features []rowcast.Feature, row map[string]string) []form {
	t.Helper()
	var numbers []any
	var words []string
	object := map[string]any{}
	text := false
	for _, f := range features {
		v := row[f.Name]
		switch {
		case v == "":
			numbers, words, object[f.Name] = append(numbers, nil), append(words, "NULL"), nil
		case f.Type == rowcast.TypeText:
			text, object[f.Name] = true, v
		case f.Type == rowcast.TypeBoolean:
			b := v == "True"
			require.True(t, b || v == "False")
			object[f.Name] = b
		default:
			x, err := strconv.ParseFloat(v, 64)
			require.NoError(t, err)
			numbers, words, object[f.Name] = append(numbers, x), append(words, v), json.Number(v)
		}
	}
	raw, err := json.Marshal(object)
	require.NoError(t, err)
	forms := []form{{rowcast.FormatJSON, string(raw)}}
	if len(features) == 1 && text {
		forms = append(forms, form{rowcast.FormatText, row[features[0].Name]})
	} else {
		forms = append(forms, form{rowcast.FormatText, string(raw)})
	}
	object["id"], object["an extra column"] = 7, []any{map[string]any{"deep": nil}, "x\u00e9\n"}
	raw, err = json.Marshal(object)
	require.NoError(t, err)
	forms = append(forms, form{rowcast.FormatRecord, string(raw)})
	if len(numbers) == len(features) {
		forms = append(forms, form{rowcast.FormatArray, sent(numbers...)}, form{rowcast.FormatText, "{" + strings.Join(words, ",") + "}"})
	}
	return forms
}

// compareRow checks every verb that the model answers against the framework, and that forms and verbs agree with each other to the last digit.
func (f *fixture) compareRow(m *folder, forms []form, want map[string]string, everyVerb bool) {
	t := f.t
	t.Helper()
	var first string
	for i, form := range forms {
		text := f.must(rowcast.VerbJSON, form.format, form.payload)
		if i > 0 {
			require.Equal(t, first, text, form.payload)
			continue
		}
		first = text
		var got struct {
			Model         string
			Version       int
			Value         json.Number
			Label         any
			Score         json.Number
			Probabilities map[string]json.Number
			Outputs       map[string]any
		}
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		require.NoError(t, d.Decode(&got), text)
		require.Equal(t, m.name, got.Model)
		require.Equal(t, 3, got.Version)
		require.Len(t, got.Outputs, len(m.sig.Outputs))
		probabilities := make([]string, len(m.sig.Labels))
		for column, v := range want {
			label, isProbability := strings.CutPrefix(column, "probability_")
			switch {
			case isProbability:
				near(t, v, string(got.Probabilities[label]))
				for at, l := range m.sig.Labels {
					if labelText(l) == label {
						probabilities[at] = string(got.Probabilities[label])
					}
				}
			case column == "label":
				require.Equal(t, v, fmt.Sprint(got.Label))
				if !everyVerb {
					continue
				}
				require.Equal(t, v, f.must(rowcast.VerbLabel, form.format, form.payload))
				if m.sig.TextLabels() {
					require.Equal(t, v, got.Label)
					f.refuses(rowcast.CodeResultType, rowcast.VerbPredict, form.format, form.payload, "predict_label")
				} else {
					require.Equal(t, json.Number(v), got.Label)
					require.Equal(t, v, f.must(rowcast.VerbPredict, form.format, form.payload))
				}
			case column == "value":
				near(t, v, string(got.Value))
				if everyVerb {
					require.Equal(t, string(got.Value), f.must(rowcast.VerbPredict, form.format, form.payload))
				}
			case column == "score":
				near(t, v, string(got.Score))
			}
		}
		if !everyVerb {
			continue
		}
		if len(got.Probabilities) > 0 {
			require.Equal(t, "{"+strings.Join(probabilities, ",")+"}", f.must(rowcast.VerbProba, form.format, form.payload))
		} else {
			f.refuses(rowcast.CodeResultType, rowcast.VerbProba, form.format, form.payload, "no probabilities")
		}
	}
}

func near(t testing.TB, want, got string) {
	t.Helper()
	w, err := strconv.ParseFloat(want, 64)
	require.NoError(t, err)
	g, err := strconv.ParseFloat(got, 64)
	require.NoError(t, err)
	require.LessOrEqual(t, math.Abs(w-g), 1e-5*math.Max(1, math.Abs(w)), "want %s, got %s", want, got)
}
