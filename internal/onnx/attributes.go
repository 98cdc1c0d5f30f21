package onnx

import (
	"encoding/json"
	"strconv"
)

// attributes are the attributes of one node that say something about labels.
type attributes struct {
	labelStrings []string
	labelInts    []int64
	keysInts     []int64
	value        *tensorView
}

// attribute reads an AttributeProto. Names tell which lists are worth keeping: a forest's own lists hold millions of numbers.
func (i *inspector) attribute(message []byte, top bool, depth int, into *attributes) error {
	var name string
	if err := eachField(message, "an attribute", func(f field) error {
		if f.number == 1 {
			name = text(f.bytes)
		}
		return nil
	}); err != nil {
		return err
	}
	return eachField(message, "an attribute", func(f field) error {
		switch f.number {
		case 5, 10: // tensor, tensors
			t, err := i.tensor(f.bytes)
			if name == "value" {
				into.value = &t
			}
			return err
		case 6, 11: // graph, graphs
			return i.subgraph(f.bytes, false, depth+1)
		case 22, 23: // sparse tensor, sparse tensors
			return eachField(f.bytes, "a sparse tensor", func(f field) error {
				if f.number == 1 || f.number == 2 {
					_, err := i.tensor(f.bytes)
					return err
				}
				return nil
			})
		case 8:
			if !top {
				return nil
			}
			switch name {
			case "classlabels_ints", "classlabels_int64s", "values_int64s":
				return integers(f, &into.labelInts, maxLabels)
			case "keys_int64s":
				return integers(f, &into.keysInts, maxLabels)
			}
		case 9:
			if top && (name == "classlabels_strings" || name == "values_strings") && len(into.labelStrings) < maxLabels {
				into.labelStrings = append(into.labelStrings, text(f.bytes))
			}
		}
		return nil
	})
}

// labels returns the labels that a node of this type gives, as JSON, or nil.
func (a *attributes) labels(op string) []json.RawMessage {
	switch op {
	case "LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier", "ZipMap":
	case "LabelEncoder":
		// Only an encoder of the class number 0..n-1 lists labels in the order of the columns.
		for i, key := range a.keysInts {
			if key != int64(i) {
				return nil
			}
		}
		if len(a.keysInts) == 0 {
			return nil
		}
	default:
		return nil
	}
	if len(a.labelStrings) > 0 {
		return textLabels(a.labelStrings)
	}
	return integerLabels(a.labelInts)
}

func textLabels(labels []string) []json.RawMessage {
	list := make([]json.RawMessage, len(labels))
	for i, label := range labels {
		list[i], _ = json.Marshal(label) // a string always marshals
	}
	return list
}

func integerLabels(labels []int64) []json.RawMessage {
	if len(labels) == 0 {
		return nil
	}
	list := make([]json.RawMessage, len(labels))
	for i, label := range labels {
		list[i] = strconv.AppendInt(nil, label, 10)
	}
	return list
}
