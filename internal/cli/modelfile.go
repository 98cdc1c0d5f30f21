package cli

import (
	"io"
	"maps"
	"os"
	"path/filepath"

	"github.com/rowcast/rowcast/internal/convert"
	"github.com/rowcast/rowcast/internal/registry"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// largestNamed is how large a packed folder may be to be opened here, only for its name; largestTried how large a file may be to be converted here,
// only to see whether it can be.
const (
	largestNamed = 64 << 20
	largestTried = 64 << 20
)

// modelFile is a file to register, or a folder that was packed into one.
type modelFile struct {
	file   *os.File
	packed bool
	beside string // the file that model.yaml lies beside
	origin convert.Origin
}

// openModel opens what register was given and refuses, before anything is uploaded, what is known to be no model that can be registered.
func openModel(path string) (*modelFile, error) {
	m := &modelFile{beside: path}
	info, err := os.Stat(path)
	switch {
	case err != nil:
	case info.IsDir():
		return m, m.pack(path)
	default:
		m.file, err = os.Open(path)
	}
	if err != nil {
		return nil, rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot read the model file").WithCause(err)
	}
	format, err := convert.Detect(m.file, info.Size())
	if err != nil {
		m.close()
		return nil, err
	}
	if format == convert.FormatMLflow && info.Size() <= largestNamed {
		data, err := io.ReadAll(io.NewSectionReader(m.file, 0, info.Size()))
		if err != nil {
			m.close()
			return nil, rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot read the model file").WithCause(err)
		}
		m.origin = convert.ArchiveOrigin(data, path)
	}
	return m, nil
}

// pack packs a folder into a temporary file.
func (m *modelFile) pack(folder string) error {
	m.packed, m.beside, m.origin = true, filepath.Join(folder, "MLmodel"), convert.FolderOrigin(folder)
	var err error
	if m.file, err = os.CreateTemp("", "rowcast-*.tar"); err != nil {
		return rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot pack the model folder").WithCause(err)
	}
	if err = convert.PackFolder(folder, m.file); err == nil {
		_, err = m.file.Seek(0, io.SeekStart)
	}
	if err != nil {
		m.close()
	}
	return err
}

// converts refuses a file that the sidecar would refuse to convert. A large one is left to the sidecar.
func (m *modelFile) converts() error {
	info, err := m.file.Stat()
	switch {
	case err != nil:
		return rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot read the model file").WithCause(err)
	case info.Size() > largestTried:
		return nil
	}
	data, err := io.ReadAll(io.NewSectionReader(m.file, 0, info.Size()))
	if err != nil {
		return rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot read the model file").WithCause(err)
	}
	_, err = convert.From(data)
	return err
}

func (m *modelFile) close() {
	_ = m.file.Close()
	if m.packed {
		_ = os.Remove(m.file.Name())
	}
}

// under lays the options over what MLflow keeps around the model.
func (m *modelFile) under(o registry.Options) registry.Options {
	if o.Name == "" {
		o.Name = m.origin.Name
	}
	for _, pair := range []struct {
		from map[string]any
		to   *map[string]any
	}{{m.origin.Parameters, &o.Parameters}, {m.origin.Tags, &o.Tags}} {
		if len(pair.from) > 0 {
			merged := maps.Clone(pair.from)
			maps.Copy(merged, *pair.to)
			*pair.to = merged
		}
	}
	return o
}
