// Package pgtest gives each test a real PostgreSQL database with Rowcast installed.
//
// One private cluster serves all tests of a test binary. The migrations run once, into a template database; each test gets a copy of it, which
// takes some 30 ms, and which is dropped when the test ends. Without a PostgreSQL server the test fails: it never skips.
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//
//	func TestSomething(t *testing.T) {
//		db := pgtest.New(t)
//		pool := db.Pool(t)
//
// ROWCAST_TEST_CLUSTER may name a superuser's URL of a cluster to use instead.
package pgtest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/rowcast"
	"github.com/rowcast/rowcast/migrations"
)

// Database is one test's own database.
type Database struct {
	Name string
	URL  string // for the superuser

	admin string // URL of the cluster's database postgres
}

// shared is what the tests of one binary share.
type shared struct {
	mu       sync.Mutex
	admin    string // URL of the database postgres, "" before the first test
	cluster  *postgres.Cluster
	template string
	err      error
}

// One cluster per test binary is the point of this package.
var state shared

// Main runs the tests and then stops the cluster. Without it the cluster still goes when the test binary ends, a moment later.
func Main(m *testing.M) {
	code := m.Run()
	if err := state.close(); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// New makes a database with the migrations and the SQL API in place and ml in its search_path.
func New(t testing.TB) *Database {
	t.Helper()
	admin, template, err := state.open()
	require.NoError(t, err, "pgtest needs a PostgreSQL server: run `make deps`")
	db := create(t, admin, template)
	// A copy takes over everything but the settings of the database.
	exec(t, db.URL, fmt.Sprintf(`ALTER DATABASE %s SET search_path TO "$user", public, ml`, pgx.Identifier{db.Name}.Sanitize()))
	return db
}

// NewEmpty makes a database without Rowcast.
func NewEmpty(t testing.TB) *Database {
	t.Helper()
	admin, _, err := state.open()
	require.NoError(t, err, "pgtest needs a PostgreSQL server: run `make deps`")
	return create(t, admin, "template0")
}

func create(t testing.TB, admin, template string) *Database {
	t.Helper()
	db := &Database{Name: "test_" + randomHex(), admin: admin}
	db.URL = withDatabase(t, admin, db.Name)
	name := pgx.Identifier{db.Name}.Sanitize()
	exec(t, admin, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", name, pgx.Identifier{template}.Sanitize()))
	t.Cleanup(func() {
		// FORCE: a test may leave the connections of what it started to their own end.
		exec(t, admin, fmt.Sprintf("DROP DATABASE IF EXISTS %s WITH (FORCE)", name))
	})
	return db
}

// Pool opens a pool for the superuser, closed when the test ends.
func (d *Database) Pool(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool, err := postgres.Open(context.Background(), d.URL, postgres.OpenOptions{ApplicationName: "test"})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// Conn opens one connection for the superuser, closed when the test ends.
func (d *Database) Conn(t testing.TB) *pgx.Conn {
	t.Helper()
	return Connect(t, d.URL)
}

// Connect opens one connection, closed when the test ends.
func Connect(t testing.TB, databaseURL string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), databaseURL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// Exec runs statements as the superuser.
func (d *Database) Exec(t testing.TB, sql string) {
	t.Helper()
	exec(t, d.URL, sql)
}

// Role makes a login role with the given attributes ("CREATEROLE", or nothing) and returns its name and its URL of this database. Roles are
// the cluster's: the name is unique, and the role is dropped with what it owns in this database when the test ends.
func (d *Database) Role(t testing.TB, attributes string) (name, databaseURL string) {
	t.Helper()
	name = "role_" + randomHex()
	password := randomHex()
	exec(t, d.URL, fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s' %s", name, password, attributes))
	t.Cleanup(func() {
		exec(t, d.URL, fmt.Sprintf("REASSIGN OWNED BY %s TO CURRENT_USER; DROP OWNED BY %s; DROP ROLE %s", name, name, name))
	})
	u, err := url.Parse(d.URL)
	require.NoError(t, err)
	u.User = url.UserPassword(name, password)
	return name, u.String()
}

// Cluster returns the binary's private cluster, for tests that look at the server itself; nil where ROWCAST_TEST_CLUSTER is set.
func Cluster(t testing.TB) *postgres.Cluster {
	t.Helper()
	_, _, err := state.open()
	require.NoError(t, err)
	return state.cluster
}

// open starts the cluster and fills the template at the first call, and repeats its answer afterwards.
func (s *shared) open() (admin, template string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.admin == "" && s.err == nil {
		s.err = s.start()
	}
	return s.admin, s.template, s.err
}

func (s *shared) start() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	s.admin = os.Getenv("ROWCAST_TEST_CLUSTER")
	if s.admin == "" {
		cluster, err := postgres.StartCluster(ctx, postgres.ClusterOptions{})
		if err != nil {
			return explain(err)
		}
		s.cluster, s.admin = cluster, cluster.URL("postgres")
	}
	s.template = "template_" + randomHex()
	conn, err := pgx.Connect(ctx, s.admin)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+s.template+" TEMPLATE template0 ENCODING 'UTF8'"); err != nil {
		return err
	}
	u, err := url.Parse(s.admin)
	if err != nil {
		return err
	}
	u.Path = "/" + s.template
	migrator, err := postgres.NewMigrator(u.String(), postgres.MigratorOptions{Source: migrations.Files})
	if err != nil {
		return err
	}
	if _, err := migrator.Up(ctx); err != nil {
		return explain(err)
	}
	return nil
}

func (s *shared) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if s.cluster != nil {
		return s.cluster.Stop(ctx)
	}
	if s.template == "" {
		return nil
	}
	conn, err := pgx.Connect(ctx, s.admin)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "DROP DATABASE IF EXISTS "+s.template+" WITH (FORCE)")
	return err
}

func withDatabase(t testing.TB, databaseURL, name string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	require.NoError(t, err)
	u.Path = "/" + name
	return u.String()
}

func exec(t testing.TB, databaseURL, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, databaseURL)
	require.NoError(t, err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	require.NoError(t, err, sql)
}

func randomHex() string {
	b := make([]byte, 6)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// explain puts an error's detail and hint into its text: a failing test shows nothing else.
func explain(err error) error {
	var e *rowcast.Error
	if !errors.As(err, &e) {
		return err
	}
	return fmt.Errorf("%w\n%s", err, strings.TrimSpace(e.Detail+"\n"+e.Hint))
}
