package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// Infer works out a model's signature from its graph and what a person says about it. What o says wins where the graph allows it; where the two contradict
// each other it is an error with CodeInvalidArgument that names both. Where the graph gives no names, the features of a matrix are f0, f1, … and a column
// is named by its input.
func Infer(g *onnx.Graph, o Options) (rowcast.Signature, error) {
	sig := rowcast.Signature{
		Features: []rowcast.Feature{}, Inputs: slices.Clone(g.Inputs), Outputs: slices.Clone(g.Outputs),
		LabelOutput: -1, ProbabilityOutput: -1, ScoreOutput: -1, ValueOutput: -1,
		BatchDependent: g.DynamicQuantization, AllowInfinity: o.AllowInfinity, Target: o.Target,
	}
	i := inference{graph: g, options: o, sig: &sig}
	if err := i.inputs(); err != nil {
		return sig, err
	}
	if err := i.outputs(); err != nil {
		return sig, err
	}
	return sig, nil
}

// SpecKey names a version as the sidecar caches it: 32 hexadecimal digits of the SHA-256 over the artifact's hash and the signature.
func SpecKey(sha [32]byte, sig rowcast.Signature) string {
	text, err := json.Marshal(sig)
	if err != nil {
		text = fmt.Appendf(nil, "%#v", sig) // only a default that is no JSON, which parseOptions refuses
	}
	h := sha256.New()
	h.Write(sha[:])
	h.Write(text)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

type inference struct {
	graph   *onnx.Graph
	options Options
	sig     *rowcast.Signature
}

func contradiction(format string, args ...any) *rowcast.Error {
	return rowcast.Errorf(rowcast.CodeInvalidArgument, format, args...)
}

// inputs chooses the layout, then names and types the features.
func (i *inference) inputs() error {
	layout := i.options.Inputs
	if layout == "" {
		layout = i.layout()
	}
	i.sig.Layout = layout
	var err error
	switch layout {
	case rowcast.LayoutMatrix:
		err = i.matrix()
	case rowcast.LayoutColumns:
		err = i.columns()
	default:
		if len(i.options.Features) > 0 {
			return contradiction("the model's inputs take no row of features, but %d features are declared", len(i.options.Features)).
				WithDetail("The inputs are %s.", describePorts(i.graph.Inputs))
		}
		return nil
	}
	if err != nil {
		return err
	}
	return i.features()
}

// layout guesses how a row becomes tensors.
func (i *inference) layout() rowcast.Layout {
	in := i.graph.Inputs
	columns := true
	for _, p := range in {
		columns = columns && isColumn(p)
	}
	if len(in) > 1 {
		if columns {
			return rowcast.LayoutColumns
		}
		return rowcast.LayoutTensors
	}
	p := in[0]
	named := len(i.options.Features) > 0 || len(i.metadataNames()) > 0
	switch {
	case columns && (p.DType == rowcast.String || len(p.Shape) == 1 || !genericName(p.Name)):
		return rowcast.LayoutColumns
	case len(p.Shape) == 2 && (p.Shape[1] > 0 || named), p.Shape == nil && named:
		return rowcast.LayoutMatrix
	}
	return rowcast.LayoutTensors
}

// isColumn is [N, 1] or [N], N open or fixed.
func isColumn(p rowcast.Port) bool {
	return len(p.Shape) == 1 && p.Shape[0] < 0 || len(p.Shape) == 2 && p.Shape[1] == 1
}

// genericName recognises what exporters call a matrix of one column, where a person would have named the feature.
func genericName(name string) bool {
	switch strings.ToLower(name) {
	case "x", "input", "inputs", "float_input", "double_input", "features", "data", "x_in":
		return true
	}
	return false
}

func (i *inference) matrix() error {
	if len(i.graph.Inputs) != 1 {
		return contradiction("inputs: matrix needs a graph of one input, this one has %d", len(i.graph.Inputs)).
			WithDetail("The inputs are %s.", describePorts(i.graph.Inputs))
	}
	p := &i.sig.Inputs[0]
	if p.Shape != nil && len(p.Shape) != 2 {
		return contradiction("inputs: matrix needs an input of two dimensions, %s has %d", describePort(*p), len(p.Shape))
	}
	width := -1
	if p.Shape != nil && p.Shape[1] >= 0 {
		width = int(p.Shape[1])
	}
	names := i.metadataNames()
	switch n := len(i.options.Features); {
	case n > 0 && width >= 0 && n != width:
		return contradiction("%d features are declared, but the model takes %d", n, width).WithDetail("Its input is %s.", describePort(*p))
	case n > 0:
		width = n
	case width < 0 && len(names) > 0:
		width = len(names)
	case width < 0:
		return contradiction("the graph leaves the number of features open").WithHint("Name them under features.")
	}
	if width == 0 || width > maxFeatures {
		return contradiction("the model takes %d features", width).WithDetail("Its input is %s.", describePort(*p))
	}
	rows := int64(-1)
	if p.Shape != nil && p.Shape[0] >= 0 {
		rows = p.Shape[0]
	}
	p.Shape = []int64{rows, int64(width)}
	if rows == 0 {
		return contradiction("the model takes no rows").WithDetail("Its input is %s.", describePort(*p))
	}
	i.sig.Batch = int(max(rows, 0))
	if len(names) != width {
		names = make([]string, width)
		for f := range names {
			names[f] = "f" + strconv.Itoa(f)
		}
	}
	for f := range width {
		i.sig.Features = append(i.sig.Features, rowcast.Feature{Name: names[f]})
	}
	return nil
}

func (i *inference) columns() error {
	batch := int64(-1)
	for _, p := range i.graph.Inputs {
		if !isColumn(p) && (len(p.Shape) != 1 || i.options.Inputs != rowcast.LayoutColumns) {
			return contradiction("inputs: columns needs inputs of one column, %s is none", describePort(p))
		}
		if rows := p.Shape[0]; rows >= 0 {
			if batch >= 0 && batch != rows {
				return contradiction("the inputs take different numbers of rows").WithDetail("They are %s.", describePorts(i.graph.Inputs))
			}
			batch = rows
		}
		i.sig.Features = append(i.sig.Features, rowcast.Feature{Name: p.Name})
	}
	if batch == 0 {
		return contradiction("the model takes no rows").WithDetail("Its inputs are %s.", describePorts(i.graph.Inputs))
	}
	i.sig.Batch = int(max(batch, 0))
	if n := len(i.options.Features); n > 0 && n != len(i.graph.Inputs) {
		return contradiction("%d features are declared, but the model takes %d", n, len(i.graph.Inputs)).
			WithDetail("Its inputs are %s.", describePorts(i.graph.Inputs))
	}
	return i.mistypedColumn()
}

// mistypedColumn catches a feature that is meant to be an input and is not: some names fit and this one does not.
func (i *inference) mistypedColumn() error {
	var unknown []string
	for _, f := range i.options.Features {
		if _, ok := onnx.Port(i.graph.Inputs, f.Name); !ok {
			unknown = append(unknown, f.Name)
		}
	}
	if len(unknown) == 0 || len(unknown) == len(i.options.Features) {
		return nil
	}
	names := make([]string, len(i.graph.Inputs))
	for n, p := range i.graph.Inputs {
		names[n] = p.Name
	}
	e := contradiction("the model has no input for the feature %q", clip(unknown[0])).WithDetail("Its inputs are %s.", describePorts(i.graph.Inputs))
	if near, ok := nearest(unknown[0], names); ok {
		return e.WithHint("Perhaps you mean %q.", near)
	}
	return e
}

// features types what inputs named, and lets the options have their say.
func (i *inference) features() error {
	if len(i.options.Features) > 0 {
		i.sig.Features = slices.Clone(i.options.Features)
	}
	for n := range i.sig.Features {
		f := &i.sig.Features[n]
		p := i.sig.Inputs[0]
		if i.sig.Layout == rowcast.LayoutColumns {
			p = i.column(n)
		}
		if f.Type == "" {
			f.Type = naturalType(p.DType)
		}
		if !accepts(p.DType, f.Type) {
			return contradiction("feature %q can't be %s: its tensor is %s", clip(f.Name), f.Type, p.DType).
				WithHint("Declare it as %s.", naturalType(p.DType))
		}
		if f.Missing && !isFloat(p.DType) {
			return contradiction("feature %q can't be missing: its tensor is %s, which has no NaN", clip(f.Name), p.DType).
				WithHint("Declare a default instead.")
		}
		if err := checkDefault(f); err != nil {
			return err
		}
	}
	return nil
}

// column is the input of feature n: by name where every feature has the name of an input, else by position.
func (i *inference) column(n int) rowcast.Port {
	if p, ok := onnx.Port(i.sig.Inputs, i.sig.Features[n].Name); ok {
		return p
	}
	return i.sig.Inputs[n]
}

func isFloat(d rowcast.DType) bool {
	switch d {
	case rowcast.Float16, rowcast.BFloat16, rowcast.Float32, rowcast.Float64:
		return true
	}
	return false
}

func naturalType(d rowcast.DType) rowcast.FeatureType {
	switch {
	case d == rowcast.String:
		return rowcast.TypeText
	case d == rowcast.Bool:
		return rowcast.TypeBoolean
	case d == rowcast.Float64:
		return rowcast.TypeDouble
	case isFloat(d):
		return rowcast.TypeReal
	}
	return rowcast.TypeBigint
}

// accepts reports whether a tensor can hold every value of an SQL type, rounding aside.
func accepts(d rowcast.DType, t rowcast.FeatureType) bool {
	switch {
	case d == rowcast.String || t == rowcast.TypeText:
		return d == rowcast.String && t == rowcast.TypeText
	case d == rowcast.Bool:
		return t == rowcast.TypeBoolean
	case isFloat(d):
		return true
	}
	return t == rowcast.TypeBigint || t == rowcast.TypeBoolean
}

func checkDefault(f *rowcast.Feature) error {
	if len(f.Default) == 0 {
		return nil
	}
	var v any
	if err := json.Unmarshal(f.Default, &v); err != nil {
		return contradiction("the default of feature %q is no JSON value", clip(f.Name)).WithCause(err)
	}
	ok := false
	switch f.Type {
	case rowcast.TypeText:
		_, ok = v.(string)
	case rowcast.TypeBoolean:
		_, ok = v.(bool)
	case rowcast.TypeBigint:
		_, err := strconv.ParseInt(string(f.Default), 10, 64)
		ok = err == nil
	default:
		_, ok = v.(float64)
	}
	if !ok {
		return contradiction("the default of feature %q, %s, is no %s", clip(f.Name), clip(string(f.Default)), f.Type)
	}
	return nil
}

// metadataNames are the feature names that an exporter left in the file: a JSON list or names between commas.
func (i *inference) metadataNames() []string {
	if len(i.graph.Inputs) != 1 {
		return nil
	}
	width := -1
	if s := i.graph.Inputs[0].Shape; len(s) == 2 {
		width = int(s[1])
	}
	for _, key := range []string{"feature_names", "feature_names_in_", "features", "input_features", "columns"} {
		text, ok := i.graph.Metadata[key]
		if !ok || len(text) > maxOptionsBytes {
			continue
		}
		var names []string
		if json.Unmarshal([]byte(text), &names) != nil {
			names = strings.Split(strings.Trim(text, "[]"), ",")
			for n := range names {
				names[n] = strings.Trim(strings.TrimSpace(names[n]), `'"`)
			}
		}
		if len(names) > 0 && (width < 0 || len(names) == width) && distinct(names) {
			return names
		}
	}
	return nil
}

func distinct(names []string) bool {
	seen := map[string]bool{}
	for _, n := range names {
		if n == "" || seen[n] {
			return false
		}
		seen[n] = true
	}
	return true
}

func describePorts(ports []rowcast.Port) string {
	var list []string
	for _, p := range ports[:min(len(ports), 20)] {
		list = append(list, describePort(p))
	}
	if len(ports) > len(list) {
		list = append(list, fmt.Sprintf("and %d more", len(ports)-len(list)))
	}
	return strings.Join(list, ", ")
}

// describePort writes "X" float32 [N,4].
func describePort(p rowcast.Port) string {
	if p.Shape == nil {
		return fmt.Sprintf("%q %s of any shape", p.Name, p.DType)
	}
	dims := make([]string, len(p.Shape))
	for i, d := range p.Shape {
		dims[i] = strconv.FormatInt(d, 10)
		if d < 0 {
			dims[i] = "N"
		}
	}
	return fmt.Sprintf("%q %s [%s]", p.Name, p.DType, strings.Join(dims, ","))
}
