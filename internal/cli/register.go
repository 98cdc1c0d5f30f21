package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/rowcast/rowcast/internal/convert"
	"github.com/rowcast/rowcast/internal/registry"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// registered is what register prints with --json.
type registered struct {
	Model        string   `json:"model"`
	Version      int      `json:"version"`
	SHA256       string   `json:"sha256"`
	Format       string   `json:"format,omitempty"`        // where the file was converted
	SourceSHA256 string   `json:"source_sha256,omitempty"` // of the file, where it was converted
	Aliases      []string `json:"aliases"`
}

func (a *app) registerCommand() *cobra.Command {
	var f optionFlags
	c := a.catalogCommand("register [NAME] FILE", "Register a model file, or an MLflow folder, as the model's next version", "rowcast model register churn churn.onnx",
		cobra.RangeArgs(1, 2),
		func(ctx context.Context, cmd *cobra.Command, c *registry.Catalog, args []string) error {
			path := args[len(args)-1]
			m, err := openModel(path)
			if err != nil {
				return err
			}
			defer m.close()
			options, from, err := f.options(m.beside)
			if err != nil {
				return err
			}
			options = m.under(options)
			if len(args) == 2 {
				options.Name = args[0]
			}
			if options.Name == "" {
				return usageError{rowcast.Errorf(rowcast.CodeInvalidArgument, "what is the model's name?").
					WithHint("rowcast model register NAME %s, or a line name: NAME in %s.", path, from)}
			}
			version, _, err := c.Register(ctx, options.Name, m.file, options, a.progress("uploading"))
			if err != nil {
				return err
			}
			_, v, err := c.Resolve(ctx, registry.VersionRef(options.Name, version))
			if err != nil {
				return err
			}
			note := "predict('" + options.Name + "', …) uses it now."
			if len(v.Aliases) == 0 {
				note = "Make it the champion with: rowcast model promote " + options.Name + " " + optional(&version)
			}
			r := registered{Model: options.Name, Version: version, SHA256: v.Sha256, Aliases: v.Aliases}
			was := ""
			if v.SourceSha256 != "" {
				r.Format, r.SourceSHA256 = v.Format, v.SourceSha256
				was = ", converted from " + v.Format
			}
			return a.report(cmd, r, "%s version %d registered: %s, %d features, %s%s.\n%s\n",
				options.Name, version, v.Task, len(v.Features), size(v.Size), was, note)
		})
	c.Long = `Registers a model file as the model's next version. The sidecar checks it in a process of its own and runs it once; nothing is stored when it
refuses. The first version becomes the champion, a later one waits for promote.

FILE is an ONNX file, a model of XGBoost (JSON or UBJ) or LightGBM (text), or an MLflow model folder, also packed as zip, tar or tar.gz. What it is, its
content says. The sidecar converts what is not ONNX; the file itself is kept (rowcast model download --original). Pickles are code and are refused.

What the file does not say (names of features, which may be missing, labels, …) comes from model.yaml beside the file or in the folder, or from flags,
which win. NAME may be left out where model.yaml has it; an MLflow model goes by its registered name or its folder's.`
	c.Example = `  rowcast model register churn churn.onnx
  rowcast model register churn churn.ubj
  rowcast model register mlruns/0/models/m-5f1c/artifacts
  rowcast model register models/iris/model.onnx
  rowcast model register churn churn.onnx --feature age:real --feature plan:text=free --label stays --label leaves`
	f.add(c)
	return c
}

// optionFlags are model.yaml's keys as flags.
type optionFlags struct {
	file, description, task, inputs, target, example string
	features, labels, parameters, tags               []string
}

func (f *optionFlags) add(c *cobra.Command) {
	s := c.Flags()
	s.StringVar(&f.file, "options", "", "YAML file instead of model.yaml beside the model")
	s.StringVar(&f.description, "description", "", "what the model is for")
	s.StringVar(&f.task, "task", "", "classification, regression, anomaly, clustering or tensors")
	s.StringVar(&f.inputs, "inputs", "", "matrix (one tensor [N, F]), columns (one input per feature) or tensors")
	s.StringVar(&f.target, "target", "", "name of what is predicted")
	s.StringVar(&f.example, "example", "", "JSON file with an example row or {\"inputs\": …}, run at registration and at every load")
	s.StringArrayVar(&f.features, "feature", nil, "NAME, NAME:TYPE, NAME:TYPE? (may be missing) or NAME:TYPE=DEFAULT; once for each, in order")
	s.StringArrayVar(&f.labels, "label", nil, "label; once for each, in the order of the probabilities")
	s.StringArrayVar(&f.parameters, "parameter", nil, "NAME=VALUE to keep with the version")
	s.StringArrayVar(&f.tags, "tag", nil, "NAME=VALUE to keep with the version")
}

// options reads the YAML file that belongs to the model file, lays the flags over it and says which file it was.
func (f *optionFlags) options(model string) (registry.Options, string, error) {
	var o registry.Options
	path := f.file
	if path == "" {
		path = filepath.Join(filepath.Dir(model), "model.yaml")
	}
	text, err := os.ReadFile(path)
	switch {
	case err == nil:
		if o, err = registry.ParseYAML(text); err != nil {
			return o, path, err
		}
	case f.file != "" || !os.IsNotExist(err):
		return o, path, rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot read the options").WithCause(err)
	}
	set := func(to *string, value string) {
		if value != "" {
			*to = value
		}
	}
	set(&o.Description, f.description)
	set((*string)(&o.Task), f.task)
	set((*string)(&o.Inputs), f.inputs)
	set(&o.Target, f.target)
	if f.example != "" {
		if o.Example, err = os.ReadFile(f.example); err != nil {
			return o, path, rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot read the example").WithCause(err)
		}
		if !json.Valid(o.Example) {
			return o, path, rowcast.Errorf(rowcast.CodeInvalidArgument, "the example in %s is no JSON", f.example)
		}
	}
	if len(f.features) > 0 {
		o.Features = nil
		for _, s := range f.features {
			o.Features = append(o.Features, parseFeature(s))
		}
	}
	if len(f.labels) > 0 {
		o.Labels = nil
		for _, s := range f.labels {
			o.Labels = append(o.Labels, jsonScalar(s))
		}
	}
	if err := pairs("parameter", f.parameters, &o.Parameters); err != nil {
		return o, path, err
	}
	return o, path, pairs("tag", f.tags, &o.Tags)
}

// parseFeature reads NAME[:TYPE[?|=DEFAULT]].
func parseFeature(s string) rowcast.Feature {
	var f rowcast.Feature
	var kind string
	f.Name, kind, _ = strings.Cut(s, ":")
	if k, value, ok := strings.Cut(kind, "="); ok {
		kind, f.Default = k, jsonScalar(value)
	}
	kind, f.Missing = strings.CutSuffix(kind, "?")
	f.Type = rowcast.FeatureType(kind)
	return f
}

// jsonScalar reads numbers and booleans as such and everything else as text.
func jsonScalar(s string) json.RawMessage {
	var v any
	if err := json.Unmarshal([]byte(s), &v); err == nil {
		switch v.(type) {
		case float64, bool, string:
			return json.RawMessage(s)
		}
	}
	text, _ := json.Marshal(s) // a string always can
	return text
}

func pairs(what string, flags []string, to *map[string]any) error {
	for _, s := range flags {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			return usageError{rowcast.Errorf(rowcast.CodeInvalidArgument, "--%s %q has no value", what, s).WithHint("Write --%s NAME=VALUE.", what)}
		}
		if *to == nil {
			*to = map[string]any{}
		}
		(*to)[name] = jsonScalar(value)
	}
	return nil
}

// progress is a bar on a terminal, and nothing elsewhere or for what is quickly done.
func (a *app) progress(what string) func(done, total int64) {
	file, ok := a.errOut.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return nil
	}
	var bar *progressbar.ProgressBar
	return func(done, total int64) {
		if total < 8*registry.ChunkSize {
			return
		}
		if bar == nil {
			bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(file), progressbar.OptionSetDescription(what),
				progressbar.OptionShowBytes(true), progressbar.OptionClearOnFinish())
		}
		_ = bar.Set64(done)
	}
}

func (a *app) downloadCommand() *cobra.Command {
	c := a.catalogCommand("download NAME[@VERSION|@ALIAS] [FILE]", "Write a version's model file, checked against its SHA-256",
		"rowcast model download churn@3 churn.onnx", cobra.RangeArgs(1, 2),
		func(ctx context.Context, cmd *cobra.Command, c *registry.Catalog, args []string) error {
			name, v, err := c.Resolve(ctx, args[0])
			if err != nil {
				return err
			}
			original, _ := cmd.Flags().GetBool("original")
			path := func(start []byte) string {
				if len(args) == 2 {
					return args[1]
				}
				return name + "-" + optional(&v.Version) + extension(v.Format, original, start)
			}
			written, sha, err := download(ctx, c, registry.VersionRef(name, int(v.Version)), original, path)
			if err != nil {
				return err
			}
			return a.report(cmd, map[string]any{"model": name, "version": v.Version, "sha256": sha, "file": written},
				"%s version %d written to %s (SHA-256 %s).\n", name, v.Version, written, sha)
		})
	c.Flags().Bool("original", false, "the file that was registered, where it was converted to ONNX")
	return c
}

// extension is what a file of the format is usually called; start is its first bytes.
func extension(format string, original bool, start []byte) string {
	if !original {
		return ".onnx"
	}
	switch convert.Format(format) {
	case convert.FormatXGBoostJSON:
		return ".json"
	case convert.FormatXGBoostUBJ:
		return ".ubj"
	case convert.FormatLightGBM:
		return ".txt"
	case convert.FormatONNX:
		return ".onnx"
	}
	switch {
	case bytes.HasPrefix(start, []byte("PK")):
		return ".zip"
	case bytes.HasPrefix(start, []byte("\x1f\x8b")):
		return ".tar.gz"
	}
	return ".tar"
}

// download writes to a file beside the path that it asks for with the first bytes, and renames it once the hash is right.
func download(ctx context.Context, c *registry.Catalog, ref string, original bool, path func(start []byte) string) (written, sha string, err error) {
	file, err := os.CreateTemp(filepath.Dir(path(nil)), ".rowcast-download-*")
	if err != nil {
		return "", "", rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot write the model file").WithCause(err)
	}
	defer func() {
		if err != nil {
			_ = file.Close()
			_ = os.Remove(file.Name())
		}
	}()
	if sha, err = c.Download(ctx, ref, original, file); err != nil {
		return "", "", err
	}
	start := make([]byte, 4)
	n, _ := file.ReadAt(start, 0) // shorter files have no such start
	written = path(start[:n])
	for _, step := range []func() error{
		func() error { return file.Chmod(0o644) },
		file.Close,
		func() error { return os.Rename(file.Name(), written) },
	} {
		if err := step(); err != nil {
			return "", "", rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot write %s", written).WithCause(err)
		}
	}
	return written, sha, nil
}
