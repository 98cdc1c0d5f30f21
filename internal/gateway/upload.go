package gateway

import (
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// idleUpload is how long an upload waits for its next chunk.
const idleUpload = 10 * time.Minute

// validateWithin is the deadline of a validation. The validator has its own, shorter limits for the model itself.
const validateWithin = 5 * time.Minute

// upload is an artifact on its way in, in chunks. A connection has one at a time: a new name drops the one before, as does ten idle minutes. Once it
// is judged, and was converted, what it became takes its place, on its way out.
type upload struct {
	name string
	out  bool
	data []byte
	held int64 // counted against MaxUploadBytes
}

func (u *upload) drop(g *Gateway) {
	g.uploaded.Add(-u.held)
	*u = upload{}
}

// changeUpload answers U and D.
func (s *session) changeUpload(r request) error {
	u := &s.upload
	if r.verb == verbDrop {
		if u.name == r.upload {
			u.drop(s.g)
		}
		return s.answer(false, nil, nil)
	}
	if u.name != r.upload || u.out {
		u.drop(s.g)
		u.name = strings.Clone(r.upload)
	}
	size := int64(hex.DecodedLen(len(r.payload)))
	if now := s.g.uploaded.Add(size); now > s.g.o.MaxUploadBytes {
		s.g.uploaded.Add(-size)
		e := rowcast.Errorf(rowcast.CodeTooLarge, "the artifact is larger than the sidecar takes").
			WithDetail("All uploads together may hold %d bytes.", s.g.o.MaxUploadBytes).
			WithHint("Raise the sidecar's limit, or try again when other registrations have ended.")
		u.drop(s.g)
		return s.answer(false, nil, e)
	}
	u.held += size
	data, err := hex.AppendDecode(u.data, bytesOf(r.payload))
	if err != nil {
		u.drop(s.g)
		return s.answer(false, nil, malformed("hexadecimal digits of an upload"))
	}
	u.data = data
	return s.answer(false, strconv.AppendInt(s.scratch[:0], int64(len(u.data)), 10), nil)
}

// validate answers V and A.
func (s *session) validate(r request) error {
	if s.g.o.Validator == nil {
		return s.answer(true, nil, rowcast.Errorf(rowcast.CodeUnavailable, "this sidecar does not validate artifacts"))
	}
	f := &flight{verb: r.verb, deadline: validateWithin, sha256: r.sha256, call: rowcast.Call{Payload: bytesOf(r.payload)}}
	if r.verb == verbValidateUpload {
		if s.upload.name != r.upload || s.upload.out {
			return s.answer(true, nil, rowcast.Errorf(rowcast.CodeNotFound, "no upload %q on this connection", r.upload).
				WithDetail("The connection to the sidecar was lost between the chunks.").WithHint("Register the model again."))
		}
		f.artifact = s.upload.data
	}
	return s.fly(f)
}

// convertedBytes is how many bytes of a converted artifact C answers with.
const convertedBytes = 1 << 20

// keepConverted holds what an artifact was converted to for C, in place of the artifact.
func (s *session) keepConverted(f *flight, err error) error {
	if err != nil || f.converted == nil {
		return err
	}
	u := &s.upload
	name := u.name
	u.drop(s.g)
	size := int64(len(f.converted))
	if now := s.g.uploaded.Add(size); now > s.g.o.MaxUploadBytes {
		s.g.uploaded.Add(-size)
		return rowcast.Errorf(rowcast.CodeTooLarge, "the artifact, converted to ONNX, is larger than the sidecar holds").
			WithDetail("It has %d bytes; all uploads together may hold %d.", size, s.g.o.MaxUploadBytes).
			WithHint("Raise the sidecar's limit, or try again when other registrations have ended.")
	}
	*u = upload{name: name, out: true, data: f.converted, held: size}
	return nil
}

// convertedChunk answers C: one chunk in hexadecimal, nothing past the end.
func (s *session) convertedChunk(number int) error {
	if !s.upload.out {
		return s.answer(true, nil, rowcast.Errorf(rowcast.CodeNotFound, "no converted artifact on this connection").
			WithDetail("The connection to the sidecar was lost between the chunks.").WithHint("Register the model again."))
	}
	data := s.upload.data
	from := min(number*convertedBytes, len(data))
	chunk := data[from:min(from+convertedBytes, len(data))]
	return s.answer(true, hex.AppendEncode(make([]byte, 0, 2*len(chunk)), chunk), nil)
}
