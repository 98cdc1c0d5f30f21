package onnx

import (
	"os"
	"path/filepath"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// LibraryVersion is the ONNX Runtime that Rowcast is built and tested with.
const LibraryVersion = "1.32.0"

// LibraryVariable is the environment variable that names the shared library.
const LibraryVariable = "ROWCAST_ONNXRUNTIME"

const (
	libraryName = "libonnxruntime.so." + LibraryVersion
	fetchHint   = "`make build` fetches it; or `pip download --no-deps onnxruntime==" + LibraryVersion +
		"`, unzip the wheel and set " + LibraryVariable + " to onnxruntime/capi/" + libraryName
)

// FindLibrary returns the path of ONNX Runtime's shared library: what ROWCAST_ONNXRUNTIME names; else .cache/onnxruntime/ beside the folder of the
// program; else the same in the folder of go.mod above the working directory; else the system's library folders.
func FindLibrary() (string, error) {
	if path := os.Getenv(LibraryVariable); path != "" {
		if !isFile(path) {
			return "", rowcast.Errorf(rowcast.CodeInvalidArgument, "%s names no file: %q", LibraryVariable, path).WithHint("%s", fetchHint)
		}
		return path, nil
	}
	var tried []string
	if exe, err := os.Executable(); err == nil {
		if target, err := filepath.EvalSymlinks(exe); err == nil {
			exe = target
		}
		tried = append(tried, cached(filepath.Dir(filepath.Dir(exe))))
	}
	if root, ok := moduleRoot(); ok {
		tried = append(tried, cached(root))
	}
	for _, dir := range systemLibraryDirs() {
		tried = append(tried, filepath.Join(dir, libraryName))
	}
	for _, path := range tried {
		if isFile(path) {
			return path, nil
		}
	}
	return "", rowcast.Errorf(rowcast.CodeInternal, "ONNX Runtime %s is not installed", LibraryVersion).
		WithDetail("No %s in %s or the system's library folders.", libraryName, filepath.Dir(tried[0])).WithHint("%s", fetchHint)
}

func cached(root string) string { return filepath.Join(root, ".cache", "onnxruntime", libraryName) }

// moduleRoot is the nearest folder above the working directory that holds go.mod: where tests run.
func moduleRoot() (string, bool) {
	dir, err := os.Getwd()
	if err != nil {
		return "", false
	}
	for {
		if isFile(filepath.Join(dir, "go.mod")) {
			return dir, true
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", false
		}
		dir = parent
	}
}

func systemLibraryDirs() []string {
	dirs := filepath.SplitList(os.Getenv("LD_LIBRARY_PATH"))
	return append(dirs, "/usr/local/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}
