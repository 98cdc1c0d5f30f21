package rowcast

import "time"

// LogRequest is what a call carries when its prediction is to be logged: the model's policy, how the version was named, and who calls.
type LogRequest struct {
	ModelID   int64   `json:"model_id"`
	Reference string  `json:"reference"` // the model as the caller wrote it
	Entry     int64   `json:"entry"`     // alias_history entry by which the reference was resolved; 0 where it names a version
	Inputs    bool    `json:"inputs"`    // keep the features, not only their hash
	Key       string  `json:"key"`       // column of a record whose value is the key; "" for none
	Sample    float64 `json:"sample"`    // share of the calls that are logged

	Caller        string `json:"-"`
	Transactional bool   `json:"-"` // the caller's transaction writes the row; it wants it with the answer
}

// Observation is what the engine saw of a prediction.
type Observation struct {
	SHA256 [32]byte // of the artifact

	// Inputs is a JSON object of the features by name, as the model read them: after defaults, in the type of their tensors, null for what is
	// missing. It is written as PostgreSQL writes jsonb (keys by length, then bytes; a space after colon and comma; no exponents), so that
	// InputHash, its SHA-256, can be had in SQL. For ml.infer it is the payload.
	Inputs    []byte
	InputHash [32]byte

	Value         float64 // regression value, or the class as a number
	HasValue      bool
	Label         string
	HasLabel      bool
	Probability   float64 // of the label
	Probabilities []float64
	Outputs       []byte // JSON: all outputs by name, where there is neither value nor label
	Key           string
	HasKey        bool
}

// Prediction is a row of the log.
type Prediction struct {
	Observation
	Request *LogRequest
	Version int
	At      time.Time
	Latency time.Duration
}
