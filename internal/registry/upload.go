package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"

	"github.com/rowcast/rowcast/db"
	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// Upload stores the file's bytes under their SHA-256 and returns the hash in hexadecimal. Chunks that an earlier upload, or another one that runs now,
// has stored are not sent again; at the end every stored chunk is compared with the file's by its hash. It holds one chunk in memory. progress, which
// may be nil, is told how many of the file's bytes are stored; stored is false where the artifact was there already.
func (c *Catalog) Upload(ctx context.Context, file *os.File, progress func(done, total int64)) (sha string, stored bool, err error) {
	d, err := digestOf(ctx, file)
	if err != nil {
		return "", false, err
	}
	next, err := c.q.BeginUpload(ctx, db.BeginUploadParams{Sha256: d.sha, Size: d.size})
	if err != nil {
		return "", false, postgres.Error(err)
	}
	there, err := c.storedChunks(ctx, d.sha)
	switch {
	case next < 0 && rowcast.CodeOf(err) == rowcast.CodeNotPermitted:
		return d.sha, false, nil // whole, and somebody else's: its bytes are compared when it is registered
	case err != nil:
		return "", false, err
	case next < 0 && d.difference(there) < 0:
		return d.sha, false, nil
	}
	chunk := make([]byte, ChunkSize)
	for i := range d.chunks {
		at := int64(i) * ChunkSize
		n := int(min(ChunkSize, d.size-at))
		if sum, ok := there[int32(i)]; !ok || sum != d.chunks[i] {
			if err := c.sendChunk(ctx, file, d, i, chunk[:n], ok); err != nil {
				return "", false, err
			}
		}
		if progress != nil {
			progress(at+int64(n), d.size)
		}
	}
	if there, err = c.storedChunks(ctx, d.sha); err != nil {
		return "", false, err
	}
	if at := d.difference(there); at >= 0 {
		return "", false, rowcast.Errorf(rowcast.CodeArtifactCorrupt, "the stored bytes of %s are not the file's", file.Name()).
			WithDetail("Chunk %d of %d differs: another upload of the same SHA-256 wrote it, or the artifact was discarded meanwhile.", at, len(d.chunks)).
			WithHint("Upload the file again.")
	}
	return d.sha, true, nil
}

// sendChunk stores one chunk, in place of a wrong one where there is one.
func (c *Catalog) sendChunk(ctx context.Context, file *os.File, d *digest, i int, chunk []byte, replace bool) error {
	if _, err := file.ReadAt(chunk, int64(i)*ChunkSize); err != nil && !errors.Is(err, io.EOF) {
		return rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot read %s", file.Name()).WithCause(err)
	}
	if sha256.Sum256(chunk) != d.chunks[i] {
		return rowcast.Errorf(rowcast.CodeInvalidArgument, "%s changed while it was uploaded", file.Name()).WithHint("Upload it again when it is finished.")
	}
	if replace {
		if _, err := c.q.DiscardChunk(ctx, db.DiscardChunkParams{Sha256: d.sha, Number: int32(i)}); err != nil {
			return postgres.Error(err)
		}
	}
	return postgres.Error(c.q.UploadChunk(ctx, db.UploadChunkParams{Sha256: d.sha, Number: int32(i), Data: chunk}))
}

// storedChunks returns the hash of each chunk that is stored, by its number.
func (c *Catalog) storedChunks(ctx context.Context, sha string) (map[int32][32]byte, error) {
	rows, err := c.q.StoredChunks(ctx, sha)
	if err != nil {
		return nil, postgres.Error(err)
	}
	m := make(map[int32][32]byte, len(rows))
	for _, r := range rows {
		var sum [32]byte
		if _, err := hex.Decode(sum[:], []byte(r.ChunkSha256)); err != nil {
			return nil, rowcast.Errorf(rowcast.CodeInternal, "chunk %d of artifact %s has no hash", r.Number, sha).WithCause(err)
		}
		m[r.Number] = sum
	}
	return m, nil
}

// Missing returns how many chunks of an artifact are still to be uploaded: 0 when it is stored whole, -1 when its upload was never begun.
func (c *Catalog) Missing(ctx context.Context, sha string) (int, error) {
	n, err := c.q.MissingChunks(ctx, sha)
	return int(n), postgres.Error(err)
}

// digest is what an upload knows of a file: its hash, and those of its chunks.
type digest struct {
	sha    string
	size   int64
	chunks [][32]byte
}

// digestOf reads a file once. CodeInvalidArgument where it cannot be read or is a git-lfs pointer.
func digestOf(ctx context.Context, file *os.File) (*digest, error) {
	if err := RefuseLFSPointer(file); err != nil {
		return nil, err
	}
	d := &digest{}
	whole := sha256.New()
	chunk := make([]byte, ChunkSize)
	for {
		if ctx.Err() != nil {
			return nil, rowcast.Errorf(rowcast.CodeCanceled, "stopped while reading %s", file.Name()).WithCause(context.Cause(ctx))
		}
		n, err := file.ReadAt(chunk, d.size)
		if n > 0 || len(d.chunks) == 0 { // an empty file is one empty chunk
			d.chunks = append(d.chunks, sha256.Sum256(chunk[:n]))
		}
		whole.Write(chunk[:n])
		d.size += int64(n)
		if errors.Is(err, io.EOF) {
			d.sha = hex.EncodeToString(whole.Sum(nil))
			return d, nil
		}
		if err != nil {
			return nil, rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot read %s", file.Name()).WithCause(err)
		}
	}
}

// difference returns the number of the first chunk that is not stored as it should be, -1 where all are.
func (d *digest) difference(stored map[int32][32]byte) int {
	for i, sum := range d.chunks {
		if got, ok := stored[int32(i)]; !ok || got != sum {
			return i
		}
	}
	return -1
}

// FileSHA256 returns the SHA-256 of a file in hexadecimal and its size. Errors as those of Upload.
func FileSHA256(ctx context.Context, file *os.File) (sha string, size int64, err error) {
	d, err := digestOf(ctx, file)
	if err != nil {
		return "", 0, err
	}
	return d.sha, d.size, nil
}
