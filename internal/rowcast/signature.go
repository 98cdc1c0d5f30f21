package rowcast

import "encoding/json"

// Task says what a model's outputs mean.
type Task string

// The tasks. TaskTensors is a model whose outputs have no scalar meaning (several values a row, or none): predict refuses it, predict_json and
// ml.infer carry it.
const (
	TaskClassification Task = "classification"
	TaskRegression     Task = "regression"
	TaskAnomaly        Task = "anomaly"
	TaskClustering     Task = "clustering"
	TaskTensors        Task = "tensors"
)

// Layout says how a row of features becomes input tensors.
type Layout string

// The layouts.
const (
	LayoutMatrix  Layout = "matrix"  // one tensor [N, F], feature i in column i
	LayoutColumns Layout = "columns" // one tensor [N, 1] (or [N]) per feature
	LayoutTensors Layout = "tensors" // anything else: only ml.infer can feed it
)

// FeatureType is the SQL type that a feature is declared with.
type FeatureType string

// The feature types.
const (
	TypeReal    FeatureType = "real"
	TypeDouble  FeatureType = "double precision"
	TypeBigint  FeatureType = "bigint"
	TypeBoolean FeatureType = "boolean"
	TypeText    FeatureType = "text"
)

// Feature is one named column of a model's input row.
type Feature struct {
	Name    string          `json:"name"`
	Type    FeatureType     `json:"type"`
	Missing bool            `json:"missing,omitempty"` // NULL, NaN and an absent key become NaN
	Default json.RawMessage `json:"default,omitempty"` // JSON scalar that stands for NULL and an absent key
}

// DType is a tensor's element type, spelled as in ONNX (lower case).
type DType string

// The element types.
const (
	Float16  DType = "float16"
	BFloat16 DType = "bfloat16"
	Float32  DType = "float32"
	Float64  DType = "float64"
	Int8     DType = "int8"
	Int16    DType = "int16"
	Int32    DType = "int32"
	Int64    DType = "int64"
	Uint8    DType = "uint8"
	Uint16   DType = "uint16"
	Uint32   DType = "uint32"
	Uint64   DType = "uint64"
	Bool     DType = "bool"
	String   DType = "string"
)

// Port is one named input or output of the graph. Shape has -1 for a dimension that the graph leaves open; it is nil where the graph declares
// none. Maps is true for an output that is a sequence of maps (ZipMap).
type Port struct {
	Name  string  `json:"name"`
	DType DType   `json:"dtype"`
	Shape []int64 `json:"shape"`
	Maps  bool    `json:"maps,omitempty"`
}

// Signature is all that is needed to turn a row into tensors and tensors into an answer. It is stored with the version as JSON.
type Signature struct {
	Task     Task      `json:"task"`
	Layout   Layout    `json:"layout"`
	Features []Feature `json:"features"` // in order; empty for LayoutTensors
	Inputs   []Port    `json:"inputs"`
	Outputs  []Port    `json:"outputs"` // as the graph declares them; a declared shape can be wrong (LightGBM)

	// Labels are in the order of the probability columns. Each is a JSON string or a JSON integer.
	Labels []json.RawMessage `json:"labels,omitempty"`

	// Indexes into Outputs, -1 where the model has none.
	LabelOutput       int `json:"label_output"`
	ProbabilityOutput int `json:"probability_output"`
	ScoreOutput       int `json:"score_output"` // anomaly score, or distances to clusters
	ValueOutput       int `json:"value_output"` // regression

	Batch          int    `json:"batch,omitempty"`           // rows per run where the graph fixes them, 0 where it does not
	BatchDependent bool   `json:"batch_dependent,omitempty"` // a row's answer depends on the rows beside it (dynamic quantisation)
	AllowInfinity  bool   `json:"allow_infinity,omitempty"`
	Target         string `json:"target,omitempty"`
}

// TextLabels reports whether the labels are text rather than integers.
func (s *Signature) TextLabels() bool {
	return len(s.Labels) > 0 && len(s.Labels[0]) > 0 && s.Labels[0][0] == '"'
}

// Spec is a version as the sidecar runs it. Specs are cached by Key, never by name: Key is derived from the artifact's hash and the signature.
type Spec struct {
	Key       string // 32 lower-case hexadecimal digits
	SHA256    [32]byte
	Size      int64 // bytes of the artifact
	Signature Signature
	Example   json.RawMessage // what registration ran: {"inputs": {...}, "outputs": {...}} in the form of ml.infer; nil where there is none
}
