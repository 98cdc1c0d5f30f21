package convert

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// Bounds on archives of model folders. Nothing is ever written to a disk; what is read is what the model needs.
const (
	maxEntries    = 10_000
	maxUnpacked   = 2 << 30  // bytes of all files together
	ratioFloor    = 64 << 20 // below this, any ratio of compression will do
	maxRatio      = 200      // bytes unpacked for each packed: text of trees compresses ten times, a bomb a thousand
	maxEntryName  = 4096     // bytes
	unpackedStart = 1 << 20
)

// archive is the files of a packed folder by their paths, which are clean and relative.
type archive struct {
	names []string // sorted
	open  func(name string) (io.ReadCloser, error)
	size  map[string]int64 // as declared; reading stops there
}

// read returns a file of at most limit bytes.
func (a *archive) read(name string, limit int64) ([]byte, error) {
	if a.size[name] > limit {
		return nil, rowcast.Errorf(rowcast.CodeTooLarge, "%q in the archive has %d bytes, more than %d", clip(name), a.size[name], limit)
	}
	r, err := a.open(name)
	if err != nil {
		return nil, damagedArchive(err)
	}
	defer func() { _ = r.Close() }()
	var b bytes.Buffer
	if _, err := io.Copy(&b, io.LimitReader(r, limit+1)); err != nil {
		return nil, damagedArchive(err)
	}
	if int64(b.Len()) > limit {
		return nil, rowcast.Errorf(rowcast.CodeTooLarge, "%q in the archive has more than %d bytes", clip(name), limit)
	}
	return b.Bytes(), nil
}

func (a *archive) has(name string) bool {
	_, ok := a.size[name]
	return ok
}

// add takes a file in, whose name a stranger wrote.
func (a *archive) add(name string, size int64) error {
	clean := path.Clean(strings.TrimPrefix(name, "./"))
	switch {
	case len(name) > maxEntryName, strings.ContainsAny(name, "\\\x00"), path.IsAbs(name), clean == "..", strings.HasPrefix(clean, "../"),
		slices.Contains(strings.Split(name, "/"), ".."):
		return refused("the archive holds the path %q, which leads out of its folder", clip(name)).WithHint("Pack the folder anew: zip -r model.zip FOLDER")
	case a.has(clean):
		return refused("the archive holds %q twice", clip(name)).WithHint("Pack the folder anew: zip -r model.zip FOLDER")
	case len(a.size) >= maxEntries:
		return refused("the archive holds more than %d files", maxEntries).WithHint("Pack the model's folder alone.")
	}
	a.names = append(a.names, clean)
	a.size[clean] = size
	return nil
}

func damagedArchive(err error) error {
	return refused("the archive is damaged").WithCause(err)
}

func notAFile(name, what string) error {
	return refused("the archive holds %s, %q", what, clip(name)).WithHint("Pack the files themselves: tar --dereference -czf model.tar.gz FOLDER")
}

func tooMuch(unpacked uint64, packed int64) error {
	if unpacked > maxUnpacked || unpacked > ratioFloor && unpacked/maxRatio > uint64(packed) {
		return rowcast.Errorf(rowcast.CodeTooLarge, "the archive unpacks to more than a model's folder can hold").
			WithDetail("It has %d bytes and unpacks to %d or more; allowed are %d, and %d for each byte.", packed, unpacked, maxUnpacked, maxRatio).
			WithHint("Pack the model's folder alone.")
	}
	return nil
}

// openArchive opens a zip, a tar or a tar.gz.
func openArchive(data []byte) (*archive, error) {
	var a *archive
	var err error
	switch {
	case bytes.HasPrefix(data, []byte("PK")):
		a, err = zipArchive(data)
	case bytes.HasPrefix(data, []byte("\x1f\x8b")):
		if data, err = gunzip(data); err == nil {
			a, err = tarArchive(data)
		}
	default:
		a, err = tarArchive(data)
	}
	if err != nil {
		return nil, err
	}
	slices.Sort(a.names)
	return a, nil
}

// openZip reads a zip's directory, whose sizes must be possible.
func openZip(file io.ReaderAt, size int64) (*zip.Reader, error) {
	z, err := zip.NewReader(file, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return nil, damagedArchive(err)
	}
	if len(z.File) > maxEntries {
		return nil, refused("the archive holds more than %d files", maxEntries).WithHint("Pack the model's folder alone.")
	}
	var total uint64
	for _, f := range z.File {
		total += min(f.UncompressedSize64, maxUnpacked+1)
	}
	return z, tooMuch(total, size)
}

func zipArchive(data []byte) (*archive, error) {
	z, err := openZip(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, err
	}
	files := map[string]*zip.File{}
	a := &archive{size: map[string]int64{}}
	a.open = func(name string) (io.ReadCloser, error) { return files[name].Open() }
	for _, f := range z.File {
		switch mode := f.Mode(); {
		case mode.IsDir():
			continue
		case !mode.IsRegular():
			return nil, notAFile(f.Name, "a link or a device")
		case f.Flags&1 != 0:
			return nil, refused("the archive is encrypted").WithHint("Pack the folder without a password.")
		}
		if err := a.add(f.Name, int64(f.UncompressedSize64)); err != nil {
			return nil, err
		}
		files[a.names[len(a.names)-1]] = f
	}
	return a, nil
}

// gunzip unpacks up to the bound for what is packed.
func gunzip(data []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, damagedArchive(err)
	}
	bound := min(maxUnpacked, max(ratioFloor, int64(len(data))*maxRatio))
	out := bytes.NewBuffer(make([]byte, 0, unpackedStart))
	n, err := io.Copy(out, io.LimitReader(r, bound+1))
	if err != nil {
		return nil, damagedArchive(err)
	}
	if n > bound {
		return nil, tooMuch(uint64(max(n, maxUnpacked+1)), int64(len(data)))
	}
	return out.Bytes(), nil
}

func tarArchive(data []byte) (*archive, error) {
	in := bytes.NewReader(data)
	t := tar.NewReader(in)
	at := map[string]int64{}
	a := &archive{size: map[string]int64{}}
	a.open = func(name string) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data[at[name] : at[name]+a.size[name]])), nil
	}
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return a, nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return nil, damagedArchive(err)
		}
		switch h.Typeflag {
		case tar.TypeReg:
		case tar.TypeDir, tar.TypeXGlobalHeader:
			continue
		default:
			return nil, notAFile(h.Name, "a link or a device")
		}
		for key := range h.PAXRecords {
			if strings.HasPrefix(key, "GNU.sparse.") {
				return nil, notAFile(h.Name, "a sparse file")
			}
		}
		start := int64(len(data) - in.Len())
		if h.Size < 0 || start+h.Size > int64(len(data)) {
			return nil, damagedArchive(io.ErrUnexpectedEOF)
		}
		if err := a.add(h.Name, h.Size); err != nil {
			return nil, err
		}
		at[a.names[len(a.names)-1]] = start
	}
}
