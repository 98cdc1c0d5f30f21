package convert

import (
	"bytes"
	"strings"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// isPickle recognises what pickle, cloudpickle and joblib write. It never reads further than the first opcodes: to load a pickle is to run it.
func isPickle(head []byte) bool {
	if len(head) > 2 && head[0] == 0x80 && head[1] >= 2 && head[1] <= 5 {
		// The protocol, then an opcode: a frame, a global, a tuple, a dictionary, text, a long number (PyTorch) …
		return strings.IndexByte("\x95c(}]X\x8c\x8a\x8bK\x94)C\x8eNGJ", head[2]) >= 0
	}
	// Protocol 0 and 1 have no mark: a global of a module, possibly within a tuple or dictionary.
	for _, prefix := range []string{"ccopy_reg\n", "ccopyreg\n", "csklearn", "cnumpy", "c__builtin__\n", "c__main__\n", "(dp0\n", "(lp0\n", "(iexceptions"} {
		if bytes.HasPrefix(head, []byte(prefix)) {
			return true
		}
	}
	return false
}

// pickled is the refusal of a pickle, with the line of Python for the library that it names.
func pickled(head []byte, how string) *rowcast.Error {
	has := func(names ...string) bool {
		for _, n := range names {
			if bytes.Contains(head, []byte(n)) {
				return true
			}
		}
		return false
	}
	// The magic number that begins PyTorch's files before they were zip files.
	if bytes.HasPrefix(head, []byte("\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19")) || has("torch") {
		return refused("the file is a PyTorch model%s, which is code and is never run here", how).
			WithHint("Convert it in Python, where the model is: %s", torchLine)
	}
	library, line := "", ""
	switch {
	case has("sklearn.pipeline", "imblearn"): // also where a step is of XGBoost or LightGBM
		library, line = "scikit-learn", sklearnLine
	case has("xgboost"):
		library, line = "XGBoost", xgboostLine
	case has("lightgbm"):
		library, line = "LightGBM", lightgbmLine
	case has("catboost"):
		library, line = "CatBoost", catboostLine
	case has("sklearn"):
		library, line = "scikit-learn", sklearnLine
	case has("keras"):
		library, line = "Keras", kerasLine
	}
	if library == "" {
		return refused("the file is a Python pickle%s, which is code and is never run here", how).
			WithHint("Convert the model in Python, where it is. scikit-learn: %s; XGBoost: %s", sklearnLine, xgboostLine)
	}
	return refused("the file is a Python pickle of %s%s, which is code and is never run here", library, how).
		WithHint("Convert it in Python, where the model is: %s", line)
}
