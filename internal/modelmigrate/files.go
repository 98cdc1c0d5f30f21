package modelmigrate

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/golang-migrate/migrate/v4/source"

	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// pair is one migration of the folder.
type pair struct {
	version  int
	change   string // 000002_churn_v2: the name of the change that it makes
	up, down string // file names; "" for none
	text     string // of the up file
	checksum string // SHA-256 of text with line ends as \n, in hexadecimal
}

// title is what golang-migrate calls the migration, churn_v2.
func (p *pair) title() string {
	_, title, _ := strings.Cut(p.change, "_")
	return title
}

// folder is the migrations of a folder in their order.
type folder struct {
	dir   string
	pairs []*pair
}

// readFolder reads a folder of migrations. Other files in it are passed over. CodeInvalidArgument where it cannot be read or two migrations have the
// same number.
func readFolder(dir string) (*folder, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		e := rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot read the folder of model migrations").WithCause(err)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, e.WithHint("rowcast model migration new NAME --file MODEL.onnx makes it; --dir names another.")
		}
		return nil, e
	}
	f := &folder{dir: dir}
	for _, entry := range entries {
		if entry.IsDir() || filepath.Ext(entry.Name()) != ".sql" {
			continue
		}
		parsed, err := source.Parse(entry.Name())
		if err != nil {
			return nil, rowcast.Errorf(rowcast.CodeInvalidArgument, "%s is not named like 000001_name.up.sql", filepath.Join(dir, entry.Name())).
				WithHint("Rename it, or keep SQL that is no migration in another folder.")
		}
		if err := f.add(entry.Name(), parsed); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(f.pairs, func(a, b *pair) int { return a.version - b.version })
	for _, p := range f.pairs {
		if p.up == "" {
			return nil, rowcast.Errorf(rowcast.CodeInvalidArgument, "%s has no .up.sql beside it", filepath.Join(dir, p.down)).
				WithHint("Restore it, or remove the way down too.")
		}
		text, err := os.ReadFile(filepath.Join(dir, p.up))
		if err != nil {
			return nil, rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot read a model migration").WithCause(err)
		}
		p.text, p.checksum = string(text), checksum(text)
	}
	return f, nil
}

func (f *folder) add(name string, parsed *source.Migration) error {
	p := f.at(int(parsed.Version))
	if p == nil {
		p = &pair{version: int(parsed.Version)}
		f.pairs = append(f.pairs, p)
	}
	into := &p.up
	if parsed.Direction == source.Down {
		into = &p.down
	}
	change := strings.TrimSuffix(name, "."+string(parsed.Direction)+".sql")
	if *into != "" || p.change != "" && p.change != change {
		other := p.up + p.down
		if *into != "" {
			other = *into
		}
		return rowcast.Errorf(rowcast.CodeInvalidArgument, "%s and %s have the same number", other, name).
			WithHint("Two branches have each added one: give the younger the next free number, in the names of both its files and in their SQL.")
	}
	*into, p.change = name, change
	return nil
}

// at returns the migration of a version, nil where there is none.
func (f *folder) at(version int) *pair {
	for _, p := range f.pairs {
		if p.version == version {
			return p
		}
	}
	return nil
}

// latest is the highest version, 0 for an empty folder.
func (f *folder) latest() int {
	if len(f.pairs) == 0 {
		return 0
	}
	return f.pairs[len(f.pairs)-1].version
}

// between returns the migrations above from up to to.
func (f *folder) between(from, to int) []*pair {
	var list []*pair
	for _, p := range f.pairs {
		if p.version > from && p.version <= to {
			list = append(list, p)
		}
	}
	return list
}

// above returns the version n migrations above one; the latest where n is negative or there are fewer.
func (f *folder) above(version, n int) int {
	ahead := f.between(version, f.latest())
	if len(ahead) == 0 || n == 0 {
		return version
	}
	if n < 0 || n > len(ahead) {
		n = len(ahead)
	}
	return ahead[n-1].version
}

// below returns the version n migrations below one, 0 for none.
func (f *folder) below(version, n int) int {
	behind := f.between(0, version)
	if n < 0 || n >= len(behind) {
		return 0
	}
	return behind[len(behind)-1-n].version
}

// need returns the migration of a version that must be there; version 0 needs none.
func (f *folder) need(version int, what string) error {
	if version == 0 || f.at(version) != nil {
		return nil
	}
	return rowcast.Errorf(rowcast.CodeNotFound, "%s %d, but %s has no migration %d", what, version, f.dir, version).
		WithDetail("Its latest is %d.", f.latest()).
		WithHint("Fetch the branch that has it, or name the right folder with --dir.")
}

func checksum(text []byte) string {
	sum := sha256.Sum256([]byte(strings.ReplaceAll(string(text), "\r\n", "\n")))
	return hex.EncodeToString(sum[:])
}

// check refuses a file that would end the transaction in which it runs, or that names another change.
func (p *pair) check(name, text string) error {
	if word, line := postgres.TransactionControl(text); line > 0 {
		return rowcast.Errorf(rowcast.CodeInvalidArgument, "%s:%d: %s has no place in a model migration", name, line, word).
			WithDetail("Each file runs in a transaction of its own, so that it leaves nothing behind where it fails.").
			WithHint("Take BEGIN and COMMIT out of the file.")
	}
	for _, m := range regexp.MustCompile(`(?im)^[^-'\n]*\bml\.(begin|revert)_change\('([^']*)'`).FindAllStringSubmatch(text, -1) {
		if m[2] != p.change && (strings.EqualFold(m[1], "begin") || name == p.down) {
			return rowcast.Errorf(rowcast.CodeInvalidArgument, "%s calls the change '%s', not '%s'", name, m[2], p.change).
				WithHint("The file was renamed: write its new name in both files, or give them their old ones.")
		}
	}
	return nil
}

// artifacts returns the SHA-256 of each artifact that the up file names, in order and each once.
func (p *pair) artifacts() []string {
	var list []string
	for _, m := range regexp.MustCompile(`'([0-9a-f]{64})'`).FindAllStringSubmatch(p.text, -1) {
		if !slices.Contains(list, m[1]) {
			list = append(list, m[1])
		}
	}
	return list
}
