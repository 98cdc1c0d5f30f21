package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"os"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rowcast/rowcast/db"
	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// Catalog calls the registry's SQL functions with the rights of the pool's role, as the command line does.
type Catalog struct{ q *db.Queries }

// NewCatalog makes a Catalog on pool.
func NewCatalog(pool *pgxpool.Pool) *Catalog { return &Catalog{q: db.New(pool)} }

// Register uploads the file and registers it as the model's next version, whose number it returns with the SHA-256 of the file. The sidecar converts what is
// not ONNX. Nothing stays stored when validation refuses it.
func (c *Catalog) Register(ctx context.Context, name string, file *os.File, o Options, progress func(done, total int64)) (version int, sha string, err error) {
	options, err := o.JSON()
	if err != nil {
		return 0, "", err
	}
	sha, stored, err := c.Upload(ctx, file, progress)
	if err != nil {
		return 0, "", err
	}
	number, err := c.q.RegisterArtifact(ctx, db.RegisterArtifactParams{Name: name, Sha256: sha, Options: options})
	if err != nil {
		if stored {
			// Also when ctx was cancelled: what was refused must not stay.
			if _, derr := c.q.DiscardArtifact(context.WithoutCancel(ctx), sha); derr != nil {
				return 0, "", errors.Join(postgres.Error(err), postgres.Error(derr))
			}
		}
		return 0, "", postgres.Error(err)
	}
	return int(number), sha, nil
}

// Download writes the model file of a version (ref is 'churn', 'churn@3' or 'churn@alias') to w and returns its SHA-256 in hexadecimal. The bytes are
// compared with the registered hash: CodeArtifactCorrupt where they differ. With original it is the file that was registered, where that was converted.
func (c *Catalog) Download(ctx context.Context, ref string, original bool, w io.Writer) (string, error) {
	name, version, err := c.Resolve(ctx, ref)
	if err != nil {
		return "", err
	}
	// By number: an alias could move between two chunks.
	at := VersionRef(name, int(version.Version))
	sha, chunk := version.Sha256, func(i int32) ([]byte, error) { return c.q.ModelChunk(ctx, db.ModelChunkParams{Model: at, Number: i}) }
	if original && version.SourceSha256 != "" {
		sha, chunk = version.SourceSha256, func(i int32) ([]byte, error) { return c.q.SourceChunk(ctx, db.SourceChunkParams{Model: at, Number: i}) }
	}
	h := sha256.New()
	to := io.MultiWriter(w, h)
	for i := range int32(1 << 30) {
		data, err := chunk(i)
		if err != nil {
			return "", postgres.Error(err)
		}
		if data == nil {
			break
		}
		if _, err := to.Write(data); err != nil {
			return "", rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot write the model file").WithCause(err)
		}
	}
	return sha, sameHash(h, sha, ref)
}

func sameHash(h hash.Hash, want, ref string) error {
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return rowcast.Errorf(rowcast.CodeArtifactCorrupt, "the stored bytes of %s do not have the registered hash", ref).
			WithDetail("They have SHA-256 %s instead of %s.", got, want).
			WithHint("Restore ml_private.artifact_chunk from a backup, or drop the version and register the file again.")
	}
	return nil
}
