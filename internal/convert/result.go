package convert

import (
	"encoding/json"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// Result is a converted model, with what model.yaml would say about it.
type Result struct {
	ONNX []byte

	// TrainedWith names the library that wrote the file, such as "XGBoost 3.2.0".
	TrainedWith string

	Task rowcast.Task

	// Features are in the order of the library's columns, each with the SQL type that the file tells; Default stands for NULL where the tensor can't
	// carry NaN. A file without names gives the names that the library itself would use.
	Features []rowcast.Feature

	// Labels are in the order of the probabilities; nil for regressions.
	Labels []json.RawMessage

	// Outputs names the graph's outputs by meaning. A probability output of one column beside two labels is the probability of the second.
	Outputs Outputs

	// Parameters are the settings that the file keeps of its training, such as objective; Attributes what the user saved with the model.
	Parameters map[string]string
	Attributes map[string]string

	// Warnings are sentences for the person who registers the model: what of the file has no counterpart.
	Warnings []string
}

// Outputs names the outputs of the graph that carry a meaning; empty where the model has none of that kind.
type Outputs struct {
	Label       string
	Probability string
	Value       string
}

// refused is the error of a file that can't be converted.
func refused(format string, args ...any) *rowcast.Error {
	return rowcast.Errorf(rowcast.CodeArtifactRefused, format, args...)
}

// clip keeps what a file says from flooding a message.
func clip(s string) string {
	if r := []rune(s); len(r) > 80 {
		return string(r[:80]) + "…"
	}
	return s
}

// countedLabels are the classes 0 to n-1.
func countedLabels(n int) []json.RawMessage {
	list := make([]json.RawMessage, n)
	for i := range list {
		list[i], _ = json.Marshal(i) // an integer always marshals
	}
	return list
}
