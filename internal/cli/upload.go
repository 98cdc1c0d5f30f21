package cli

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/rowcast/rowcast/internal/registry"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// uploaded is what upload prints of each file with --json.
type uploaded struct {
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
	Sent   bool   `json:"sent"` // false: it was there already
}

func (a *app) uploadCommand() *cobra.Command {
	c := a.catalogCommand("upload FILE...", "Store model files by their SHA-256, for ml.register_artifact", "rowcast model upload models/artifacts/*.onnx",
		cobra.MinimumNArgs(1),
		func(ctx context.Context, cmd *cobra.Command, c *registry.Catalog, args []string) error {
			asJSON, _ := cmd.Flags().GetBool("json")
			done := []uploaded{}
			for _, path := range args {
				u, err := a.upload(ctx, c, path)
				if err != nil {
					return err
				}
				done = append(done, u)
				if !asJSON {
					printf(a.out, "%s  %s\n", u.SHA256, u.File)
				}
			}
			if asJSON {
				return a.report(cmd, done, "")
			}
			return nil
		})
	c.Long = `Stores model files by their SHA-256, which it prints, for ml.register_artifact(). Needs no sidecar.

Chunks that are there already are not sent: after an interruption the same command goes on where it stopped, and several may upload one file at a
time. In the end every stored chunk is compared with the file's. A file that no version uses is cleaned up a day after its upload began.`
	return c
}

func (a *app) upload(ctx context.Context, c *registry.Catalog, path string) (uploaded, error) {
	file, err := os.Open(path)
	if err != nil {
		return uploaded{}, rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot read the model file").WithCause(err)
	}
	defer func() { _ = file.Close() }()
	sha, sent, err := c.Upload(ctx, file, a.progress("uploading"))
	if err != nil && ctx.Err() != nil {
		return uploaded{}, rowcast.Errorf(rowcast.CodeCanceled, "stopped while uploading %s", path).WithHint("Run it again: it goes on where it stopped.")
	}
	return uploaded{File: path, SHA256: sha, Sent: sent}, err
}
