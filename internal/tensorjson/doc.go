// Package tensorjson reads and writes named tensors in the JSON of ml.infer and of a version's example.
//
//	{"x": [[5.1, "NaN"], [4.9, 3]], "count": 9007199254740993, "none": {"shape": [0, 2], "data": []}}
//
// A tensor is nested arrays, a bare value for rank 0, or {"shape": …, "data": …} with the data flat, the last dimension fastest: what nesting can't
// say, since a dimension of 0 hides every one that follows. NaN and the infinities are the strings that PostgreSQL's to_jsonb writes for them. Integers
// never pass through a float, int64 and uint64 are exact; a float32 is written with the fewest digits that read back as the same float32.
//
// Reader takes two passes over a tensor's text: the first finds the shape, so that the second fills memory of the right size. Nothing else is built.
// Errors name the tensor, the place in it, what was expected and what came.
//
// Scanner and Value are the JSON underneath. Package predict reads rows of features with them, so that a number means the same in a row and in a tensor.
package tensorjson
