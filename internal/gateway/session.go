package gateway

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// maxTagValue is how many bytes of a value fit into a command tag behind its status: libpq keeps 63 of a tag.
const maxTagValue = 62

// Time that a stopping gateway leaves a client to fetch the rest of an answer.
const lingerFor = time.Second

// session is one authenticated connection. Everything but flight, id, secret and conn belongs to the goroutine that serves it.
type session struct {
	g      *Gateway
	id     uint32
	secret []byte
	conn   net.Conn

	flight atomic.Pointer[flight] // the call that runs or is pending, for the watchdog and for cancel requests

	frames  *frames
	backend *pgproto3.Backend
	sealer  sealer
	scratch []byte // where answers are written
	held    int64  // bytes of the current message that count against MaxBufferedBytes

	pending    *flight
	pendingRow bool           // shape of the last call's answer
	failed     *rowcast.Error // for E
	value      []byte         // for F
	hasValue   bool
	upload     upload
	skipping   bool   // until the next Sync, after an error in the extended protocol
	released   func() // gives back what connect took
	spec       string
	model      string
	logHeader  string // of the last call that was logged
	log        *rowcast.LogRequest

	out struct { // messages, so that an answer allocates none
		tag    pgproto3.CommandComplete
		text   []byte
		ready  pgproto3.ReadyForQuery
		header pgproto3.RowDescription
		row    pgproto3.DataRow
	}
}

func newSession(g *Gateway, conn net.Conn) *session {
	s := &session{g: g, conn: conn, frames: newFrames(conn)}
	s.backend = pgproto3.NewBackend(s.frames, conn)
	s.out.ready.TxStatus = 'I'
	const text = 25 // oid
	s.out.header.Fields = []pgproto3.FieldDescription{
		{Name: []byte("status"), DataTypeOID: text, DataTypeSize: -1, TypeModifier: -1},
		{Name: []byte("value"), DataTypeOID: text, DataTypeSize: -1, TypeModifier: -1},
	}
	s.out.row.Values = make([][]byte, 2)
	return s
}

// serve answers messages until the connection ends or another goroutine takes over.
func (s *session) serve() {
	for {
		err := s.step()
		if errors.Is(err, errHandedOver) {
			return // the session is no longer ours to look at
		}
		if s.held > 0 {
			s.g.buffered.Add(-s.held)
			s.held = 0
		}
		if err != nil {
			s.close(err)
			return
		}
	}
}

// fatal ends a connection with a message.
type fatal struct{ state, text string }

func (f *fatal) Error() string { return f.text }

// close ends the connection; err says why.
func (s *session) close(err error) {
	var f *fatal
	if errors.As(err, &f) {
		s.backend.Send(fatalResponse(f.state, f.text))
		_ = s.conn.SetWriteDeadline(time.Now().Add(time.Second))
		_ = s.backend.Flush()
		s.g.o.Logger.Debug("connection ended", "connection", s.id, "error", f.text)
	}
	_ = s.conn.Close()
	s.abandon("its connection was closed")
	s.upload.drop(s.g)
	s.g.forget(s)
}

// step takes one message and answers it.
func (s *session) step() error {
	kind, size, err := s.next()
	if err != nil {
		return err
	}
	if size < 0 {
		return &fatal{"08P01", "invalid message length"}
	}
	switch kind {
	case 'Q':
		return s.query(size)
	case 'X':
		return io.EOF
	case 'S':
		s.skipping = false
		if err := s.frames.skip(io.Discard); err != nil {
			return err
		}
		return s.flushReady()
	case 'P', 'B', 'D', 'E', 'C', 'H', 'F':
		if err := s.frames.skip(io.Discard); err != nil || s.skipping {
			return err
		}
		s.backend.Send(&pgproto3.ErrorResponse{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: stateUnsupported,
			Message: "the gateway takes the simple query protocol only"})
		if kind == 'F' {
			return s.flushReady()
		}
		s.skipping = true
		return s.backend.Flush()
	case 'd', 'c', 'f': // left over from a COPY that never was; PostgreSQL ignores them too
		return s.frames.skip(io.Discard)
	}
	return &fatal{"08P01", fmt.Sprintf("invalid message type %q", kind)}
}

// next waits for a message. While the gateway stops it waits only for what belongs to an answer that is under way. An upload that nobody goes
// on with is dropped on the way.
func (s *session) next() (kind byte, size int, err error) {
	var until time.Time
	for {
		switch {
		case s.g.stopping.Load():
			if s.pending == nil && s.failed == nil && !s.hasValue {
				return 0, 0, &fatal{stateShutdown, "the sidecar is stopping"}
			}
			if until.IsZero() {
				until = time.Now().Add(lingerFor)
			}
			_ = s.conn.SetReadDeadline(until)
		case s.upload.name != "":
			_ = s.conn.SetReadDeadline(time.Now().Add(idleUpload))
		}
		kind, size, err = s.frames.next()
		switch {
		case err == nil:
			return kind, size, nil
		case !errors.Is(err, os.ErrDeadlineExceeded) || !until.IsZero() && time.Now().After(until):
			return 0, 0, err
		case !s.g.stopping.Load():
			s.upload.drop(s.g)
			_ = s.conn.SetReadDeadline(time.Time{})
		}
	}
}

// query takes a Query message.
func (s *session) query(size int) error {
	if size > s.g.o.MaxMessageBytes {
		return s.refuse(rowcast.Errorf(rowcast.CodeTooLarge, "a message of %d bytes is larger than the sidecar takes", size).
			WithDetail("The limit is %d bytes.", s.g.o.MaxMessageBytes).
			WithHint("Send fewer rows at a time, or raise the sidecar's limit."))
	}
	large := size > largeMessage
	if large {
		s.held = int64(size)
		if now := s.g.buffered.Add(s.held); now > s.g.o.MaxBufferedBytes {
			return s.refuse(rowcast.Errorf(rowcast.CodeBusy, "the sidecar is busy: it holds %d bytes of other calls and cannot take %d more",
				now-s.held, size).WithHint("Try again, or raise the sidecar's limit."))
		}
		_ = s.conn.SetReadDeadline(time.Now().Add(transferTimeout))
	}
	message, err := s.backend.Receive()
	if err != nil {
		if s.frames.left == 0 {
			return &fatal{"08P01", "invalid Query message"}
		}
		return err
	}
	query, ok := message.(*pgproto3.Query)
	if !ok {
		return &fatal{"08P01", "unexpected message"}
	}
	text := query.String
	if large {
		query.String = ""
		s.backend = pgproto3.NewBackend(s.frames, s.conn) // the old one would keep its large buffer until the next message
		_ = s.conn.SetReadDeadline(time.Time{})
	}
	c, ok := unseal(text)
	if !ok {
		return s.plain(text)
	}
	matches, err := s.g.vault.matches(s.g.ctx, &s.sealer, &c)
	if !matches {
		return s.reject(err)
	}
	return s.call(c.verb, c.rest)
}

// refuse reads over a message that the gateway will not take in and answers its call with e.
func (s *session) refuse(e *rowcast.Error) error {
	head, err := s.frames.buf.Peek(5 + macDigits + 2)
	if err != nil {
		return err
	}
	c, ok := unseal(string(head[5:]))
	calls := &s.g.vault.current.Load().calls
	if s.frames.left < len(head) || !ok || !c.verb.known() || calls.key == nil {
		if err := s.frames.skip(io.Discard); err != nil {
			return err
		}
		return s.reject(nil)
	}
	_ = s.conn.SetReadDeadline(time.Now().Add(transferTimeout))
	s.sealer.start(calls.key)
	if err := s.frames.skip(&bodyHash{sealer: &s.sealer, skip: macDigits + 1}); err != nil {
		return err
	}
	_ = s.conn.SetReadDeadline(time.Time{})
	proof := bytesOf(calls.token)
	if !c.token {
		proof = s.sealer.finish()
	}
	if subtle.ConstantTimeCompare(proof, bytesOf(c.proof)) != 1 {
		return s.reject(nil)
	}
	v := c.verb
	s.abandon("another call came on its connection")
	s.clear()
	s.pendingRow = v.row()
	return s.answer(v.row(), nil, e)
}

// bodyHash hashes the body of a call that passes by: all but the code before it and the NUL behind it.
type bodyHash struct {
	sealer *sealer
	skip   int
	last   []byte
}

func (h *bodyHash) Write(p []byte) (int, error) {
	n := len(p)
	if cut := min(h.skip, len(p)); cut > 0 {
		h.skip -= cut
		p = p[cut:]
	}
	if len(p) > 0 {
		_, _ = h.sealer.hash.Write(h.last)
		_, _ = h.sealer.hash.Write(p[:len(p)-1])
		h.last = append(h.last[:0], p[len(p)-1])
	}
	return n, nil
}

// reject answers what is no call of Rowcast's functions. The connection goes on, its state untouched.
func (s *session) reject(cause error) error {
	s.g.o.Metrics.Calls.WithLabelValues("unknown", string(rowcast.CodeAuthentication)).Inc()
	if cause != nil {
		s.g.o.Logger.Warn("credentials could not be read again", "error", cause)
	}
	return s.fail(rowcast.Errorf(rowcast.CodeAuthentication, "this connection takes calls of Rowcast's functions only"))
}

// plain answers a statement that is no call: what libpq, dblink and poolers send by themselves.
func (s *session) plain(text string) error {
	const longest = 200 // bytes of any statement that means something here
	if len(text) > longest {
		return s.reject(nil)
	}
	words := strings.Fields(strings.ReplaceAll(strings.TrimRight(text, "; \n\t"), "=", " = "))
	if len(words) == 0 {
		s.backend.Send(&pgproto3.EmptyQueryResponse{})
		return s.flushReady()
	}
	switch command := strings.ToUpper(words[0]); command {
	case "SET":
		if len(words) != 4 || !strings.EqualFold(words[1], "client_encoding") {
			break
		}
		if isUTF8(words[3]) {
			return s.sendTag("SET")
		}
		return s.unsupported("client_encoding %s is not supported: the gateway speaks UTF8", words[3])
	case "DISCARD", "RESET", "BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "DEALLOCATE", "CLOSE", "UNLISTEN":
		return s.unsupported("the gateway does not support %s", command)
	}
	return s.reject(nil)
}

func (s *session) unsupported(format string, args ...any) error {
	s.backend.Send(&pgproto3.ErrorResponse{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: stateUnsupported,
		Message: wireText(fmt.Sprintf(format, args...))})
	return s.flushReady()
}

// call answers a call whose proof was right.
func (s *session) call(v verb, rest string) error {
	r, malformed := parseBody(v, rest)
	if r.verb == verbWait && malformed == nil {
		s.failed, s.value, s.hasValue = nil, nil, false
		return s.wait()
	}
	s.abandon("another call came on its connection")
	if malformed != nil && !r.verb.known() {
		return s.fail(malformed)
	}
	switch {
	case malformed != nil:
	case r.verb == verbRaise:
		e := s.failed
		if e == nil {
			e = rowcast.Errorf(rowcast.CodeProtocol, "no error is stored on this connection")
		}
		s.clear()
		return s.fail(e)
	case r.verb == verbFetch:
		if !s.hasValue {
			return s.answer(true, nil, rowcast.Errorf(rowcast.CodeProtocol, "no value is stored on this connection"))
		}
		value := s.value
		s.clear()
		return s.answer(true, value, nil)
	}
	s.clear()
	s.pendingRow = r.verb.row()
	if malformed != nil {
		return s.answer(r.verb.row(), nil, malformed)
	}
	switch r.verb {
	case verbNoop:
		s.g.o.Metrics.okCalls[verbNoop].Inc()
		return s.answer(false, nil, nil)
	case verbUpload, verbDrop:
		return s.changeUpload(r)
	case verbConverted:
		return s.convertedChunk(r.chunk)
	case verbValidateUpload, verbValidateStored:
		return s.validate(r)
	}
	timeout, err := parseTimeout(r.timeout, s.g.o.Deadline)
	if err != nil {
		return s.answer(r.verb.row(), nil, err)
	}
	// The engine may keep these two. As parts of the query's text they would keep all of it alive.
	if r.spec != s.spec {
		s.spec = strings.Clone(r.spec)
	}
	if r.model != s.model {
		s.model = strings.Clone(r.model)
	}
	f := &flight{verb: r.verb, deadline: timeout, call: rowcast.Call{
		Verb: r.verb.wants(), Spec: s.spec, Model: s.model, Version: r.version, Format: r.format, Payload: bytesOf(r.payload),
	}}
	if r.log != "" {
		l, err := s.logRequest(r.log)
		if err != nil {
			return s.answer(r.verb.row(), nil, err)
		}
		f.observe(l)
	}
	return s.fly(f)
}

// clear forgets what E and F would fetch.
func (s *session) clear() { s.failed, s.value, s.hasValue = nil, nil, false }

// answer sends a result in the shape that the call's verb has. An error is stored for E: as an ErrorResponse dblink could not tell it from a
// lost connection.
func (s *session) answer(row bool, out []byte, err error) error {
	if err == nil && !presentable(out) {
		err = rowcast.Errorf(rowcast.CodeModelFailed, "the model's answer cannot be text in PostgreSQL: it is no valid UTF-8 or has a NUL character")
	}
	switch {
	case err != nil:
		s.failed = domainError(err)
		if s.failed.Code == rowcast.CodeInternal {
			s.g.o.Logger.Error("a call failed", "connection", s.id, "error", err)
		}
		if row {
			return s.sendRow("!", nil)
		}
		return s.sendTag("!")
	case row:
		return s.sendRow("=", out)
	case len(out) > maxTagValue:
		s.value, s.hasValue = append([]byte(nil), out...), true
		return s.sendTag("~")
	}
	s.out.text = append(append(s.out.text[:0], '='), out...)
	return s.flushTag()
}

// presentable reports whether PostgreSQL can take text in. dblink hands it on unchecked.
func presentable(text []byte) bool {
	return bytes.IndexByte(text, 0) < 0 && utf8.Valid(text)
}

func (s *session) sendPending(row bool) error {
	if row {
		return s.sendRow(".", nil)
	}
	return s.sendTag(".")
}

// fail answers with an ErrorResponse.
func (s *session) fail(e *rowcast.Error) error {
	s.backend.Send(errorResponse(e))
	return s.flushReady()
}

func (s *session) sendTag(text string) error {
	s.out.text = append(s.out.text[:0], text...)
	return s.flushTag()
}

func (s *session) flushTag() error {
	s.out.tag.CommandTag = s.out.text
	s.backend.Send(&s.out.tag)
	return s.flushReady()
}

func (s *session) sendRow(status string, value []byte) error {
	if value == nil && status == "=" {
		value = []byte{} // an empty answer is no NULL
	}
	s.backend.Send(&s.out.header)
	s.out.row.Values[0], s.out.row.Values[1] = []byte(status), value
	s.backend.Send(&s.out.row)
	s.out.row.Values[1] = nil
	s.out.text = append(s.out.text[:0], "SELECT 1"...)
	s.out.tag.CommandTag = s.out.text
	s.backend.Send(&s.out.tag)
	if len(value) <= largeMessage {
		return s.flushReady()
	}
	_ = s.conn.SetWriteDeadline(time.Now().Add(transferTimeout))
	defer func() { _ = s.conn.SetWriteDeadline(time.Time{}) }()
	return s.flushReady()
}

func (s *session) flushReady() error {
	s.backend.Send(&s.out.ready)
	return s.backend.Flush()
}
