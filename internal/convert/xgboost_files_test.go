package convert

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
	"github.com/stretchr/testify/require"
)

// smallXGBoost is a model of one tree: x < 0.5 is 1, else 2, but 3 where y is category 1 or 2.
const smallXGBoost = `{"version":[3,2,0],"learner":{"attributes":{},"feature_names":["x","y"],"feature_types":["float","c"],` +
	`"objective":{"name":"reg:squarederror","reg_loss_param":{"scale_pos_weight":"1"}},` +
	`"learner_model_param":{"base_score":"[5E-1]","num_class":"0","num_feature":"2","num_target":"1"},` +
	`"gradient_booster":{"name":"gbtree","model":{"cats":{"enc":[],"feature_segments":[]},` +
	`"gbtree_model_param":{"num_parallel_tree":"1","num_trees":"1"},` +
	`"iteration_indptr":[0,1],"tree_info":[0],"trees":[{"id":0,"tree_param":{"num_nodes":"5","size_leaf_vector":"1"},` +
	`"left_children":[1,-1,3,-1,-1],"right_children":[2,-1,4,-1,-1],"split_indices":[0,0,1,0,0],"split_conditions":[0.5,1,0,2,3],` +
	`"default_left":[1,0,0,0,0],"split_type":[0,0,1,0,0],` +
	`"categories":[1,2],"categories_nodes":[2],"categories_segments":[0],"categories_sizes":[2]}]}}}}`

func TestXGBoostTellsFeaturesLabelsAndSettings(t *testing.T) {
	res, err := XGBoost([]byte(smallXGBoost))
	require.NoError(t, err)
	require.Equal(t, "XGBoost 3.2.0", res.TrainedWith)
	require.Equal(t, rowcast.TaskRegression, res.Task)
	require.Equal(t, []rowcast.Feature{
		{Name: "x", Type: rowcast.TypeReal, Missing: true}, {Name: "y", Type: rowcast.TypeBigint, Missing: true},
	}, res.Features)
	require.Nil(t, res.Labels)
	require.Equal(t, Outputs{Value: "value"}, res.Outputs)
	require.Equal(t, map[string]string{"objective": "reg:squarederror", "scale_pos_weight": "1", "base_score": "[5E-1]", "booster": "gbtree",
		"num_parallel_tree": "1"}, res.Parameters)
	g, err := onnx.Inspect(res.ONNX)
	require.NoError(t, err)
	require.Equal(t, "XGBoost", g.Producer)
	require.Equal(t, []rowcast.Port{{Name: "features", DType: rowcast.Float32, Shape: []int64{-1, 2}}}, g.Inputs)

	res, err = XGBoost(xgboostFixture(t, "frame.ubj"))
	require.NoError(t, err)
	require.Equal(t, []rowcast.Feature{
		{Name: "a", Type: rowcast.TypeReal, Missing: true}, {Name: "b", Type: rowcast.TypeReal, Missing: true},
		{Name: "c", Type: rowcast.TypeReal, Missing: true},
		{Name: "day", Type: rowcast.TypeText, Default: json.RawMessage(`""`)}, {Name: "kind", Type: rowcast.TypeBigint, Missing: true},
		{Name: "flag", Type: rowcast.TypeBoolean, Missing: true}, {Name: "size", Type: rowcast.TypeBigint, Missing: true},
	}, res.Features)
	require.Equal(t, []json.RawMessage{json.RawMessage("0"), json.RawMessage("1")}, res.Labels)
	require.Equal(t, Outputs{Probability: "probability"}, res.Outputs)

	res, err = XGBoost(xgboostFixture(t, "early_parallel.ubj"))
	require.NoError(t, err)
	require.Len(t, res.Labels, 3)
	require.NotEmpty(t, res.Attributes["best_iteration"])
	require.Len(t, res.Warnings, 1)
	require.Contains(t, res.Warnings[0], "stopped early")

	res, err = XGBoost(xgboostFixture(t, "multi_softmax.json"))
	require.NoError(t, err)
	require.Equal(t, Outputs{Label: "label", Probability: "probability"}, res.Outputs)

	res, err = XGBoost(xgboostFixture(t, "quantiles.ubj"))
	require.NoError(t, err)
	require.Equal(t, rowcast.TaskTensors, res.Task, "several values a row")
}

// Codes that no training saw go where XGBoost sends them: cut to integers, and to the left where they are in no set or below 0.
func TestXGBoostCategoriesOutsideTheTraining(t *testing.T) {
	res, err := XGBoost([]byte(smallXGBoost))
	require.NoError(t, err)
	s := newSession(t, res.ONNX)
	for code, want := range map[string]float64{
		"0": 2.5, "1": 3.5, "1.9": 3.5, "2": 3.5, "2.99": 3.5, "3": 2.5, "-1": 2.5, "-0.5": 2.5, "33554432": 2.5, "": 3.5,
	} {
		rows := readTable(t, []byte("x,y\n1,"+code+"\n"))
		require.Equal(t, []float64{want}, run(t, s, res, rows, 0, 1), "code %q", code)
	}
	left, err := XGBoost([]byte(strings.Replace(smallXGBoost, `"default_left":[1,0,0`, `"default_left":[true,false,true`, 1)))
	require.NoError(t, err)
	require.Equal(t, []float64{2.5}, run(t, newSession(t, left.ONNX), left, readTable(t, []byte("x,y\n1,\n")), 0, 1), "a missing category goes left")
	empty, err := XGBoost([]byte(strings.Replace(smallXGBoost, `"categories_sizes":[2]`, `"categories_sizes":[0]`, 1)))
	require.NoError(t, err)
	s = newSession(t, empty.ONNX)
	require.Equal(t, []float64{2.5}, run(t, s, empty, readTable(t, []byte("x,y\n1,1\n")), 0, 1))
	require.Equal(t, []float64{3.5}, run(t, s, empty, readTable(t, []byte("x,y\n1,\n")), 0, 1))
}

// A category with a name that the model never saw counts as none of any set; NULL is missing.
func TestXGBoostTakesCategoriesByName(t *testing.T) {
	named := strings.Replace(smallXGBoost, `"enc":[]`, `"enc":[{"offsets":[],"values":[]},{"offsets":[0,1,1,3],"values":[97,98,99]}]`, 1)
	res, err := XGBoost([]byte(named))
	require.NoError(t, err)
	require.Equal(t, rowcast.Feature{Name: "y", Type: rowcast.TypeText, Default: json.RawMessage(`"missing 0"`)}, res.Features[1], `"" is a category`)
	s := newSession(t, res.ONNX)
	for name, want := range map[string]float64{"a": 2.5, "": 3.5, "bc": 3.5, "never seen": 2.5, "missing 0": 3.5} {
		require.Equal(t, []float64{want}, run(t, s, res, readTable(t, []byte("x,y\n1,"+name+"\n")), 0, 1), name)
	}

	beyond := strings.Replace(named, "[97,98,99]", "[97,-61,-87]", 1)
	res, err = XGBoost([]byte(beyond))
	require.NoError(t, err)
	require.Equal(t, rowcast.TypeBigint, res.Features[1].Type)
	require.Len(t, res.Warnings, 1)
	require.Contains(t, res.Warnings[0], "ASCII")

	clash := strings.ReplaceAll(strings.ReplaceAll(named, `["x","y"]`, `["value","/value"]`), "squarederror", "gamma")
	res, err = XGBoost([]byte(clash))
	require.NoError(t, err)
	newSession(t, res.ONNX)
	require.Equal(t, "//value", res.Outputs.Value)
}

func TestXGBoostRefusesWithTheReason(t *testing.T) {
	for _, c := range []struct{ old, new, message string }{
		{smallXGBoost, "", "ends early"},
		{smallXGBoost, "binf\x00\x00", "no XGBoost model in JSON or UBJ"},
		{smallXGBoost, "\x80\x04\x95", "no XGBoost model in JSON or UBJ"},
		{smallXGBoost, `[{"nodeid":0}]`, "dump_model"},
		{smallXGBoost, "{}", "no learner"},
		{smallXGBoost, strings.Repeat(`{"a":`, 100), "nests too deep"},
		{smallXGBoost, "{" + strings.Repeat("i\x01a{", 100), "nests too deep"},
		{smallXGBoost, "{L\xff\xff\xff\xff\xff\xff\xff\xff", "length"},
		{smallXGBoost, "{i\x01a[$d#l\x7f\xff\xff\xff", "length"},
		{"}}}}", "}}}", "a comma or a brace"},
		{"}}}}", "}}}} x", "something follows"},
		{"reg:squarederror", "reg:custom", "not known"},
		{"reg:squarederror", "multi:softprob", "does not go with its 1 outputs"},
		{"reg:squarederror", "binary:logistic\",\"x\":\"", ""},
		{`"[5E-1]"`, `"[5E-1,1]"`, "2 base scores for 1 outputs"},
		{`"[5E-1]"`, `"half"`, "base_score"},
		{`"[5E-1]"`, `0.5`, "not text"},
		{`"num_feature":"2"`, `"num_feature":"3"`, "3 features and 2 feature_names"},
		{`"num_feature":"2"`, `"num_feature":"2000000000"`, "num_feature"},
		{`"num_class":"0"`, `"num_class":"99999999"`, "num_class"},
		{`["x","y"]`, `["x","x"]`, "name of another"},
		{`["x","y"]`, `["x",1]`, "not a list of text"},
		{`["float","c"]`, `["float","image"]`, `the type "image"`},
		{`"name":"gbtree"`, `"name":"gbforest"`, "booster"},
		{`"name":"gbtree"`, `"name":"dart","gbtree":{}`, ""},
		{`"tree_info":[0]`, `"tree_info":[1]`, "belongs to output 1 of 1"},
		{`"tree_info":[0]`, `"tree_info":[]`, "0 entries of tree_info"},
		{`"size_leaf_vector":"1"`, `"size_leaf_vector":"3"`, "multi_output_tree"},
		{`"left_children":[1,-1,3,-1,-1]`, `"left_children":[1,-1,3,-1]`, "differ in length"},
		{`"left_children":[1,-1,3,-1,-1]`, `"left_children":[1,-1,0,-1,-1]`, "does not exist"},
		{`"left_children":[1,-1,3,-1,-1]`, `"left_children":[1,-1,2,-1,-1]`, "two parents"},
		{`"left_children":[1,-1,3,-1,-1]`, `"left_children":[1,-1,5,-1,-1]`, "does not exist"},
		{`"left_children":[1,-1,3,-1,-1]`, `"left_children":[1,-1,3.5,-1,-1]`, "does not exist"},
		{`"left_children":[1,-1,3,-1,-1]`, `"left_children":[1,-1,NaN,-1,-1]`, "does not exist"},
		{`"right_children":[2,-1,4,-1,-1]`, `"right_children":[2,-1,1,-1,-1]`, "two parents"},
		{`"split_indices":[0,0,1,0,0]`, `"split_indices":[0,0,2,0,0]`, "does not exist"},
		{`"categories_nodes":[2]`, `"categories_nodes":[3]`, "no set of categories"},
		{`"categories_nodes":[2]`, `"categories_nodes":[9]`, "do not fit"},
		{`"categories_sizes":[2]`, `"categories_sizes":[3]`, "do not fit"},
		{`"categories_segments":[0]`, `"categories_segments":[1]`, "not in its list"},
		{`"categories":[1,2]`, `"categories":[1,-2]`, "has the category -2"},
		{`"enc":[]`, `"enc":[{"values":[1]}]`, "categories of 1"},
		{`"enc":[]`, `"enc":[{"values":[]},{"offsets":[0,9],"values":[97]}]`, "go beyond their text"},
	} {
		require.Contains(t, smallXGBoost, c.old)
		_, err := XGBoost([]byte(strings.Replace(smallXGBoost, c.old, c.new, 1)))
		if c.message == "" {
			if err != nil {
				requireRefused(t, err, "")
			}
			continue
		}
		requireRefused(t, err, c.message)
	}
	_, err := XGBoost(xgboostFixture(t, "refused_multi_output.ubj"))
	requireRefused(t, err, "multi_output_tree")
}

// chainXGBoost is a model whose tree is one path of splits.
func chainXGBoost(splits int) []byte {
	n := 2*splits + 1
	left, right, zeros := make([]string, n), make([]string, n), make([]string, n)
	for i := range n {
		left[i], right[i], zeros[i] = "-1", "-1", "0"
	}
	for i := range splits {
		left[2*i], right[2*i] = fmt.Sprint(2*i+1), fmt.Sprint(2*i+2)
	}
	return fmt.Appendf(nil, `{"learner":{"attributes":{},"feature_names":[],"feature_types":[],"objective":{"name":"binary:logistic"},`+
		`"learner_model_param":{"base_score":"5E-1","num_class":"0","num_feature":"1"},`+
		`"gradient_booster":{"name":"gbtree","model":{"tree_info":[0],"trees":[{`+
		`"left_children":[%[1]s],"right_children":[%[2]s],"split_indices":[%[3]s],"split_conditions":[%[3]s],"default_left":[%[3]s]}]}}}}`,
		strings.Join(left, ","), strings.Join(right, ","), strings.Join(zeros, ","))
}

func TestXGBoostTakesDeepTreesAndRefusesDeeper(t *testing.T) {
	res, err := XGBoost(chainXGBoost(maxTreeDepth))
	require.NoError(t, err)
	rows := readTable(t, []byte("f0\n-1\n1\n"))
	require.Equal(t, []float64{0.5, 0.5}, run(t, newSession(t, res.ONNX), res, rows, 0, 2))
	_, err = XGBoost(chainXGBoost(maxTreeDepth + 1))
	requireRefused(t, err, "deeper than 2000")
}

// Every cut of a file is refused, and none is taken for a whole one.
func TestXGBoostRefusesEveryCutOfAFile(t *testing.T) {
	for _, name := range []string{"multi_softmax.json", "partition.ubj"} {
		data := bytes.TrimSpace(xgboostFixture(t, name))
		for n := 0; n < len(data); n += 1 + n/64 {
			_, err := XGBoost(data[:n])
			requireRefused(t, err, "")
		}
	}
}

func FuzzXGBoostJSON(f *testing.F) {
	f.Add([]byte(smallXGBoost))
	f.Add([]byte(strings.Replace(smallXGBoost, `"enc":[]`, `"enc":[{"offsets":[],"values":[]},{"offsets":[0,1,1,3],"values":[97,98,99]}]`, 1)))
	f.Add(chainXGBoost(3))
	fuzzXGBoost(f, "json")
}

func FuzzUBJ(f *testing.F) {
	document, err := readJSON([]byte(smallXGBoost))
	require.NoError(f, err)
	f.Add(appendUBJ(nil, document))
	fuzzXGBoost(f, "ubj")
}

// fuzzXGBoost requires that a file is refused with a reason or gives a model that ONNX Runtime loads.
func fuzzXGBoost(f *testing.F, kind string) {
	paths, err := filepath.Glob("testdata/xgboost/*." + kind)
	require.NoError(f, err)
	for _, path := range paths {
		data, err := os.ReadFile(path)
		require.NoError(f, err)
		if len(data) < 9000 { // short seeds find more
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		res, err := XGBoost(data)
		if err != nil {
			requireRefused(t, err, "")
			return
		}
		require.NotEmpty(t, res.Features)
		_, err = onnx.Inspect(res.ONNX)
		require.NoError(t, err)
		if len(res.ONNX) > 1<<20 {
			return // a count of classes or features that makes the loading slow
		}
		r, err := opened()
		require.NoError(t, err)
		s, err := r.NewSession(res.ONNX)
		require.NoError(t, err)
		require.NoError(t, s.Close())
	})
}

// appendUBJ writes a document as XGBoost does, with the keys in order.
func appendUBJ(out []byte, v any) []byte {
	length := func(n int) { out = append(out, 'L', 0, 0, 0, 0, byte(n>>24), byte(n>>16), byte(n>>8), byte(n)) }
	switch v := v.(type) {
	case map[string]any:
		out = append(out, '{')
		var keys []string
		for key := range v {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		for _, key := range keys {
			length(len(key))
			out = appendUBJ(append(out, key...), v[key])
		}
		return append(out, '}')
	case []any:
		out = append(out, '[', '#')
		length(len(v))
		for _, e := range v {
			out = appendUBJ(out, e)
		}
		return out
	case []float64:
		out = append(out, '[', '$', 'i', '#')
		length(len(v))
		for _, e := range v {
			out = append(out, byte(int8(e)))
		}
		return out
	case string:
		out = append(out, 'S')
		length(len(v))
		return append(out, v...)
	case float64:
		return append(out, 'i', byte(int8(v)))
	}
	return append(out, 'Z')
}
