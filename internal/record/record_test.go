package record

import (
	"context"
	"crypto/sha256"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/postgres/pgtest"
	"github.com/rowcast/rowcast/internal/rowcast"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func prediction(label string) *rowcast.Prediction {
	return &rowcast.Prediction{
		Request: &rowcast.LogRequest{ModelID: 7, Reference: "churn@3", Caller: "ünal \"x\"", Inputs: true},
		Version: 3, At: time.Now(), Latency: 1500 * time.Microsecond,
		Observation: rowcast.Observation{Inputs: []byte(`{"a": 1}`), InputHash: sha256.Sum256([]byte(`{"a": 1}`)), Label: label, HasLabel: true},
	}
}

// counter reads one of the recorder's counters.
func counter(t *testing.T, c prometheus.Counter) float64 {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	require.NoError(t, reg.Register(c))
	families, err := reg.Gather()
	require.NoError(t, err)
	require.Len(t, families, 1)
	return families[0].GetMetric()[0].GetCounter().GetValue()
}

func count(t *testing.T, conn *pgx.Conn, where string) (n int) {
	t.Helper()
	require.NoError(t, conn.QueryRow(context.Background(), "SELECT count(*) FROM ml_private.prediction WHERE "+where).Scan(&n))
	return n
}

func TestRowsArriveAsTheyWere(t *testing.T) {
	d := pgtest.New(t)
	conn := d.Conn(t)
	r := New(Options{Pool: d.Pool(t)})
	r.Start(t.Context())
	full := prediction("yes")
	full.SHA256, full.Key, full.HasKey = sha256.Sum256([]byte("model")), "4711", true
	full.Value, full.HasValue = math.Inf(-1), true
	full.Probability, full.Probabilities = 0.25, []float64{0.25, math.NaN(), 0.75}
	full.Outputs, full.Request.Entry = []byte(`{"y": [1]}`), 42
	require.NoError(t, r.Record(t.Context(), full))
	bare := prediction("")
	bare.HasLabel, bare.Request.Inputs = false, false
	require.NoError(t, r.Record(t.Context(), bare))
	require.NoError(t, r.Stop(t.Context()))
	require.Equal(t, 1, count(t, conn, `model_id = 7 AND version = 3 AND sha256 = sha256('model') AND reference = 'churn@3' AND entry = 42 AND caller = 'ünal "x"' AND key = '4711'
		AND input_hash = sha256(convert_to(inputs::text, 'UTF8')) AND inputs = '{"a": 1}' AND value = '-Infinity' AND label = 'yes' AND probability = 0.25
		AND probabilities = '{0.25,NaN,0.75}' AND outputs = '{"y": [1]}' AND latency_ms = 1.5 AND abs(extract(epoch FROM now() - at)) < 60`))
	require.Equal(t, 1, count(t, conn, `entry IS NULL AND key IS NULL AND inputs IS NULL AND value IS NULL AND label IS NULL AND probability IS NULL AND probabilities IS NULL
		AND outputs IS NULL AND input_hash = sha256('{"a": 1}')`))
	require.Equal(t, 2, count(t, conn, "true"))
}

// Where the connection breaks during COMMIT, nobody knows whether it took place, and the batch is written again.
func TestABatchThatWasCommittedIsNotWrittenAgain(t *testing.T) {
	d := pgtest.New(t)
	r := New(Options{Pool: d.Pool(t)})
	r.number = 1
	b := &batch{}
	for range 3 {
		b.data = appendRow(b.data, prediction("x"))
		b.ends = append(b.ends, len(b.data))
	}
	require.NoError(t, r.try(t.Context(), b))
	require.NoError(t, r.try(t.Context(), b))
	require.Equal(t, 3, count(t, d.Conn(t), "true"))
	r.number = 2
	require.NoError(t, r.try(t.Context(), b))
	require.Equal(t, 6, count(t, d.Conn(t), "true"))
}

func TestARowThatPostgreSQLRefusesStopsNoOther(t *testing.T) {
	d := pgtest.New(t)
	r := New(Options{Pool: d.Pool(t), Interval: time.Minute})
	r.Start(t.Context())
	for i := range 20 {
		label := "good"
		if i == 3 || i == 11 {
			label = "bad\xff"
		}
		require.NoError(t, r.Record(t.Context(), prediction(label)))
	}
	require.NoError(t, r.Stop(t.Context()))
	require.Equal(t, 18, count(t, d.Conn(t), "label = 'good'"))
	require.Equal(t, 2.0, counter(t, r.o.Metrics.Refused))
	require.Equal(t, 18.0, counter(t, r.o.Metrics.Written))
}

func TestAFullQueueWaitsUntilTheContextEnds(t *testing.T) {
	d := pgtest.New(t)
	conn := d.Conn(t)
	_, err := conn.Exec(t.Context(), "BEGIN; LOCK TABLE ml_private.recorder")
	require.NoError(t, err)
	r := New(Options{Pool: d.Pool(t), Rows: 5})
	r.Start(t.Context())
	for range 5 {
		require.NoError(t, r.Record(t.Context(), prediction("x")))
	}
	tooLate := errors.New("too late")
	ctx, cancel := context.WithCancelCause(t.Context())
	failed := make(chan error, 1)
	go func() { failed <- r.Record(ctx, prediction("not answered")) }()
	require.Eventually(t, func() bool { return counter(t, r.o.Metrics.Waits) == 1 }, 10*time.Second, time.Millisecond)
	cancel(tooLate)
	require.ErrorIs(t, <-failed, tooLate)

	// A stop that cannot write says what is lost.
	gone, giveUp := context.WithCancel(t.Context())
	giveUp()
	require.ErrorContains(t, r.Stop(gone), "5 logged predictions could not be written and are lost")
	require.Error(t, r.Record(t.Context(), prediction("x")))
	_, err = conn.Exec(t.Context(), "ROLLBACK")
	require.NoError(t, err)
	require.Zero(t, count(t, conn, "true"))
}
