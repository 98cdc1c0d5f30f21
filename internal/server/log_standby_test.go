package server_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPredictionsOnAStandbyAreLoggedOnThePrimary(t *testing.T) {
	r := startReplica(t)
	primary := r.Conn(t)
	exec(t, primary, "SELECT ml.set_log_policy('iris', 'all'), ml.set_log_policy('diabetes', 'transactional')")
	r.catchUp()
	conn := r.standby.Conn(t)
	require.Equal(t, 1, one[int](t, conn, irisVersion))
	logged(t, primary, "iris", 1)
	r.catchUp()
	require.Equal(t, 1, one[int](t, conn, "SELECT count(*) FROM ml.predictions WHERE model = 'iris'"))
	e := refused(t, conn, "25006", "SELECT predict('diabetes', '{0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1}')")
	require.Contains(t, e.Hint, "predict on the primary")

	// A sidecar that is connected to the standby cannot write, and says so, until the standby is promoted.
	require.NoError(t, r.worker.Stop(context.Background()))
	there := &sidecar{Database: r.standby, log: &syncBuffer{}}
	there.startProgram(t)
	e = refused(t, conn, "55000", irisVersion)
	require.Contains(t, e.Message, "only reads")
	require.Contains(t, e.Hint, "Connect the sidecar to the primary")
	exec(t, r.standby.Conn(t), "SELECT pg_promote()")
	require.Eventually(t, func() bool {
		var version int
		return conn.QueryRow(context.Background(), irisVersion).Scan(&version) == nil
	}, 30*time.Second, 100*time.Millisecond)
	logged(t, conn, "iris", 2)
}
