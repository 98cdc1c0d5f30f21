package convert

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// Bounds of what a LightGBM file may hold. They keep a hostile file from taking memory far beyond its own size; no real model comes near.
const (
	maxLightGBMBytes   = 1 << 30
	maxLightGBMNodes   = 1 << 24 // splits and leaves of all trees together
	maxLightGBMMembers = 1 << 25 // categories of all splits together
	maxLightGBMDepth   = 2048    // ONNX Runtime walks a tree by recursion when it loads
	maxLightGBMClasses = 1 << 16
)

// lightgbmFile is LightGBM's text model as written, after its numbers were read and its trees found sound.
//
//	tree
//	version=v4
//	KEY=VALUE, or a KEY alone
//
//	Tree=0
//	KEY=VALUE
//
//	end of trees
//	feature_importances: …
//	parameters: … [KEY: VALUE] … end of parameters
//	pandas_categorical:JSON, added by the Python package
type lightgbmFile struct {
	header     map[string]string
	lines      map[string]int // line of each key of the header, from 1
	parameters map[string]string
	pandas     string // JSON after pandas_categorical
	pandasLine int
	trees      []lightgbmTree
}

// lightgbmReader goes through the lines of a file.
type lightgbmReader struct {
	rest []byte
	line int // number of the line last read, from 1
	file *lightgbmFile

	nodes, members int  // so far
	ended          bool // the line after the last tree was there
}

func readLightGBM(data []byte) (*lightgbmFile, error) {
	if len(data) > maxLightGBMBytes {
		return nil, refused("the LightGBM file is too large: %d bytes", len(data)).WithDetail("At most %d bytes are read.", maxLightGBMBytes)
	}
	r := &lightgbmReader{rest: data, file: &lightgbmFile{header: map[string]string{}, lines: map[string]int{}, parameters: map[string]string{}}}
	first, _ := r.next()
	if string(bytes.TrimSpace(first)) != "tree" {
		return nil, refused("the file is no LightGBM text model: its first line is not «tree»").WithDetail("It starts with %q.", clip(string(first))).
			WithHint("Save the model with booster.save_model('model.txt').")
	}
	line, err := r.readHeader()
	if err != nil {
		return nil, err
	}
	if line, err = r.readTrees(line); err != nil {
		return nil, err
	}
	r.readTail(line)
	return r.file, r.checkCount()
}

// next returns the next line without its end; false after the last. LightGBM itself takes \n, \r\n and \r.
func (r *lightgbmReader) next() ([]byte, bool) {
	if len(r.rest) == 0 {
		return nil, false
	}
	r.line++
	end := bytes.IndexAny(r.rest, "\r\n")
	if end < 0 {
		line := r.rest
		r.rest = nil
		return line, true
	}
	line := r.rest[:end]
	if bytes.HasPrefix(r.rest[end:], []byte("\r\n")) {
		end++
	}
	r.rest = r.rest[end+1:]
	return line, true
}

// fail is a refusal that names the current line.
func (r *lightgbmReader) fail(format string, args ...any) *rowcast.Error {
	return damaged(r.line, format, args...)
}

func damaged(line int, format string, args ...any) *rowcast.Error {
	return refused("the LightGBM file can't be read, line "+strconv.Itoa(line)+": "+format, args...).
		WithHint("The file may be cut off or edited. Save the model again with booster.save_model('model.txt').")
}

// readHeader reads up to the first tree, whose line it returns.
func (r *lightgbmReader) readHeader() ([]byte, error) {
	for {
		line, ok := r.next()
		if !ok {
			return nil, r.fail("it ends before the first tree")
		}
		if bytes.HasPrefix(line, []byte("Tree=")) || bytes.Equal(line, []byte("end of trees")) {
			return line, nil
		}
		if len(line) == 0 {
			continue
		}
		if !utf8.Valid(line) || bytes.IndexByte(line, 0) >= 0 {
			return nil, r.fail("it is no UTF-8 text").WithHint("Rename the features in UTF-8 and save the model again.")
		}
		key, value, _ := strings.Cut(string(line), "=")
		r.file.header[key] = value
		r.file.lines[key] = r.line
	}
}

// readTrees reads all trees, beginning with the line of the first, and returns the line after the last; nil at the end of the file.
func (r *lightgbmReader) readTrees(line []byte) ([]byte, error) {
	more := true
	for {
		for more && len(line) == 0 {
			line, more = r.next()
		}
		if !more || !bytes.HasPrefix(line, []byte("Tree=")) {
			return line, nil
		}
		tree, err := r.readTree(len(r.file.trees))
		if err != nil {
			return nil, err
		}
		r.file.trees = append(r.file.trees, tree)
		line, more = r.next()
	}
}

// readTail reads what follows the trees: training parameters and the categories of a pandas data frame.
func (r *lightgbmReader) readTail(line []byte) {
	for more := true; more; line, more = r.next() {
		switch text, pandas := bytes.CutPrefix(line, []byte("pandas_categorical:")); {
		case pandas:
			r.file.pandas, r.file.pandasLine = string(text), r.line
		case bytes.Equal(line, []byte("end of trees")), bytes.HasPrefix(line, []byte("feature importances")):
			r.ended = true // files before version 3 have only the latter
		case len(line) > 2 && line[0] == '[' && line[len(line)-1] == ']' && utf8.Valid(line):
			if key, value, ok := strings.Cut(string(line[1:len(line)-1]), ": "); ok {
				r.file.parameters[key] = value
			}
		}
	}
}

// checkCount notices a file that was cut off.
func (r *lightgbmReader) checkCount() error {
	f := r.file
	sizes, counted := f.header["tree_sizes"]
	switch n := len(strings.Fields(sizes)); {
	case counted && n != len(f.trees):
		return r.fail("it has %d trees, but its header counts %d", len(f.trees), n)
	case !r.ended:
		return r.fail("the line «end of trees» is missing")
	case len(f.trees) == 0:
		return refused("the LightGBM model has no trees").WithHint("Train it before it is saved.")
	}
	return nil
}

// integer reads a number of the header. absent stands for a key that is not there.
func (f *lightgbmFile) integer(key string, absent int) (int, error) {
	text, ok := f.header[key]
	if !ok {
		return absent, nil
	}
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 32)
	if err != nil {
		return 0, damaged(f.lines[key], "%s is %q, not a whole number", key, clip(text))
	}
	return int(n), nil
}

// words splits a list between single spaces, as LightGBM writes lists: a name may hold any other white space.
func words(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ' ' })
}

// token cuts the first word off a list of numbers.
func token(list []byte) (word, rest []byte) {
	for len(list) > 0 && list[0] == ' ' {
		list = list[1:]
	}
	end := bytes.IndexByte(list, ' ')
	if end < 0 {
		return list, nil
	}
	return list[:end], list[end:]
}

// floats64 reads exactly n numbers, all finite unless infinite says otherwise.
func (r *lightgbmReader) floats64(key string, list []byte, n int, infinite bool) ([]float64, error) {
	if len(list) < 2*n-1 {
		return nil, r.fail("%s holds fewer than %d numbers", key, n) // before memory for n is taken
	}
	out := make([]float64, n)
	for i := range out {
		var word []byte
		word, list = token(list)
		v, err := strconv.ParseFloat(string(word), 64)
		if err != nil && !math.IsInf(v, 0) || math.IsNaN(v) || math.IsInf(v, 0) && !infinite || bytes.ContainsAny(word, "xX_") {
			return nil, r.fail("number %d of %s is %q, not a decimal number", i+1, key, clip(string(word)))
		}
		out[i] = v
	}
	return out, r.atEnd(key, list, n)
}

// integers reads exactly n whole numbers of at most 32 bits.
func lightgbmIntegers[T int32 | uint32](r *lightgbmReader, key string, list []byte, n int) ([]T, error) {
	if len(list) < 2*n-1 {
		return nil, r.fail("%s holds fewer than %d numbers", key, n)
	}
	out := make([]T, n)
	for i := range out {
		var word []byte
		word, list = token(list)
		v, err := strconv.ParseInt(string(word), 10, 64)
		if err != nil || int64(T(v)) != v {
			return nil, r.fail("number %d of %s is %q, not a whole number of 32 bits", i+1, key, clip(string(word)))
		}
		out[i] = T(v)
	}
	return out, r.atEnd(key, list, n)
}

func (r *lightgbmReader) atEnd(key string, list []byte, n int) error {
	if word, _ := token(list); len(word) > 0 {
		return r.fail("%s holds more than %d numbers", key, n)
	}
	return nil
}
