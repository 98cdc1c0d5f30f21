package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/rowcast/rowcast/db"
	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// ChunkSize is how many bytes of an artifact one row holds.
const ChunkSize = 1 << 20

const (
	fetchChunks  = 2 // chunks of one query
	fetchWorkers = 2 // queries under way at a time
)

// Store is what the sidecar reads and writes: specs, artifacts, quarantine, credentials. It needs the rights of the schema's owner.
type Store struct {
	pool *pgxpool.Pool
	q    *db.Queries
}

// NewStore makes a Store on pool.
func NewStore(pool *pgxpool.Pool) *Store { return &Store{pool: pool, q: db.New(pool)} }

// Spec returns the version with the given key. CodeModelUnavailable where none is committed, or where its artifact is quarantined.
func (s *Store) Spec(ctx context.Context, key string) (*rowcast.Spec, error) {
	row, err := s.q.SpecByKey(ctx, key)
	if err != nil {
		if err = postgres.Error(err); rowcast.CodeOf(err) == rowcast.CodeNotFound {
			return nil, rowcast.Errorf(rowcast.CodeModelUnavailable, "the version is not visible to the sidecar").
				WithDetail("No committed version has the key %s.", key).
				WithHint("Commit the transaction that registered it; on a standby wait until it has arrived.")
		}
		return nil, err
	}
	spec := &rowcast.Spec{Key: key, Size: row.Size, Example: row.Example}
	copy(spec.SHA256[:], row.Sha256)
	if err := json.Unmarshal(row.Signature, &spec.Signature); err != nil {
		return nil, rowcast.Errorf(rowcast.CodeArtifactCorrupt, "the stored signature of version %s cannot be read", key).WithCause(err)
	}
	return spec, nil
}

// Artifact fetches the bytes of an artifact; size is the length that its row states. verify waits for their hash, which is computed meanwhile, and must be
// called before anything that was made of the bytes is used. Errors: CodeNotFound where nothing is stored, CodeArtifactCorrupt where the bytes are not
// those that the hash names.
func (s *Store) Artifact(ctx context.Context, sha [32]byte, size int64) (data []byte, verify func() error, err error) {
	data = make([]byte, size)
	chunks := int((size + ChunkSize - 1) / ChunkSize)
	batches := (chunks + fetchChunks - 1) / fetchChunks
	fetched := make([]chan struct{}, batches)
	for i := range fetched {
		fetched[i] = make(chan struct{})
	}
	g, fetching := errgroup.WithContext(ctx)
	for w := range fetchWorkers {
		g.Go(func() error {
			for i := w; i < batches; i += fetchWorkers {
				if err := s.fetch(fetching, sha, data, i*fetchChunks); err != nil {
					return err
				}
				close(fetched[i])
			}
			return nil
		})
	}
	hashed := make(chan [32]byte, 1)
	failed := make(chan struct{})
	go func() { // hashes what has come while the rest is on its way
		h := sha256.New()
		for i := range batches {
			select {
			case <-fetched[i]:
			case <-failed:
				return
			}
			h.Write(data[i*fetchChunks*ChunkSize : min((i+1)*fetchChunks*ChunkSize, len(data))])
		}
		hashed <- [32]byte(h.Sum(nil))
	}()
	if err := g.Wait(); err != nil {
		close(failed)
		return nil, nil, postgres.Error(err)
	}
	return data, sync.OnceValue(func() error {
		if sum := <-hashed; sum != sha {
			return rowcast.Errorf(rowcast.CodeArtifactCorrupt, "the stored bytes of artifact %x do not have that hash", sha[:8]).
				WithDetail("They have SHA-256 %x instead of %x.", sum, sha).
				WithHint("Restore the table ml_private.artifact_chunk from a backup, or drop the version and register the file again.")
		}
		return nil
	}), nil
}

// artifactChunks is no query of sqlc's: what those return are copies, and the first prediction of a large model waits for them.
const artifactChunks = `SELECT data FROM ml_private.artifact_chunk WHERE sha256 = $1 AND number BETWEEN $2 AND $3 ORDER BY number`

// fetch reads one batch of chunks, from number first, into its place in data.
func (s *Store) fetch(ctx context.Context, sha [32]byte, data []byte, first int) error {
	rows, err := s.pool.Query(ctx, artifactChunks, pgx.QueryResultFormats{pgx.BinaryFormatCode}, sha[:], first, first+fetchChunks-1)
	if err != nil {
		return err
	}
	defer rows.Close()
	at := first * ChunkSize
	end := min(at+fetchChunks*ChunkSize, len(data))
	for rows.Next() {
		chunk := rows.RawValues()[0]
		if at+len(chunk) > end {
			break
		}
		at += copy(data[at:end], chunk)
	}
	if rows.Close(); rows.Err() != nil {
		return rows.Err()
	}
	if at != end {
		return rowcast.Errorf(rowcast.CodeArtifactCorrupt, "artifact %x is not stored whole", sha[:8]).
			WithDetail("Chunk %d of %d is missing or has the wrong length.", at/ChunkSize, (len(data)+ChunkSize-1)/ChunkSize).
			WithHint("Upload the file again: rowcast model upload FILE.")
	}
	return nil
}

// ArtifactSize returns the length that the artifact's row states; CodeNotFound where there is none.
func (s *Store) ArtifactSize(ctx context.Context, sha [32]byte) (int64, error) {
	row, err := s.q.Artifact(ctx, sha[:])
	if err = postgres.Error(err); err != nil {
		if rowcast.CodeOf(err) == rowcast.CodeNotFound {
			return 0, rowcast.Errorf(rowcast.CodeNotFound, "artifact %s is not visible to the sidecar", hex.EncodeToString(sha[:])).
				WithHint("Commit its upload first.")
		}
		return 0, err
	}
	return row.Size, nil
}

// Keys returns the keys of all specs.
func (s *Store) Keys(ctx context.Context) ([]string, error) {
	keys, err := s.q.SpecKeys(ctx)
	return keys, postgres.Error(err)
}

// Champions returns the keys of the specs that champions point to, without the quarantined.
func (s *Store) Champions(ctx context.Context) ([]string, error) {
	keys, err := s.q.ChampionSpecs(ctx)
	return keys, postgres.Error(err)
}

// Quarantined returns the artifacts that must not be loaded, with the reasons.
func (s *Store) Quarantined(ctx context.Context) (map[[32]byte]string, error) {
	rows, err := s.q.QuarantinedArtifacts(ctx)
	if err != nil {
		return nil, postgres.Error(err)
	}
	m := make(map[[32]byte]string, len(rows))
	for _, r := range rows {
		m[[32]byte(r.Sha256)] = r.Reason
	}
	return m, nil
}

// Quarantine records that an artifact killed or stalled the sidecar.
func (s *Store) Quarantine(ctx context.Context, sha [32]byte, reason string) error {
	return postgres.Error(s.q.QuarantineArtifact(ctx, db.QuarantineArtifactParams{Sha256: sha[:], QuarantineReason: &reason}))
}

// DropStaleUploads deletes artifacts that were uploaded more than a day ago and never registered, and returns how many.
func (s *Store) DropStaleUploads(ctx context.Context) (int64, error) {
	n, err := s.q.DropStaleUploads(ctx)
	return n, postgres.Error(err)
}

// Credentials returns the gateway's password and signing key.
func (s *Store) Credentials(ctx context.Context) (password string, key []byte, err error) {
	row, err := s.q.GatewayCredentials(ctx)
	return row.Password, row.Key, postgres.Error(err)
}
