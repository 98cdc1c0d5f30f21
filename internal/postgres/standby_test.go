package postgres

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

func TestStandbyFollowsAndOnlyReads(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	primary := startCluster(t, ClusterOptions{Settings: map[string]string{"max_connections": "120"}})
	conn, err := pgx.Connect(ctx, primary.URL("postgres"))
	require.NoError(t, err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "CREATE TABLE t AS SELECT 1 AS n")
	require.NoError(t, err)

	standby, err := primary.StartStandby(ctx)
	require.NoError(t, err, detail(err))
	t.Cleanup(func() { require.NoError(t, standby.Stop(context.Background())) })
	_, err = conn.Exec(ctx, "INSERT INTO t VALUES (2)")
	require.NoError(t, err)
	require.NoError(t, standby.CatchUp(ctx, primary))

	require.Equal(t, "true 2", query(t, standby.URL("postgres"), "SELECT concat_ws(' ', pg_is_in_recovery()::text, (SELECT count(*) FROM t))"))
	reader, err := pgx.Connect(ctx, standby.TCPURL("postgres"))
	require.NoError(t, err)
	defer reader.Close(ctx)
	require.ErrorContains(t, Preflight(ctx, reader), "this server is a standby and only reads")
}
