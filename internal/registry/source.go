package registry

import (
	"encoding/json"
	"strings"

	"github.com/rowcast/rowcast/internal/convert"
	"github.com/rowcast/rowcast/internal/onnx"
)

// Source is the file that a version was registered from, where that is not the ONNX file itself.
type Source struct {
	Format convert.Format `json:"format"`
	SHA256 string         `json:"sha256"` // hexadecimal
	Size   int64          `json:"size"`   // bytes
}

// foundOptions are what the file says of itself, in the words of model.yaml.
func foundOptions(i *convert.Import) Options {
	return Options{
		Task: i.Task, Features: i.Features, Labels: i.Labels, Example: i.Example, TrainedWith: i.TrainedWith, Tags: i.Tags,
		Outputs: OutputNames{Label: i.Outputs.Label, Probability: i.Outputs.Probability, Value: i.Outputs.Value},
	}
}

// over lays what a person says over what the file says. A list of features or labels counts as a whole; an example that was written for the file's
// features is left out where a person declares others.
func (o Options) over(found Options) Options {
	if len(o.Features) > 0 {
		if o.Inputs == "" && len(o.Features) == len(found.Features) {
			for i := range o.Features {
				if o.Features[i].Type == "" {
					o.Features[i].Type = found.Features[i].Type
				}
			}
		}
	} else {
		o.Features = found.Features
	}
	if o.Task == "" {
		o.Task = found.Task
	}
	if len(o.Labels) == 0 {
		o.Labels = found.Labels
	}
	if len(o.Example) == 0 {
		o.Example = found.Example
	}
	if o.Outputs == (OutputNames{}) && o.Task == found.Task {
		o.Outputs = found.Outputs
	}
	return o
}

// metadataOf is what becomes the version's parameters: the graph's own metadata and what the converted file kept of its training.
func metadataOf(g *onnx.Graph, i *convert.Import) map[string]string {
	m := make(map[string]string, len(g.Metadata)+len(i.Parameters)+len(i.Attributes)+1)
	for _, from := range []map[string]string{g.Metadata, i.Attributes, i.Parameters} {
		for k, v := range from {
			m[storable(k)] = storable(v)
		}
	}
	if i.TrainedWith != "" {
		m["trained_with"] = storable(i.TrainedWith)
	}
	return m
}

// storable is text that jsonb takes: it has no NUL and is valid UTF-8.
func storable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// storableTags are tags that jsonb takes, nil where there are none.
func storableTags(tags map[string]any) map[string]any {
	text, err := json.Marshal(tags)
	if err != nil || len(tags) == 0 {
		return nil
	}
	var clean map[string]any
	if json.Unmarshal([]byte(strings.ReplaceAll(string(text), `\u0000`, `\ufffd`)), &clean) != nil {
		return nil
	}
	return clean
}
