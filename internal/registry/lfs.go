package registry

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// LFSPointer is the text file that git keeps in place of one that git-lfs stores elsewhere.
type LFSPointer struct {
	SHA256 string // of the file that it stands for, in hexadecimal
	Size   int64  // of that file in bytes
}

// maxLFSPointer is what the format allows.
const maxLFSPointer = 1024

// ReadLFSPointer recognises a git-lfs pointer; ok is false for any other file.
func ReadLFSPointer(file io.ReaderAt) (p LFSPointer, ok bool, err error) {
	head := make([]byte, maxLFSPointer+1)
	n, err := file.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return p, false, err
	}
	if n > maxLFSPointer || !bytes.HasPrefix(head[:n], []byte("version https://git-lfs.github.com/spec/")) {
		return p, false, nil
	}
	lines := bufio.NewScanner(bytes.NewReader(head[:n]))
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), " ")
		switch key {
		case "oid":
			p.SHA256, _ = strings.CutPrefix(value, "sha256:")
		case "size":
			p.Size, _ = strconv.ParseInt(value, 10, 64)
		}
	}
	return p, true, lines.Err()
}

// RefuseLFSPointer returns an error that says what to do where the file is a git-lfs pointer.
func RefuseLFSPointer(file *os.File) error {
	p, ok, err := ReadLFSPointer(file)
	if err != nil {
		return rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot read %s", file.Name()).WithCause(err)
	}
	if !ok {
		return nil
	}
	return rowcast.Errorf(rowcast.CodeInvalidArgument, "%s is a git-lfs pointer, not the model file", file.Name()).
		WithDetail("It stands for a file of %d bytes with SHA-256 %s, which git did not fetch.", p.Size, p.SHA256).
		WithHint("git lfs install && git lfs pull --include='*%s'", filepath.Base(file.Name()))
}
