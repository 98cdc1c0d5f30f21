// Package predict turns a row of features into tensors, runs the model and writes the answer as the text that PostgreSQL reads.
//
// One call goes like this:
//
//	Engine.Do        finds the loaded model by the key of its spec, loading it once however many callers ask, and holds it while it runs
//	filler           reads the payload once, feature by feature, straight into the live tensors of a pooled onnx.Binding
//	onnx.Binding.Run runs the graph; a context that ends stops it
//	answer           reads the outputs and appends the text
//
// ml.infer takes and gives tensors instead; package tensorjson reads and writes them.
//
// What a feature accepts does not depend on how the row was written. An array of float8 (array_send), an array literal, a JSON object and a
// table row all become cells, and one set of rules (coerce.go) takes a cell to a feature: numbers go through float64 into the tensor's type,
// a bigint stays an exact int64, NULL, NaN and what is absent take the feature's default or, where it is declared missing, NaN.
//
// Answers are decimal. A float32 is written with the fewest digits that read back as the same float32 and that decimal is what every form
// (number, array, JSON) carries, so that predict, predict_proba and predict_json agree to the last digit; a float64 likewise for float64. An
// int64 is never turned into a float.
//
// Rows of different callers never share a run: a row's answer must not depend on who else asked at that moment, which it would with a
// dynamically quantised network. Where a graph fixes its batch at more than one row, the row is repeated to fill it.
//
// Models are cached by the key of their spec (artifact and signature), never by name, under a budget of memory, the least recently used
// leaving first. A model in use is never closed: whoever drops it takes it out of the map, and the last call that holds it closes it.
package predict
