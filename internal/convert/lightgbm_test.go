package convert

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
	"github.com/stretchr/testify/require"
)

// lightgbmTolerance is far below what is asked for (1e-6): everything is added and compared in float64, but ONNX Runtime adds many trees in several
// parts.
const lightgbmTolerance = 2e-12

func lightgbmFixture(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "lightgbm", name))
	require.NoError(t, err)
	return data
}

// expectedColumns are the columns NAME, or NAME:0, NAME:1, ….
func expectedColumns(expected table, name, separator string) []string {
	var list []string
	for _, c := range expected.names {
		if base, _, _ := strings.Cut(c, separator); c == name || strings.HasPrefix(c, name+separator) && base != "" {
			list = append(list, c)
		}
	}
	return list
}

// compareLightGBM runs all rows at once and one by one.
func compareLightGBM(t *testing.T, model []byte, rows, expected table, columns []string) {
	t.Helper()
	require.NotEmpty(t, columns)
	res, err := LightGBM(model)
	require.NoError(t, err)
	s := newSession(t, res.ONNX)
	width := len(columns)
	together := run(t, s, res, rows, 0, rows.rows)
	require.Len(t, together, rows.rows*width)
	worst := 0.0
	for r := range rows.rows {
		alone := run(t, s, res, rows, r, r+1)
		want := make([]float64, width)
		for c, name := range columns {
			want[c] = number(t, expected.columns[name][r])
			for _, got := range []float64{together[r*width+c], alone[c]} {
				worst = max(worst, relative(got, want[c]))
				require.LessOrEqual(t, relative(got, want[c]), lightgbmTolerance, "row %d, %s: %v, not %v", r, name, got, want[c])
			}
		}
		if res.Task == rowcast.TaskClassification {
			require.Equal(t, mostProbable(want), mostProbable(together[r*width:][:width]), "label of row %d", r)
			require.Equal(t, mostProbable(want), mostProbable(alone), "label of row %d alone", r)
		}
	}
	t.Logf("%d rows, largest relative difference %.1e", rows.rows, worst)
}

// Every objective, kind of boosting, missing type and kind of split, on rows that training never saw: NaN, infinities, numbers around zero,
// thresholds and their neighbours, unknown, negative, fractional and huge categories. See generate.py.
func TestLightGBMModelsPredictAsTheLibraryDoes(t *testing.T) {
	rows, expected := readTable(t, lightgbmFixture(t, "data.csv")), readTable(t, lightgbmFixture(t, "expected.csv"))
	paths, err := filepath.Glob("testdata/lightgbm/*.txt")
	require.NoError(t, err)
	compared := 0
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".txt")
		if name == "linear" || name == "pandas" {
			continue // have their own tests
		}
		compared++
		t.Run(name, func(t *testing.T) {
			compareLightGBM(t, lightgbmFixture(t, name+".txt"), rows, expected, expectedColumns(expected, name, ":"))
		})
	}
	require.Greater(t, compared, 30)
}

func TestLightGBMSharedModelsPredictAsTheLibraryDoes(t *testing.T) {
	rows, expected := readTable(t, sharedModel(t, "data.csv")), readTable(t, sharedModel(t, "expected.csv"))
	for _, name := range []string{"lgb_regression", "lgb_categorical", "lgb_multiclass"} {
		t.Run(name, func(t *testing.T) {
			compareLightGBM(t, sharedModel(t, name+".txt"), rows, expected, expectedColumns(expected, name, "_"))
		})
	}
}

// A data frame's categories are taken as the data frame had them: texts, integers, other numbers and booleans.
func TestLightGBMTakesTheCategoriesOfPandas(t *testing.T) {
	model := lightgbmFixture(t, "pandas.txt")
	rows, expected := readTable(t, lightgbmFixture(t, "pandas_data.csv")), readTable(t, lightgbmFixture(t, "pandas_expected.csv"))
	compareLightGBM(t, model, rows, expected, []string{"pandas"})

	res, err := LightGBM(model)
	require.NoError(t, err)
	require.Empty(t, res.Warnings)
	require.Equal(t, []rowcast.Feature{
		{Name: "amount", Type: rowcast.TypeDouble},
		{Name: "country", Type: rowcast.TypeText, Default: json.RawMessage(`""`)},
		{Name: "size", Type: rowcast.TypeBigint},
		{Name: "grade", Type: rowcast.TypeDouble},
		{Name: "flag", Type: rowcast.TypeBoolean},
	}, res.Features)

	// NULL must not become a category: another text stands for it where the empty one is taken.
	taken := bytes.Replace(model, []byte(`["ch",`), []byte(`["",`), 1)
	res, err = LightGBM(taken)
	require.NoError(t, err)
	require.Equal(t, `"?"`, string(res.Features[1].Default))

	// Lists that can't be matched leave the codes.
	for _, lists := range []string{`[["ch", "de"]]`, `[["a"],["b"],["c"],["d"]]`, `[[null,1,2,3,4,5,6],[10,20,40],[1,2,3],[true,false]]`} {
		at := bytes.Index(model, []byte("pandas_categorical:"))
		res, err = LightGBM(append(slices.Clone(model[:at]), "pandas_categorical:"+lists+"\n"...))
		require.NoError(t, err, lists)
		require.Len(t, res.Warnings, 1, lists)
		require.Contains(t, res.Warnings[0], "take", lists)
		require.Equal(t, rowcast.TypeDouble, res.Features[1].Type)
	}
}

// Somebody may have trained with country as the numbers that its codes are, and with another column as the fourth category: the file looks the same.
func TestLightGBMDoesNotGuessWhoseCategoriesTheyAre(t *testing.T) {
	model := lightgbmFixture(t, "pandas.txt")
	infos := regexp.MustCompile(`feature_infos=\S+`)
	_, text, _ := bytes.Cut(model, []byte("pandas_categorical:"))
	var lists [][]any
	require.NoError(t, json.Unmarshal(bytes.TrimSpace(text), &lists))
	n := len(lists[0])
	for highest, told := range map[int]bool{n - 1: false, n - 2: true, n: true} {
		res, err := LightGBM(infos.ReplaceAll(model, fmt.Appendf(nil, "feature_infos=[0:%d]", highest)))
		require.NoError(t, err)
		require.Equal(t, told, len(res.Warnings) == 0, "amounts from 0 to %d", highest)
		require.Equal(t, told, res.Features[1].Type == rowcast.TypeText)
	}
}

func TestLightGBMTellsFeaturesLabelsAndSettings(t *testing.T) {
	res, err := LightGBM(lightgbmFixture(t, "multiclass.txt"))
	require.NoError(t, err)
	require.Equal(t, "LightGBM (model format v4)", res.TrainedWith)
	require.Equal(t, rowcast.TaskClassification, res.Task)
	require.Equal(t, `[0,1,2]`, jsonOf(t, res.Labels))
	require.Equal(t, Outputs{Probability: "probabilities"}, res.Outputs)
	require.Equal(t, "multiclass num_class:3", res.Parameters["objective"])
	require.Equal(t, "0.3", res.Parameters["learning_rate"])
	require.Equal(t, "12", res.Parameters["trees"])
	require.NotContains(t, res.Parameters, "machines")
	// Missing where a split tells where missing values go, for training saw NaN in the first and the fourth; and where no split asks, as for the
	// second.
	require.Equal(t, []rowcast.Feature{
		{Name: "größe", Type: rowcast.TypeDouble, Missing: true}, {Name: "label", Type: rowcast.TypeDouble, Missing: true},
		{Name: "a=b", Type: rowcast.TypeDouble},
		{Name: "code", Type: rowcast.TypeDouble, Missing: true}, {Name: "kind", Type: rowcast.TypeDouble},
	}, res.Features)

	g, err := onnx.Inspect(res.ONNX)
	require.NoError(t, err)
	require.Equal(t, []rowcast.Port{{Name: "features", DType: rowcast.Float64, Shape: []int64{-1, 5}}}, g.Inputs)
	require.Equal(t, `["größe","label","a=b","code","kind"]`, g.Metadata["feature_names"])

	binary, err := LightGBM(lightgbmFixture(t, "binary.txt"))
	require.NoError(t, err)
	require.Equal(t, `[0,1]`, jsonOf(t, binary.Labels))
	value, err := LightGBM(lightgbmFixture(t, "gamma.txt"))
	require.NoError(t, err)
	require.Equal(t, rowcast.TaskRegression, value.Task)
	require.Equal(t, Outputs{Value: "value"}, value.Outputs)
	raw, err := LightGBM(lightgbmFixture(t, "custom_multi.txt"))
	require.NoError(t, err)
	require.Equal(t, rowcast.TaskTensors, raw.Task)
	require.Len(t, raw.Warnings, 1)
	unused, err := LightGBM(lightgbmFixture(t, "constant.txt"))
	require.NoError(t, err)
	require.True(t, unused.Features[2].Missing, "no split asks for it")
	blank, err := LightGBM(lightgbmFixture(t, "zero_missing.txt"))
	require.NoError(t, err)
	require.True(t, blank.Features[2].Missing, "zero_as_missing takes NaN")
}

func jsonOf(t *testing.T, v any) string {
	text, err := json.Marshal(v)
	require.NoError(t, err)
	return string(text)
}

// A feature may have the name of an output, and of what the graph calls its own.
func TestLightGBMNamesNeverClash(t *testing.T) {
	model := bytes.Replace(lightgbmFixture(t, "pandas.txt"), []byte("feature_names=amount country size grade flag"),
		[]byte("feature_names=probabilities value features rowcast:sum rowcast:1"), 1)
	res, err := LightGBM(model)
	require.NoError(t, err)
	require.Equal(t, "/probabilities", res.Outputs.Probability)
	require.Equal(t, "features", newSession(t, res.ONNX).Inputs()[2].Name)
}

// Line ends of Windows, and the files of old versions, which say less.
func TestLightGBMReadsWhatTheLibraryReads(t *testing.T) {
	model := string(lightgbmFixture(t, "binary.txt"))
	plain, err := LightGBM([]byte(model))
	require.NoError(t, err)
	crlf, err := LightGBM([]byte(strings.ReplaceAll(model, "\n", "\r\n")))
	require.NoError(t, err)
	require.True(t, bytes.Equal(plain.ONNX, crlf.ONNX))

	old := strings.Replace(model, "end of trees", "", 1)
	old = strings.Replace(old, "feature_importances:", "feature importances:", 1)
	for _, key := range []string{"tree_sizes=", "version=", "num_tree_per_iteration=", "feature_infos="} {
		at := strings.Index(old, key)
		old = old[:at] + old[at+strings.Index(old[at:], "\n")+1:]
	}
	res, err := LightGBM([]byte(old))
	require.NoError(t, err)
	require.Equal(t, "LightGBM", res.TrainedWith)
}

// ONNX Runtime builds trees by recursion: the deepest tree that is taken must not exhaust its stack.
func TestLightGBMTakesDeepTreesAndRefusesDeeper(t *testing.T) {
	res, err := LightGBM(chain(maxLightGBMDepth))
	require.NoError(t, err)
	newSession(t, res.ONNX)
	_, err = LightGBM(chain(maxLightGBMDepth + 1))
	requireRefused(t, err, "too deep")
}

// chain is a model of one tree in which every split has a leaf on its left.
func chain(splits int) []byte {
	var features, thresholds, decisions, left, right, leaves strings.Builder
	for i := range splits {
		fmt.Fprint(&features, "0 ")
		fmt.Fprintf(&thresholds, "%d ", i)
		fmt.Fprint(&decisions, "2 ")
		fmt.Fprintf(&left, "%d ", ^i)
		next := i + 1
		if next == splits {
			next = ^splits
		}
		fmt.Fprintf(&right, "%d ", next)
		fmt.Fprintf(&leaves, "%d ", i)
	}
	return fmt.Appendf(nil, "tree\nversion=v4\nnum_class=1\nnum_tree_per_iteration=1\nmax_feature_idx=0\nobjective=regression\nfeature_names=x\n"+
		"tree_sizes=1\n\nTree=0\nnum_leaves=%d\nnum_cat=0\nsplit_feature=%s\nthreshold=%s\ndecision_type=%s\nleft_child=%s\nright_child=%s\n"+
		"leaf_value=%s%d\n\n\nend of trees\n", splits+1, features.String(), thresholds.String(), decisions.String(), left.String(), right.String(),
		leaves.String(), splits)
}

func requireRefused(t *testing.T, err error, message string) {
	t.Helper()
	var e *rowcast.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, rowcast.CodeArtifactRefused, e.Code)
	require.Contains(t, e.Message+" "+e.Detail, message)
	require.NotEmpty(t, e.Detail+e.Hint, "what to do")
}

func TestLightGBMRefusesWithTheLineAndTheReason(t *testing.T) {
	base := "tree\nversion=v4\nnum_class=1\nnum_tree_per_iteration=1\nlabel_index=0\nmax_feature_idx=1\nobjective=regression\nfeature_names=x y\n" +
		"tree_sizes=1\n\nTree=0\nnum_leaves=3\nnum_cat=1\nsplit_feature=0 1\nthreshold=0.5 0\ndecision_type=2 1\nleft_child=1 -1\nright_child=-2 -3\n" +
		"cat_boundaries=0 1\ncat_threshold=5\nleaf_value=1 2 3\nis_linear=0\n\n\nend of trees\n"
	_, err := LightGBM([]byte(base))
	require.NoError(t, err)
	for _, c := range []struct{ old, new, message string }{
		{"tree\nversion", "# a note\nversion", "first line"},
		{base, "", "first line"},
		{"Tree=0", "tree=0", "0 trees, but its header counts 1"},
		{"max_feature_idx=1", "max_feature_idx=2", "line 8: it names 2 features"},
		{"max_feature_idx=1", "max_feature_idx=many", "line 6: max_feature_idx"},
		{"x y", "x x", "twice"},
		{"x y", "x \xff", "line 8: it is no UTF-8"},
		{"objective=regression", "objective=cox", "unknown objective"},
		{"objective=regression", "objective=multiclass num_class:3", "do not fit"},
		{"objective=regression", "objective=binary sigmoid:-1", "line 7: the objective's sigmoid"},
		{"num_tree_per_iteration=1", "num_tree_per_iteration=0", "line 4: num_tree_per_iteration is 0"},
		{"num_tree_per_iteration=1", "num_tree_per_iteration=2000000000", "line 4"},
		{"tree_sizes=1", "tree_sizes=1 2", "1 trees, but its header counts 2"},
		{"tree_sizes=1\n", "", ""},
		{"tree_sizes=1\n\n", "tree_sizes=1", "0 trees, but its header counts 1"},
		{"is_linear=0", "is_linear=1", "linear trees"},
		{"num_leaves=3", "num_leaves=2000000000", "too many nodes"},
		{"num_leaves=3", "num_leaves=1000000", "line 21: leaf_value holds fewer"},
		{"num_leaves=3", "num_leaves=0", "line 12: num_leaves is 0"},
		{"num_leaves=3\n", "", "tree 0 has no num_leaves"},
		{"leaf_value=1 2 3", "leaf_value=1 2 3 4", "line 21: leaf_value holds more"},
		{"leaf_value=1 2 3", "leaf_value=1 nan 3", "line 21: number 2 of leaf_value"},
		{"leaf_value=1 2 3", "leaf_value=1 0x2p3 3", "line 21: number 2 of leaf_value"},
		{"threshold=0.5 0", "threshold=0.5 1", "none of its 1 sets"},
		{"threshold=0.5 0", "threshold=0.5 0.5", "none of its 1 sets"},
		{"threshold=0.5 0", "threshold=0 0\nthreshold=0 inf", "none of its 1 sets"},
		{"decision_type=2 1", "decision_type=1 1", "used twice"},
		{"decision_type=2 1", "decision_type=12 1", "unknown decision_type 12"},
		{"decision_type=2 1", "decision_type=16 1", "unknown decision_type 16"},
		{"split_feature=0 1", "split_feature=0 2", "feature 2, but the model has 2"},
		{"split_feature=0 1", "split_feature=0 -1", "feature -1"},
		{"left_child=1 -1", "left_child=0 -1", "reaches its node 0 twice"},
		{"left_child=1 -1", "left_child=-1 -1", ""},
		{"left_child=1 -1", "left_child=2 -1", "none of its nodes"},
		{"left_child=1 -1", "left_child=-4 -1", "none of its nodes"},
		{"left_child=1 -1", "left_child=1 -2147483648", "none of its nodes"},
		{"right_child=-2 -3", "right_child=-2 -2", "reaches its node -2 twice"},
		{"cat_boundaries=0 1", "cat_boundaries=1 1", "must start at 0"},
		{"cat_boundaries=0 1", "cat_boundaries=0 -1", "never fall"},
		{"cat_boundaries=0 1", "cat_boundaries=0 2000000000", "line 20: cat_threshold holds fewer"},
		{"cat_threshold=5", "cat_threshold=4294967296", "32 bits"},
		{"num_cat=1", "num_cat=3", "num_cat is 3"},
		{"num_cat=1", "num_cat=-1", "num_cat is -1"},
		{"end of trees\n", "end of trees\n\npandas_categorical:[[\n", "line 27: pandas_categorical"},
	} {
		require.Contains(t, base, c.old)
		_, err := LightGBM([]byte(strings.Replace(base, c.old, c.new, 1)))
		if c.message == "" {
			require.NoError(t, err, c.new)
			continue
		}
		requireRefused(t, err, c.message)
	}
	for cut := range len(base) - 1 {
		_, err := LightGBM([]byte(base[:cut]))
		require.Error(t, err, "cut off after %d bytes", cut)
	}
	_, err = LightGBM(lightgbmFixture(t, "linear.txt"))
	requireRefused(t, err, "linear")
	none := bytes.Replace([]byte(base), []byte("tree_sizes=1"), []byte("tree_sizes="), 1)
	_, err = LightGBM(append(none[:bytes.Index(none, []byte("Tree=0"))], "end of trees\n"...))
	requireRefused(t, err, "no trees")
}

// Whatever the bytes: no panic, no flood of memory, and either a refusal that helps or a graph that ONNX Runtime takes.
func FuzzLightGBM(f *testing.F) {
	paths, err := filepath.Glob("testdata/lightgbm/*.txt")
	require.NoError(f, err)
	for _, path := range paths {
		data, err := os.ReadFile(path)
		require.NoError(f, err)
		at := bytes.Index(data, []byte("\nTree=2\n")) // short seeds find more
		if at < 0 {
			at = len(data)
		}
		f.Add(bytes.Replace(data[:at:at], []byte("tree_sizes="), []byte("sizes="), 1))
	}
	f.Add(lightgbmFixture(f, "pandas.txt"))
	f.Add(chain(3))
	f.Fuzz(func(t *testing.T, data []byte) {
		res, err := LightGBM(data)
		if err != nil {
			requireRefused(t, err, "LightGBM")
			return
		}
		// A word of a categorical set is 2 bytes at least and becomes up to 32 numbers of 8 bytes; a node becomes 60 bytes.
		require.Less(t, len(res.ONNX), 4096+200*len(data))
		require.NotEmpty(t, res.Features)
		r, err := opened()
		require.NoError(t, err)
		s, err := r.NewSession(res.ONNX)
		require.NoError(t, err)
		require.NoError(t, s.Close())
	})
}
