package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/postgres/pgtest"
)

func TestPredictRowsEqualsPredict(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	for _, folder := range folders(t) {
		o := options(t, folder)
		if o.Name == "tensors" {
			continue
		}
		s.register(t, folder)
		types := map[string]string{"id": "bigint"}
		for _, f := range o.Features {
			types[f.Name] = string(f.Type)
		}
		load(t, conn, o.Name, folder+"/data.csv", types)
		rows := fmt.Sprintf("predict_rows('%s', 'SELECT * FROM %s', NULL::bigint)", o.Name, o.Name)
		var all, rightVersion, label, prediction int
		require.NoError(t, conn.QueryRow(context.Background(), fmt.Sprintf(`SELECT count(*), count(*) FILTER (WHERE version = 1), count(label), count(prediction)
			FROM %s`, rows)).Scan(&all, &rightVersion, &label, &prediction), o.Name)
		require.Equal(t, all, one[int](t, conn, "SELECT count(*) FROM "+o.Name))
		require.Equal(t, all, rightVersion)
		require.Equal(t, 0, min(label, prediction)*(max(label, prediction)-all))
		if label > 0 {
			require.Equal(t, all, label)
			require.Equal(t, 0, one[int](t, conn, fmt.Sprintf(`SELECT count(*) FROM (SELECT r.label, predict_label('%s', t) AS single
				FROM %s AS r JOIN (SELECT * FROM %s ORDER BY id LIMIT 200) t ON t.id = r.key) x WHERE label IS DISTINCT FROM single`, o.Name, rows, o.Name)), o.Name)
		}
		if prediction > 0 {
			require.Equal(t, all, prediction)
			require.Equal(t, 0, one[int](t, conn, fmt.Sprintf(`SELECT count(*) FROM (SELECT r.prediction, predict('%s', t) AS single
				FROM %s AS r JOIN (SELECT * FROM %s ORDER BY id LIMIT 200) t ON t.id = r.key) x WHERE prediction IS DISTINCT FROM single`, o.Name, rows, o.Name)), o.Name)
		}
	}
}

// scored is a row of predict_rows.
type scored struct {
	Key        string
	Prediction *float64
	Label      *string
	Version    int
}

// predicted runs predict_rows and returns its rows, keys as text.
func predicted(t testing.TB, conn *pgx.Conn, model, query, keyType string) []scored {
	t.Helper()
	rows, err := conn.Query(context.Background(), fmt.Sprintf("SELECT coalesce(key::text, 'NULL'), prediction, label, version FROM predict_rows($1, $2, NULL::%s)", keyType), model, query)
	require.NoError(t, err)
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[scored])
	require.NoError(t, err, query)
	return list
}

func TestPredictRowsPassesKeysOfAnyType(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	s.register(t, demo("diabetes"))
	exec(t, conn, `CREATE TYPE pair AS (a integer, b text); CREATE DOMAIN code AS text CHECK (value <> ''); CREATE TYPE mood AS ENUM ('sad', 'glad')`)
	features := features(t, "diabetes")
	query := func(key string) string {
		return "SELECT " + key + " AS k, " + features + " FROM generate_series(1, 3) AS n"
	}
	want := one[float64](t, conn, "SELECT predict('diabetes', x) FROM (SELECT "+features+") x")
	for keyType, key := range map[string]string{
		"bigint": "n::bigint", "integer": "nullif(n, 2)", "text": "'k' || n", "uuid": "gen_random_uuid()", "integer[]": "ARRAY[n, n + 1]", "text[]": "NULL::text[]",
		"pair": "ROW(n, 'x')::pair", "jsonb": "jsonb_build_object('n', n)", "timestamptz": "'2026-01-02 03:04:05+00'::timestamptz", "code": "('c' || n)::code", "mood": "'glad'::mood",
		"numeric": "n / 3.0", "bytea": `'\x00ff'::bytea`, "double precision": "'NaN'::float8", "date[]": "CASE WHEN n = 1 THEN ARRAY[current_date] END",
	} {
		expected := one[[]string](t, conn, "SELECT array_agg(coalesce(k::text, 'NULL')) FROM ("+query(key)+") x")
		list := predicted(t, conn, "diabetes", query(key), keyType)
		require.Len(t, list, 3)
		for i, r := range list {
			if keyType != "uuid" {
				require.Equal(t, expected[i], r.Key)
			}
			require.Equal(t, want, *r.Prediction)
			require.Nil(t, r.Label, "a regression")
			require.Equal(t, 1, r.Version)
		}
	}
	e := refused(t, conn, "42804", "SELECT * FROM predict_rows('diabetes', $1, NULL::bigint)", query("n"))
	require.Contains(t, e.Message, `column "k" of the query, is of type integer, not bigint`)
	require.Contains(t, e.Hint, "NULL::integer")
}

// features writes a select list that gives every feature of a demo model the value 0.02.
func features(t testing.TB, model string) string {
	var list []string
	for _, f := range options(t, demo(model)).Features {
		list = append(list, "0.02::double precision AS "+pgx.Identifier{f.Name}.Sanitize())
	}
	return strings.Join(list, ", ")
}

func TestPredictRowsReadsEveryColumnTypeAsPredictDoes(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	s.register(t, demo("penguins"))
	exec(t, conn, `CREATE DOMAIN millimetres AS numeric(6,1); CREATE DOMAIN half AS millimetres;
		CREATE TYPE island AS ENUM ('Torgersen', 'Biscoe', 'Dream');
		CREATE TABLE birds (note jsonb, key text, island island, bill_length_mm millimetres, bill_depth_mm real, flipper_length_mm half, body_mass_g jsonb,
			sex varchar(10), year smallint, photo bytea);
		INSERT INTO birds SELECT '{}', 'k' || n, (ARRAY['Torgersen', 'Biscoe', 'Dream'])[1 + n % 3]::island, 30 + n % 20 + 0.1, 15 + n % 7 + 0.3::real,
			nullif(180 + n % 30, 190), to_jsonb(3000 + n % 2000), (ARRAY['male', 'female', NULL])[1 + n % 3], 2007 + n % 3, '\x00' FROM generate_series(1, 5000) n`)
	require.Zero(t, one[int](t, conn, `SELECT count(*) FROM (SELECT r.label, predict_label('penguins', b) AS single, r.prediction
		FROM predict_rows('penguins', 'SELECT key, b.* FROM birds b', NULL::text) r JOIN birds b USING (key)) x
		WHERE label IS DISTINCT FROM single OR prediction IS NOT NULL`))
	// Columns in any order, a part of them (the rest has defaults or may be missing), a key that is a feature, quoted names.
	require.Len(t, predicted(t, conn, "penguins", `SELECT year AS "the ""key""", * FROM birds LIMIT 7; `, "smallint"), 7)
	require.Len(t, predicted(t, conn, "penguins", "TABLE birds LIMIT 3 -- the end", "jsonb"), 3)
	require.Len(t, predicted(t, conn, "penguins", "WITH b AS (SELECT * FROM birds) SELECT key, b.* FROM b ORDER BY key LIMIT 3", "text"), 3)
}

func TestPredictRowsOfTexts(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	for _, folder := range folders(t) {
		if options(t, folder).Name == "tickets" {
			s.register(t, folder)
			// Rows of 20 bytes to 80 kB, 10 MB together: several parts.
			exec(t, conn, `CREATE TABLE mails AS SELECT n AS id, repeat('the parcel is lost ' || n || ' ', CASE WHEN n % 20 = 7 THEN 4000 ELSE 1 + n % 10 END) AS body
				FROM generate_series(1, 2500) n`)
			list := predicted(t, conn, "tickets", "SELECT id, body FROM mails ORDER BY id", "integer")
			require.Len(t, list, 2500)
			for i, r := range list {
				require.Equal(t, strconv.Itoa(i+1), r.Key)
			}
			require.Zero(t, one[int](t, conn, `SELECT count(*) FROM predict_rows('tickets', 'SELECT id, body FROM mails', NULL::integer) r JOIN mails m ON m.id = r.key
				WHERE r.label IS DISTINCT FROM predict_label('tickets', m.body) AND m.id % 20 = 0`))
			return
		}
	}
	t.Skip("../shared/models has the model of texts")
}

func TestPredictRowsSeesTheTransactionAndItsRights(t *testing.T) {
	s := start(t)
	admin := s.Conn(t)
	s.register(t, demo("diabetes"))
	f := features(t, "diabetes")
	plain, url := s.Role(t, "")
	conn := pgtest.Connect(t, url)
	exec(t, admin, fmt.Sprintf(`CREATE TABLE patients AS SELECT n AS id, 'rowcast_other'::name AS doctor, %s FROM generate_series(1, 10) n;
		UPDATE patients SET doctor = '%s' WHERE id <= 4; CREATE TABLE secrets AS TABLE patients;
		ALTER TABLE patients ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON patients USING (doctor = current_user);
		GRANT SELECT, INSERT ON patients TO %s`, f, plain, plain))
	const all = "SELECT id, p.* FROM patients p"
	const call = "SELECT count(*)::integer FROM predict_rows('diabetes', $1, NULL::integer)"
	refused(t, conn, "42501", call, all)
	refused(t, conn, "42501", call, "SELECT no such query") // before anything else
	for _, direct := range []string{
		"SELECT ml.predict_columns('diabetes', 1, '{}', '{}')", "SELECT ml.plan_rows('diabetes', '{k}', record_send(ROW(NULL::integer)), 'integer')", "SELECT predict_batch('diabetes', '{}')",
		"SELECT predict_batch('diabetes', '{{1}}')", "SELECT ml_private.call('B', 'diabetes', 's{}')",
	} {
		refused(t, conn, "42501", direct)
	}
	exec(t, admin, "SELECT ml.grant_model('diabetes', $1)", plain)
	require.Equal(t, 4, one[int](t, conn, call, all), "row security")
	refused(t, conn, "42501", call, "SELECT id, p.* FROM secrets p")
	refused(t, conn, "42501", call, "SELECT id, p.* FROM ml_private.route p")
	// Neither the query nor a function in it runs as the owner.
	require.Equal(t, plain, one[string](t, conn, "SELECT DISTINCT key FROM predict_rows('diabetes', $1, NULL::text)", "SELECT current_user::text, "+f))
	// A type with a cast to JSON of its own: the cast is the caller's code too.
	exec(t, admin, "CREATE SCHEMA theirs AUTHORIZATION "+plain)
	exec(t, conn, `CREATE TYPE theirs.odd AS ENUM ('x');
		CREATE FUNCTION theirs.odd_json(theirs.odd) RETURNS json LANGUAGE sql AS $$ SELECT to_json(CASE WHEN current_user = session_user THEN 0.02 END) $$;
		CREATE CAST (theirs.odd AS json) WITH FUNCTION theirs.odd_json(theirs.odd)`)
	require.Equal(t, 1, one[int](t, conn, call, "SELECT 1 AS id, "+strings.Replace(f, "0.02::double precision", "'x'::theirs.odd", 1)))
	refused(t, conn, "42601", call, all+") AS q; CREATE TABLE ml.evil (); SELECT * FROM (SELECT 1")

	ctx := context.Background()
	tx, err := conn.Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, fmt.Sprintf("INSERT INTO patients SELECT 11, current_user, %s", f))
	require.NoError(t, err)
	require.Equal(t, 5, one[int](t, conn, call, all), "uncommitted rows")
	require.NoError(t, tx.Rollback(ctx))
	require.Equal(t, 4, one[int](t, conn, call, all))
	exec(t, conn, "BEGIN READ ONLY")
	require.Equal(t, 4, one[int](t, conn, call, all))
	exec(t, conn, "COMMIT")
	refused(t, conn, "42601", call, "INSERT INTO patients SELECT * FROM patients RETURNING id")
}

func TestPredictRowsNamesWhatIsWrong(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	s.register(t, demo("diabetes"))
	s.register(t, demo("penguins"))
	f := features(t, "diabetes")
	const call = "SELECT count(*)::integer FROM predict_rows('diabetes', $1, NULL::integer)"
	first := options(t, demo("diabetes")).Features[0].Name
	bad := fmt.Sprintf("SELECT n AS id, q.*, CASE WHEN n = 17000 THEN NULL ELSE 0.1 END AS %s FROM generate_series(1, 20000) n, (SELECT %s) q", first,
		strings.Replace(f, `AS "`+first+`"`, "AS other", 1))
	e := refused(t, conn, "22004", call, bad)
	require.Contains(t, e.Message, `row 17000 of the query, key '17000': model "diabetes" version 1: feature "`+first+`"`)
	require.NotEmpty(t, e.Hint)
	require.Equal(t, 3, one[int](t, conn, call, "SELECT n, "+f+" FROM generate_series(1, 3) n"), "the next call is its own")
	e = refused(t, conn, "22P02", call, strings.Replace(bad, "NULL ELSE 0.1 END", "'many' ELSE '0.1' END", 1))
	require.Contains(t, e.Message, "got the text")

	for _, query := range []string{"SELECT 1 AS id, 2 AS other", "SELECT 1 AS id, 2 AS other WHERE false"} {
		e = refused(t, conn, "22004", call, query)
		require.Contains(t, e.Message, "no column with the name of a feature", "also where there is no row")
	}
	require.Zero(t, one[int](t, conn, call, "SELECT 1, "+f+" WHERE false"))
	e = refused(t, conn, "42804", call, "SELECT")
	require.Contains(t, e.Message, "no column")
	refused(t, conn, "22004", call, nil)
	refused(t, conn, "42704", "SELECT * FROM predict_rows('diabetis', 'SELECT 1', NULL::integer)")
	refused(t, conn, "42P01", call, "SELECT * FROM nowhere")
	refused(t, conn, "42601", call, "SELEC 1")
	e = refused(t, conn, "22P02", call, "SELECT 1, 2 AS x, "+f+", "+f)
	require.Contains(t, e.Message, "given twice")
}

func TestPredictRowsInsideEachOther(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	s.register(t, demo("diabetes"))
	s.register(t, demo("penguins"))
	f := features(t, "diabetes")
	rows := func(n int) string { return fmt.Sprintf("SELECT n, %s FROM generate_series(1, %d) n", f, n) }
	exec(t, conn, "CREATE TABLE asked (q text)")
	exec(t, conn, "INSERT INTO asked VALUES ($1)", rows(20000))
	// Two in one query; one in the other's query, with single predictions between.
	require.Equal(t, 20000, one[int](t, conn, `SELECT count(*)::integer FROM predict_rows('diabetes', $1, NULL::integer) a
		JOIN predict_rows('diabetes@1', $1, NULL::integer) b ON a.key = b.key AND a.prediction = b.prediction`, rows(20000)))
	require.Equal(t, 20000, one[int](t, conn, `SELECT count(DISTINCT key)::integer FROM predict_rows('diabetes', $1, NULL::integer)`,
		"SELECT r.key, "+f+", predict('diabetes', x) FROM asked, (SELECT "+f+") x, predict_rows('diabetes', q, NULL::integer) r"))
	require.Equal(t, 30, one[int](t, conn, `SELECT count(*)::integer FROM generate_series(8, 12, 2) n, LATERAL predict_rows('diabetes',
		replace($1, '20000', n::text), NULL::integer)`, rows(20000)))
	// INSERT ... SELECT, in sets and row by row.
	exec(t, conn, "CREATE TABLE source AS "+rows(12000)+"; CREATE TABLE scores (id integer, score double precision)")
	exec(t, conn, "INSERT INTO scores SELECT key, prediction FROM predict_rows('diabetes', 'TABLE source', NULL::integer)")
	exec(t, conn, "INSERT INTO scores SELECT n, predict('diabetes', s) FROM source s WHERE n <= 500")
	require.Equal(t, 500, one[int](t, conn, "SELECT count(*)::integer FROM (SELECT id FROM scores GROUP BY id, score HAVING count(*) = 2) x"))
	// In a function of somebody else's, and after an error that was caught.
	exec(t, conn, `CREATE FUNCTION caught() RETURNS integer LANGUAGE plpgsql AS $$ BEGIN
		BEGIN PERFORM * FROM predict_rows('diabetes', 'SELECT 1 AS n, 2 AS x', NULL::integer); EXCEPTION WHEN null_value_not_allowed THEN NULL; END;
		RETURN (SELECT count(*) FROM predict_rows('diabetes', 'TABLE source', NULL::integer)); END $$`)
	require.Equal(t, 12000, one[int](t, conn, "SELECT caught()"))
	plan := one[string](t, conn, "EXPLAIN (FORMAT JSON) SELECT * FROM predict_rows('diabetes', 'TABLE source', NULL::integer)")
	var tree []struct{ Plan map[string]any }
	require.NoError(t, json.Unmarshal([]byte(plan), &tree))
	require.Greater(t, tree[0].Plan["Total Cost"], 2000.0)
}

func TestAnInterruptedPredictRowsPoisonsNothing(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	s.register(t, demo("diabetes"))
	f := features(t, "diabetes")
	endless := "SELECT n, " + f + " FROM generate_series(1, 2000000000) n"
	const call = "SELECT count(*)::integer FROM predict_rows('diabetes', $1, NULL::integer)"
	for range 5 {
		exec(t, conn, "SET statement_timeout = '150ms'")
		refused(t, conn, "57014", call, endless)
		exec(t, conn, "RESET statement_timeout")
		require.Equal(t, 9000, one[int](t, conn, call, "SELECT n, "+f+" FROM generate_series(1, 9000) n"))
	}
	// ctrl-C, once it runs.
	watcher, pid := s.Conn(t), int(conn.PgConn().PID())
	done := make(chan error)
	go func() {
		_, err := watcher.Exec(context.Background(), `DO $$ BEGIN
			WHILE NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = `+strconv.Itoa(pid)+` AND state = 'active' AND query LIKE '%predict_rows%') LOOP
				PERFORM pg_sleep(0.05), pg_stat_clear_snapshot();
			END LOOP;
			PERFORM pg_sleep(0.1), pg_cancel_backend(`+strconv.Itoa(pid)+`); END $$`)
		done <- err
	}()
	refused(t, conn, "57014", call, endless)
	require.NoError(t, <-done)
	require.Equal(t, 9000, one[int](t, conn, call, "SELECT n, "+f+" FROM generate_series(1, 9000) n"))
}

func TestPredictBatch(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	s.register(t, demo("diabetes"))
	s.register(t, demo("iris_v2"), "iris")
	o := options(t, demo("diabetes"))
	width := len(o.Features)
	data := load(t, conn, "patients", demo("diabetes")+"/data.csv", nil)
	var names []string
	for _, f := range o.Features {
		names = append(names, f.Name+"::float8")
	}
	row := "ARRAY[" + strings.Join(names, ", ") + "]"
	exec(t, conn, "CREATE TABLE rows AS SELECT row_number() OVER () AS n, "+row+" AS f FROM patients")
	require.True(t, one[bool](t, conn, "SELECT predict_batch('diabetes', array_agg(f ORDER BY n)) = array_agg(predict('diabetes', f) ORDER BY n) FROM rows"))
	// More than a call takes: the same rows again and again, split and put together.
	times := 262144/(width*len(data.rows)) + 3
	require.True(t, one[bool](t, conn, `SELECT predict_batch('diabetes', a) = (SELECT array_agg(p ORDER BY i, n) FROM generate_series(1, $1) i, (SELECT n, predict('diabetes', f) p FROM rows) x)
		FROM (SELECT array_agg(f ORDER BY i, n) a FROM rows, generate_series(1, $1) i) y`, times))
	require.Equal(t, []float64{}, one[[]float64](t, conn, "SELECT predict_batch('diabetes', '{}')"))
	require.Nil(t, one[*[]float64](t, conn, "SELECT predict_batch('diabetes', NULL)"))

	e := refused(t, conn, "2202E", "SELECT predict_batch('diabetes', (SELECT f FROM rows LIMIT 1))")
	require.Contains(t, e.Message, "two-dimensional array")
	require.Contains(t, e.Hint, "predict for a single row")
	refused(t, conn, "2202E", "SELECT predict_batch('diabetes', ARRAY[ARRAY[(SELECT f FROM rows LIMIT 1)]])")
	e = refused(t, conn, "22023", "SELECT predict_batch('diabetes', '{{1,2},{3,4}}')")
	require.Contains(t, e.Message, "features, got 2")
	e = refused(t, conn, "22004", "SELECT predict_batch('diabetes', array_agg(CASE WHEN n = 3 THEN f[:"+strconv.Itoa(width-1)+"] || NULL::float8 ELSE f END ORDER BY n)) FROM rows")
	require.Contains(t, e.Message, `row 3: model "diabetes" version 1: feature "`+o.Features[width-1].Name+`"`)
	e = refused(t, conn, "22003", `SELECT predict_batch('diabetes', array_agg(CASE WHEN n = 30001 THEN array_fill('Infinity'::float8, ARRAY[$1::integer]) ELSE f END ORDER BY n))
		FROM (SELECT row_number() OVER () AS n, f FROM rows, generate_series(1, 100)) x`, width)
	require.Contains(t, e.Message, "row 30001: ")
	e = refused(t, conn, "42804", "SELECT predict_batch('iris', '{{5.1,3.5,1.4,0.2}}')")
	require.Contains(t, e.Message, "text labels")
	require.Greater(t, one[float64](t, conn, "SELECT procost::float8 FROM pg_proc WHERE oid = 'predict_batch(text, double precision[])'::regprocedure"), 999.0)
}

// highWater is the most memory in kB that a process of this machine has had resident.
func highWater(t testing.TB, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			require.NoError(t, err)
			return n
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

func TestPredictRowsKeepsMemoryFlat(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	rows := func(n int) {
		t.Helper()
		require.Equal(t, n, one[int](t, conn, "SELECT count(label)::integer FROM predict_rows('iris', $1, NULL::bigint)", fmt.Sprintf(`
			WITH RECURSIVE n AS (SELECT 1::bigint AS n UNION ALL SELECT n + 1 FROM n WHERE n < %d)
			SELECT n, 5.1 AS sepal_length, n %% 10 AS sepal_width, 1.4::real AS petal_length, 0.2::float8 AS petal_width FROM n`, n)))
	}
	backend := int(conn.PgConn().PID())
	rows(100_000)
	backendBefore, sidecarBefore := highWater(t, backend), highWater(t, os.Getpid())
	rows(2_000_000)
	require.Less(t, highWater(t, backend)-backendBefore, 20_000, "kB")
	require.Less(t, highWater(t, os.Getpid())-sidecarBefore, 50_000, "kB")
}
