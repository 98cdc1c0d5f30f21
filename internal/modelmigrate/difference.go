package modelmigrate

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// Difference is one way in which a signature differs from another.
type Difference struct {
	What   string `json:"what"` // feature, features, labels, task, inputs, target, output, batch or infinity
	Name   string `json:"name,omitempty"`
	Change string `json:"change"` // added, removed, type, default, missing, order, from X to Y, …
	From   string `json:"from,omitempty"`
	To     string `json:"to,omitempty"`
}

// String tells the difference in one line.
func (d Difference) String() string {
	name := d.What
	if d.Name != "" {
		name += " " + d.Name
	}
	switch d.Change {
	case "added":
		return fmt.Sprintf("%s: added, %s", name, d.To)
	case "removed":
		return fmt.Sprintf("%s: removed, was %s", name, d.From)
	case "changed":
		return fmt.Sprintf("%s: %s -> %s", name, d.From, d.To)
	}
	return fmt.Sprintf("%s: %s %s -> %s", name, d.Change, d.From, d.To)
}

// signatureDifferences compares two signatures as a caller of predict sees them: features by name, then labels, then the rest.
func signatureDifferences(old, added *rowcast.Signature) []Difference {
	var list []Difference
	changed := func(what, name, change, from, to string) {
		if from != to {
			list = append(list, Difference{what, name, change, from, to})
		}
	}
	changed("task", "", "changed", string(old.Task), string(added.Task))
	changed("inputs", "", "changed", string(old.Layout), string(added.Layout))
	for _, f := range old.Features {
		i := featureIndex(added.Features, f.Name)
		if i < 0 {
			list = append(list, Difference{What: "feature", Name: f.Name, Change: "removed", From: describeFeature(f)})
			continue
		}
		g := added.Features[i]
		changed("feature", f.Name, "type", string(f.Type), string(g.Type))
		changed("feature", f.Name, "default", or(string(f.Default), "none"), or(string(g.Default), "none"))
		changed("feature", f.Name, "missing values", allowed(f.Missing), allowed(g.Missing))
	}
	for _, g := range added.Features {
		if featureIndex(old.Features, g.Name) < 0 {
			list = append(list, Difference{What: "feature", Name: g.Name, Change: "added", To: describeFeature(g)})
		}
	}
	changed("features", "", "order of those in both", order(old.Features, added.Features), order(added.Features, old.Features))
	changed("labels", "", "changed", labels(old), labels(added))
	changed("target", "", "changed", or(old.Target, "none"), or(added.Target, "none"))
	changed("infinities", "", "changed", allowed(old.AllowInfinity), allowed(added.AllowInfinity))
	changed("rows per run", "", "changed", batch(old.Batch), batch(added.Batch))
	for _, o := range old.Outputs {
		i := slices.IndexFunc(added.Outputs, func(p rowcast.Port) bool { return p.Name == o.Name })
		if i < 0 {
			list = append(list, Difference{What: "output", Name: o.Name, Change: "removed", From: describePort(o)})
			continue
		}
		changed("output", o.Name, "changed", describePort(o), describePort(added.Outputs[i]))
	}
	for _, o := range added.Outputs {
		if !slices.ContainsFunc(old.Outputs, func(p rowcast.Port) bool { return p.Name == o.Name }) {
			list = append(list, Difference{What: "output", Name: o.Name, Change: "added", To: describePort(o)})
		}
	}
	return list
}

func featureIndex(list []rowcast.Feature, name string) int {
	return slices.IndexFunc(list, func(f rowcast.Feature) bool { return f.Name == name })
}

func describeFeature(f rowcast.Feature) string {
	text := string(f.Type)
	if len(f.Default) > 0 {
		text += ", default " + string(f.Default)
	}
	if f.Missing {
		text += ", may be missing"
	}
	if len(f.Default) == 0 && !f.Missing {
		text += ", required"
	}
	return text
}

func describePort(p rowcast.Port) string {
	if p.Maps {
		return "maps of " + string(p.DType)
	}
	if p.Shape == nil {
		return string(p.DType)
	}
	dims := make([]string, len(p.Shape))
	for i, d := range p.Shape {
		dims[i] = "?"
		if d >= 0 {
			dims[i] = strconv.FormatInt(d, 10)
		}
	}
	return string(p.DType) + "[" + strings.Join(dims, ", ") + "]"
}

// order lists the features that the other signature has too: the array form counts on their order.
func order(list, other []rowcast.Feature) string {
	var names []string
	for _, f := range list {
		if featureIndex(other, f.Name) >= 0 {
			names = append(names, f.Name)
		}
	}
	return strings.Join(names, ", ")
}

func labels(s *rowcast.Signature) string {
	texts := make([]string, len(s.Labels))
	for i, l := range s.Labels {
		texts[i] = strings.Trim(string(l), `"`)
	}
	return or(strings.Join(texts, ", "), "none")
}

func allowed(yes bool) string {
	if yes {
		return "allowed"
	}
	return "refused"
}

func batch(n int) string {
	if n == 0 {
		return "any number"
	}
	return strconv.Itoa(n)
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
