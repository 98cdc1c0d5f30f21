package convert

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
)

const (
	mlmodelName    = "MLmodel"
	registeredName = "registered_model_meta" // what MLflow writes beside a model that it fetched from its registry

	maxMLmodel = 4 << 20
	maxExample = 4 << 20
	maxModel   = 2 << 30
)

// The flavours that are read, in the order in which they are preferred.
const (
	flavorONNX     = "onnx"
	flavorXGBoost  = "xgboost"
	flavorLightGBM = "lightgbm"
)

// fromMLflow reads a packed MLflow model folder.
func fromMLflow(data []byte) (*Import, error) {
	a, err := openArchive(data)
	if err != nil {
		return nil, err
	}
	root, err := a.root()
	if err != nil {
		return nil, err
	}
	text, err := a.read(path.Join(root, mlmodelName), maxMLmodel)
	if err != nil {
		return nil, err
	}
	m, err := parseMLmodel(text)
	if err != nil {
		return nil, err
	}
	f := folder{archive: a, root: root, model: m}
	if meta := path.Join(root, registeredName); a.has(meta) {
		if text, err := a.read(meta, maxMLmodel); err == nil {
			f.registered = parseRegistered(text)
		}
	}
	return f.convert()
}

// root is the folder that MLmodel is in: the top one, or the only one that has it.
func (a *archive) root() (string, error) {
	var roots []string
	for _, name := range a.names {
		if path.Base(name) == mlmodelName {
			roots = append(roots, path.Dir(name))
		}
	}
	slices.SortFunc(roots, func(x, y string) int {
		return strings.Count(path.Join(x, "x"), "/") - strings.Count(path.Join(y, "x"), "/")
	})
	switch {
	case len(roots) == 0:
		return "", refused("the archive is of no MLflow model: it has no %s", mlmodelName).WithHint("Pack the folder that holds %s.", mlmodelName)
	case len(roots) > 1 && strings.Count(path.Join(roots[0], "x"), "/") == strings.Count(path.Join(roots[1], "x"), "/"):
		return "", refused("the archive holds several MLflow models, in %q and %q", clip(roots[0]), clip(roots[1])).WithHint("Pack one of them.")
	}
	return roots[0], nil
}

// folder is an MLflow model folder.
type folder struct {
	*archive
	root       string
	model      *mlmodel
	registered registered
	imported   Import
}

func (f *folder) convert() (*Import, error) {
	flavor, err := f.flavor()
	if err != nil {
		return nil, err
	}
	data, err := f.data(flavor)
	if err != nil {
		return nil, err
	}
	out := &f.imported
	switch flavor {
	case flavorONNX:
		err = f.takeONNX(data)
	case flavorXGBoost:
		err = f.takeTrees(data, "xgboost", FormatXGBoostJSON, FormatXGBoostUBJ)
	default:
		err = f.takeTrees(data, "lightgbm", FormatLightGBM)
	}
	if err != nil {
		return nil, err
	}
	out.Format = Format(string(FormatMLflow) + "-" + flavor)
	f.parameters(flavor)
	out.Tags = f.model.metadata()
	f.example()
	return out, nil
}

// flavor chooses the flavour to read, or refuses those that are Python.
func (f *folder) flavor() (string, error) {
	for _, known := range []string{flavorONNX, flavorXGBoost, flavorLightGBM} {
		if _, ok := f.model.flavors[known]; ok {
			return known, nil
		}
	}
	has := func(name string) bool { _, ok := f.model.flavors[name]; return ok }
	lines := []struct{ flavor, line string }{
		{"sklearn", "model = mlflow.sklearn.load_model(FOLDER); " + sklearnLine},
		{"pytorch", "model = mlflow.pytorch.load_model(FOLDER); " + torchLine},
		{"keras", "model = mlflow.keras.load_model(FOLDER); " + kerasLine},
		{"tensorflow", "model = mlflow.tensorflow.load_model(FOLDER); " + kerasLine},
		{"catboost", "model = mlflow.catboost.load_model(FOLDER); " + catboostLine},
		{"transformers", "optimum-cli export onnx --model FOLDER/model OUT"},
	}
	for _, l := range lines {
		if has(l.flavor) {
			return "", refused("the MLflow model has the flavor %s, which is code of Python and is never run here", l.flavor).
				WithHint("Convert it in Python, where it can be loaded: %s", l.line)
		}
	}
	names := make([]string, 0, len(f.model.flavors))
	for name := range f.model.flavors {
		names = append(names, clip(name))
	}
	slices.Sort(names)
	if len(names) == 0 {
		return "", refused("%s names no flavor", mlmodelName).WithHint("Save the model with mlflow.onnx, mlflow.xgboost or mlflow.lightgbm.")
	}
	if len(names) == 1 && names[0] == "python_function" {
		return "", refused("the MLflow model is a Python function, which is code and is never run here").
			WithHint("Register the model that the function calls: mlflow.onnx.save_model, mlflow.xgboost.save_model or mlflow.lightgbm.save_model")
	}
	return "", refused("the MLflow model has the flavors %s, of which Rowcast reads none", strings.Join(names[:min(len(names), 8)], ", ")).
		WithHint("Export it to ONNX and save it with mlflow.onnx.save_model(onnx_model, FOLDER), or register the .onnx file itself.")
}

// data reads the model file of a flavour.
func (f *folder) data(flavor string) ([]byte, error) {
	name, _ := f.model.flavors[flavor]["data"].(string)
	if name == "" {
		name = map[string]string{flavorONNX: "model.onnx", flavorXGBoost: "model.xgb", flavorLightGBM: "model.lgb"}[flavor]
	}
	clean := path.Clean(name)
	if path.IsAbs(name) || clean == ".." || strings.HasPrefix(clean, "../") {
		return nil, refused("%s names the model file %q, which is outside its folder", mlmodelName, clip(name))
	}
	at := path.Join(f.root, clean)
	if !f.has(at) {
		// Older versions of MLflow keep ONNX in a folder of its own.
		if inside := path.Join(at, "model.onnx"); flavor == flavorONNX && f.has(inside) {
			return f.read(inside, maxModel)
		}
		return nil, refused("the MLflow model lacks %q, the model file of its flavor %s", clip(name), flavor).
			WithHint("Fetch the whole folder: mlflow artifacts download --artifact-uri URI")
	}
	return f.read(at, maxModel)
}

// takeONNX takes the graph as it is, with what the signature says about it.
func (f *folder) takeONNX(data []byte) error {
	if format, err := detectModelFile(flavorONNX, data); err != nil || format != FormatONNX {
		return wrongFile(flavorONNX, format, err)
	}
	g, err := onnx.Inspect(data)
	if g != nil && len(g.ExternalData) > 0 {
		return refused("the MLflow model keeps its weights outside the .onnx file, in %q", clip(g.ExternalData[0])).
			WithHint("Save it in one file: mlflow.onnx.save_model(onnx_model, FOLDER, save_as_external_data=False)")
	}
	if err != nil {
		return err
	}
	out := &f.imported
	out.ONNX = data
	columns, named := f.model.columns()
	if !named {
		return nil
	}
	for i, c := range columns {
		feature := rowcast.Feature{Name: c.name, Type: c.kind}
		port := g.Inputs[0]
		if len(g.Inputs) == len(columns) {
			port = g.Inputs[i]
			for _, p := range g.Inputs {
				if p.Name == c.name {
					port = p
				}
			}
		}
		if !holds(port.DType, feature.Type) {
			feature.Type = "" // the tensor's own
		}
		if c.optional {
			if feature.Missing = floating(port.DType); !feature.Missing {
				out.Warnings = append(out.Warnings, fmt.Sprintf("the signature calls %q optional, but its tensor is %s, which has no NaN: "+
					"declare a default for it in model.yaml", clip(c.name), port.DType))
			}
		}
		out.Features = append(out.Features, feature)
	}
	return nil
}

func floating(d rowcast.DType) bool {
	return d == rowcast.Float32 || d == rowcast.Float64 || d == rowcast.Float16 || d == rowcast.BFloat16
}

// holds reports whether a tensor takes the values of a feature of the type.
func holds(d rowcast.DType, t rowcast.FeatureType) bool {
	switch {
	case t == rowcast.TypeText || d == rowcast.String:
		return t == rowcast.TypeText && d == rowcast.String
	case d == rowcast.Bool:
		return t == rowcast.TypeBoolean
	case floating(d):
		return true
	}
	return t == rowcast.TypeBigint || t == rowcast.TypeBoolean
}

// detectModelFile is Detect for the model file of a flavour, which must not be an archive in turn. MLflow pickles what has the classes of scikit-learn.
func detectModelFile(flavor string, data []byte) (Format, error) {
	how := ""
	switch {
	case isPickle(data):
		how = "a Python pickle, which is code and is never run here"
	case bytes.HasPrefix(data, []byte("PK")):
		how = "written by skops, whose files name classes of Python to be loaded"
	}
	if how != "" {
		line := map[string]string{flavorXGBoost: xgboostLine, flavorLightGBM: lightgbmLine}[flavor]
		if line == "" {
			line = "mlflow.onnx.save_model(onnx_model, FOLDER)"
		}
		return "", refused("the MLflow model of the flavor %s is %s", flavor, how).
			WithHint("Save it in the library's own format in Python: model = mlflow.%s.load_model(FOLDER); %s", flavor, line)
	}
	return detectHead(data[:min(len(data), sniffed)], int64(len(data)))
}

func wrongFile(flavor string, format Format, err error) error {
	if err != nil {
		return err
	}
	return refused("the model file of the flavor %s is %s", flavor, format)
}

// takeTrees converts XGBoost's or LightGBM's own file, with what the signature says about its features.
func (f *folder) takeTrees(data []byte, flavor string, want ...Format) error {
	format, err := detectModelFile(flavor, data)
	switch {
	case err == nil && !slices.Contains(want, format) && format == FormatONNX && flavor == flavorXGBoost:
		return oldXGBoost() // what nothing recognises was written before JSON was
	case err != nil || !slices.Contains(want, format):
		return wrongFile(flavor, format, err)
	}
	r, err := fromFormat(format, data)
	if err != nil {
		return err
	}
	f.imported.Result = *r
	columns, named := f.model.columns()
	if !named {
		return nil
	}
	features := f.imported.Features
	if len(columns) != len(features) {
		return refused("the MLflow signature has %d inputs, but the model takes %d features", len(columns), len(features)).
			WithHint("Log the model again with the signature of what it was trained on: infer_signature(X, model.predict(X))")
	}
	byName := map[string]column{}
	for _, c := range columns {
		byName[c.name] = c
	}
	known := 0
	for _, feature := range features {
		if _, ok := byName[feature.Name]; ok {
			known++
		}
	}
	for i := range features {
		c := columns[i]
		if known == len(features) {
			c = byName[features[i].Name] // the model's own order counts
		} else if known > 0 {
			return refused("the MLflow signature has no input %q, which is a feature of the model", clip(firstUnknown(features, byName))).
				WithHint("Log the model again with the signature of what it was trained on: infer_signature(X, model.predict(X))")
		}
		features[i].Name = c.name
		if c.kind != "" && c.kind != rowcast.TypeText && features[i].Type != rowcast.TypeText {
			features[i].Type = c.kind
		}
		if !c.optional {
			features[i].Missing = false
		}
	}
	return nil
}

func firstUnknown(features []rowcast.Feature, byName map[string]column) string {
	for _, f := range features {
		if _, ok := byName[f.Name]; !ok {
			return f.Name
		}
	}
	return ""
}

// parameters are where the model came from, in MLflow's own words.
func (f *folder) parameters(flavor string) {
	out := &f.imported
	p := map[string]string{}
	for k, v := range out.Parameters {
		p[k] = v
	}
	for k, v := range map[string]string{
		"mlflow_flavor": flavor, "mlflow_version": f.model.text("mlflow_version"), "run_id": f.model.text("run_id"), "model_id": f.model.text("model_id"),
		"model_uuid": f.model.text("model_uuid"), "utc_time_created": f.model.text("utc_time_created"),
		"mlflow_model": f.registered.Name, "mlflow_model_version": f.registered.Version,
	} {
		if v != "" {
			p[k] = v
		}
	}
	out.Parameters = p
}

// example takes the first row of the input example over. One that can't be used is no reason to refuse the model.
func (f *folder) example() {
	info := f.model.example()
	if info.path == "" {
		return
	}
	out := &f.imported
	unusable := func(reason string) {
		out.Warnings = append(out.Warnings, fmt.Sprintf("the input example %q is not replayed: %s", clip(info.path), reason))
	}
	at := path.Join(f.root, path.Clean("/"+info.path))
	if !f.has(at) {
		unusable("the folder lacks it")
		return
	}
	text, err := f.read(at, maxExample)
	if err != nil {
		unusable(err.Error())
		return
	}
	row, reason := exampleRow(text, out.Features)
	if reason != "" {
		unusable(reason)
		return
	}
	out.Example = row
}

// exampleRow reads an input example as MLflow writes it: a dataframe split into columns and data, a dataframe as records, or an array.
func exampleRow(text []byte, features []rowcast.Feature) (row json.RawMessage, reason string) {
	var split struct {
		Columns []string            `json:"columns"`
		Data    [][]json.RawMessage `json:"data"`
		Inputs  json.RawMessage     `json:"inputs"`
	}
	if json.Unmarshal(text, &split) == nil && len(split.Data) > 0 && (len(split.Columns) == 0 || len(split.Columns) == len(split.Data[0])) {
		return orderedRow(split.Columns, split.Data[0], features)
	}
	var rows [][]json.RawMessage
	if split.Inputs != nil {
		text = split.Inputs
	}
	if json.Unmarshal(text, &rows) == nil && len(rows) > 0 {
		return orderedRow(nil, rows[0], features)
	}
	var records []map[string]json.RawMessage
	if json.Unmarshal(text, &records) == nil && len(records) > 0 {
		var columns []string
		var values []json.RawMessage
		for k, v := range records[0] {
			columns, values = append(columns, k), append(values, v)
		}
		return orderedRow(columns, values, features)
	}
	return nil, "it is no table and no array of two dimensions"
}

// orderedRow brings the values into the order of the features, by the names of the columns where there are any.
func orderedRow(columns []string, values []json.RawMessage, features []rowcast.Feature) (json.RawMessage, string) {
	if len(features) > 0 && len(values) != len(features) {
		return nil, fmt.Sprintf("it has %d values, the model takes %d", len(values), len(features))
	}
	ordered := values
	if len(columns) > 0 && len(features) > 0 {
		ordered = make([]json.RawMessage, len(features))
		for i, f := range features {
			at := slices.Index(columns, f.Name)
			if at < 0 {
				return nil, fmt.Sprintf("it has no column %q", clip(f.Name))
			}
			ordered[i] = values[at]
		}
	}
	for i, v := range ordered {
		if len(v) > 0 && (v[0] == '[' || v[0] == '{') {
			return nil, "a value of it is no scalar"
		}
		if (len(v) == 0 || string(v) == "null") && i < len(features) && !features[i].Missing && len(features[i].Default) == 0 {
			return nil, fmt.Sprintf("it has no value for %q", clip(features[i].Name))
		}
	}
	row, err := json.Marshal(ordered)
	if err != nil {
		return nil, err.Error()
	}
	return row, ""
}
