package modelmigrate

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/rowcast/rowcast/internal/registry"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// ArtifactDir is the folder of the artifacts inside that of the migrations.
const ArtifactDir = "artifacts"

// artifactName is a file name that says whose artifact it is and shows the beginning of its hash.
func artifactName(title, sha, extension string) string { return title + "-" + sha[:12] + extension }

// library finds artifacts by their hash, beside the migrations and in their folder of artifacts.
type library struct {
	dir    string
	hashes map[string]string // by path, of what was read
}

// files lists what may be an artifact.
func (l *library) files() ([]string, error) {
	var list []string
	for _, dir := range []string{filepath.Join(l.dir, ArtifactDir), l.dir} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot read the artifacts").WithCause(err)
		}
		for _, e := range entries {
			if e.Type().IsRegular() && filepath.Ext(e.Name()) != ".sql" && !strings.HasPrefix(e.Name(), ".") {
				list = append(list, filepath.Join(dir, e.Name()))
			}
		}
	}
	return list, nil
}

// find returns the path of the file with the given hash: first of those whose name shows it, then of any. path is "" where there is none; pointer is
// the path of a git-lfs pointer to it.
func (l *library) find(ctx context.Context, sha string) (path, pointer string, err error) {
	files, err := l.files()
	if err != nil {
		return "", "", err
	}
	for _, named := range []bool{true, false} {
		for _, file := range files {
			if strings.Contains(filepath.Base(file), sha[:12]) != named {
				continue
			}
			got, isPointer, err := l.hash(ctx, file)
			switch {
			case err != nil:
				return "", "", err
			case got != sha:
			case isPointer:
				pointer = file
			default:
				return file, "", nil
			}
		}
	}
	return "", pointer, nil
}

// hash returns the hash of a file, or of the file that a git-lfs pointer stands for.
func (l *library) hash(ctx context.Context, path string) (sha string, pointer bool, err error) {
	if sha, ok := l.hashes[path]; ok {
		return sha, false, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return "", false, rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot read an artifact").WithCause(err)
	}
	defer func() { _ = file.Close() }()
	p, ok, err := registry.ReadLFSPointer(file)
	if err != nil {
		return "", false, rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot read %s", path).WithCause(err)
	}
	if ok {
		return p.SHA256, true, nil
	}
	if sha, _, err = registry.FileSHA256(ctx, file); err != nil {
		return "", false, err
	}
	if l.hashes == nil {
		l.hashes = map[string]string{}
	}
	l.hashes[path] = sha
	return sha, false, nil
}

// missing says why an artifact that the database needs cannot be uploaded.
func (l *library) missing(p *pair, sha, pointer string) error {
	if pointer != "" {
		return rowcast.Errorf(rowcast.CodeNotFound, "%s needs %s, which is a git-lfs pointer", p.up, pointer).
			WithDetail("git has not fetched the model file with SHA-256 %s, and the database does not have it either.", sha).
			WithHint("git lfs install && git lfs pull --include='*%s'", filepath.Base(pointer))
	}
	return rowcast.Errorf(rowcast.CodeNotFound, "%s needs the artifact with SHA-256 %s, which is nowhere", p.up, sha).
		WithDetail("Neither the database has it, nor is it beside the migrations or in %s.", filepath.Join(l.dir, ArtifactDir)).
		WithHint("Put the file there, under any name; or rowcast model upload FILE.")
}
