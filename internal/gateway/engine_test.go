package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/rowcast"
)

const spec = "0123456789abcdef0123456789abcdef"

var secret = Credentials{Password: "pass word", Key: []byte("0123456789abcdef0123456789abcdef")}

// arithmetic is a small engine: the payload says what to do.
type arithmetic struct {
	mu      sync.Mutex
	causes  []error       // of the calls that were cancelled
	ended   chan struct{} // receives one for each of them
	release chan struct{} // what "stubborn" calls wait for
}

func newArithmetic() *arithmetic {
	return &arithmetic{ended: make(chan struct{}, 100), release: make(chan struct{})}
}

func (a *arithmetic) Do(ctx context.Context, c *rowcast.Call, dst []byte) ([]byte, error) {
	word, argument, _ := strings.Cut(string(c.Payload), " ")
	switch word {
	case "echo":
		return append(dst, argument...), nil
	case "refuse":
		return nil, rowcast.Errorf(rowcast.CodeFeatureRange, "model %q: feature \"age\" is infinite", c.Model).WithDetail("a detail").WithHint("a hint")
	case "sleep":
		d, err := time.ParseDuration(argument)
		if err != nil {
			return nil, err
		}
		select {
		case <-time.After(d):
			return append(dst, "slept "+argument...), nil
		case <-ctx.Done():
			a.mu.Lock()
			a.causes = append(a.causes, context.Cause(ctx))
			a.mu.Unlock()
			a.ended <- struct{}{}
			return nil, fmt.Errorf("run: %w", context.Cause(ctx))
		}
	case "stubborn":
		<-a.release
		return append(dst, "at last"...), nil
	case "panic":
		panic("divide by zero")
	case "error":
		return nil, errors.New("some library's error")
	}
	return nil, rowcast.Errorf(rowcast.CodeInvalidText, "unknown word %q", word)
}

func (a *arithmetic) lastCause() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.causes) == 0 {
		return nil
	}
	return a.causes[len(a.causes)-1]
}

// judge is a small validator.
type judge struct{}

func (judge) ValidateUpload(_ context.Context, artifact, options []byte) (report, converted []byte, err error) {
	if len(artifact) == 0 {
		return nil, nil, rowcast.Errorf(rowcast.CodeArtifactRefused, "the file is empty")
	}
	if text, ok := bytes.CutPrefix(artifact, []byte("convert ")); ok {
		converted = bytes.Repeat(text, 1<<18)
	}
	return fmt.Appendf(nil, `{"sha256": "%x", "options": %s}`, sha256.Sum256(artifact), options), converted, nil
}

func (judge) ValidateStored(_ context.Context, sha [32]byte, options []byte) (report, converted []byte, err error) {
	if sha[0] == 0xcc {
		converted = []byte{1, 2, 3}
	}
	return fmt.Appendf(nil, `{"stored": "%x", "options": %s}`, sha, options), converted, nil
}

// start runs a gateway on a unix socket in its own folder and returns it with its engine; change may alter its options.
func start(t testing.TB, change func(*Options)) (*Gateway, *arithmetic, string) {
	t.Helper()
	dir := t.TempDir()
	engine := newArithmetic()
	l, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	require.NoError(t, err)
	o := Options{Listeners: []net.Listener{l}, Engine: engine, Validator: judge{}, Credentials: secret}
	if change != nil {
		change(&o)
	}
	g := New(o)
	require.NoError(t, g.Start(context.Background()))
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = g.Stop(ctx)
	})
	return g, engine, dir
}

// client is a connection that speaks to the gateway as the SQL functions do.
type client struct {
	t    testing.TB
	conn *pgconn.PgConn
}

func configOf(t testing.TB, dir string) *pgconn.Config {
	t.Helper()
	config, err := pgconn.ParseConfig("host=" + dir + " port=5432 user=rowcast dbname=any sslmode=disable")
	require.NoError(t, err)
	config.Password = secret.Password
	return config
}

func connect(t testing.TB, dir string) *client {
	t.Helper()
	conn, err := pgconn.ConnectConfig(context.Background(), configOf(t, dir))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return &client{t, conn}
}

func seal(key []byte, body string) string {
	sum := sha256.Sum256(append(append([]byte(nil), key...), body...))
	return hex.EncodeToString(sum[:])[:32] + " " + body
}

func withToken(key []byte, body string) string {
	sum := sha256.Sum256(append([]byte("token"), key...))
	return body[:1] + " " + hex.EncodeToString(sum[:])[:32] + body[1:]
}

// tag sends a body and returns the command tag of the answer.
func (c *client) tag(body string) string {
	c.t.Helper()
	tag, err := c.try(seal(secret.Key, body))
	require.NoError(c.t, err)
	return tag
}

func (c *client) try(query string) (string, error) {
	results, err := c.conn.Exec(context.Background(), query).ReadAll()
	if err != nil {
		return "", err
	}
	if len(results) == 0 {
		return "", nil
	}
	return results[0].CommandTag.String(), nil
}

// row sends a body and returns status and value of the answer's row.
func (c *client) row(body string) (status, value string) {
	c.t.Helper()
	results, err := c.conn.Exec(context.Background(), seal(secret.Key, body)).ReadAll()
	require.NoError(c.t, err)
	require.Len(c.t, results, 1)
	require.Len(c.t, results[0].Rows, 1)
	require.Equal(c.t, "SELECT 1", results[0].CommandTag.String())
	return string(results[0].Rows[0][0]), string(results[0].Rows[0][1])
}

// stored raises the stored error.
func (c *client) stored() *pgconn.PgError {
	c.t.Helper()
	_, err := c.try(seal(secret.Key, "E"))
	var e *pgconn.PgError
	require.ErrorAs(c.t, err, &e)
	return e
}

func predict(payload string) string { return "p " + spec + " churn@3 - t" + payload }

func within(timeout, payload string) string {
	return "p " + spec + " churn@3 " + timeout + " t" + payload
}

func query(text string) *pgproto3.Query { return &pgproto3.Query{String: text} }
