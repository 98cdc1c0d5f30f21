package pgtest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { Main(m) }

func TestEachTestGetsItsOwnDatabaseWithRowcast(t *testing.T) {
	one, two := New(t), New(t)
	require.NotEqual(t, one.Name, two.Name)
	one.Exec(t, "CREATE TABLE only_here ()")

	var path string
	var tables, here int
	err := two.Pool(t).QueryRow(context.Background(), `SELECT current_setting('search_path'),
		(SELECT count(*) FROM pg_class WHERE relname = 'only_here'), (SELECT count(*) FROM ml.models)`).Scan(&path, &tables, &here)
	require.NoError(t, err)
	require.Equal(t, `"$user", public, ml`, path)
	require.Zero(t, tables)
	require.Zero(t, here)
}

func TestRoleLogsInWithoutRights(t *testing.T) {
	db := New(t)
	name, url := db.Role(t, "")
	conn := Connect(t, url)
	var user string
	require.NoError(t, conn.QueryRow(context.Background(), "SELECT current_user::text").Scan(&user))
	require.Equal(t, name, user)
	_, err := conn.Exec(context.Background(), "SELECT * FROM ml_private.gateway")
	require.ErrorContains(t, err, "42501")
}

func TestCopyIsFast(t *testing.T) {
	New(t)
	began := time.Now()
	New(t)
	t.Logf("a copy takes %s", time.Since(began))
}
