package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/rowcast"
)

func TestScalarRidesInTheTag(t *testing.T) {
	_, _, dir := start(t, nil)
	c := connect(t, dir)
	require.Equal(t, "=1.25", c.tag(predict("echo 1.25")))
	require.Equal(t, "=", c.tag("N"))
	require.Equal(t, "=Ärger 漢字", c.tag("l "+spec+" churn@3 - techo Ärger 漢字"))
	fits := strings.Repeat("x", 62)
	require.Equal(t, "="+fits, c.tag(predict("echo "+fits)))
}

func TestLongScalarIsFetched(t *testing.T) {
	_, _, dir := start(t, nil)
	c := connect(t, dir)
	long := strings.Repeat("x", 63)
	require.Equal(t, "~", c.tag(predict("echo "+long)))
	status, value := c.row("F")
	require.Equal(t, "=", status)
	require.Equal(t, long, value)
	status, _ = c.row("F")
	require.Equal(t, "!", status, "a value is fetched once")
	require.Equal(t, "08P01", c.stored().Code)
}

func TestRows(t *testing.T) {
	_, _, dir := start(t, nil)
	c := connect(t, dir)
	big := strings.Repeat("0.25,", 100_000)
	for _, v := range []string{"P", "j", "i"} {
		status, value := c.row(v + " " + spec + " churn@3 - jecho " + big)
		require.Equal(t, "=", status)
		require.Equal(t, big, value)
	}
	status, _ := c.row("P " + spec + " churn@3 - brefuse")
	require.Equal(t, "!", status)
	require.Equal(t, "22003", c.stored().Code)
}

func TestErrorIsStoredThenRaised(t *testing.T) {
	_, _, dir := start(t, nil)
	c := connect(t, dir)
	require.Equal(t, "!", c.tag(predict("refuse")))
	e := c.stored()
	require.Equal(t, "22003", e.Code)
	require.Equal(t, `model "churn": feature "age" is infinite`, e.Message)
	require.Equal(t, "a detail", e.Detail)
	require.Equal(t, "a hint", e.Hint)
	require.Equal(t, "08P01", c.stored().Code, "an error is raised once")

	require.Equal(t, "!", c.tag(predict("refuse")))
	require.Equal(t, "=2", c.tag(predict("echo 2")))
	require.Equal(t, "08P01", c.stored().Code, "the next call forgets the error of the last")
}

func TestForeignErrorsAndPanicsAreInternal(t *testing.T) {
	_, _, dir := start(t, nil)
	c := connect(t, dir)
	require.Equal(t, "!", c.tag(predict("error")))
	e := c.stored()
	require.Equal(t, "58000", e.Code)
	require.Equal(t, "some library's error", e.Detail)
	require.Equal(t, "!", c.tag(predict("panic")))
	require.Equal(t, "58000", c.stored().Code)
	require.Equal(t, "=3", c.tag(predict("echo 3")), "the connection and the sidecar go on")
}

func TestAnswersThatPostgreSQLCannotTakeAreErrors(t *testing.T) {
	require.False(t, presentable([]byte("a\xff")))
	require.False(t, presentable([]byte("a\x00")))
	_, _, dir := start(t, nil)
	c := connect(t, dir)
	require.Equal(t, "!", c.tag(predict("echo a\xff")))
	require.Equal(t, "22000", c.stored().Code)
}

func TestOnlySealedCallsAreTaken(t *testing.T) {
	_, _, dir := start(t, nil)
	c := connect(t, dir)
	for _, query := range []string{
		"SELECT 1", seal([]byte("another key, as long as the real"), predict("echo 1")), strings.ToUpper(seal(secret.Key, "N")), " " + seal(secret.Key, "N"),
		seal(secret.Key, "N")[:33], strings.Repeat("0", 32) + " N", "SET client_encoding_x = 'UTF8'",
	} {
		_, err := c.try(query)
		var e *pgconn.PgError
		require.ErrorAs(t, err, &e, query)
		require.Equal(t, "28000", e.Code, query)
		require.Equal(t, "this connection takes calls of Rowcast's functions only", e.Message)
	}
	for query, tag := range map[string]string{
		"": "", " ;": "", "set client_encoding to 'UTF8'": "SET", "SET client_encoding = utf8;": "SET", "SET client_encoding TO 'unicode'": "SET",
	} {
		got, err := c.try(query)
		require.NoError(t, err, query)
		require.Equal(t, tag, got, query)
	}
	for _, query := range []string{"DISCARD ALL", "RESET ALL", "SET client_encoding TO 'LATIN1'", "begin"} {
		_, err := c.try(query)
		var e *pgconn.PgError
		require.ErrorAs(t, err, &e, query)
		require.Equal(t, "0A000", e.Code, query)
	}
	require.Equal(t, "=1", c.tag(predict("echo 1")))
}

func TestExtendedProtocolIsRefusedAndTheConnectionGoesOn(t *testing.T) {
	_, _, dir := start(t, nil)
	c := connect(t, dir)
	result := c.conn.ExecParams(context.Background(), "SELECT $1", [][]byte{[]byte("1")}, nil, nil, nil).Read()
	var e *pgconn.PgError
	require.ErrorAs(t, result.Err, &e)
	require.Equal(t, "0A000", e.Code)
	require.Equal(t, "=1", c.tag(predict("echo 1")))
}

func TestMalformedCallsSayThatVersionsDiffer(t *testing.T) {
	_, _, dir := start(t, nil)
	c := connect(t, dir)
	require.Equal(t, "!", c.tag("p "+spec+" churn 5 b"))
	e := c.stored()
	require.Equal(t, "08P01", e.Code)
	require.Contains(t, e.Hint, "rowcast migrate up")
	_, err := c.try(seal(secret.Key, "Z"))
	require.ErrorAs(t, err, &e)
	require.Equal(t, "08P01", e.Code)
}

func TestLongCallsArePending(t *testing.T) {
	_, _, dir := start(t, nil)
	c := connect(t, dir)
	before := time.Now()
	require.Equal(t, ".", c.tag(predict("sleep 350ms")))
	require.Less(t, time.Since(before), 300*time.Millisecond)
	waits := 0
	answer := "."
	for ; answer == "."; waits++ {
		answer = c.tag("W")
	}
	require.Equal(t, "=slept 350ms", answer)
	require.GreaterOrEqual(t, waits, 2)

	status, _ := c.row("P " + spec + " churn@3 - tsleep 150ms")
	require.Equal(t, ".", status)
	value := ""
	for status == "." {
		status, value = c.row("W")
	}
	require.Equal(t, "=", status)
	require.Equal(t, "slept 150ms", value)
	require.Equal(t, "=4", c.tag(predict("echo 4")))
}

func TestWaitWithoutAPendingCall(t *testing.T) {
	_, _, dir := start(t, nil)
	c := connect(t, dir)
	require.Equal(t, "!", c.tag("W"))
	require.Equal(t, "08P01", c.stored().Code)
}

func TestAnotherCallCancelsThePendingOne(t *testing.T) {
	_, engine, dir := start(t, nil)
	c := connect(t, dir)
	require.Equal(t, ".", c.tag(predict("sleep 1m")))
	require.Equal(t, "=5", c.tag(predict("echo 5")), "a call never gets the answer of another")
	<-engine.ended
	require.ErrorContains(t, engine.lastCause(), "another call came on its connection")
	require.Equal(t, "!", c.tag("W"), "nor does W")
}

func TestForgottenPendingCallIsCancelled(t *testing.T) {
	_, engine, dir := start(t, nil)
	c := connect(t, dir)
	before := time.Now()
	require.Equal(t, ".", c.tag(predict("sleep 1m")))
	<-engine.ended
	require.InDelta(t, 2.5, time.Since(before).Seconds(), 0.6)
	require.Equal(t, "!", c.tag("W"))
	e := c.stored()
	require.Equal(t, "57014", e.Code)
	require.Contains(t, e.Message, "nobody waited for it for 2s")
}

func TestDeadlineNamesItselfAndTheModel(t *testing.T) {
	for timeout, text := range map[string]string{"40": "40ms", "300ms": "300ms", "0.001min": "60ms"} {
		t.Run(timeout, func(t *testing.T) {
			_, engine, dir := start(t, nil)
			c := connect(t, dir)
			before := time.Now()
			answer := c.tag(within(timeout, "sleep 1m"))
			for answer == "." {
				answer = c.tag("W")
			}
			require.Equal(t, "!", answer)
			require.Less(t, time.Since(before), time.Second)
			e := c.stored()
			require.Equal(t, "57014", e.Code)
			require.Equal(t, `model "churn@3": the call took longer than its deadline of `+text, e.Message)
			require.Contains(t, e.Hint, "rowcast.timeout")
			<-engine.ended
			require.ErrorIs(t, engine.lastCause(), context.DeadlineExceeded)
		})
	}
}

func TestBadTimeout(t *testing.T) {
	_, _, dir := start(t, nil)
	c := connect(t, dir)
	require.Equal(t, "!", c.tag(within("5parsec", "echo 1")))
	e := c.stored()
	require.Equal(t, "22023", e.Code)
	require.Contains(t, e.Message, "rowcast.timeout")
}

func TestHangUpCancelsTheCall(t *testing.T) {
	_, engine, dir := start(t, nil)
	for _, after := range []time.Duration{10 * time.Millisecond, 200 * time.Millisecond} {
		c := connect(t, dir)
		raw, err := c.conn.Hijack()
		require.NoError(t, err)
		raw.Frontend.SendQuery(query(seal(secret.Key, predict("sleep 1m"))))
		require.NoError(t, raw.Frontend.Flush())
		time.Sleep(after)
		before := time.Now()
		require.NoError(t, raw.Conn.Close())
		<-engine.ended
		require.Less(t, time.Since(before), 250*time.Millisecond)
		require.ErrorContains(t, engine.lastCause(), "its connection was closed")
	}
}

func TestCancelRequest(t *testing.T) {
	_, engine, dir := start(t, nil)
	c := connect(t, dir)
	require.Equal(t, ".", c.tag(predict("sleep 1m")))
	require.NoError(t, c.conn.CancelRequest(context.Background()))
	<-engine.ended
	require.Equal(t, "!", c.tag("W"))
	e := c.stored()
	require.Equal(t, "57014", e.Code)
	require.Contains(t, e.Message, "on request of the client")
}

func TestBusy(t *testing.T) {
	g, engine, dir := start(t, func(o *Options) { o.Concurrency, o.Queue = 1, 1 })
	first, second, third := connect(t, dir), connect(t, dir), connect(t, dir)
	require.Equal(t, ".", first.tag(predict("stubborn")))
	require.Equal(t, ".", second.tag(predict("echo 2")), "waits in the queue")
	require.Equal(t, "!", third.tag(predict("echo 3")))
	e := third.stored()
	require.Equal(t, "53400", e.Code)
	require.Contains(t, e.Message, "1 calls run and 1 wait")
	running, queued := g.slots.load()
	require.Equal(t, 1, running)
	require.Equal(t, 1, queued)
	close(engine.release)
	require.Equal(t, "=at last", first.tag("W"))
	require.Equal(t, "=2", second.tag("W"))
	require.Equal(t, "=3", third.tag(predict("echo 3")))
}

func TestStalledCallIsReportedOnce(t *testing.T) {
	stalled := make(chan string, 10)
	_, engine, dir := start(t, func(o *Options) { o.Stalled = func(spec string) { stalled <- spec } })
	c := connect(t, dir)
	require.Equal(t, ".", c.tag(within("150ms", "stubborn")))
	answer := "."
	for answer == "." {
		answer = c.tag("W")
	}
	require.Equal(t, "!", answer, "the caller does not wait for a call that ignores its deadline")
	require.Equal(t, "57014", c.stored().Code)
	require.Equal(t, spec, <-stalled)
	close(engine.release)
	time.Sleep(50 * time.Millisecond)
	require.Empty(t, stalled)
}

func TestUploads(t *testing.T) {
	g, _, dir := start(t, func(o *Options) { o.MaxUploadBytes = 1000 })
	c := connect(t, dir)
	require.Equal(t, "=2", c.tag("U a1 0102"))
	require.Equal(t, "=5", c.tag("U a1 030405"))
	status, value := c.row(`V a1 {"name": "x y"}`)
	require.Equal(t, "=", status)
	require.Equal(t, fmt.Sprintf(`{"sha256": "%x", "options": {"name": "x y"}}`, sha256.Sum256([]byte{1, 2, 3, 4, 5})), value)
	status, _ = c.row(`V a2 {}`)
	require.Equal(t, "!", status)
	require.Equal(t, "42704", c.stored().Code)
	require.Equal(t, "=1", c.tag("U a2 01"), "another name drops the upload before")
	require.EqualValues(t, 1, g.uploaded.Load())
	require.Equal(t, "!", c.tag("U a2 "+strings.Repeat("00", 1001)))
	require.Equal(t, "54000", c.stored().Code)
	require.Zero(t, g.uploaded.Load())
	require.Equal(t, "!", c.tag("U a2 0x"))
	require.Equal(t, "08P01", c.stored().Code)
	require.Equal(t, "=1", c.tag("U a3 01"))
	require.Equal(t, "=", c.tag("D a3"))
	require.Zero(t, g.uploaded.Load())
	status, value = c.row("A " + strings.Repeat("ab", 32) + " {}")
	require.Equal(t, "=", status)
	require.Contains(t, value, strings.Repeat("ab", 32))
}

// What an artifact was converted to takes its place and is fetched in chunks, by V's connection alone.
func TestConvertedArtifacts(t *testing.T) {
	g, _, dir := start(t, func(o *Options) { o.MaxUploadBytes = 4 << 20 })
	c := connect(t, dir)
	status, _ := c.row("C 0")
	require.Equal(t, "!", status)
	require.Equal(t, "42704", c.stored().Code)
	c.tag("U a1 " + hex.EncodeToString([]byte("convert abcdef")))
	status, _ = c.row("V a1 {}")
	require.Equal(t, "=", status)
	require.EqualValues(t, 6<<18, g.uploaded.Load(), "in place of the artifact")
	var got []byte
	for i := 0; ; i++ {
		status, chunk := c.row(fmt.Sprintf("C %d", i))
		require.Equal(t, "=", status)
		if chunk == "" {
			require.Equal(t, 2, i)
			break
		}
		data, err := hex.DecodeString(chunk)
		require.NoError(t, err)
		require.LessOrEqual(t, len(data), 1<<20)
		got = append(got, data...)
	}
	require.Equal(t, bytes.Repeat([]byte("abcdef"), 1<<18), got)
	status, _ = c.row("C 999999")
	require.Equal(t, "=", status, "past the end")
	status, _ = connect(t, dir).row("C 0")
	require.Equal(t, "!", status, "another connection")
	status, _ = c.row("V a1 {}")
	require.Equal(t, "!", status, "the artifact itself is gone")
	require.Equal(t, "42704", c.stored().Code)
	require.Equal(t, "=", c.tag("D a1"))
	require.Zero(t, g.uploaded.Load())

	status, _ = c.row("A cc" + strings.Repeat("ab", 31) + " {}")
	require.Equal(t, "=", status)
	_, chunk := c.row("C 0")
	require.Equal(t, "010203", chunk)
	require.Equal(t, "=1", c.tag("U a2 01"), "a new upload takes its place")
	status, _ = c.row("C 0")
	require.Equal(t, "!", status)

	c.tag("U a3 " + hex.EncodeToString([]byte("convert "+strings.Repeat("x", 20))))
	status, _ = c.row("V a3 {}")
	require.Equal(t, "!", status, "5 MiB converted, where 4 are allowed")
	require.Equal(t, "54000", c.stored().Code)
	require.Zero(t, g.uploaded.Load())
	status, _ = c.row("C x")
	require.Equal(t, "!", status)
	require.Equal(t, "08P01", c.stored().Code)
}

func TestRowVerbsInTheShapeOfScalars(t *testing.T) {
	_, _, dir := start(t, nil)
	c := connect(t, dir)
	require.Equal(t, "={0.1,0.9}", c.tag("Q "+spec+" churn@3 - becho {0.1,0.9}"))
	long := `{"model": "churn", "version": 3, "value": 1.5, "outputs": {"variable": [1.5]}}`
	for _, v := range []string{"J", "I"} {
		require.Equal(t, "~", c.tag(v+" "+spec+" churn@3 - jecho "+long))
		_, value := c.row("F")
		require.Equal(t, long, value)
	}
	require.Equal(t, ".", c.tag("J "+spec+" churn@3 - jsleep 120ms"))
	require.Equal(t, "=slept 120ms", c.tag("W"))
}

func TestEveryKindOfPredictionIsCounted(t *testing.T) {
	reg := prometheus.NewRegistry()
	_, _, dir := start(t, func(o *Options) { o.Metrics = NewMetrics(reg) })
	c := connect(t, dir)
	call := " " + spec + " churn@3 - "
	for _, v := range []string{"p", "l", "Q", "J", "I"} {
		require.Equal(t, "=1", c.tag(v+call+"techo 1"))
	}
	require.Equal(t, "=1", c.tag("B"+call+"mecho 1"))
	require.Equal(t, "!", c.tag("B"+call+"mrefuse"))
	counted := map[string]float64{}
	families, err := reg.Gather()
	require.NoError(t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "rowcast_gateway_calls_total" && m.GetCounter().GetValue() > 0 {
				counted[m.GetLabel()[1].GetValue()+" "+m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	require.Equal(t, map[string]float64{"predict ok": 1, "predict_label ok": 1, "predict_proba ok": 1, "predict_json ok": 1, "infer ok": 1, "batch ok": 1,
		"batch " + string(rowcast.CodeFeatureRange): 1}, counted)
}
