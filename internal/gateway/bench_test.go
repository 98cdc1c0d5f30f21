package gateway

import (
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// roundTrips sends query over and over and reads the answers with as little work as possible, so that the server's share shows.
func roundTrips(b *testing.B, conn net.Conn, query string) {
	b.Helper()
	message, err := (&pgproto3.Query{String: query}).Encode(nil)
	require.NoError(b, err)
	buf := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := conn.Write(message); err != nil {
			b.Fatal(err)
		}
		// An answer is small enough to come in one piece; it ends in ReadyForQuery.
		n, err := conn.Read(buf)
		if err != nil || buf[n-1] != 'I' {
			b.Fatal(err, n)
		}
	}
}

// BenchmarkEcho is the floor: a server that answers each query with a fixed tag, nothing else.
func BenchmarkEcho(b *testing.B) {
	l, err := net.Listen("unix", filepath.Join(b.TempDir(), "s"))
	require.NoError(b, err)
	b.Cleanup(func() { _ = l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		backend := pgproto3.NewBackend(conn, conn)
		for {
			if _, err := backend.Receive(); err != nil {
				return
			}
			backend.Send(&pgproto3.CommandComplete{CommandTag: []byte("=1.25")})
			backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
			if err := backend.Flush(); err != nil {
				return
			}
		}
	}()
	conn, err := net.Dial("unix", l.Addr().String())
	require.NoError(b, err)
	roundTrips(b, conn, seal(secret.Key, predict("echo 1.25")))
}

func BenchmarkCall(b *testing.B) {
	for name, body := range map[string]string{"noop": "N", "predict": predict("echo 1.25")} {
		b.Run(name, func(b *testing.B) {
			_, _, dir := start(b, nil)
			raw, err := connect(b, dir).conn.Hijack()
			require.NoError(b, err)
			roundTrips(b, raw.Conn, seal(secret.Key, body))
		})
	}
}

// BenchmarkShare is the gateway's own work on a call, without the socket: code, parsing, admission, engine of nothing, answer.
func BenchmarkShare(b *testing.B) {
	for name, body := range map[string]string{
		"noop": "N", "predict": predict("echo 1.25"), "megabyte": predict(fmt.Sprintf("echo %01000000d", 1)),
	} {
		b.Run(name, func(b *testing.B) {
			g, _, _ := start(b, nil)
			s := newSession(g, discard{})
			text := seal(secret.Key, body)
			b.ReportAllocs()
			for b.Loop() {
				c, _ := unseal(text)
				if ok, _ := g.vault.matches(g.ctx, &s.sealer, &c); !ok {
					b.Fatal("code")
				}
				if err := s.call(c.verb, c.rest); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// discard is a connection that takes everything in.
type discard struct{ net.Conn }

func (discard) Write(p []byte) (int, error) { return len(p), nil }
