package convert

import (
	"archive/zip"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"compress/zlib"
	"encoding/binary"
	"io"
	"path"
	"regexp"
	"strings"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// Format is what a model file is, told by its content and never by its name.
type Format string

// The formats that can be registered. FormatONNX also stands for what nothing else recognises: the reader of ONNX says best what is wrong with it.
const (
	FormatONNX        Format = "onnx"
	FormatXGBoostJSON Format = "xgboost-json"
	FormatXGBoostUBJ  Format = "xgboost-ubj"
	FormatLightGBM    Format = "lightgbm-text"
	FormatMLflow      Format = "mlflow" // an archive of an MLflow model folder
)

// sniffed is how much of a file's start Detect looks at.
const sniffed = 64 << 10

// Detect tells what a file of size bytes is. A file of a known format that can't be registered is refused (CodeArtifactRefused), with the line that
// converts it where there is one. It reads the first 64 KiB, and the directory of a zip file.
func Detect(file io.ReaderAt, size int64) (Format, error) {
	head := make([]byte, min(size, sniffed))
	if _, err := io.ReadFull(io.NewSectionReader(file, 0, size), head); err != nil {
		return "", rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot read the model file").WithCause(err)
	}
	if bytes.HasPrefix(head, []byte("PK\x03\x04")) || bytes.HasPrefix(head, []byte("PK\x05\x06")) {
		return detectZip(file, size)
	}
	return detectHead(head, size)
}

func detectHead(head []byte, size int64) (Format, error) {
	text := bytes.TrimLeft(bytes.TrimPrefix(head, []byte("\xef\xbb\xbf")), " \t\r\n")
	has := func(prefix string) bool { return bytes.HasPrefix(head, []byte(prefix)) }
	switch {
	case has("version https://git-lfs.github.com/spec/"):
		return "", lfsPointer(head)
	case has("tree\nversion=") || has("tree\r\nversion="):
		return FormatLightGBM, nil
	case has("{") && len(head) > 1 && strings.IndexByte("iUIlL$#", head[1]) >= 0 && bytes.Contains(head, []byte("learner")):
		return FormatXGBoostUBJ, nil
	case bytes.HasPrefix(text, []byte("{")) || bytes.HasPrefix(text, []byte("[")):
		return detectJSON(text)
	case len(head) > 262 && string(head[257:262]) == "ustar":
		return FormatMLflow, nil
	case isPickle(head):
		return "", pickled(head, "")
	case has("\x1f\x8b"), isZlib(head), has("BZh"):
		return detectCompressed(head)
	}
	return detectForeign(head, text, size)
}

// detectForeign recognises what other tools write.
func detectForeign(head, text []byte, size int64) (Format, error) {
	for _, f := range foreignMagic() {
		if len(head) >= f.at+len(f.magic) && string(head[f.at:f.at+len(f.magic)]) == f.magic {
			return "", refused("the file is %s", f.what).WithHint("%s", f.hint)
		}
	}
	switch {
	case isSafetensors(head, size):
		return "", refused("the file is safetensors: weights without the graph that uses them").
			WithHint("Export the model that they belong to: optimum-cli export onnx --model FOLDER OUT, or %s", torchLine)
	case isOldXGBoost(head):
		return "", oldXGBoost()
	case bytes.HasPrefix(text, []byte("<")) && bytes.Contains(head, []byte("<PMML")):
		return "", refused("the file is PMML, which is not converted").
			WithHint("Convert the model that it was made of. scikit-learn: %s", sklearnLine)
	case bytes.HasPrefix(head, []byte("\x08\x01\x12")) && (bytes.Contains(head, []byte("VarHandleOp")) || bytes.Contains(head, []byte("Placeholder"))):
		return "", refused("the file is a TensorFlow SavedModel").WithHint("Convert it: %s", tensorflowLine)
	}
	return FormatONNX, nil
}

type foreign struct {
	at    int
	magic string
	what  string
	hint  string
}

func foreignMagic() []foreign {
	keras := "Convert it in Python: " + kerasLine
	compressed := "Decompress it first. If it is a pickle of joblib's, convert the model in Python. scikit-learn: " + sklearnLine
	return []foreign{
		{0, "\x89HDF\r\n\x1a\n", "HDF5, as Keras writes models", keras},
		{4, "TFL3", "a TensorFlow Lite model", "Convert it: python -m tf2onnx.convert --tflite FILE --output model.onnx"},
		{0, "CBM1", "a CatBoost model in its own binary format", `Convert it in Python: model.save_model("model.onnx", format="onnx")`},
		{0, "GGUF", "GGUF, a language model for llama.cpp", "Rowcast runs ONNX models."},
		{0, "\x93NUMPY", "a NumPy array, not a model", "Rowcast registers ONNX, XGBoost, LightGBM and MLflow models."},
		{0, "\xfd7zXZ\x00", "compressed with xz", compressed},
		{0, "\x5d\x00\x00", "compressed with lzma", compressed},
		{0, "\x04\x22\x4d\x18", "compressed with lz4", compressed},
		{0, "\x28\xb5\x2f\xfd", "compressed with zstd", compressed},
		{0, "binf", "an XGBoost model in the old binary format", oldXGBoostHint},
		{0, "bs64", "an XGBoost model in the old binary format", oldXGBoostHint},
		{0, "CONFIG-offset:", "an XGBoost model as Python pickles it inside", oldXGBoostHint},
	}
}

// The lines of Python, or of a shell, that turn a model into something that can be registered.
const (
	sklearnLine = `from skl2onnx import to_onnx; ` +
		`open("model.onnx", "wb").write(to_onnx(model, X[:1], options={"zipmap": False}).SerializeToString())  # X: the rows it was trained on`
	xgboostLine    = `model.save_model("model.json")`
	lightgbmLine   = `model.booster_.save_model("model.txt")  # a Booster: model.save_model("model.txt")`
	catboostLine   = `model.save_model("model.onnx", format="onnx")`
	torchLine      = `torch.onnx.export(model, (x,), "model.onnx", external_data=False)  # x: one batch of inputs`
	kerasLine      = `model.export("model.onnx", format="onnx")`
	tensorflowLine = `python -m tf2onnx.convert --saved-model FOLDER --output model.onnx`
	oldXGBoostHint = `Load it in the version of XGBoost that wrote it and save it again in Python: ` + xgboostLine
)

func oldXGBoost() *rowcast.Error {
	return refused("the file is an XGBoost model in the old binary format").WithHint("%s", oldXGBoostHint)
}

// isOldXGBoost recognises the format before JSON: 136 bytes of parameters, then the names of the objective and of the booster with their lengths.
func isOldXGBoost(head []byte) bool {
	const parameters, longest = 136, 64
	if len(head) < parameters+8 {
		return false
	}
	n := binary.LittleEndian.Uint64(head[parameters:])
	rest := head[parameters+8:]
	if n == 0 || n > longest || uint64(len(rest)) < n+8 {
		return false
	}
	m := binary.LittleEndian.Uint64(rest[n:])
	rest = rest[n+8:]
	if m == 0 || m > longest || uint64(len(rest)) < m {
		return false
	}
	switch string(rest[:m]) {
	case "gbtree", "gblinear", "dart":
		return true
	}
	return false
}

func isSafetensors(head []byte, size int64) bool {
	if len(head) < 10 || head[8] != '{' {
		return false
	}
	n := binary.LittleEndian.Uint64(head)
	return n > 1 && n < uint64(size) && bytes.Contains(head, []byte(`"data_offsets"`))
}

// lfsPointer explains the few lines that git has in place of a large file.
func lfsPointer(head []byte) error {
	e := refused("the file is a git-lfs pointer, not the model itself").
		WithHint("Fetch the file that it stands for: git lfs pull")
	if m := regexp.MustCompile(`\noid sha256:([0-9a-f]{64})\r?\nsize (\d{1,15})\r?\n`).FindSubmatch(head); m != nil {
		e = e.WithDetail("It stands for %s bytes with the SHA-256 %s.", m[2], m[1])
	}
	return e
}

// detectJSON tells XGBoost's models from what else is written as JSON.
func detectJSON(text []byte) (Format, error) {
	has := func(key string) bool { return bytes.Contains(text, []byte(`"`+key+`"`)) }
	switch {
	case text[0] == '{' && has("learner"):
		return FormatXGBoostJSON, nil
	case has("nodeid") && has("children"), text[0] == '[' && has("nodeid"):
		return "", refused("the file is a dump of XGBoost's trees, which lacks the objective").WithHint("Save the model in Python: %s", xgboostLine)
	case has("tree_info") || has("tree_structure"):
		return "", refused("the file is a dump of LightGBM's trees as JSON").WithHint("Save the model as text in Python: %s", lightgbmLine)
	case has("oblivious_trees") || has("catboost_version_info"):
		return "", refused("the file is a CatBoost model as JSON").WithHint("Convert it in Python: %s", catboostLine)
	case has("modelTopology") || has("class_name") && has("layers"):
		return "", refused("the file is a Keras model as JSON").WithHint("Convert it in Python: %s", kerasLine)
	}
	return "", refused("the file is JSON, but no model that Rowcast knows").
		WithHint("Rowcast reads XGBoost's JSON (save_model). Other models: export them to ONNX.")
}

func isZlib(head []byte) bool {
	return len(head) > 2 && head[0] == 0x78 && (uint(head[0])<<8|uint(head[1]))%31 == 0
}

// detectCompressed looks into a compressed stream: joblib writes pickles so, and folders come as tar.gz.
func detectCompressed(head []byte) (Format, error) {
	var r io.Reader
	var err error
	name, tool := "gzip", "gunzip FILE"
	switch head[0] {
	case 0x1f:
		r, err = gzip.NewReader(bytes.NewReader(head))
	case 0x78:
		name, tool = "zlib", "zlib-flate -uncompress < FILE > OUT"
		r, err = zlib.NewReader(bytes.NewReader(head))
	default:
		name, tool = "bzip2", "bunzip2 FILE"
		r = bzip2.NewReader(bytes.NewReader(head))
	}
	inside := make([]byte, sniffed)
	n := 0
	if err == nil {
		n, _ = io.ReadFull(r, inside) // what is cut off by the end of head is no fault
	}
	inside = inside[:n]
	switch {
	case name == "gzip" && n > 262 && string(inside[257:262]) == "ustar":
		return FormatMLflow, nil
	case n > 262 && string(inside[257:262]) == "ustar":
		return "", refused("the file is a tar compressed with %s", name).WithHint("Compress it with gzip: tar czf model.tar.gz FOLDER")
	case isPickle(inside), bytes.HasPrefix(inside, []byte("\x93NUMPY")):
		return "", pickled(inside, " compressed with "+name)
	}
	return "", refused("the file is compressed with %s", name).WithHint("Register what is in it: %s", tool)
}

// detectZip tells MLflow folders from the many formats that are zip files inside.
func detectZip(file io.ReaderAt, size int64) (Format, error) {
	z, err := openZip(file, size)
	if err != nil {
		return "", err
	}
	named := func(match func(name, base string) bool) *zip.File {
		for _, f := range z.File {
			if match(f.Name, path.Base(f.Name)) {
				return f
			}
		}
		return nil
	}
	is := func(want string) func(string, string) bool { return func(_, base string) bool { return base == want } }
	ends := func(suffix string) func(string, string) bool {
		return func(name, _ string) bool { return strings.HasSuffix(name, suffix) }
	}
	switch {
	case named(is(mlmodelName)) != nil:
		return FormatMLflow, nil
	case named(is("data.pkl")) != nil:
		return "", refused("the file is a PyTorch model, which is code and is never run here").WithHint("Convert it in Python, where the model is: %s", torchLine)
	case named(is("model.weights.h5")) != nil:
		return "", refused("the file is a Keras model").WithHint("Convert it in Python: %s", kerasLine)
	case named(is("schema.json")) != nil:
		return "", refused("the file is a scikit-learn model as skops writes it").WithHint("Convert it in Python, where the model is: %s", sklearnLine)
	case named(is("model.ini")) != nil:
		return "", refused("the file is a MOJO of H2O, which is not converted").WithHint("Rowcast runs ONNX models.")
	case named(is("saved_model.pb")) != nil:
		return "", refused("the file is a TensorFlow SavedModel").WithHint("Convert it: %s", tensorflowLine)
	case named(ends(".npy")) != nil:
		return "", refused("the file holds NumPy arrays, not a model").WithHint("Rowcast registers ONNX, XGBoost, LightGBM and MLflow models.")
	case named(ends(".onnx")) != nil:
		return "", refused("the file is a zip without an %s", mlmodelName).
			WithHint("Register the model file that is in it: unzip it, then rowcast model register NAME %q", clip(named(ends(".onnx")).Name))
	}
	return "", refused("the file is a zip, but of no MLflow model: it has no %s", mlmodelName).
		WithHint("Rowcast reads ONNX, XGBoost and LightGBM files, and MLflow folders, also as zip or tar.gz.")
}
