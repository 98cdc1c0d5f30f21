// Package rowcast holds the words that every other package speaks: models and their signatures, calls, results and the one error type.
//
// It imports nothing but the standard library. A call travels like this:
//
//	SELECT predict('churn', t)            ml.predict: rights and alias under the caller's snapshot, then dblink_exec
//	  -> gateway                          wire protocol, authentication, one Call per query message
//	  -> predict.Engine                   finds the Spec by its key, turns features into tensors
//	  -> onnx.Session                     runs the graph
//	  <- the text of the result           in the command tag, or in a row where it is longer
package rowcast
