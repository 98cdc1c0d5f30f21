package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// parallel makes a table of patients, big enough to share out, that everybody may read, and a session whose every scan of it goes to workers.
func (s *sidecar) parallel(t *testing.T) *pgx.Conn {
	t.Helper()
	conn := s.Conn(t)
	types := map[string]string{}
	for _, c := range readCSV(t, filepath.Join(demo("diabetes"), "data.csv")).columns {
		types[c] = "real"
	}
	load(t, conn, "patient", filepath.Join(demo("diabetes"), "data.csv"), types)
	exec(t, conn, "CREATE TABLE patients AS SELECT p.* FROM patient p, generate_series(1, 5)")
	exec(t, conn, "GRANT SELECT ON patients TO PUBLIC")
	exec(t, conn, "ANALYZE patients")
	exec(t, conn, `SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
		SET max_parallel_workers_per_gather = 2`)
	return conn
}

// workersOnly keeps the leader of conn's queries from scanning, so that whatever happens, happens in a worker.
func workersOnly(t *testing.T, conn *pgx.Conn) {
	exec(t, conn, "SET parallel_leader_participation = off")
}

// launched runs a query under EXPLAIN ANALYZE and returns how many workers took part.
func launched(t *testing.T, conn *pgx.Conn, query string) int {
	t.Helper()
	var plans []struct{ Plan json.RawMessage }
	require.NoError(t, json.Unmarshal([]byte(one[string](t, conn, "EXPLAIN (ANALYZE, FORMAT JSON) "+query)), &plans))
	count := 0
	var walk func(json.RawMessage)
	walk = func(raw json.RawMessage) {
		var node struct {
			Launched int `json:"Workers Launched"`
			Plans    []json.RawMessage
		}
		require.NoError(t, json.Unmarshal(raw, &node))
		count += node.Launched
		for _, p := range node.Plans {
			walk(p)
		}
	}
	walk(plans[0].Plan)
	return count
}

// inWorkers reports whether predict runs in parallel workers. PostgreSQL before 15.9, 16.5 and 17.1 hides the role that the leader has taken on
// from them (CVE-2024-10978), so there it stays in the leader.
func inWorkers(t *testing.T, conn *pgx.Conn) bool {
	t.Helper()
	v := one[int](t, conn, "SELECT current_setting('server_version_num')::integer")
	return v >= 150009 && v < 160000 || v >= 160005 && v != 170000
}

// shared checks that the query is shared out to n workers.
func shared(t *testing.T, conn *pgx.Conn, n int, query string) {
	t.Helper()
	if inWorkers(t, conn) {
		require.Equal(t, n, launched(t, conn, query))
	}
}

func TestParallelWorkersPredictTheSame(t *testing.T) {
	s := start(t)
	s.register(t, demo("diabetes"))
	conn := s.parallel(t)
	for form, features := range map[string]string{
		"row": "p", "array": "ARRAY[age, sex, bmi, bp, s1, s2, s3, s4, s5, s6]", "JSON": "to_jsonb(p) - 'id' - 'progression'",
	} {
		t.Run(form, func(t *testing.T) {
			for _, call := range []string{"predict('diabetes', %s)", "(predict_json('diabetes', %s) ->> 'value')::double precision"} {
				query := fmt.Sprintf("SELECT round(sum("+call+")::numeric, 3)::text FROM patients p", features)
				exec(t, conn, "SET max_parallel_workers_per_gather = 0")
				require.Zero(t, launched(t, conn, query))
				serial := one[string](t, conn, query)
				exec(t, conn, "SET max_parallel_workers_per_gather = 2")
				shared(t, conn, 2, query)
				require.Equal(t, serial, one[string](t, conn, query))
			}
		})
	}
}

// A transaction's own promotion reaches its workers: they share its snapshot.
func TestParallelWorkersSeeTheTransactionsOwnPromotion(t *testing.T) {
	s := start(t)
	s.register(t, demo("iris"), "m")
	s.register(t, demo("iris_v2"), "m")
	conn := s.parallel(t)
	workersOnly(t, conn)
	const query = `SELECT count(*)::integer FROM patients WHERE predict_json('m', ARRAY[5 + 0 * age, 3.5, 1.4, 0.2]) ->> 'version' = '2'`
	shared(t, conn, 2, query)
	require.Zero(t, one[int](t, conn, query))
	all := one[int](t, conn, "SELECT count(*)::integer FROM patients")
	tx, err := conn.Begin(context.Background())
	require.NoError(t, err)
	exec(t, conn, "SELECT ml.promote('m', 2)")
	shared(t, conn, 2, query)
	require.Equal(t, all, one[int](t, conn, query))
	require.NoError(t, tx.Rollback(context.Background()))
	require.Zero(t, one[int](t, conn, query))
}

// The rights that count in a worker are those of the role that the leader has taken on: a superuser who has taken on a plain role must not
// predict there with the superuser's rights.
func TestParallelWorkersJudgeByTheRoleTakenOn(t *testing.T) {
	s := start(t)
	s.register(t, demo("diabetes"))
	conn := s.parallel(t)
	workersOnly(t, conn)
	exec(t, conn, `CREATE FUNCTION seen(id real) RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE COST 10000
		AS $$ BEGIN RETURN concat_ws(' ', current_setting('role'), current_user, session_user, pg_backend_pid()); END $$`)
	exec(t, conn, `CREATE FUNCTION seen_by_definer(id real) RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE COST 10000 SECURITY DEFINER
		AS $$ BEGIN RETURN concat_ws(' ', current_setting('role'), current_user, session_user, pg_backend_pid()); END $$`)
	granted, _ := s.Role(t, "")
	denied, _ := s.Role(t, "")
	exec(t, conn, "SELECT ml.grant_model('diabetes', $1)", granted)
	const query = "SELECT round(sum(predict('diabetes', p))::numeric, 3)::text FROM patients p"
	shared(t, conn, 2, query)
	want := one[string](t, conn, query)
	super := one[string](t, conn, "SELECT session_user::text")
	leader := one[string](t, conn, "SELECT pg_backend_pid()::text")

	for _, role := range []string{granted, denied} {
		exec(t, conn, "SET ROLE "+role)
		for function, current := range map[string]string{"seen": role, "seen_by_definer": super} {
			rows, err := conn.Query(context.Background(), "SELECT "+function+"(age) FROM patients GROUP BY 1")
			require.NoError(t, err)
			answers, err := pgx.CollectRows(rows, pgx.RowTo[string])
			require.NoError(t, err)
			require.NotEmpty(t, answers)
			for _, answer := range answers {
				t.Logf("a worker's role, current_user, session_user, pid (leader %s) in %s: %s", leader, function, answer)
				require.False(t, strings.HasSuffix(answer, " "+leader), "asked in a worker")
				if inWorkers(t, conn) {
					require.Contains(t, answer, role+" "+current+" "+super)
				}
			}
		}
	}
	refused(t, conn, "42501", query)
	refused(t, conn, "42501", "SELECT count(predict_json('diabetes', p)) FROM patients p")
	exec(t, conn, "SET ROLE "+granted)
	require.Equal(t, want, one[string](t, conn, query))
	exec(t, conn, "RESET ROLE")
	require.Equal(t, want, one[string](t, conn, query))

	// With the session's user changed, too: SET SESSION AUTHORIZATION takes SET ROLE back.
	exec(t, conn, "SET SESSION AUTHORIZATION "+denied)
	refused(t, conn, "42501", query)
	exec(t, conn, "SET SESSION AUTHORIZATION "+granted)
	require.Equal(t, want, one[string](t, conn, query))
	exec(t, conn, "RESET SESSION AUTHORIZATION")

	// A role for one transaction only.
	tx, err := conn.Begin(context.Background())
	require.NoError(t, err)
	exec(t, conn, "SET LOCAL ROLE "+denied)
	refused(t, conn, "42501", query)
	require.NoError(t, tx.Rollback(context.Background()))
	require.Equal(t, want, one[string](t, conn, query))
}

func TestAnErrorInAParallelWorkerComesBackClear(t *testing.T) {
	s := start(t)
	s.register(t, demo("diabetes"))
	conn := s.parallel(t)
	workersOnly(t, conn)
	shared(t, conn, 2, "SELECT sum(predict('diabetes', p)) FROM patients p")
	e := refused(t, conn, "22023", "SELECT sum(predict('diabetes', ARRAY[age, sex])) FROM patients")
	require.Contains(t, e.Message, "diabetes")
	if inWorkers(t, conn) {
		require.Contains(t, e.Where, "parallel worker")
	}
	e = refused(t, conn, "42704", "SELECT sum(predict('diabetis', p)) FROM patients p")
	require.Contains(t, e.Hint, `"diabetes"`)
	e = refused(t, conn, "42804", "SELECT max(predict_label('diabetes', p)) FROM patients p")
	require.Contains(t, e.Message, "diabetes")
	require.NotEmpty(t, one[string](t, conn, "SELECT sum(predict('diabetes', p))::text FROM patients p"), "the session goes on")
}

// PostgreSQL's own check that what says PARALLEL SAFE is: every query runs in a worker.
func TestForcedParallelQueriesPredict(t *testing.T) {
	s := start(t)
	s.register(t, demo("diabetes"))
	s.register(t, demo("iris_v2"), "iris")
	conn := s.Conn(t)
	setting := "debug_parallel_query"
	if one[int](t, conn, "SELECT current_setting('server_version_num')::integer") < 160000 {
		setting = "force_parallel_mode"
	}
	const value = "SELECT predict('diabetes', '{0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1}')"
	want := one[float64](t, conn, value)
	exec(t, conn, "SET "+setting+" = on")
	shared(t, conn, 1, value)
	exec(t, conn, "SET "+setting+" = regress")
	require.InDelta(t, want, one[float64](t, conn, value), 0)
	require.Equal(t, "setosa", one[string](t, conn, "SELECT predict_label('iris', "+irisRow+")"))
	require.Len(t, one[[]float64](t, conn, "SELECT predict_proba('iris', "+irisRow+")"), 3)
	require.EqualValues(t, 1, one[map[string]any](t, conn, "SELECT predict_json('iris', "+irisRow+")")["version"])
	require.Contains(t, one[map[string]any](t, conn, `SELECT ml.infer('iris', '{"X": [[5.1, 3.5, 1.4, 0.2]]}')`), "label")
	e := refused(t, conn, "22023", "SELECT predict_label('iris', ARRAY[1, 2]::double precision[])")
	require.Contains(t, e.Message, "petal_length")
	refused(t, conn, "42704", "SELECT predict('nothing', '{1}')")
	plain, _ := s.Role(t, "")
	exec(t, conn, "SET ROLE "+plain)
	refused(t, conn, "42501", value)
	exec(t, conn, "RESET ROLE")
	exec(t, conn, "SELECT ml.grant_model('diabetes', $1)", plain)
	exec(t, conn, "SET ROLE "+plain)
	require.InDelta(t, want, one[float64](t, conn, value), 0)
	require.NoError(t, s.worker.Stop(context.Background()))
	e = refused(t, conn, "HV00N", value)
	require.Contains(t, e.Hint, "rowcast serve")
}
