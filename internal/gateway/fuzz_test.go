package gateway

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// script is a connection whose client has said everything beforehand.
type script struct {
	net.Conn
	in  *bytes.Reader
	out bytes.Buffer
}

func newScript(in []byte) *script                { return &script{in: bytes.NewReader(in)} }
func (s *script) Read(p []byte) (int, error)     { return s.in.Read(p) }
func (s *script) Write(p []byte) (int, error)    { return s.out.Write(p) }
func (*script) Close() error                     { return nil }
func (*script) SetDeadline(time.Time) error      { return nil }
func (*script) SetReadDeadline(time.Time) error  { return nil }
func (*script) SetWriteDeadline(time.Time) error { return nil }
func (*script) RemoteAddr() net.Addr             { return &net.UnixAddr{} }

// wellFormed fails where what the gateway sent is no sequence of backend messages, and returns their types.
func wellFormed(t *testing.T, sent []byte) string {
	t.Helper()
	r := bytes.NewReader(sent)
	var types []byte
	for r.Len() > 0 {
		var head [5]byte
		_, err := io.ReadFull(r, head[:])
		require.NoError(t, err)
		size := int64(binary.BigEndian.Uint32(head[1:])) - 4
		require.GreaterOrEqual(t, size, int64(0))
		require.LessOrEqual(t, size, int64(r.Len()))
		_, err = r.Seek(size, io.SeekCurrent)
		require.NoError(t, err)
		types = append(types, head[0])
	}
	return string(types)
}

func fuzzGateway() *Gateway {
	return New(Options{Engine: newArithmetic(), Validator: judge{}, Credentials: secret, MaxMessageBytes: 1 << 16, MaxUploadBytes: 1 << 16})
}

// FuzzStartup feeds anything to the startup phase: nobody gets in, nothing panics, and the answer is well-formed.
func FuzzStartup(f *testing.F) {
	f.Add(startupPacket(3<<16, "user", User, "database", "any", "client_encoding", "UTF8"))
	f.Add(startupPacket(3<<16|2, "user", User, "_pq_.x", "y"))
	f.Add(append(startupPacket(codeSSLRequest), startupPacket(3<<16, "user", "postgres")...))
	f.Add(append(startupPacket(codeGSSEncRequest), startupPacket(codeSSLRequest)...))
	f.Add(startupPacket(codeCancelRequest, "1234567"))
	f.Add(startupPacket(3<<16, "replication", "database"))
	f.Add([]byte{0, 0, 0, 9, 0, 3, 0, 0, 0})
	g := fuzzGateway()
	f.Fuzz(func(t *testing.T, in []byte) {
		conn := newScript(in)
		_, err := g.login(conn, false)
		require.Error(t, err)
		wellFormed(t, bytes.TrimLeft(conn.out.Bytes(), "N")) // answers to requests for encryption have no frame, and no message is an N
		require.Empty(t, g.sessions)
	})
}

// FuzzSASL feeds anything as the client's side of the password check.
func FuzzSASL(f *testing.F) {
	initial, _ := (&pgproto3.SASLInitialResponse{AuthMechanism: mechanism, Data: []byte("n,,n=,r=abcdefghijklmnop")}).Encode(nil)
	final, _ := (&pgproto3.SASLResponse{Data: []byte("c=biws,r=abcdefghijklmnop,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")}).Encode(nil)
	empty, _ := (&pgproto3.SASLResponse{}).Encode(nil)
	password, _ := (&pgproto3.PasswordMessage{Password: secret.Password}).Encode(nil)
	f.Add(append(bytes.Clone(initial), final...))
	f.Add(append(bytes.Clone(initial), empty...))
	f.Add(password)
	f.Add([]byte{'p', 0x7f, 0xff, 0xff, 0xff})
	f.Add([]byte{'Q', 0, 0, 0, 6, 'x', 0})
	g := fuzzGateway()
	f.Fuzz(func(t *testing.T, in []byte) {
		conn := newScript(in)
		frames := newFrames(conn)
		backend := pgproto3.NewBackend(frames, conn)
		require.Error(t, g.authenticate(backend, frames, User))
		require.NotContains(t, wellFormed(t, conn.out.Bytes()), "Z")
	})
}

// FuzzCall parses anything as the body of a call.
func FuzzCall(f *testing.F) {
	for _, body := range []string{
		"N", "W", "E", "F", predict("{1,2}"), within("1.5min", "x"), "U a 00ff", "V a {}", "D a", "A " + strings.Repeat("ab", 32) + " {}", "",
		"l " + spec + " größe@12 250ms j{}", "p " + spec + " @1 - b", "p " + spec + " a@99999999999 - b",
		withToken(secret.Key, predict("1")), seal(secret.Key, "N"),
		"LA{\"model_id\": 1, \"reference\": \"m\", \"sample\": 1} \"me\"\n" + predict("1"), "LT{}\n", "L\nL\nN",
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		if c, ok := unseal(body); ok {
			require.Len(t, c.proof, macDigits)
			require.True(t, c.token || c.body != "")
		}
		if body == "" {
			return
		}
		r, err := parseBody(verb(body[0]), body[1:])
		if err != nil {
			require.Equal(t, "08P01", SQLState(err.Code))
			return
		}
		require.True(t, r.verb.known())
		require.True(t, strings.HasSuffix(body, r.payload))
		if r.spec != "" {
			require.Len(t, r.spec, specDigits)
			require.NotContains(t, r.model, " ")
			require.GreaterOrEqual(t, r.version, 0)
			timeout, err := parseTimeout(r.timeout, time.Second)
			require.True(t, err != nil || timeout > 0)
		}
	})
}

// FuzzSession feeds anything to a connection that is authenticated, and sealed calls between: nothing panics or hangs, the answers are
// well-formed.
func FuzzSession(f *testing.F) {
	message := func(text string) []byte {
		m, _ := query(text).Encode(nil)
		return m
	}
	f.Add(message("SELECT 1"), "N")
	f.Add([]byte{'P', 0, 0, 0, 4, 'S', 0, 0, 0, 4}, predict("echo 1"))
	f.Add([]byte{'Q', 0, 2, 0, 0}, "U a 0011")
	f.Add(message("SET client_encoding TO 'latin1'"), "V a {}")
	f.Add(message(seal(secret.Key, predict("echo "+strings.Repeat("x", 100)))), "F")
	f.Add(message(seal(secret.Key, predict("refuse"))), "E")
	f.Add([]byte{'Q', 0xff, 0, 0, 0}, "W")
	f.Add(message(withToken(secret.Key, predict("echo 1"))), "W")
	f.Add([]byte{}, "LT{\"model_id\": 1, \"reference\": \"m\", \"sample\": 1} \"me\"\n"+predict("echo 1"))
	f.Add([]byte{}, "LA{\"model_id\": 1, \"reference\": \"m\", \"sample\": 0} \"me\"\n"+predict("echo 1"))
	g := fuzzGateway()
	f.Fuzz(func(t *testing.T, in []byte, body string) {
		if strings.Contains(body, "stubborn") || strings.Contains(body, "sleep") || bytes.Contains(in, []byte("sleep")) {
			return
		}
		call, raise := message(seal(secret.Key, body)), message(seal(secret.Key, "E"))
		conn := newScript(slices.Concat(call, in, call, raise))
		s := newSession(g, conn)
		s.released = func() {}
		s.serve()
		wellFormed(t, conn.out.Bytes())
		require.Zero(t, g.uploaded.Load())
		require.Zero(t, g.buffered.Load())
	})
}
