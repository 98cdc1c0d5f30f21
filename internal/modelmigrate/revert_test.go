package modelmigrate_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/postgres/pgtest"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// Everything that the SQL API does to models, taken up, down step by step, to every version and up again.
func TestDownRestoresTheRegistryBitForBit(t *testing.T) {
	s := serve(t)
	conn := s.Conn(t)
	role, _ := s.Role(t, "")
	dir := t.TempDir()
	// Something was there before.
	file, err := os.ReadFile(demo("diabetes"))
	require.NoError(t, err)
	execute(t, conn, "SELECT ml.register_model('diabetes', $1)", file)
	execute(t, conn, "SELECT ml.grant_model('diabetes', 'public'), ml.set_alias('diabetes', 'challenger', 1), ml.drop_alias('diabetes', 'challenger')")

	add(t, dir, "iris", demo("iris"), "iris")
	add(t, dir, "iris_v2", demo("iris_v2"), "iris", promoted)
	write(t, dir, "rights", fmt.Sprintf("SELECT ml.grant_model('iris', '%s'), ml.grant_model('iris', 'public'), ml.set_alias('iris', 'old', 1)", role),
		"SELECT ml.revoke_model('diabetes', 'public')")
	write(t, dir, "moves", "SELECT ml.rollback('iris')", "SELECT ml.promote('iris', 2)", "SELECT ml.drop_alias('iris', 'old')",
		"SELECT ml.set_alias('iris', 'old', 2)", "SELECT ml.set_alias('iris', 'old', 1)", "SELECT ml.set_alias('iris', 'old', 2)")
	write(t, dir, "drop_first", "SELECT ml.drop_version('iris', 1)")
	penguins, err := os.ReadFile(demo("penguins"))
	require.NoError(t, err)
	write(t, dir, "inline", fmt.Sprintf(`SELECT ml.register_model('penguins', '\x%x'::bytea)`, penguins), "SELECT ml.release_version('penguins', 1)")
	write(t, dir, "drop_models", "SELECT ml.drop_model('iris')", "SELECT ml.drop_model('diabetes')", "SELECT ml.drop_model('penguins')")

	const steps = 7
	images := []map[string]string{image(t, conn, true)}
	for i := range steps {
		report := s.up(t, dir, 1)
		require.Equal(t, i+1, report.To)
		images = append(images, image(t, conn, true))
		require.NotEqual(t, images[i], images[i+1])
	}
	require.Empty(t, images[steps]["model"])
	for i := steps - 1; i >= 0; i-- {
		s.down(t, dir, 1)
		same(t, images[i], image(t, conn, true), "down to %d", i)
		if i == 2 {
			require.Equal(t, "setosa", one[string](t, s.Conn(t), "SELECT predict_label('iris@1', ARRAY[5.1, 3.5, 1.4, 0.2])"), "bytes of a dropped version are back")
		}
	}
	// Up again: everything but points in time is the same, ids and numbers too.
	untimed := make([]map[string]string, steps+1)
	for i := range steps {
		s.up(t, dir, 1)
		untimed[i+1] = image(t, conn, false)
	}
	s.down(t, dir, -1)
	same(t, images[0], image(t, conn, true), "down to nothing")
	for _, to := range []int{7, 2, 5, 3, 6, 1, 4, 7} {
		_, err := s.runner(t, dir).Goto(context.Background(), to)
		require.NoError(t, err)
		same(t, untimed[to], image(t, conn, false), "goto %d", to)
	}
	s.down(t, dir, -1)
	same(t, images[0], image(t, conn, true), "down to nothing")
}

func TestWhatCannotBeTakenBackIsRefusedWithTheReason(t *testing.T) {
	s := serve(t)
	conn := s.Conn(t)
	dir := t.TempDir()
	add(t, dir, "iris", demo("iris"), "iris")
	add(t, dir, "iris_v2", demo("iris_v2"), "iris", promoted)
	s.up(t, dir, -1)
	cases := map[string]struct{ since, state, message, hint string }{
		"another version": {
			since: "SELECT ml.register_artifact('iris', (SELECT sha256 FROM ml.versions WHERE model = 'iris' AND version = 1))",
			state: "55000", message: `model "iris" was changed since`,
		},
		"the alias was moved": {
			since: "SELECT ml.promote('iris', 1)", state: "55000", message: `alias "champion" of model "iris" was changed since`,
		},
		"another alias": {
			since: "SELECT ml.set_alias('iris', 'canary', 2)", state: "2BP01", message: `version 2 of model "iris" has an alias that was set since`,
		},
		"another alias, gone": {
			since: "SELECT ml.set_alias('iris', 'canary', 2), ml.set_alias('iris', 'canary', 1)",
			state: "2BP01", message: `version 2 of model "iris" is in the history of an alias that was set since`,
		},
		"the version was dropped": {
			since: "SELECT ml.rollback('iris'), ml.drop_version('iris', 2)", state: "55000", message: `alias "champion" of model "iris" was changed since`,
		},
		"the model was dropped": {
			since: "SELECT ml.drop_model('iris')", state: "55000", message: `alias "champion" of model "iris" was removed since`,
		},
		"a change rests on it": {
			since: "SELECT ml.begin_change('later'), ml.set_alias('iris', 'champion', 1)", state: "55000",
			message: `alias "champion" of model "iris" was changed since`, hint: `Revert the change "later" first.`,
		},
		"a prediction names it": {
			since: `CREATE TABLE ml_private.prediction_test (model_id bigint, version integer, answer text);
				INSERT INTO ml_private.prediction_test SELECT model_id, version FROM ml_private.version WHERE version = 2`,
			state: "2BP01", message: `version 2 of model "iris" is named by stored predictions`,
		},
		"a prediction was chosen through it": {
			since: `CREATE TABLE ml_private.prediction_test (entry bigint, at timestamptz);
				INSERT INTO ml_private.prediction_test SELECT entry, now() FROM ml_private.alias`,
			state: "2BP01", message: `the history of alias "champion" of model "iris" is named by stored predictions`,
		},
		"a job names it": {
			since: `CREATE TABLE ml_private.job_test (id bigint PRIMARY KEY, version_id bigint REFERENCES ml_private.version);
				INSERT INTO ml_private.job_test SELECT 1, id FROM ml_private.version WHERE version = 2`,
			state: "2BP01", message: `version 2 of model "iris" is named by a scoring job`,
		},
	}
	before := image(t, conn, true)
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			// All in one transaction that is rolled back.
			tx, err := conn.Begin(context.Background())
			require.NoError(t, err)
			defer func() { _ = tx.Rollback(context.Background()) }()
			execute(t, conn, c.since)
			e := refused(t, conn, c.state, "SELECT ml.revert_change('000002_iris_v2')")
			require.Equal(t, `change "000002_iris_v2" cannot be reverted: `+c.message, e.Message, e.Detail)
			require.NotEmpty(t, e.Hint)
			if c.hint != "" {
				require.Equal(t, c.hint, e.Hint)
			}
		})
	}
	execute(t, conn, "SELECT ml.set_alias('iris', 'canary', 2)")
	_, err := s.runner(t, dir).Down(context.Background(), 1)
	var e *rowcast.Error
	require.ErrorAs(t, err, &e)
	require.Contains(t, e.Message, "000002_iris_v2.down.sql:2: change \"000002_iris_v2\" cannot be reverted")
	version, dirty, err := s.runner(t, dir).Version(context.Background())
	require.NoError(t, err)
	require.Equal(t, 2, version)
	require.False(t, dirty)
	require.NotEqual(t, before, image(t, conn, true), "the alias of above")
	refused(t, conn, "42704", "SELECT ml.revert_change('nothing')")
	refused(t, conn, "42710", "SELECT ml.begin_change('000001_iris')")
}

// Ids that others have taken meanwhile stay theirs.
func TestARevertLeavesNumbersThatOthersHaveTaken(t *testing.T) {
	s := serve(t)
	conn := s.Conn(t)
	dir := t.TempDir()
	add(t, dir, "iris", demo("iris"), "iris")
	s.up(t, dir, -1)
	file, err := os.ReadFile(demo("diabetes"))
	require.NoError(t, err)
	execute(t, conn, "SELECT ml.register_model('diabetes', $1)", file)
	s.down(t, dir, 1)
	require.Equal(t, "diabetes", one[string](t, conn, "SELECT string_agg(model, ',') FROM ml.models"))
	execute(t, conn, "SELECT ml.register_model('third', $1)", file)
	require.Equal(t, "2,3", one[string](t, conn, "SELECT string_agg(id::text, ',' ORDER BY id) FROM ml_private.model"))
	s.up(t, dir, -1)
	s.down(t, dir, -1)
	execute(t, conn, "SELECT ml.register_model('fourth', $1)", file)
	require.Equal(t, "2,3,4", one[string](t, conn, "SELECT string_agg(id::text, ',' ORDER BY id) FROM ml_private.model"))
}

// The journal gives nobody a right that he lacks.
func TestWhoMayBeginAndRevert(t *testing.T) {
	s := serve(t)
	root := s.Conn(t)
	admin, adminURL := s.Role(t, "")
	execute(t, root, "GRANT ml_admin TO "+admin)
	owner, ownerURL := s.Role(t, "")
	_, plainURL := s.Role(t, "")
	file, err := os.ReadFile(demo("iris"))
	require.NoError(t, err)
	execute(t, root, "SELECT ml.register_model('mine', $1), ml.register_model('theirs', $1)", file)
	execute(t, root, "UPDATE ml_private.model SET owner = $1::text::regrole WHERE name = 'mine'", owner)

	plain, asOwner, asAdmin := pgtest.Connect(t, plainURL), pgtest.Connect(t, ownerURL), pgtest.Connect(t, adminURL)
	refused(t, plain, "42501", "SELECT ml.begin_change('x')")
	refused(t, plain, "42501", "SELECT * FROM ml_private.change")
	refused(t, plain, "42501", "SELECT ml_private.rewind('model', 'id', 1, false)")
	refused(t, plain, "42501", "INSERT INTO ml.model_migrations VALUES (9, false)")
	execute(t, plain, `SELECT ml.rewind('[{"relation": "model", "attribute": "id", "last_value": 1, "is_called": false}]')`)
	require.Equal(t, "[]", one[string](t, plain, "SELECT ml.numbers()::text"))

	change := func(conn *pgx.Conn, name, sql string) {
		tx, err := conn.Begin(context.Background())
		require.NoError(t, err)
		execute(t, conn, "SELECT ml.begin_change($1)", name)
		execute(t, conn, sql)
		require.NoError(t, tx.Commit(context.Background()))
	}
	change(asOwner, "own", "SELECT ml.set_alias('mine', 'a', 1)")
	change(asAdmin, "both", "SELECT ml.set_alias('mine', 'b', 1), ml.set_alias('theirs', 'b', 1)")
	require.Equal(t, "own", one[string](t, asOwner, "SELECT string_agg(name, ',') FROM ml.changes"))
	require.Equal(t, int64(0), one[int64](t, plain, "SELECT count(*) FROM ml.changes"))
	refused(t, plain, "42501", "SELECT ml.revert_change('own')")
	refused(t, plain, "42501", "SELECT * FROM ml.change_rows('own')")
	refused(t, asOwner, "42501", "SELECT ml.revert_change('both')")
	refused(t, asOwner, "42501", "SELECT ml.forget_change('both')")

	// A change of a model that was taken from its owner.
	execute(t, root, "UPDATE ml_private.model SET owner = quote_ident(current_user)::regrole WHERE name = 'mine'")
	refused(t, asOwner, "42501", "SELECT ml.revert_change('own')")
	execute(t, asAdmin, "SELECT ml.revert_change('both'), ml.revert_change('own')")
	require.Equal(t, int64(2), one[int64](t, root, "SELECT count(*) FROM ml.aliases"))

	// Only the transaction that began a change is journaled.
	change(asAdmin, "one", "SELECT ml.set_alias('theirs', 'c', 1)")
	execute(t, asAdmin, "SELECT ml.set_alias('theirs', 'd', 1)")
	require.Equal(t, int64(2), one[int64](t, asAdmin, "SELECT rows FROM ml.changes"))
	execute(t, asAdmin, "SELECT ml.forget_change('one')")
	require.Equal(t, int64(0), one[int64](t, root, "SELECT count(*) FROM ml_private.change_row"))
}

// What a cascade deletes must be journaled too, or a revert could not bring it back: a new table that hangs on the registry shows up here.
func TestEveryTableThatACascadeReachesIsJournaledOrDerived(t *testing.T) {
	conn := pgtest.New(t).Conn(t)
	// Jobs are no part of the registry: one that was started names a version, and holds it. Whose they are is journaled by a trigger of its own.
	derived := []string{"route", "artifact_chunk", "change_row", "change_sequence", "change_artifact", "job", "job_chunk"}
	require.Equal(t, "", one[string](t, conn, `
		SELECT coalesce(string_agg(DISTINCT c.conrelid::regclass::text, ', '), '')
		FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid
		WHERE c.contype = 'f' AND c.confdeltype IN ('c', 'n', 'd') AND t.relnamespace = 'ml_private'::regnamespace AND t.relname <> ALL ($1)
			AND NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = t.oid AND g.tgname = 'rowcast_journal')`, derived))
}
