package rowcast

// Verb says what a call wants back.
type Verb byte

// The verbs that reach the engine.
const (
	VerbPredict Verb = 'p' // a number: regression value or numeric label
	VerbLabel   Verb = 'l' // the label as text
	VerbProba   Verb = 'P' // array literal of probabilities, in the order of the labels
	VerbJSON    Verb = 'j' // JSON object: model, version, value, label, probabilities, outputs
	VerbInfer   Verb = 'i' // JSON object: every output tensor by name; the payload names input tensors
	VerbBatch   Verb = 'B' // many rows at once; what comes back depends on the format
)

// Format says how the payload of a call writes the row.
type Format byte

// The formats. A record ignores what is no feature, a JSON object refuses it.
const (
	FormatArray  Format = 'b' // hexadecimal of array_send(double precision[])
	FormatText   Format = 't' // the text overload: array literal, JSON object, or raw text where the only feature is text
	FormatJSON   Format = 'j' // JSON object from jsonb
	FormatRecord Format = 'r' // JSON object from row_to_json
)

// The formats of VerbBatch. Their array_send is in base64, which takes a third of the room that hexadecimal adds and no more time.
const (
	FormatMatrix  Format = 'm' // array_send(double precision[][]), a row of features each; gives an array literal of numbers
	FormatShape   Format = 's' // JSON object of the columns to come, names and type OIDs; gives which of them the model reads, as JSON
	FormatColumns Format = 'c' // "ROWS JSON-ARRAY-OF-NAMES\n", then array_send(bytea[]) of each column's array_send; gives the rows' answers
)

// Call is one request as the SQL functions send it.
type Call struct {
	Verb    Verb
	Spec    string // key of the version's Spec
	Model   string // model name, for messages and predict_json
	Version int    // likewise
	Format  Format
	Payload []byte // valid until the call returns

	// Where the prediction is logged, the engine notes here what it saw. Key is then the column of a record that it looks for.
	Observe *Observation
	Key     string
}
