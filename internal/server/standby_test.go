package server_test

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/postgres/pgtest"
)

// replica is a database with two versions of iris on a primary that is served, and on a standby that follows it.
type replica struct {
	*sidecar // the primary's database
	standby  *pgtest.Database
	catchUp  func() // waits until the standby shows what the primary has committed
}

func startReplica(t *testing.T) *replica {
	t.Helper()
	ctx := context.Background()
	primary := privateCluster(t)
	exec(t, pgtest.Connect(t, primary.URL("postgres")), "CREATE DATABASE shop")
	url := primary.URL("shop")
	command(t, 0, "migrate", "up", "--database-url", url)
	r := &replica{sidecar: &sidecar{Database: &pgtest.Database{Name: "shop", URL: url}, log: &syncBuffer{}}}
	r.worker = r.serve(t, r.config(t))
	r.register(t, demo("iris"))
	r.register(t, demo("iris_v2"), "iris")
	r.register(t, demo("diabetes"))
	standby, err := primary.StartStandby(ctx)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, standby.Stop(context.Background())) })
	r.standby = &pgtest.Database{Name: "shop", URL: standby.URL("shop")}
	r.catchUp = func() {
		t.Helper()
		require.NoError(t, standby.CatchUp(ctx, primary))
	}
	return r
}

const irisVersion = "SELECT (predict_json('iris', " + irisRow + ") ->> 'version')::integer"

func TestPredictOnAHotStandbyThroughThePrimarysSidecar(t *testing.T) {
	ctx := context.Background()
	r := startReplica(t)
	r.catchUp()
	primary, conn := r.Conn(t), r.standby.Conn(t)
	require.True(t, one[bool](t, conn, "SELECT pg_is_in_recovery()"))
	for _, sql := range []string{
		"SELECT predict_label('iris', " + irisRow + ")", "SELECT predict_proba('iris', " + irisRow + ")::text", "SELECT predict_json('iris', " + irisRow + ")::text",
		"SELECT predict('diabetes', '{0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1}')::text", `SELECT ml.infer('iris', '{"X": [[5.1, 3.5, 1.4, 0.2]]}')::text`,
		"SELECT predict_batch('diabetes', '{{0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1}}')::text",
		`SELECT string_agg(label, ',') FROM predict_rows('iris', 'SELECT n, 5.1 AS sepal_length, 3.5 AS sepal_width, 1.4 AS petal_length, 0.2 AS petal_width
			FROM generate_series(1, 3) n', NULL::integer)`,
		"SELECT string_agg(concat_ws(' ', model, champion, versions), ', ' ORDER BY model) FROM ml.models",
	} {
		require.Equal(t, one[string](t, primary, sql), one[string](t, conn, sql), sql)
	}

	// A promotion arrives, and a snapshot keeps what it saw.
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	require.NoError(t, err)
	require.Equal(t, 1, one[int](t, conn, irisVersion))
	exec(t, primary, "SELECT ml.promote('iris', 2)")
	r.catchUp()
	require.Equal(t, 1, one[int](t, conn, irisVersion))
	require.NoError(t, tx.Commit(ctx))
	require.Equal(t, 2, one[int](t, conn, irisVersion))

	// So does a new version, a grant, a new password.
	require.Equal(t, 3, r.register(t, demo("iris"), "iris"))
	exec(t, primary, "CREATE ROLE analyst LOGIN PASSWORD 'a'; SELECT ml.grant_model('iris', 'analyst')")
	exec(t, primary, "SELECT ml.rotate_gateway()")
	r.catchUp()
	require.Equal(t, "setosa", one[string](t, conn, "SELECT predict_label('iris@3', "+irisRow+")"))
	analyst := pgtest.Connect(t, as(t, r.standby.URL, "analyst", "a"))
	require.Equal(t, "setosa", one[string](t, analyst, "SELECT predict_label('iris', "+irisRow+")"))
	refused(t, analyst, "42501", "SELECT predict('diabetes', '{1}')")

	// Errors are as clear as on the primary.
	e := refused(t, conn, "42704", "SELECT predict_label('irys', "+irisRow+")")
	require.Contains(t, e.Hint, `"iris"`)
	refused(t, conn, "22023", "SELECT predict_label('iris', ARRAY[1, 2]::double precision[])")
	for _, sql := range []string{
		"SELECT ml.promote('iris', 1)", "SELECT ml.grant_model('iris', 'public')", "SELECT ml.drop_model('iris')", "SELECT ml.rotate_gateway()",
	} {
		e := refused(t, conn, "25006", sql)
		require.Contains(t, e.Message, "read-only")
	}
	_, errOut := command(t, 1, "model", "promote", "iris", "1", "--database-url", r.standby.URL)
	require.Contains(t, errOut, "connect to the primary")
	_, errOut = command(t, 1, "migrate", "up", "--database-url", r.standby.URL)
	require.Contains(t, errOut, "standby")
	out, _ := command(t, 0, "migrate", "version", "--database-url", r.standby.URL)
	require.Contains(t, out, "version ")
}

func TestPredictOnAHotStandbyInParallel(t *testing.T) {
	r := startReplica(t)
	primary := r.parallel(t)
	r.catchUp()
	conn := r.standby.Conn(t)
	const query = "SELECT round(sum(predict('diabetes', p))::numeric, 3)::text FROM patients p"
	want := one[string](t, primary, query)
	exec(t, conn, `SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET max_parallel_workers_per_gather = 2`)
	shared(t, conn, 2, query)
	require.Equal(t, want, one[string](t, conn, query))
}

func TestAStandbyWithoutASidecarSaysWhereItLooked(t *testing.T) {
	r := startReplica(t)
	r.catchUp()
	open, fresh := r.standby.Conn(t), r.standby.Conn(t)
	require.Equal(t, 1, one[int](t, open, irisVersion))
	require.NoError(t, r.worker.Stop(context.Background()))
	port := one[string](t, open, "SELECT substr(o, 6) FROM pg_foreign_server, unnest(srvoptions) o WHERE srvname = 'rowcast_gateway' AND o LIKE 'port=%'")
	for name, conn := range map[string]*pgx.Conn{"a session that has predicted": open, "a new session": fresh} {
		for _, sql := range []string{"SELECT predict_label('iris', " + irisRow + ")", irisVersion} {
			// The sidecar may be connected to the primary, so that the standby cannot see whether it runs: it is libpq's own error.
			e := refused(t, conn, "08001", sql)
			t.Logf("%s: %s; %s; %s", name, e.Message, e.Detail, e.Hint)
			require.Contains(t, e.Message, "could not establish connection")
			require.Contains(t, e.Detail, "port "+port)
			require.Contains(t, e.Detail, "Connection refused")
		}
	}
	refused(t, open, "42704", "SELECT predict_label('irys', "+irisRow+")")
}

func TestServeOnAHotStandby(t *testing.T) {
	r := startReplica(t)
	primary := r.Conn(t)
	require.NoError(t, r.worker.Stop(context.Background()))
	r.catchUp()
	there := &sidecar{Database: r.standby, log: &syncBuffer{}}
	p := there.startProgram(t, "ROWCAST_LOG_LEVEL=debug")
	conn := r.standby.Conn(t)
	require.Equal(t, "setosa", one[string](t, conn, "SELECT predict_label('iris', "+irisRow+")"))
	require.Equal(t, 1, one[int](t, conn, irisVersion))
	tx, err := conn.BeginTx(context.Background(), pgx.TxOptions{AccessMode: pgx.ReadOnly})
	require.NoError(t, err)
	require.Equal(t, 1, one[int](t, conn, irisVersion))
	require.NoError(t, tx.Commit(context.Background()))

	// It cannot LISTEN there, so it polls: the new champion is loaded before anybody asks for it.
	spec := one[string](t, primary, "SELECT spec FROM ml_private.version WHERE version = 2")
	require.NotContains(t, there.log.String(), spec)
	exec(t, primary, "SELECT ml.promote('iris', 2)")
	require.Eventually(t, func() bool { return strings.Contains(there.log.String(), "spec="+spec) }, 20*time.Second, 20*time.Millisecond)
	require.Contains(t, there.log.String(), "cannot execute LISTEN during recovery")
	require.Equal(t, 2, one[int](t, conn, irisVersion))

	// A new password reaches it, too.
	exec(t, primary, "SELECT ml.rotate_gateway()")
	r.catchUp()
	require.Equal(t, 2, one[int](t, conn, irisVersion))
	require.Equal(t, 2, one[int](t, r.standby.Conn(t), irisVersion))

	// Killed, it comes back there.
	pid := p.worker(t)
	require.NotZero(t, pid)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	require.Eventually(t, func() bool { w := p.worker(t); return w != 0 && w != pid }, 20*time.Second, 10*time.Millisecond)
	require.Equal(t, 2, one[int](t, conn, irisVersion))

	// The standby becomes a primary: the sidecar and the sessions go on.
	exec(t, r.standby.Conn(t), "SELECT pg_promote()")
	require.Eventually(t, func() bool { return !one[bool](t, conn, "SELECT pg_is_in_recovery()") }, 30*time.Second, 50*time.Millisecond)
	exec(t, conn, "SELECT ml.promote('iris', 1)")
	require.Equal(t, 1, one[int](t, conn, irisVersion))
	require.Equal(t, 1, one[int](t, r.standby.Conn(t), irisVersion))
	require.Equal(t, 3, there.register(t, demo("iris_v2"), "iris"))
}
