package registry

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/rowcast/rowcast/internal/rowcast"
	"github.com/stretchr/testify/require"
)

func TestYAMLAndJSONSayTheSame(t *testing.T) {
	fromYAML, err := ParseYAML([]byte(`
name: churn
description: 'Who leaves: soon.'
task: classification
inputs: columns
features:
- name: island
  type: text
  default: unknown
- {name: bill, type: float4, missing: true}
- year
labels: [0, 1]
target: left
trained_with: scikit-learn
outputs: {label: output_label, probability: p}
parameters: {seed: 1234567890123456789, depth: 3}
tags: {team: growth}
allow_infinity: true
example: [Dream, .nan, 2007]
`))
	require.NoError(t, err)
	fromJSON, err := ParseJSON([]byte(`{"name": "churn", "description": "Who leaves: soon.", "task": "classification", "inputs": "columns",
		"features": [{"name": "island", "type": "text", "default": "unknown"}, {"name": "bill", "type": "real", "missing": true}, "year"],
		"labels": [0, 1], "target": "left", "trained_with": "scikit-learn", "outputs": {"label": "output_label", "probability": "p"},
		"parameters": {"seed": 1234567890123456789, "depth": 3}, "tags": {"team": "growth"}, "allow_infinity": true, "example": ["Dream","NaN",2007]}`))
	require.NoError(t, err)
	require.Equal(t, fromJSON, fromYAML)
	require.Equal(t, rowcast.TypeReal, fromYAML.Features[1].Type)
	require.Equal(t, json.Number("1234567890123456789"), fromYAML.Parameters["seed"])

	text, err := fromYAML.JSON()
	require.NoError(t, err)
	again, err := ParseJSON(text)
	require.NoError(t, err)
	require.Equal(t, fromYAML, again)

	for _, empty := range []string{"", "# nothing\n", "---\n"} {
		o, err := ParseYAML([]byte(empty))
		require.NoError(t, err)
		require.Equal(t, Options{}, o)
	}
	text, err = Options{}.JSON()
	require.NoError(t, err)
	require.JSONEq(t, "{}", string(text))
}

func TestOptionsAreRefusedByName(t *testing.T) {
	for _, c := range []struct{ options, reason, hint string }{
		{`{"feature": []}`, `the unknown key "feature"`, `"features"`},
		{`{"Task": "regression"}`, `the unknown key "Task"`, `"task"`},
		{`{"colour": 1}`, `the unknown key "colour"`, ""},
		{`{"task": "regresion"}`, "task must be one of", `"regression"`},
		{`{"task": 1}`, "task must be one of", ""},
		{`{"inputs": "rows"}`, "inputs must be one of matrix, columns, tensors", ""},
		{`{"features": "a"}`, "features must be a list", ""},
		{`{"features": [{"nam": "a"}]}`, `feature 1 has the unknown key "nam"`, `"name"`},
		{`{"features": [{"type": "real"}]}`, "feature 1 has no name", ""},
		{`{"features": ["a", "a"]}`, `two features are named "a"`, ""},
		{`{"features": [{"name": "a", "type": "date"}]}`, "feature 1's type must be real", ""},
		{`{"features": [{"name": "a", "default": [1]}]}`, "feature 1's default must be one value", ""},
		{`{"features": [{"name": "a", "missing": "yes"}]}`, "missing must be true or false", ""},
		{`{"labels": ["a", 1]}`, "all text or all integers", "Quote"},
		{`{"labels": [1.5]}`, "neither text nor an integer", ""},
		{`{"labels": [true]}`, "neither text nor an integer", ""},
		{`{"labels": ["a", "a"]}`, `comes twice`, ""},
		{`{"outputs": {"labels": "a"}}`, `outputs has the unknown key "labels"`, `"label"`},
		{`{"tags": []}`, "tags must be an object", ""},
		{`{"name": "a", "name": "b"}`, `the key "name" twice`, ""},
		{`[]`, "must be an object", ""},
		{`{"name": "a"} x`, "must be an object", ""},
		{``, "must be an object", ""},
	} {
		_, err := ParseJSON([]byte(c.options))
		e := refusal(t, err)
		require.Contains(t, e.Message, c.reason, c.options)
		require.Contains(t, e.Hint, c.hint, c.options)
		require.Equal(t, rowcast.CodeInvalidArgument, e.Code)
	}
	_, err := ParseYAML([]byte("a: [1"))
	require.ErrorContains(t, err, "no YAML")
	_, err = ParseYAML([]byte("- a\n"))
	require.ErrorContains(t, err, "model.yaml must be an object")
}

func FuzzOptions(f *testing.F) {
	f.Add([]byte(`{"features": [{"name": "a", "type": "real", "missing": true, "default": 1e999}], "labels": [1.0, -0.0]}`))
	f.Add([]byte("name: a\nfeatures: [a, {name: b}]\nlabels: [yes, no]\nexample: {1: .inf}\n"))
	f.Add([]byte("a: &a [*a]\n"))
	paths, _ := filepath.Glob(filepath.Join(realModels, "*", "model.yaml"))
	for _, path := range paths {
		if text, err := os.ReadFile(path); err == nil && len(text) < 600 {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, parse := range []func([]byte) (Options, error){ParseYAML, ParseJSON} {
			o, err := parse(text)
			if err != nil {
				require.NotEqual(t, rowcast.CodeInternal, rowcast.CodeOf(err), "%v", err)
				continue
			}
			written, err := o.JSON()
			require.NoError(t, err)
			again, err := ParseJSON(written)
			require.NoError(t, err, "%s", written)
			twice, err := again.JSON()
			require.NoError(t, err)
			require.Equal(t, string(written), string(twice))
		}
	})
}
