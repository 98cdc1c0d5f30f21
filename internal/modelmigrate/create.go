package modelmigrate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/rowcast/rowcast/internal/registry"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// NewOptions says what a new migration does. Without File it does nothing yet.
type NewOptions struct {
	Dir     string           // folder of the migrations, made where it is missing
	Name    string           // churn_v2
	File    string           // the model file to register
	Model   string           // the model's name; "" for that of Options, else what Name says without its _v2
	Options registry.Options // of the registration
	Promote bool             // make the version the champion
	Aliases []string         // point these at the version
	Grants  []string         // let these roles use the model
}

// Created says what was written.
type Created struct {
	Version  int    `json:"version"`
	Up       string `json:"up"` // paths
	Down     string `json:"down"`
	Artifact string `json:"artifact,omitempty"`
	SHA256   string `json:"sha256,omitempty"`
	Model    string `json:"model,omitempty"`
}

// Create writes a pair of files with the next free number, and puts the model file among the artifacts. CodeInvalidArgument where the name, the file
// or the options make no sense.
func Create(ctx context.Context, o NewOptions) (*Created, error) {
	if o.Dir == "" {
		o.Dir = DefaultDir
	}
	if !regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$`).MatchString(o.Name) {
		return nil, rowcast.Errorf(rowcast.CodeInvalidName, "%q is no name for a migration", o.Name).WithHint("Use letters, digits and _, for instance churn_v2.")
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, cannotWrite(o.Dir, err)
	}
	f, err := readFolder(o.Dir)
	if err != nil {
		return nil, err
	}
	c := &Created{Version: f.latest() + 1}
	change := fmt.Sprintf("%06d_%s", c.Version, o.Name)
	c.Up, c.Down = filepath.Join(o.Dir, change+".up.sql"), filepath.Join(o.Dir, change+".down.sql")
	var size int64
	if o.File != "" {
		if c.Model, err = modelName(o); err != nil {
			return nil, err
		}
		if c.Artifact, c.SHA256, size, err = shelve(ctx, o); err != nil {
			return nil, err
		}
	}
	up, err := o.up(c, change, size)
	if err != nil {
		return nil, err
	}
	down := fmt.Sprintf("-- Takes back what %s.up.sql did, or says why that cannot be.\nSELECT ml.revert_change('%s');\n", change, change)
	if err := writeNew(c.Up, up); err != nil {
		return nil, err
	}
	if err := writeNew(c.Down, down); err != nil {
		return nil, errors.Join(err, os.Remove(c.Up))
	}
	return c, nil
}

// modelName finds out which model a new version is of.
func modelName(o NewOptions) (string, error) {
	name := o.Model
	if name == "" {
		name = o.Options.Name
	}
	if name == "" {
		name = regexp.MustCompile(`[_-]v?[0-9]+$`).ReplaceAllString(o.Name, "")
	}
	if !regexp.MustCompile(`^[a-z_][a-z0-9_$]{0,62}$`).MatchString(name) {
		return "", rowcast.Errorf(rowcast.CodeInvalidName, "%q is no name for a model", name).
			WithDetail("A model name is a lower-case SQL identifier of at most 63 characters.").WithHint("Say --model NAME.")
	}
	return name, nil
}

// up is the text of the up file.
func (o *NewOptions) up(c *Created, change string, size int64) (string, error) {
	var b strings.Builder
	if o.File == "" {
		fmt.Fprintf(&b, "-- What this does to models: everything of schema ml can stand here, for instance\n"+
			"--   SELECT ml.promote('churn', 2);\n--   SELECT ml.grant_model('churn', 'analyst');\n")
	} else {
		file, err := filepath.Rel(o.Dir, c.Artifact)
		if err != nil {
			file = c.Artifact
		}
		fmt.Fprintf(&b, "-- Registers %s as the next version of %s.\n"+
			"-- %d bytes; `rowcast model migration up` uploads them, `rowcast model upload` does so for the tool migrate.\n", file, c.Model, size)
	}
	fmt.Fprintf(&b, "SELECT ml.begin_change('%s');\n\n", change)
	if o.File == "" {
		return b.String(), nil
	}
	options := o.Options
	options.Name = ""
	text, err := options.JSON()
	if err != nil {
		return "", err
	}
	pretty, err := layOut(text)
	if err != nil {
		return "", rowcast.Errorf(rowcast.CodeInvalidArgument, "the options can't be written as JSON").WithCause(err)
	}
	call := fmt.Sprintf("ml.register_artifact('%s',\n    sha256 => '%s',\n    options => %s)", c.Model, c.SHA256, literal(pretty))
	var with []string
	if o.Promote {
		with = append(with, fmt.Sprintf("ml.promote('%s', version)", c.Model))
	}
	for _, alias := range o.Aliases {
		with = append(with, fmt.Sprintf("ml.set_alias('%s', %s, version)", c.Model, literal(alias)))
	}
	if len(with) == 0 {
		fmt.Fprintf(&b, "SELECT %s;\n", call)
	} else {
		fmt.Fprintf(&b, "SELECT %s\nFROM %s AS version;\n", strings.Join(with, ", "), call)
	}
	for _, role := range o.Grants {
		fmt.Fprintf(&b, "SELECT ml.grant_model('%s', %s);\n", c.Model, literal(role))
	}
	return b.String(), nil
}

// layOut writes a JSON object with a line for each key, and for each feature.
func layOut(object []byte) (string, error) {
	d := json.NewDecoder(bytes.NewReader(object))
	if _, err := d.Token(); err != nil {
		return "", err
	}
	var lines []string
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return "", err
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return "", err
		}
		text := string(value)
		var list []json.RawMessage
		if json.Unmarshal(value, &list) == nil && len(list) > 0 && list[0][0] == '{' {
			elements := make([]string, len(list))
			for i, e := range list {
				elements[i] = "    " + string(e)
			}
			text = "[\n" + strings.Join(elements, ",\n") + "\n  ]"
		}
		lines = append(lines, fmt.Sprintf("  %q: %s", key, text))
	}
	if len(lines) == 0 {
		return "{}", nil
	}
	return "{\n" + strings.Join(lines, ",\n") + "\n}", nil
}

// literal writes text as SQL in the way that reads best.
func literal(s string) string {
	if !strings.ContainsAny(s, `'\`) {
		return "'" + s + "'"
	}
	tag := "$json$"
	for i := 0; strings.Contains(s, tag); i++ {
		tag = fmt.Sprintf("$json%d$", i)
	}
	return tag + s + tag
}

// shelve puts the model file among the artifacts, unless it lies where it would be found anyhow, and returns its place, its hash and its size.
func shelve(ctx context.Context, o NewOptions) (path, sha string, size int64, err error) {
	from, err := os.Open(o.File)
	if err != nil {
		return "", "", 0, rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot read the model file").WithCause(err)
	}
	defer func() { _ = from.Close() }()
	if sha, size, err = registry.FileSHA256(ctx, from); err != nil {
		return "", "", 0, err
	}
	l := library{dir: o.Dir}
	if path, _, err = l.find(ctx, sha); err != nil || path != "" {
		return path, sha, size, err
	}
	dir := filepath.Join(o.Dir, ArtifactDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", "", 0, cannotWrite(dir, err)
	}
	path = filepath.Join(dir, artifactName(o.Name, sha, filepath.Ext(o.File)))
	return path, sha, size, copyFile(path, from)
}

// copyFile writes beside path and renames when all is there.
func copyFile(path string, from io.Reader) (err error) {
	to, err := os.CreateTemp(filepath.Dir(path), ".rowcast-artifact-*")
	if err != nil {
		return cannotWrite(path, err)
	}
	defer func() {
		if err != nil {
			_ = to.Close()
			_ = os.Remove(to.Name())
		}
	}()
	for _, step := range []func() error{
		func() error { _, err := io.Copy(to, from); return err },
		func() error { return to.Chmod(0o644) },
		to.Close,
		func() error { return os.Rename(to.Name(), path) },
	} {
		if err := step(); err != nil {
			return cannotWrite(path, err)
		}
	}
	return nil
}

func writeNew(path, text string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return cannotWrite(path, err)
	}
	_, err = file.WriteString(text)
	if err = errors.Join(err, file.Close()); err != nil {
		return cannotWrite(path, err)
	}
	return nil
}

func cannotWrite(path string, err error) error {
	return rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot write %s", path).WithCause(err)
}
