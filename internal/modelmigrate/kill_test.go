package modelmigrate_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/modelmigrate"
	"github.com/rowcast/rowcast/internal/postgres/pgtest"
)

// padded writes a model file of several chunks: a valid ONNX file with a long string of documentation.
func padded(t testing.TB, chunks int) string {
	t.Helper()
	text, err := os.ReadFile(demo("iris_v2"))
	require.NoError(t, err)
	size := chunks << 20
	// Field 6 of ModelProto, doc_string, of a length in seven-bit groups.
	text = append(text, 6<<3|2)
	for n := size; ; n >>= 7 {
		if n < 0x80 {
			text = append(text, byte(n))
			break
		}
		text = append(text, byte(n)|0x80)
	}
	text = append(text, bytes.Repeat([]byte("x"), size)...)
	path := filepath.Join(t.TempDir(), "model.onnx")
	require.NoError(t, os.WriteFile(path, text, 0o644))
	options, err := os.ReadFile(filepath.Join(filepath.Dir(demo("iris_v2")), "model.yaml"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(path), "model.yaml"), options, 0o644))
	return path
}

// A runner is held at each of its steps by a lock that it needs there, killed, and run again.
func TestAKilledRunnerLeavesAStepOrNothing(t *testing.T) {
	dir := t.TempDir()
	add(t, dir, "iris", demo("iris"), "iris")
	large := add(t, dir, "iris_v2", padded(t, 6), "iris", promoted)
	write(t, dir, "rights", "SELECT ml.grant_model('iris', 'public')")

	// Each holds what the runner needs at that step.
	steps := map[string]string{
		"reading the version":      "LOCK TABLE ml.model_migrations IN ACCESS EXCLUSIVE MODE",
		"beginning the upload":     "LOCK TABLE ml_private.artifact IN SHARE MODE",
		"beginning the change":     "LOCK TABLE ml_private.change IN SHARE MODE",
		"registering":              "SELECT FROM ml_private.model WHERE name = 'iris' FOR UPDATE",
		"storing the version":      "LOCK TABLE ml_private.version IN SHARE MODE",
		"promoting":                "LOCK TABLE ml_private.alias_history IN SHARE MODE",
		"writing the journal":      "LOCK TABLE ml_private.change_row IN SHARE MODE",
		"recording where it leads": "LOCK TABLE ml.model_migrations IN SHARE MODE",
	}
	reference := serve(t)
	reference.up(t, dir, -1)
	want, seen := image(t, reference.Conn(t), false), visible(t, reference.Conn(t))
	reference.stop()
	for name, hold := range steps {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			s.up(t, dir, 1)
			s.killed(t, dir, func(tx pgx.Tx) { execute(t, tx.Conn(), hold) })
			report := s.up(t, dir, -1)
			require.Equal(t, 3, report.To)
			require.Equal(t, seen, visible(t, s.Conn(t)))
		})
	}
	t.Run("in the middle of the upload", func(t *testing.T) {
		s := serve(t)
		s.up(t, dir, 1)
		conn := s.Conn(t)
		s.killed(t, dir, func(tx pgx.Tx) {
			// The runner waits where somebody else's upload of the same chunk is not committed yet.
			info, err := os.Stat(large.Artifact)
			require.NoError(t, err)
			execute(t, conn, "SELECT ml.begin_upload($1, $2)", large.SHA256, info.Size())
			execute(t, tx.Conn(), "SELECT ml.upload_chunk($1, 3, convert_to(repeat('y', 1048576), 'UTF8'))", large.SHA256)
		})
		stored := one[int](t, conn, "SELECT count(*)::integer FROM ml_private.artifact_chunk WHERE sha256 = decode($1, 'hex')", large.SHA256)
		require.GreaterOrEqual(t, stored, 3, "what was sent before stays")
		marks := one[string](t, conn, "SELECT string_agg(ctid::text || xmin::text, ' ' ORDER BY number) FROM ml_private.artifact_chunk WHERE sha256 = decode($1, 'hex') AND number < 3", large.SHA256)
		report := s.up(t, dir, -1)
		require.Equal(t, 3, report.To)
		require.Equal(t, marks, one[string](t, conn,
			"SELECT string_agg(ctid::text || xmin::text, ' ' ORDER BY number) FROM ml_private.artifact_chunk WHERE sha256 = decode($1, 'hex') AND number < 3", large.SHA256),
			"and is not sent again")
		same(t, want, image(t, conn, false), "after the second run")
	})
	t.Run("at the commit", func(t *testing.T) {
		s := serve(t)
		s.up(t, dir, 1)
		conn := s.Conn(t)
		// A trigger that fires in COMMIT and waits there.
		execute(t, conn, `CREATE FUNCTION wait_at_commit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN NULL; END';
			CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON ml.model_migrations DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_at_commit()`)
		s.killed(t, dir, func(tx pgx.Tx) { execute(t, tx.Conn(), "SELECT pg_advisory_xact_lock(4711)") })
		execute(t, conn, "DROP FUNCTION wait_at_commit CASCADE")
		require.Equal(t, 3, s.up(t, dir, -1).To)
		require.Equal(t, seen, visible(t, conn))
	})
	t.Run("on the way down", func(t *testing.T) {
		s := serve(t)
		s.up(t, dir, -1)
		conn := s.Conn(t)
		s.killed(t, dir, func(tx pgx.Tx) {
			execute(t, tx.Conn(), "LOCK TABLE ml_private.version IN ROW SHARE MODE; LOCK TABLE ml.model_migrations IN SHARE MODE")
		}, "goto", "1")
		_, err := s.runner(t, dir).Goto(context.Background(), 1)
		require.NoError(t, err)
		s.up(t, dir, -1)
		same(t, want, image(t, conn, false), "down and up")
	})
}

// visible is what people see of the registry, without internal ids: PostgreSQL does not give back those that a killed session took.
func visible(t *testing.T, conn *pgx.Conn) string {
	t.Helper()
	return one[string](t, conn, `SELECT concat_ws(E'\n',
		(SELECT string_agg((model, champion, versions)::text, ' ' ORDER BY model) FROM ml.models),
		(SELECT string_agg((model, version, sha256, aliases, signature)::text, ' ' ORDER BY model, version) FROM ml.versions),
		(SELECT string_agg((model, alias, version, action)::text, ' ' ORDER BY id) FROM ml.alias_history),
		(SELECT string_agg((model, grantee)::text, ' ' ORDER BY model, grantee) FROM ml.grants),
		(SELECT string_agg((name, checksum, rows)::text, ' ' ORDER BY name) FROM ml.changes),
		(SELECT string_agg((ref, version, readers)::text, ' ' ORDER BY ref) FROM ml_private.route),
		(SELECT string_agg((version, dirty)::text, ' ') FROM ml.model_migrations))`)
}

// killed starts a runner that meets what hold holds in a transaction, kills it there with SIGKILL, and waits until the server has noticed.
func (s *site) killed(t *testing.T, dir string, hold func(pgx.Tx), args ...string) {
	t.Helper()
	ctx := context.Background()
	watch := s.Conn(t)
	holder := s.Conn(t)
	tx, err := holder.Begin(ctx)
	require.NoError(t, err)
	hold(tx)
	if len(args) == 0 {
		args = []string{"up"}
	}
	var output bytes.Buffer
	cmd := program(s.URL, append([]string{"model", "migration", "--dir", dir}, args...)...)
	cmd.Stdout, cmd.Stderr = &output, &output
	require.NoError(t, cmd.Start())
	const sessions = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'rowcast model migration'"
	require.Eventually(t, func() bool {
		return one[bool](t, watch, "SELECT EXISTS (SELECT "+sessions+" AND wait_event_type = 'Lock' AND $1 = ANY (pg_blocking_pids(pid)))", holder.PgConn().PID())
	}, time.Minute, 5*time.Millisecond, "the runner comes to the step: %s", &output)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.NoError(t, tx.Rollback(ctx))
	require.Eventually(t, func() bool { return one[int](t, watch, "SELECT count(*)::integer "+sessions) == 0 }, time.Minute, 5*time.Millisecond)
	if v, dirty, err := s.runner(t, dir).Version(ctx); true {
		require.NoError(t, err)
		require.False(t, dirty, "version %d", v)
	}
}

// ctrl-C in the middle of an upload: the program says how to go on, and does.
func TestAnInterruptedUploadGoesOn(t *testing.T) {
	s := &site{Database: pgtest.New(t)}
	ctx := context.Background()
	conn := s.Conn(t)
	file := padded(t, 6)
	info, err := os.Stat(file)
	require.NoError(t, err)
	sha := fileSHA(t, file)
	execute(t, conn, "SELECT ml.begin_upload($1, $2)", sha, info.Size())
	holder := s.Conn(t)
	tx, err := holder.Begin(ctx)
	require.NoError(t, err)
	execute(t, holder, "SELECT ml.upload_chunk($1, 4, convert_to(repeat('y', 1048576), 'UTF8'))", sha)
	var output bytes.Buffer
	cmd := program(s.URL, "model", "upload", file)
	cmd.Stdout, cmd.Stderr = &output, &output
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool {
		return one[bool](t, conn, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND $1 = ANY (pg_blocking_pids(pid)))", holder.PgConn().PID())
	}, time.Minute, 5*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.Error(t, cmd.Wait())
	require.Equal(t, 1, cmd.ProcessState.ExitCode())
	require.Contains(t, output.String(), "it goes on where it stopped")
	// This time the other one commits what is not the file's: it is noticed and replaced.
	require.NoError(t, tx.Commit(ctx))
	require.Equal(t, 5, one[int](t, conn, "SELECT count(*)::integer FROM ml_private.artifact_chunk"))
	out, err := program(s.URL, "model", "upload", file).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, 0, one[int](t, conn, "SELECT ml.missing_chunks($1)", sha))
	require.Equal(t, sha, one[string](t, conn, "SELECT encode(sha256(string_agg(data, '' ORDER BY number)), 'hex') FROM ml_private.artifact_chunk"))
}

// Two uploads of one file at once send what the other has not.
func TestTwoUploadsOfOneFileAtOnce(t *testing.T) {
	s := &site{Database: pgtest.New(t)}
	conn := s.Conn(t)
	file := padded(t, 8)
	first, second := program(s.URL, "model", "upload", file), program(s.URL, "model", "upload", file, "--json")
	require.NoError(t, first.Start())
	require.NoError(t, second.Start())
	require.NoError(t, first.Wait())
	require.NoError(t, second.Wait())
	require.Equal(t, fileSHA(t, file), one[string](t, conn, "SELECT encode(sha256(string_agg(data, '' ORDER BY number)), 'hex') FROM ml_private.artifact_chunk"))

	pointer := filepath.Join(t.TempDir(), "lfs.onnx")
	require.NoError(t, os.WriteFile(pointer, []byte("version https://git-lfs.github.com/spec/v1\noid sha256:"+fileSHA(t, file)+"\nsize 9\n"), 0o644))
	out, err := program(s.URL, "model", "upload", pointer).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "is a git-lfs pointer, not the model file")
	require.Contains(t, string(out), "git lfs pull")
	_, err = modelmigrate.Create(context.Background(), modelmigrate.NewOptions{Dir: t.TempDir(), Name: "a", File: pointer})
	require.Contains(t, problem(t, err).Message, "git-lfs pointer")
}
