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
	// The magic number that begins PyTorch's files before they were zip files.
	if bytes.HasPrefix(head, []byte("\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19")) || bytes.Contains(head, []byte("torch")) {
		return refused("the file is a PyTorch model%s, which is code and is never run here", how).
			WithHint("Convert it in Python, where the model is: %s", torchLine)
	}
	// The library of the outermost object comes first: a pipeline of scikit-learn may hold a model of XGBoost, and each names the other's settings.
	library, line, first := "", "", len(head)
	for _, l := range []struct{ module, name, line string }{
		{"sklearn", "scikit-learn", sklearnLine}, {"imblearn", "scikit-learn", sklearnLine}, {"xgboost", "XGBoost", xgboostLine},
		{"lightgbm", "LightGBM", lightgbmLine}, {"catboost", "CatBoost", catboostLine}, {"keras", "Keras", kerasLine},
	} {
		if at := bytes.Index(head, []byte(l.module)); at >= 0 && at < first {
			library, line, first = l.name, l.line, at
		}
	}
	if library == "" {
		return refused("the file is a Python pickle%s, which is code and is never run here", how).
			WithHint("Convert the model in Python, where it is. scikit-learn: %s; XGBoost: %s", sklearnLine, xgboostLine)
	}
	return refused("the file is a Python pickle of %s%s, which is code and is never run here", library, how).
		WithHint("Convert it in Python, where the model is: %s", line)
}
